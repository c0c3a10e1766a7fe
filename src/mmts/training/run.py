"""A run from data to judgement: what `mmts train` and `mmts evaluate` do."""

import math
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from mmts import __version__
from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import console, figure_table
from mmts.data.media.read_warnings import tell_warnings
from mmts.data.records import Dataset, Split
from mmts.distributed.processes import joined, main_first, on_main, once
from mmts.errors import DataError, InputError, RecipeError, RunError, counted
from mmts.evaluation.figures import MediaLabel, extreme_classes, figures_of, judge_folds, summarize
from mmts.evaluation.judgement_file import save_embeddings, save_judgement
from mmts.evaluation.measures import (
    coverage_in_words,
    directions_of,
    group_of,
    in_tenths,
    interval_in_words,
    shown_measures,
)
from mmts.evaluation.rank import Relevance, judge
from mmts.files import cache_root, check_file_path, content_hash, file_name, locked, read_json, write_json
from mmts.models import TwoTower
from mmts.recipe.components import build, outside_names
from mmts.recipe.recipe import Columns, Recipe
from mmts.recipe.run_directory import RunDirectory, dotted, trusting_code
from mmts.training.build import (
    build_distribution,
    build_plan,
    judged_label,
    label_of_samples,
    media_concepts,
    run_facts,
    text_concepts,
)
from mmts.training.checkpoint import load_checkpoint, random_state, restore_random_state
from mmts.training.inputs import Inputs, build_model, embed_split, prepare_inputs, training_batches
from mmts.training.splits import (
    Splits,
    judged_split,
    limited,
    open_data,
    readable,
    readable_splits,
    resolved,
    take_splits,
)
from mmts.training.trainer import Trainer


@joined()
def train(recipe: Recipe, out: Path, resume: bool = False, judged_on: str | None = None) -> dict[str, Any]:
    """Train by `recipe` into the run directory `out`, judge the best checkpoint, and return metrics.json's content.

    With `judged_on` that split is judged in place of test, which is then left alone: tuning takes "val".
    Raises DataError, RecipeError or RunError for what the user can put right, and Interrupted after Ctrl-C or SIGTERM
    with a checkpoint written. Under torchrun or accelerate launch all processes train together (docs/scaling.md); only
    the main one reads and writes the run directory, and all return the same.
    """
    run = RunDirectory(out)
    with (
        trusting_code(outside_names(recipe.objective, recipe.model.tower_names).__contains__),
        on_main(lambda: run.held(resume)),
    ):
        return _train(recipe, run, resume, judged_on)


def _train(recipe: Recipe, run: RunDirectory, resume: bool, judged_on: str | None) -> dict[str, Any]:
    """Train as `train` describes; the caller holds the run directory's lock."""
    if resume and recipe.data.path is None and (path := once(lambda: _data_of(run))) is not None:
        recipe = recipe.with_data(path)
    dataset = main_first(lambda: open_data(recipe.data))
    recipe = recipe.with_data(resolved(recipe.data.path)).with_whole_paths()
    once(lambda: run.begin(recipe, versions()))
    if (finished := once(lambda: _finished(run))) is not None:
        return finished
    relevance = recipe.data.relevance
    taken = take_splits(dataset, recipe, judged_on)
    torch.manual_seed(recipe.train.seed)
    # Built before the media are checked, so that a tower that cannot be loaded fails in seconds, not after hours.
    model = build_model(recipe.model, taken.train, run)
    try:
        recipe.check_something_trains(any(each.requires_grad for each in model.parameters()))
    except ValueError as error:
        raise RecipeError(str(error)) from None
    drawn = random_state()
    splits = readable_splits(taken, dataset, recipe.data, run)
    distribution = once(lambda: _concepts(recipe, splits.train, run))
    once(lambda: run.go_on(recipe, versions()))
    training = main_first(lambda: prepare_inputs(model, splits.train))
    judged: dict[str, Inputs] = {}  # filled on the main process, which judges
    once(lambda: judged.update(_inputs_to_judge(model, splits, relevance)))
    looks = _validation(recipe, distribution, judged) if splits.val is not None else None
    restore_random_state(drawn)  # so that training draws the same whether features were computed or cached
    model.drop_frozen()
    plan = build_plan(recipe, splits.train, distribution)
    objective = build(recipe.objective, run_facts(recipe, distribution, splits.train))
    trainer = Trainer(
        model,
        objective,
        recipe.train,
        run,
        batches=training_batches(model, training, plan, recipe.data, recipe.train.seed, objective.uses_relevance),
        batches_per_epoch=plan.batches_per_epoch,
        batch_size=plan.batch_size,
        evaluate=looks,
        groups=distribution.groups(),
        recipe=dotted(recipe.model_dump(mode="json")),
    )
    parameters = sum(each.numel() for each in trainer.trainable)
    console.print(
        f"training {counted(parameters, 'parameter')} for {counted(trainer.total_steps, 'step')} into {run.path}"
    )

    def judge_best() -> dict[str, Any]:
        _load_weights(model, run, "best")
        judging = Judging(run, recipe, model, distribution, dataset)
        return judging(judged[splits.judged.name], run.metrics_file)[0]

    try:
        metrics = trainer.fit(resume, judge_best)
    except DataError as error:
        if not splits.train.media_checked:
            raise
        raise DataError(
            f"{error}. It was readable when the data were indexed: mend it and --resume, or remove the index "
            f"({cache_root()}) to have it left out"
        ) from None

    if recipe.published is not None and recipe.published.results:
        results = ", ".join(f"{name} {value:.1f}" for name, value in recipe.published.results.items())
        console.print(f"published: {results} ({recipe.published.source})")
    return metrics


def evaluate(
    path: Path,
    data: Path | None = None,
    split_name: str | None = None,
    checkpoint: str = "best",
    embeddings_file: Path | None = None,
    columns: Columns | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Judge a run: on its own test split (rewriting metrics.json), or on other data or another split (evaluations/).

    labels: labels of the media; head, mid and tail and every value of each are judged too. Labels of an earlier
    judgement in the same file are kept.
    """
    RunDirectory.check_checkpoint(checkpoint)
    if embeddings_file is not None:
        check_file_path(embeddings_file)
    run = RunDirectory(path)
    recipe = run.recipe()
    dataset = open_data(recipe.with_data(None, columns).data, data)
    split = _split_to_judge(dataset, split_name, recipe).judged(recipe.data.relevance)
    given = resolved(data or recipe.data.path)
    file = run.metrics_file
    if given != recipe.data.path or split.name != judged_split(dataset):
        file = run.evaluations / _evaluation_name(given, split, checkpoint, other_data=given != recipe.data.path)
    kept = dict.fromkeys((*labels, *_labels_in(file)))
    trained_on = dataset if given == recipe.data.path or not kept else open_data(recipe.data)
    of_labels = {
        label: judged_label(label, limited(trained_on.split("train"), recipe.data.max_media), split) for label in kept
    }
    distribution = ConceptDistribution.load(run.concepts_file)
    model = load_model(run, recipe, split, checkpoint)
    inputs = prepare_inputs(model, split)
    model.drop_frozen()
    recipe = recipe.with_data(given)
    judging = Judging(run, recipe, model, distribution, dataset, checkpoint, of_labels, _stopped_at(run))
    with locked(run.lock_file) if file == run.metrics_file else nullcontext():
        metrics, media, text = judging(inputs, file)
    if embeddings_file is not None:
        about = {"run": str(path.resolve()), "recipe": recipe.name, "checkpoint": checkpoint}
        save_embeddings(embeddings_file, media, text, split, {**about, "relevance": recipe.data.relevance})
        console.print(f"embeddings: {embeddings_file}")
    return metrics


def _labels_in(file: Path) -> list[str]:
    """Return the labels that a file of figures was judged by; empty if it cannot be read."""
    try:
        return [*read_json(file)["labels"]]
    except (FileNotFoundError, DataError, KeyError, TypeError):  # a missing or damaged file, which is rewritten
        return []


def _data_of(run: RunDirectory) -> Path | None:
    """Return the data that a run was started on; None if it never started."""
    return resolved(run.recipe().data.path) if run.recipe_file.exists() else None


def _finished(run: RunDirectory) -> dict[str, Any] | None:
    """Return the content of metrics.json if the run is finished, and print that it is."""
    if not run.is_finished:
        return None
    console.print(f"{run.path} is finished already")
    return dict(read_json(run.metrics_file))


def _stopped_at(run: RunDirectory) -> dict[str, int] | None:
    """Return the step at which an unfinished run stopped, and print it; None if the run took its last step."""
    if run.is_finished or not (file := run.checkpoint_file("last")).exists():
        return None
    state = load_checkpoint(file)
    if state["step"] == state["total_steps"]:
        return None
    console.print(f"note: {run.path} stopped at step {state['step']} of {state['total_steps']}; --resume ends it")
    return {"step": state["step"], "total_steps": state["total_steps"]}


def load_model(run: RunDirectory, recipe: Recipe, split: Split, checkpoint: str = "best") -> TwoTower:
    """Return a run's model as a checkpoint has it, frozen towers and all; `split` holds media such as it will see.

    Raises RunError where there is no such checkpoint, DataError where the media are of another kind than the model's.
    """
    model = build_model(recipe.model, split, run, trained=True)
    _load_weights(model, run, checkpoint)
    return model


def versions() -> dict[str, str]:
    """Return the versions that a run records."""
    packages = ("torch", "transformers", "sentence-transformers", "accelerate", "faiss-cpu", "numpy")
    return {"mmts": __version__, "python": platform.python_version()} | {
        name: metadata.version(name) for name in packages
    }


def _concepts(recipe: Recipe, split: Split, run: RunDirectory) -> ConceptDistribution:
    """Find the concepts of the training samples, or load those a resumed run found before."""
    if run.concepts_file.exists():
        distribution = ConceptDistribution.load(run.concepts_file)
        _check_same_samples(recipe, distribution, split, run)
        return distribution
    distribution = build_distribution(recipe.concepts, split)
    distribution.save(run.concepts_file)
    sizes = distribution.sizes
    console.print(
        f"concepts: {len(sizes)} (sizes {int(sizes.max()):,} down to {int(sizes.min()):,}) in {run.concepts_file}"
    )
    return distribution


def _check_same_samples(recipe: Recipe, distribution: ConceptDistribution, split: Split, run: RunDirectory) -> None:
    """Raise RunError where the training samples are not those that a resumed run began with."""
    why = ""
    try:
        distribution.check_captions(split.captions)
    except InputError as error:
        why = str(error)
    if not why and recipe.concepts.source == "label":
        labels = label_of_samples(split, str(recipe.concepts.label))
        if not torch.equal(distribution.assign(labels), distribution.labels):
            why = "with other labels"
    if why:
        raise RunError(f"{run.path} began with other training data ({why}); choose another --out")


def _inputs_to_judge(model: TwoTower, splits: Splits, relevance: Relevance) -> dict[str, Inputs]:
    return {split.name: prepare_inputs(model, split.judged(relevance)) for split in splits.to_judge()}


def _validation(
    recipe: Recipe, distribution: ConceptDistribution, judged: Mapping[str, Inputs]
) -> Callable[[TwoTower], dict[str, Any]]:
    """Return a function that judges a model on val: figures of both directions, and by group.

    Raises RecipeError if `train.best` names a group that has no queries in val.
    """
    groups = once(lambda: _groups(recipe, distribution, judged["val"].split)[1:])
    wanted = group_of(recipe.train.best)
    if wanted is not None and not all((each == GROUP_NAMES.index(wanted)).any() for each in groups):
        raise RecipeError(f"train.best is {recipe.train.best!r}, and val has no queries of {wanted} concepts")

    def figures(model: TwoTower) -> dict[str, Any]:
        inputs = judged["val"]
        judgement = judge(*embed_split(model, inputs), inputs.split, recipe.data.relevance)
        return figures_of(judgement, inputs.split, *groups)

    return figures


def _groups(recipe: Recipe, distribution: ConceptDistribution, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """Return the concept (M,) of every caption, and the group of every caption (M,) and every medium (N,)."""
    concepts = text_concepts(recipe.concepts, distribution, split)
    text_groups = distribution.groups_of(concepts)
    if recipe.data.relevance == "graded":  # the texts are not the media's own captions
        return concepts, text_groups, distribution.groups_of(media_concepts(recipe.concepts, distribution, split))
    return concepts, text_groups, text_groups[split.first]


def _split_to_judge(dataset: Dataset, name: str | None, recipe: Recipe) -> Split:
    if name is None:
        name = judged_split(dataset)
        if name != "test":
            console.print(f"note: there is no test split, so the run is judged on {name}")
    unreadable: list[str] = []
    split = readable(limited(dataset.split(name), recipe.data.max_media), recipe.data, unreadable)
    tell_warnings()
    for line in unreadable:
        console.print(f"note: left out {line}")
    return split


def _evaluation_name(data: Path, split: Split, checkpoint: str, other_data: bool) -> str:
    """Name the file of an evaluation by its data (with a hash of the path, if not the run's own) and split."""
    parts = [data.stem, *([content_hash(str(data))[:6]] if other_data else []), split.name]
    name = file_name("-".join(parts))
    return f"{name}.json" if checkpoint == "best" else f"{name}.{checkpoint}.json"


def _load_weights(model: TwoTower, run: RunDirectory, checkpoint: str) -> None:
    """Load the named checkpoint; without validation data nothing is ever called best, and the last one is."""
    file = run.checkpoint_file(checkpoint)
    if checkpoint == "best" and not file.exists():
        last = load_checkpoint(run.checkpoint_file("last"))
        if last["best"] > -math.inf:  # there was a best one
            raise RunError(f"there is no checkpoint {file}; --checkpoint last judges the last one")
        model.load_trainable_state_dict(last["model"])
    else:
        model.load_trainable_state_dict(load_checkpoint(file)["model"])


@dataclass(frozen=True)
class Judging:
    """Judges a run's model on any split."""

    run: RunDirectory
    recipe: Recipe
    model: TwoTower
    distribution: ConceptDistribution
    dataset: Dataset
    checkpoint: str = "best"
    labels: Mapping[str, MediaLabel] = field(default_factory=dict)
    stopped_at: dict[str, int] | None = None
    """The last step of a run that was interrupted, and how many it was to take: `--resume` goes on from there."""

    def __call__(self, inputs: Inputs, file: Path) -> tuple[dict[str, Any], Tensor, Tensor]:
        """Judge, write and print the figures; return them and the embeddings, media (N, D) and text (M, D).

        The ranks behind them are kept beside them, for comparing runs query by query.
        """
        split, relevance = inputs.split, self.recipe.data.relevance
        media, text = embed_split(self.model, inputs)
        judgement = judge(media, text, split, relevance)
        concepts, text_groups, media_groups = _groups(self.recipe, self.distribution, split)
        metrics = summarize(judgement, split, text_groups, media_groups, self.labels)
        if relevance != "graded" and split.name == "test" and 1 < self.dataset.folds <= split.num_media:
            metrics["folds"] = judge_folds(media, text, split, relevance, self.dataset.folds)
        if (coverage := self.dataset.coverage.get(split.name)) is not None:
            metrics["coverage"] = {**asdict(coverage), "judged": split.num_media}
        root = self.dataset.root
        metrics |= {"data": str(self.recipe.data.path), "relevance": relevance, "checkpoint": self.checkpoint}
        if self.stopped_at is not None:
            metrics["stopped_at"] = self.stopped_at
        ranks_file = self.run.ranks_file(file)
        save_judgement(ranks_file, judgement, split, root, relevance, concepts, text_groups, media_groups, self.labels)
        write_json(file, metrics)  # last: it says that the run is finished
        for table in metrics_tables(metrics):
            console.print(table)
        console.print(f"metrics: {file}")
        return metrics, media, text


def metrics_tables(metrics: dict[str, Any]) -> list[Table]:
    """Draw metrics.json for a terminal 80 columns wide: all figures, then those of each label."""
    measures, directions = shown_measures(metrics), directions_of(metrics)
    media, captions = counted(metrics["num_media"], "medium", "media"), counted(metrics["num_captions"], "caption")
    table = figure_table(f"{metrics['split']}: {media}, {captions}; percent", "", *measures, "MedR")
    for direction in directions:
        table.add_row(direction.replace("_to_", "→"), *_row(metrics, direction, measures))
        if "folds" in metrics:
            table.add_row(f"  {metrics['folds']['num']} folds", *_row(metrics["folds"], direction, measures))
        _add_groups(table, metrics["groups"], direction, measures)
    table.caption = "\n".join(filter(None, [_IN_BRACKETS, coverage_in_words(metrics)]))
    tables = [table]
    for name, label in metrics.get("labels", {}).items():
        title = f"by {name}, {counted(label['num_classes'], 'value')} in training; percent"
        table = figure_table(title, "", *measures, "MedR")
        for direction in directions:
            table.add_row(direction.replace("_to_", "→"))
            _add_groups(table, label["groups"], direction, measures)
        if bare := label["num_unlabeled"]:
            table.caption = f"left out: {counted(bare, 'medium', 'media')} without {name}"
        tables.append(table)
        tables += _extremes(name, label, directions[0], "mAP" if "mAP" in measures else "R@5")
    return tables


_IN_BRACKETS = "in brackets: 95 % interval over queries"


def _extremes(name: str, label: dict[str, Any], direction: str, measure: str) -> list[Table]:
    """Draw the values of a label with the lowest and the highest figures of text queries."""
    lowest, highest = extreme_classes(label, lambda value: label["classes"][value][direction][measure])
    if not lowest:
        return []
    title = f"{direction.replace('_to_', '→')} by {name}: lowest and highest {measure}"
    table = figure_table(title, "", "training", "queries", measure)
    for value in (*lowest, *reversed(highest)):
        figures = label["classes"][value]
        about = (f"{figures['num_training']:,}", f"{figures['num_queries']:,}", in_tenths(figures[direction][measure]))
        table.add_row(value, *about, end_section=value == lowest[-1])
    return [table]


def _add_groups(table: Table, groups: Mapping[str, Any], direction: str, measures: Sequence[str]) -> None:
    for group in GROUP_NAMES:
        if (groups[group] or {}).get(direction) is not None:
            table.add_row(f"  {group}", *_row(groups[group], direction, measures))


def _row(place: Mapping[str, Any], direction: str, measures: Sequence[str]) -> list[str]:
    """Return the figures of one direction, with their intervals where there are such, and the median rank."""
    figures, intervals = place[direction], place.get("intervals", {}).get(direction, {})
    cells = [
        in_tenths(figures[name]) + (f" {interval_in_words(intervals[name])}" if name in intervals else "")
        for name in measures
    ]
    return [*cells, f"{figures['median_rank']:g}"]
