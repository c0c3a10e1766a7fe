"""Rank a split with a run's model and write its scores: `mmts evaluate`, and the end of `mmts train`."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import console, figure_table
from mmts.data.media.reading import tell_warnings
from mmts.data.records import Split
from mmts.distributed.processes import once
from mmts.errors import RecipeError, counted
from mmts.evaluation import figures
from mmts.evaluation.figures import MediaLabel
from mmts.evaluation.judgement_file import save_embeddings, save_judgement
from mmts.evaluation.measures import (
    BRACKETS,
    arrow,
    coverage_in_words,
    directions_of,
    group_of,
    in_tenths,
    shown_measures,
)
from mmts.evaluation.rank import judge
from mmts.files import check_file_path, content_hash, file_name, locked, read_kept, write_json
from mmts.models import TwoTower
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Columns
from mmts.training.checkpoint import load_checkpoint
from mmts.training.concepts import media_label
from mmts.training.experiment import Experiment, check_can_be_rebuilt, load_model
from mmts.training.inputs import Inputs, embed_split, prepare_inputs
from mmts.training.splits import default_split, limited, open_data, readable, resolved


def evaluate(
    path: Path,
    data: Path | None = None,
    split_name: str | None = None,
    checkpoint: str = "best",
    embeddings_file: Path | None = None,
    columns: Columns | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Evaluate a run on its own test split (rewriting metrics.json), or on other data or another split (evaluations/).

    labels: labels of the media; head, mid and tail and every value of each are scored too. Labels of an earlier
    evaluation in the same file are kept.
    """
    RunDirectory.check_checkpoint(checkpoint)
    if embeddings_file is not None:
        check_file_path(embeddings_file)
    run = RunDirectory(path)
    recipe = run.recipe()
    check_can_be_rebuilt(run)
    dataset = open_data(recipe.with_data(None, columns).data, data)
    if split_name is None:
        split_name = default_split(dataset)
        if split_name != "test":
            console.print(f"note: there is no test split, so the run is evaluated on {split_name}")
    chosen = limited(dataset.split(split_name), recipe.data.max_media)
    place = resolved(data or recipe.data.path)
    own_data = place == recipe.data.path
    file = run.metrics_file
    if not own_data or chosen.name != default_split(dataset):
        # Data that are not the run's own are named by a hash of their path, too.
        parts = [place.stem, *([] if own_data else [content_hash(str(place))[:6]]), chosen.name]
        ending = ".json" if checkpoint == "best" else f".{checkpoint}.json"
        file = run.evaluations / (file_name("-".join(parts)) + ending)
    names = dict.fromkeys((*labels, *((read_kept(file) or {}).get("labels") or {})))
    trained_on = dataset if own_data or not names else open_data(recipe.data)
    train = limited(trained_on.split("train"), recipe.data.max_media) if names else chosen
    # What the data lack is an error before media are decoded, which may take hours.
    chosen.judged(recipe.data.relevance)
    for name in names:
        _media_label(name, train, chosen)
    model = load_model(run, chosen.media, checkpoint)
    unreadable: list[str] = []
    split = readable(chosen, recipe.data, unreadable, model.media_tower)
    tell_warnings()
    for line in unreadable:
        console.print(f"note: left out {line}")
    split = split.judged(recipe.data.relevance)
    of_labels = {name: _media_label(name, train, split) for name in names}
    concepts = ConceptDistribution.load(run.concepts_file)
    inputs = prepare_inputs(model, split)
    model.drop_frozen()
    experiment = Experiment(run, recipe.with_data(place), dataset, concepts, model)
    stopped_at = _stopped_at(run)
    with locked(run.lock_file) if file == run.metrics_file else nullcontext():
        metrics, media, text = score(experiment, inputs, file, checkpoint, of_labels, stopped_at)
    if embeddings_file is not None:
        about = {"run": str(path.resolve()), "recipe": recipe.name, "checkpoint": checkpoint}
        save_embeddings(embeddings_file, media, text, split, {**about, "relevance": recipe.data.relevance})
        console.print(f"embeddings: {embeddings_file}")
    return metrics


def score(
    experiment: Experiment,
    inputs: Inputs,
    file: Path,
    checkpoint: str = "best",
    labels: Mapping[str, MediaLabel] = {},
    stopped_at: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Rank a split, write its scores to `file` and print them; return them and the embeddings (M, D) and (N, D).

    The ranks behind the scores are saved beside them, for comparing runs query by query. stopped_at: the step that an
    interrupted run reached, and how many it was to take.
    """
    run, dataset, split = experiment.run, experiment.dataset, inputs.split
    relevance = experiment.recipe.data.relevance
    media, text = embed_split(experiment.model, inputs)
    sides = judge(media, text, split, relevance)
    concepts, *groups = experiment.groups(split)
    metrics = figures.summarize(sides, split, groups, labels)
    if relevance != "graded" and split.name == "test" and 1 < dataset.folds <= split.num_media:
        metrics["folds"] = figures.judge_folds(media, text, split, relevance, dataset.folds)
    if (coverage := dataset.coverage.get(split.name)) is not None:
        metrics["coverage"] = {**asdict(coverage), "judged": split.num_media}
    metrics |= {"data": str(experiment.recipe.data.path), "relevance": relevance, "checkpoint": checkpoint}
    if stopped_at is not None:
        metrics["stopped_at"] = dict(stopped_at)
    if file == run.metrics_file and (before := read_kept(run.before_file) or {}).get("split") == split.name:
        metrics["before"] = before
    save_judgement(run.ranks_file(file), sides, split, dataset.root, relevance, concepts, groups, labels)
    write_json(file, metrics)  # last: it marks the run as finished
    for table in metrics_tables(metrics):
        console.print(table)
    console.print(f"metrics: {file}")
    return metrics, media, text


def validation(experiment: Experiment, inputs: Mapping[str, Inputs]) -> Callable[[TwoTower], dict[str, Any]]:
    """Return a function that scores a model on val: both directions, and by group.

    inputs: of each split, on the main process. Raises RecipeError if `train.best` names a group that has no queries in
    val.
    """
    groups = once(lambda: experiment.groups(inputs["val"].split)[1:])
    best = experiment.recipe.train.best
    group = group_of(best)
    if group is not None and not all((side == GROUP_NAMES.index(group)).any() for side in groups):
        raise RecipeError(f"train.best is {best!r}, and val has no queries of {group} concepts")

    def evaluate_val(model: TwoTower) -> dict[str, Any]:
        sides = judge(*embed_split(model, inputs["val"]), inputs["val"].split, experiment.recipe.data.relevance)
        return figures.figures_of(sides, groups)

    return evaluate_val


def _media_label(label: str, train: Split, split: Split) -> MediaLabel:
    """Return a label of the media of `split`, with how many samples of `train` have each of its values.

    Raises RecipeError if no medium of one of the two splits has the label.
    """
    in_training, values = (media_label(part, label, f"--label, {part.name}") for part in (train, split))
    counts = Counter(value for owner in train.owner.tolist() if (value := in_training[owner]) is not None)
    return MediaLabel(values, dict(counts.most_common()))


def _stopped_at(run: RunDirectory) -> dict[str, int] | None:
    """Return the step at which an unfinished run stopped, and print it; None if the run took its last step."""
    if run.is_finished or not (file := run.checkpoint_file("last")).exists():
        return None
    state = load_checkpoint(file)
    if state["step"] == state["total_steps"]:
        return None
    console.print(f"note: {run.path} stopped at step {state['step']} of {state['total_steps']}; --resume finishes it")
    return {"step": state["step"], "total_steps": state["total_steps"]}


def metrics_tables(metrics: dict[str, Any]) -> list[Table]:
    """Draw metrics.json for a terminal 80 columns wide: all scores, then those of each label."""
    measures, directions = shown_measures(metrics), directions_of(metrics)

    def add(table: Table, name: str, place: Mapping[str, Any], direction: str) -> None:
        if (scores := place.get(direction)) is not None:
            intervals = place.get("intervals", {}).get(direction, {})
            ends = [f" ({in_tenths(*intervals[measure])})" if measure in intervals else "" for measure in measures]
            cells = [in_tenths(scores[measure]) + end for measure, end in zip(measures, ends, strict=True)]
            table.add_row(name, *cells, f"{scores['median_rank']:g}")

    media, captions = counted(metrics["num_media"], "medium", "media"), counted(metrics["num_captions"], "caption")
    table = figure_table(f"{metrics['split']}: {media}, {captions}; percent", "", *measures, "MedR")
    for direction in directions:
        add(table, arrow(direction), metrics, direction)
        if folds := metrics.get("folds"):
            add(table, f"  {folds['num']} folds", folds, direction)
        for name in GROUP_NAMES:
            add(table, f"  {name}", metrics["groups"][name] or {}, direction)
    table.caption = "\n".join(filter(None, [BRACKETS, coverage_in_words(metrics)]))
    tables = [table]
    for label, scores in metrics.get("labels", {}).items():
        title = f"by {label}, {counted(scores['num_classes'], 'value')} in training; percent"
        table = figure_table(title, "", *measures, "MedR")
        for direction in directions:
            table.add_row(arrow(direction))
            for name in GROUP_NAMES:
                add(table, f"  {name}", scores["groups"][name] or {}, direction)
        if bare := scores["num_unlabeled"]:
            table.caption = f"left out: {counted(bare, 'medium', 'media')} without {label}"
        tables += [table, *_extremes(label, scores, directions[0], "mAP" if "mAP" in measures else "R@5")]
    return tables


def _extremes(label: str, scores: dict[str, Any], direction: str, measure: str) -> list[Table]:
    """Draw the values of a label whose text queries have the lowest and the highest scores."""
    classes = scores["classes"]
    lowest, highest = figures.extreme_classes(scores, lambda value: classes[value][direction][measure])
    if not lowest:
        return []
    title = f"{arrow(direction)} by {label}: lowest and highest {measure}"
    table = figure_table(title, "", "training", "queries", measure)
    for value in (*lowest, *reversed(highest)):
        counts = (f"{classes[value][key]:,}" for key in ("num_training", "num_queries"))
        figure = in_tenths(classes[value][direction][measure])
        table.add_row(value, *counts, figure, end_section=value == lowest[-1])
    return [table]
