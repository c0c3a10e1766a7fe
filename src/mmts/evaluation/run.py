"""Rank a split with a run's model and write its scores: `mmts evaluate`, and the end of `mmts train`."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor, nn

from mmts.concepts import ConceptDistribution
from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import console, figure_table
from mmts.data.records import Dataset, Split
from mmts.distributed.processes import from_main, joined, main_first, on_main, once
from mmts.errors import RecipeError, counted
from mmts.evaluation import figures
from mmts.evaluation.classification import (
    CLASS_GROUPS,
    CLASS_WORDS,
    Classes,
    classification_figures,
    classify,
    find_classes,
    read_prompts,
)
from mmts.evaluation.embeddings_file import read_embeddings, save_embeddings
from mmts.evaluation.figures import MediaLabel
from mmts.evaluation.judgement_file import save_judgement
from mmts.evaluation.measures import (
    BRACKETS,
    FOLDS,
    arrow,
    coverage_in_words,
    directions_of,
    group_of,
    in_tenths,
    shown_measures,
)
from mmts.evaluation.mismatch import find_mismatches
from mmts.evaluation.rank import judge
from mmts.files import check_file_path, content_hash, file_name, locked, read_kept, write_json
from mmts.models import TwoTower
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Columns, Evaluation
from mmts.training.checkpoint import load_checkpoint
from mmts.training.concepts import media_label
from mmts.training.experiment import Experiment, check_can_be_rebuilt, load_model
from mmts.training.inputs import Inputs, embed_split, prepare_inputs
from mmts.training.splits import default_split, limited, noting_unreadable, open_data, resolved


@dataclass(frozen=True)
class Opened:
    """The data of a pretrained pair, and a function that finds the concepts, given the split to be evaluated."""

    dataset: Dataset
    find_concepts: Callable[[Split], None]


@joined()
def evaluate(
    path: Path,
    data: Path | None = None,
    split_name: str | None = None,
    checkpoint: str = "best",
    embeddings_file: Path | None = None,
    columns: Columns | None = None,
    labels: Sequence[str] = (),
    classify_by: str | None = None,
    prompts: Path | None = None,
    opened: Opened | None = None,
) -> dict[str, Any]:
    """Evaluate a run on its own test split (rewriting metrics.json), or on other data or another split (evaluations/).

    The own split of a pretrained pair as it is is the first one that it was evaluated on. Under torchrun all processes
    embed and rank, and all return the same (docs/scaling.md).

    labels: labels of the media, by whose values queries are scored too; those of an earlier evaluation are kept.
    classify_by: a label by whose values the media are classified, with the templates in the file `prompts`; an earlier
    classification is repeated.
    opened: of a pretrained pair whose folder the caller holds.
    """
    RunDirectory.check_checkpoint(checkpoint)
    if embeddings_file is not None:
        check_file_path(embeddings_file)
    run = RunDirectory(path)
    recipe = run.recipe()
    check_can_be_rebuilt(run)
    settings = recipe.with_data(None, columns).data
    dataset = main_first(lambda: open_data(settings, data)) if opened is None else opened.dataset
    place = resolved(data or recipe.data.path)
    own_data = place == recipe.data.path
    chosen, is_own = _chosen_split(run, recipe, dataset, own_data, split_name, opened is not None)
    file = run.metrics_file
    if not is_own:
        # Data that are not the run's own are named by a hash of their path, too.
        parts = [place.stem, *([] if own_data else [content_hash(str(place))[:6]]), chosen.name]
        ending = ".json" if checkpoint == "best" else f".{checkpoint}.json"
        file = run.evaluations / (file_name("-".join(parts)) + ending)
    kept = read_kept(file) or {}
    names = [*dict.fromkeys((*labels, *(kept.get("labels") or {})))]
    by = _class_prompts(recipe.evaluation if own_data else Evaluation(), kept, classify_by, prompts, chosen)
    find_divisions = _divided_by(recipe, dataset, own_data, chosen, names, by)
    # What the data lack is an error before media are decoded, which may take hours.
    chosen.judged(recipe.data.relevance)
    find_divisions(chosen)
    stored = None
    if (rows_file := recipe.model.embeddings) is None:
        model = load_model(run, chosen.media, checkpoint)
    else:
        stored = read_embeddings(rows_file, chosen, recipe.data)
        model = TwoTower(None, None, nn.Identity(), nn.Identity())
    if opened is not None:
        opened.find_concepts(chosen)
    split = noting_unreadable(chosen, recipe.data, model.media_tower) if stored is None else stored.split
    of_labels, classes = find_divisions(split)
    concepts = ConceptDistribution.load(run.concepts_file)
    inputs = prepare_inputs(model, split, classes) if stored is None else stored
    model.drop_frozen()
    experiment = Experiment(run, recipe.with_data(place), dataset, concepts, model)
    stopped_at = _stopped_at(run)
    with on_main(lambda: locked(run.lock_file) if file == run.metrics_file and opened is None else nullcontext()):
        metrics, media, text = score(experiment, inputs, file, checkpoint, of_labels, stopped_at)
    if file == run.metrics_file and (former := kept.get("checkpoint", checkpoint)) != checkpoint:
        again = shlex.join(["mmts", "evaluate", str(path), "--checkpoint", str(former)])
        console.print(f"note: these scores replaced those of the {former} checkpoint; `{again}` writes those again")
    if embeddings_file is not None:
        about = {"run": str(path.resolve()), "recipe": recipe.name, "checkpoint": checkpoint}
        about["relevance"] = recipe.data.relevance
        once(lambda: save_embeddings(embeddings_file, media, text, split, about))
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
    """Rank a split, write its scores to `file`, and the ranks beside it, and print the scores.

    stopped_at: the step that an interrupted run reached, and how many it was to take. Returns the scores and the
    embeddings (M, D) and (N, D).
    """
    run, dataset, split = experiment.run, experiment.dataset, inputs.split
    relevance = experiment.recipe.data.relevance
    media, text = embed_split(experiment.model, inputs)
    sides = judge(media, text, split, relevance)
    concepts, *groups = from_main(experiment.groups(split))
    metrics = figures.summarize(sides, split, groups, labels)
    class_top = None
    if inputs.classes is not None:
        class_top = classify(experiment.model, media, inputs.classes, inputs.prompts)
        metrics["classification"] = classification_figures(inputs.classes, class_top)
    if relevance != "graded" and split.name == "test" and 1 < dataset.folds <= split.num_media:
        metrics["folds"] = figures.judge_folds(media, text, split, relevance, dataset.folds)
    if (coverage := dataset.coverage.get(split.name)) is not None:
        metrics["coverage"] = {**asdict(coverage), "judged": split.num_media}
    metrics |= {"data": str(experiment.recipe.data.path), "relevance": relevance, "checkpoint": checkpoint}
    if stopped_at is not None:
        metrics["stopped_at"] = dict(stopped_at)
    if file == run.metrics_file and (before := read_kept(run.before_file) or {}).get("split") == split.name:
        metrics["before"] = before

    def write() -> None:
        more = inputs.classes, class_top, find_mismatches(media, text, split) if relevance != "graded" else None
        save_judgement(run.ranks_file(file), sides, split, dataset.root, relevance, concepts, groups, labels, *more)
        write_json(file, metrics)  # last: it marks the run as finished

    once(write)
    for table in metrics_tables(metrics):
        console.print(table)
    console.print(f"metrics: {file}")
    return metrics, media, text


def validation(experiment: Experiment, inputs: Mapping[str, Inputs], val: str) -> Callable[[TwoTower], dict[str, Any]]:
    """Return a function that scores a model on the split `val`: both directions, and by group.

    Raises RecipeError if `train.best` names a group that has no queries in it.
    """
    groups = from_main(experiment.groups(inputs[val].split))[1:]
    best = experiment.recipe.train.best
    group = group_of(best)
    if group is not None and not all((side == GROUP_NAMES.index(group)).any() for side in groups):
        raise RecipeError(f"train.best is {best!r}, and val has no queries of {group} concepts")

    def evaluate_val(model: TwoTower) -> dict[str, Any]:
        sides = judge(*embed_split(model, inputs[val]), inputs[val].split, experiment.recipe.data.relevance)
        return figures.figures_of(sides, groups)

    return evaluate_val


def _chosen_split(
    run: RunDirectory, recipe: Recipe, dataset: Dataset, own_data: bool, split_name: str | None, is_new: bool
) -> tuple[Split, bool]:
    """Return the split to evaluate on, and whether it is the run's own, whose scores are in metrics.json."""
    as_it_is = own_data and recipe.model.is_untouched
    first = (read_kept(run.metrics_file) or {}).get("split") if as_it_is else None
    if split_name is None:
        split_name = (None if is_new else first) or default_split(dataset)
        if "test" not in dataset.split_names:
            console.print(f"note: there is no test split, so the run is evaluated on {split_name}")
    chosen = limited(dataset.split(split_name), recipe.data.max_media)
    if not own_data:
        return chosen, False
    own_split = (first or split_name) if as_it_is else default_split(dataset)
    return chosen, chosen.name == dataset.find_split(own_split)


def _divided_by(
    recipe: Recipe,
    dataset: Dataset,
    own_data: bool,
    chosen: Split,
    labels: Sequence[str],
    by: tuple[str, Sequence[str]] | None,
) -> Callable[[Split], tuple[dict[str, MediaLabel], Classes | None]]:
    """Return a function that finds the labels of a split's media, and their classes if they are classified `by` one."""
    if by and recipe.model.embeddings is not None:
        raise RecipeError(f"{recipe.model.embeddings} holds embeddings; --classify needs a model to embed prompts")
    trained_on = dataset if own_data or not (labels or by) else open_data(recipe.data)
    train = limited(trained_on.split("train"), recipe.data.max_media) if labels else chosen
    counted_in = None
    if by:
        counted_in = _counted_in(by[0], [trained_on] if own_data else [trained_on, dataset], recipe.data.max_media)

    def find(split: Split) -> tuple[dict[str, MediaLabel], Classes | None]:
        of_labels = {}
        for label in labels:
            in_training, values = (media_label(part, label, f"--label, {part.name}") for part in (train, split))
            of_labels[label] = MediaLabel.of_media(values, [in_training[at] for at in train.owner.tolist()])
        return of_labels, find_classes(*by, counted_in, split) if by else None

    return find


def _class_prompts(
    section: Evaluation, before: Mapping[str, Any], label: str | None, prompts: Path | None, split: Split
) -> tuple[str, Sequence[str]] | None:
    """Return the label to classify by and the templates: as asked for, as in an earlier evaluation, or as trained."""
    if label is None:
        if prompts is not None:
            raise RecipeError("--prompts is for --classify LABEL, which is missing")
        kept = before.get("classification")
        if isinstance(kept, dict) and {"label", "prompts"} <= kept.keys():
            return kept["label"], kept["prompts"]
        label, prompts = section.classify, section.prompts
    return None if label is None else (label, read_prompts(prompts, split.media[0].kind))


def _counted_in(label: str, datasets: Sequence[Dataset], max_media: int | None) -> Split | None:
    """Return the train split whose media are counted for each class: the first one that has the label, or None."""
    for dataset in datasets:
        train = limited(dataset.split("train"), max_media) if "train" in dataset.split_names else None
        if train is not None and any(label in medium.labels for medium in train.media):
            if dataset is not datasets[0]:
                console.print(f"note: the training data have no label {label}, so train of {dataset.path} is counted")
            return train
    console.print(f"note: no training media have the label {label}, so every class counts as few")
    return None


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
    """Draw metrics.json for a terminal 80 columns wide: all scores, then those of each label, and a classification."""
    measures, directions = shown_measures(metrics), directions_of(metrics)

    def add(table: Table, name: str, place: Mapping[str, Any] | None, direction: str) -> None:
        if place and (scores := place.get(direction)) is not None:
            intervals = place.get("intervals", {}).get(direction, {})
            cells = [_with_interval(scores[measure], intervals.get(measure)) for measure in measures]
            table.add_row(name, *cells, f"{scores['median_rank']:g}")

    media, captions = counted(metrics["num_media"], "medium", "media"), counted(metrics["num_captions"], "caption")
    table = figure_table(f"{metrics['split']}: {media}, {captions}; percent", "", *measures, "MedR")
    for direction in directions:
        add(table, arrow(direction), metrics, direction)
        if folds := metrics.get(FOLDS):
            add(table, f"  {folds['num']} folds", folds, direction)
        for name in GROUP_NAMES:
            add(table, f"  {name}", metrics["groups"][name], direction)
    table.caption = "\n".join(filter(None, [BRACKETS, coverage_in_words(metrics)]))
    tables = [table]
    for label, scores in metrics.get("labels", {}).items():
        title = f"by {label}, {counted(scores['num_classes'], 'value')} in training; percent"
        table = figure_table(title, "", *measures, "MedR")
        for direction in directions:
            table.add_row(arrow(direction))
            for name in GROUP_NAMES:
                add(table, f"  {name}", scores["groups"][name], direction)
        table.caption = _left_out(scores["num_unlabeled"], label)
        tables.append(table)
    return [*tables, *([_classification_table(scores)] if (scores := metrics.get("classification")) else [])]


def _classification_table(scores: dict[str, Any]) -> Table:
    title = f"classified by {scores['label']}: {counted(scores['num_media'], 'medium', 'media')}; percent"
    table = figure_table(title, "", "classes", "accuracy")
    judged = sum(figures["num_media"] > 0 for figures in scores["classes"].values())
    for measure, name in CLASS_WORDS.items():
        if measure not in CLASS_GROUPS:
            num_classes = judged if measure == "mean_per_class" else scores["num_classes"]
            table.add_row(name, f"{num_classes:,}", _with_interval(scores[measure], scores["intervals"][measure]))
        elif (group := scores["groups"][measure]) is not None:
            figure = _with_interval(group["mean_per_class"], group["interval"])
            table.add_row(f"  {name}", f"{group['num_classes']:,}", figure)
    lines = ["in brackets: 95 % interval over media", _left_out(scores["num_unlabeled"], scores["label"])]
    table.caption = "\n".join(filter(None, lines))
    return table


def _with_interval(figure: float, ends: Sequence[float] | None) -> str:
    return in_tenths(figure) + (f" ({in_tenths(*ends)})" if ends else "")


def _left_out(number: int, label: str) -> str | None:
    return f"left out: {counted(number, 'medium', 'media')} without {label}" if number else None
