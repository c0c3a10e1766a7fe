"""Interpolating between a run's start and its result (WiSE-FT): `mmts evaluate RUN --interpolate 0,0.1,...,1`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import console, figure_table, progress_bar
from mmts.data.records import Dataset, Split
from mmts.distributed.processes import joined, main_first, on_main, once
from mmts.errors import DataError, InputError, RunError, counted
from mmts.evaluation.figures import figures_of
from mmts.evaluation.measures import arrow, directions_of, in_tenths, measured, shown_measures
from mmts.evaluation.rank import judge
from mmts.evaluation.run import validation
from mmts.files import locked, write_json
from mmts.models.base import misfit
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.averages import interpolated
from mmts.training.checkpoint import load_checkpoint, save_checkpoint
from mmts.training.experiment import Experiment, build_model, check_can_be_rebuilt, check_kind, load_weights
from mmts.training.inputs import Inputs, embed_split, prepare_inputs
from mmts.training.splits import default_split, limited, noting_unreadable, open_data

_MOST = 1001  # points of a curve


def parse_shares(text: str) -> list[float]:
    """Return the shares that a text lists, each once and rising; "..." goes on with the step of the two before it.

    Raises InputError for a value outside [0, 1], or steps that do not lead to the value after them.

    >>> parse_shares("0,0.25,...,1"), parse_shares("0,.5,0.9")
    ([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.5, 0.9])
    """
    words = [word.strip() for word in text.split(",")]
    shares = [_share(word, text) for word in words if word != "..."]
    for at in (at for at, word in enumerate(words) if word == "..."):
        around = [*words[max(at - 2, 0) : at], *words[at + 1 : at + 2]]
        if len(around) < 3 or "..." in around:
            raise InputError(f"--interpolate {text}: ... stands between two values and the last, as in 0,0.1,...,1")
        first, second, last = (_share(word, text) for word in around)
        steps = (last - second) / (second - first) if second != first else -1.0
        if not 0 <= steps <= _MOST or abs(steps - round(steps)) > 1e-6:
            raise InputError(f"--interpolate {text}: steps from {first:g} to {second:g} do not lead to {last:g}")
        shares += [round(second + k * (second - first), 9) for k in range(1, round(steps))]
    if len(shares) > _MOST:
        raise InputError(f"--interpolate lists {len(shares):,} values; at most {_MOST:,} make a curve")
    return sorted(set(shares))


def _share(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"--interpolate {text}: {word!r} is not a number from 0 (the start) to 1 (the tuned model)")
    return value


@joined()
def interpolate(
    path: Path, shares: Sequence[float], also: Sequence[Path] = (), checkpoint: str = "best"
) -> dict[str, Any]:
    """Evaluate a run with the weights (1 - a) start + a tuned, for each a in `shares`, on val and `also` other data.

    The best on val by `train.best`, of equals the nearest to the start, becomes checkpoints/interpolated.pt. The curve
    goes to interpolation.json, and is returned. checkpoint: the tuned weights, best or last.

    Raises RunError for a run without a saved start, and DataError if its data have no val split to choose on.

    Source: Wortsman et al., Robust fine-tuning of zero-shot models, arXiv 2109.01903.
    """
    RunDirectory.check_checkpoint(checkpoint)
    if checkpoint == "interpolated":
        raise RunError(
            "--interpolate makes the checkpoint interpolated; --checkpoint names what it mixes: best or last"
        )
    run = RunDirectory(path)
    recipe = run.recipe()
    check_can_be_rebuilt(run)
    start = _start_of(run, recipe)
    dataset, *others = main_first(lambda: [open_data(recipe.data, place) for place in (None, *also)])
    if "val" not in dataset.split_names:
        raise DataError(f"{dataset.root} has no val split, and the best interpolation has to be chosen on something")
    named = _named([(dataset, "val"), *((other, default_split(other)) for other in others)], recipe)
    for split in named.values():  # what the data lack is an error before media are decoded
        split.judged(recipe.data.relevance)
        check_kind(recipe.model, split.media[0])
    with on_main(lambda: locked(run.lock_file)):
        model = build_model(recipe.model, named["val"].media, run)
        tuned = load_weights(model, run, checkpoint)
        if problem := misfit(start, tuned["model"]):
            raise RunError(f"{run.checkpoint_file('start')} {problem}; it is the start of another run")
        splits = {name: noting_unreadable(split, recipe.data, model.media_tower) for name, split in named.items()}
        inputs = {name: prepare_inputs(model, split) for name, split in splits.items()}
        model.drop_frozen()
        experiment = Experiment(run, recipe, dataset, ConceptDistribution.load(run.concepts_file), model)
        curves = _curves(experiment, inputs, start, tuned["model"], shares)
        scores = [measured(point, recipe.train.best) or 0.0 for point in curves["val"]]
        score = max(scores)
        best = shares[scores.index(score)]
        state: dict[str, Any] = {key: tuned[key] for key in ("objective", "step", "frozen")}
        state |= {"model": interpolated(start, tuned["model"], best), "best": score, "share": best}
        once(lambda: save_checkpoint(run.checkpoint_file("interpolated"), state))
        curve: dict[str, Any] = {"checkpoint": checkpoint, "step": tuned["step"], "measure": recipe.train.best}
        curve |= {"best": {"share": best, "score": score}, "data": {}}
        for name, split in splits.items():
            sizes = {"split": split.name, "num_media": split.num_media, "num_captions": split.num_captions}
            curve["data"][name] = {**sizes, "points": curves[name]}
        once(lambda: write_json(run.interpolation_file, curve))
    for table in interpolation_tables(curve):
        console.print(table)
    console.print(f"best on val by {recipe.train.best}: {best:g}, kept as {run.checkpoint_file('interpolated')}")
    console.print(f"curve: {run.interpolation_file}")
    return curve


def _start_of(run: RunDirectory, recipe: Recipe) -> dict[str, Any]:
    """Return the weights before the first step of a run. Raises RunError if it has none."""
    file = run.checkpoint_file("start")
    if not file.is_file():
        why = f"it lacks {file}, which training writes before its first step"
        if recipe.model.start is None:
            why = "its recipe has no model.start, so it began at random weights"
        raise RunError(f"{run.path} has no start to interpolate with: {why}")
    state: dict[str, Any] = load_checkpoint(file)["model"]
    return state


def _curves(
    experiment: Experiment,
    inputs: Mapping[str, Inputs],
    start: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    shares: Sequence[float],
) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of every share by the name of the data: those of val also by group."""
    model, relevance = experiment.model, experiment.recipe.data.relevance
    score_val = validation(experiment, inputs, "val")
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in inputs}
    with progress_bar("interpolating", len(shares) * len(inputs), "points") as bar:
        for share in shares:
            model.load_trainable_state_dict(interpolated(start, tuned, share))
            for name, of_split in inputs.items():
                if name == "val":
                    figures = score_val(model)
                else:
                    figures = figures_of(judge(*embed_split(model, of_split), of_split.split, relevance))
                curves[name].append({"share": share, **figures})
                bar.advance()
    return curves


def _named(chosen: Sequence[tuple[Dataset, str]], recipe: Recipe) -> dict[str, Split]:
    """Return splits by their names in the curve: "val", and folder and split of other data, such as "flickr8k test"."""
    splits: dict[str, Split] = {}
    for dataset, split_name in chosen:
        name = f"{dataset.root.stem} {split_name}" if splits else "val"
        if name in splits:
            name = f"{dataset.root} {split_name}"
        splits[name] = limited(dataset.split(split_name), recipe.data.max_media)
    return splits


def interpolation_tables(curve: dict[str, Any]) -> list[Table]:
    """Draw the contents of interpolation.json for a terminal 80 columns wide: one table for each data set."""
    tables = []
    for name, data in curve["data"].items():
        points = data["points"]
        measures, directions = shown_measures(points[0]), directions_of(points[0])
        groups = [group for group in GROUP_NAMES if (points[0].get("groups") or {}).get(group)]
        sizes = f"{counted(data['num_media'], 'medium', 'media')}, {counted(data['num_captions'], 'caption')}"
        columns = [arrow(side).replace("→", "→\n") + f"\n{measure}" for side in directions for measure in measures]
        columns += [f"both\n{group}\n{measures[0]}" for group in groups]
        table = figure_table(f"{name}: {sizes}; percent", "a", *columns, least=6)
        for point in points:
            cells = [point[direction][measure] for direction in directions for measure in measures]
            cells += [measured(point, f"{group} {measures[0]}") for group in groups]
            chosen = "*" if point["share"] == curve["best"]["share"] else ""
            table.add_row(f"{point['share']:g}{chosen}", *("" if cell is None else in_tenths(cell) for cell in cells))
        tables.append(table)
    best = f"* the best on val by {curve['measure']}"
    tables[-1].caption = f"a: weights (1 - a) start + a tuned; {best}\nboth: the mean of both directions"
    return tables
