"""Judged runs as compare, report and sweep read them: gathered by recipe, named, and on the same queries."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import RunError, counted
from mmts.evaluation.rank import (
    MediaLabel,
    Side,
    directions_of,
    figures_by_group,
    figures_by_label,
    load_judgement,
    sides_of,
)
from mmts.files import read_json
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory, differences

SIDES = ("text", "media")
"""Whose queries: text to media, and media to text."""

PARTS = (None, *GROUP_NAMES)
"""The parts of the queries that are judged: all of them, and those of head, mid and tail."""

FOLDS = "folds"
"""The mean over equal parts of the media, each judged separately, such as MSCOCO's five times 1,000."""

_LONGEST_NAME = 60
_LISTED = 5
# How the folders of one rule's seeds end: fixed-0 and fixed-1, a0 and a1, mm-ts-seed3, or seed-3 alone.
_SEED = re.compile(r"(?:[-_. ]*seed|[-_. ]s)?[-_. ]*\d+$")
_ONLY_SEED = re.compile(r"seed[-_. ]*\d+")


@dataclass(frozen=True)
class Figure:
    """Mean and sample standard deviation over seeds (None for a single one)."""

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """Return the mean and the spread of at least one value.

        >>> str(Figure.of([50.0, 75.0])), str(Figure.of([50.0]))
        ('62.5 ± 17.7', '50.0')
        """
        return cls(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


@dataclass(frozen=True)
class JudgedRun:
    """A run and one judgement of it: metrics.json or a file of evaluations/, and the ranks behind it if they are there.

    given: the path as the user wrote it.
    """

    given: Path
    run: RunDirectory
    recipe: Recipe
    metrics: dict[str, Any]
    judged: "Judged | None"

    @property
    def is_evaluation(self) -> bool:
        """Whether this is a file of evaluations/, in place of the run's own metrics.json."""
        return self.given != self.run.path


@dataclass(frozen=True)
class RunGroup:
    """Runs of one recipe that differ only in their seed."""

    name: str
    runs: tuple[JudgedRun, ...]

    @property
    def recipe(self) -> Recipe:
        """The first run's recipe."""
        return self.runs[0].recipe

    @property
    def paths(self) -> tuple[Path, ...]:
        """The run directories."""
        return tuple(each.run.path for each in self.runs)

    @property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """The figures of each run."""
        return tuple(each.metrics for each in self.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(each.recipe.train.seed for each in self.runs)

    def values(self, direction: str, measure: str, part: str | None = None) -> tuple[float, ...] | None:
        """Return a measure of each seed; None where any of them lacks it, or where it is not a number."""
        return _numbers(_at(_place(metrics, part), direction, measure) for metrics in self.metrics)

    def figure(self, direction: str, measure: str, part: str | None = None) -> Figure | None:
        """Return a measure over the seeds, of all queries, a part ("tail", "LABEL tail") or folds; None without it."""
        values = self.values(direction, measure, part)
        return None if values is None else Figure.of(values)

    def class_figure(self, label: str, value: str, direction: str, measure: str) -> Figure | None:
        """Return a measure over the seeds of the queries whose medium has a value of a label; None without it."""
        places = (metrics.get("labels", {}).get(label, {}).get("classes", {}).get(value) for metrics in self.metrics)
        values = _numbers(_at(place, direction, measure) for place in places)
        return None if values is None else Figure.of(values)


@dataclass(frozen=True)
class Judged:
    """One run's ranks and first results, as judgement.npz holds them."""

    path: Path
    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]

    @classmethod
    def load(cls, run: Path) -> "Judged":
        """Read the judgement.npz of a run directory; raises DataError where it has none."""
        return cls(run, *load_judgement(RunDirectory(run).judgement_file))

    @property
    def owner(self) -> Tensor:
        """(M,) int64, the medium of each caption."""
        return torch.from_numpy(self.arrays["owner"])

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The queries of both directions, text to media first."""
        return sides_of(
            {name: torch.from_numpy(each) for name, each in self.arrays.items()}, self.meta["kind"], self.owner
        )

    def has(self, measure: str) -> bool:
        """Whether queries have this measure: mAP and the like only where relevance is graded."""
        return measure in self.sides[0].measures

    @property
    def groups(self) -> tuple[Tensor, Tensor]:
        """The group of each text query and of each medium: 0, 1, 2 = head, mid, tail."""
        text, media = (torch.from_numpy(self.arrays[f"{side}_groups"]) for side in ("text", "media"))
        return text, media

    @property
    def concepts(self) -> tuple[Tensor, Tensor | None]:
        """The training concept of each caption (M,), and of each medium (N,) that of its first caption; -1: unknown.

        None for media whose captions are not their own, as where relevance is graded.
        """
        text, owner = torch.from_numpy(self.arrays["text_concepts"]), self.arrays["owner"]
        if self.meta["relevance"] == "graded":
            return text, None
        return text, text[np.searchsorted(owner, np.arange(len(self.arrays["media_ranks"])))]  # owners are in order

    @cached_property
    def labels(self) -> dict[str, MediaLabel]:
        """The labels that the run was judged by."""
        return {name: MediaLabel(**label) for name, label in self.meta.get("labels", {}).items()}

    def differs_from(self, other: "Judged") -> str:
        """Say how this run's queries differ from another's; empty if they are the same."""
        if self.meta["kind"] != other.meta["kind"]:
            return f"{self.meta['kind']}s, not {other.meta['kind']}s"
        for key in ("split", "relevance"):
            if self.meta[key] != other.meta[key]:
                return f"{key} {self.meta[key]}, not {other.meta[key]}"
        for key, word in (("media_ids", "media"), ("captions", "captions")):
            own, others = self.meta[key], other.meta[key]
            if own != others:
                if sorted(own) == sorted(others):
                    return f"the same {word} in another order"
                return f"{len(own):,} {word}, {len({*own} & {*others}):,} of them the same"
        return ""


@dataclass(frozen=True)
class Results:
    """Judged runs in groups, in the order given, all judged on the same queries, and divided alike.

    labels: those by which media are divided. notes: sentences about runs and groups that were left out or regrouped.
    """

    groups: tuple[RunGroup, ...]
    labels: dict[str, MediaLabel]
    notes: tuple[str, ...]

    @property
    def directions(self) -> tuple[str, str]:
        """(text_to_image, image_to_text), or the same of video."""
        return directions_of(self.groups[0].metrics[0])

    @property
    def parts(self) -> tuple[str | None, ...]:
        """All queries (None), head, mid and tail, and those of every label, as "article_type tail"."""
        return (*PARTS, *label_parts(self.labels))

    @cached_property
    def paired(self) -> tuple[tuple[Judged, ...], ...]:
        """The runs of each group query by query; nothing where the ranks of one of them are missing."""
        if self.not_paired:
            return ()
        return tuple(tuple(each.judged for each in group.runs if each.judged) for group in self.groups)

    @property
    def not_paired(self) -> str:
        """Why runs cannot be compared query by query; empty where they can."""
        missing = [str(each.given) for group in self.groups for each in group.runs if each.judged is None]
        if not missing:
            return ""
        return f"some runs have no judgement.npz; `mmts evaluate` on them writes it ({_few(missing)})"

    def rows(self, part: str | None) -> tuple[Tensor, Tensor]:
        """Return which text queries (M,) and media (N,) a part holds, bool; only where `paired`."""
        first = self.paired[0][0]
        label, name = _split_part(part)
        if label:
            media = self.labels[label].groups()
            groups = media[first.owner], media
        else:
            groups = first.groups
        text, media = (
            torch.ones(len(each)).bool() if part is None else each == GROUP_NAMES.index(name) for each in groups
        )
        return text, media

    def num_queries(self, direction: str, part: str | None) -> int | None:
        """Return how many queries of a direction a part holds, if that is known."""
        at = self.directions.index(direction)
        if self.paired:
            return int(self.rows(part)[at].sum())
        place = _place(self.groups[0].metrics[0], part) or {}
        return place.get(("num_captions" if part is None else "num_queries", "num_media")[at])

    def interval(
        self, number: int, direction: str, measure: str, part: str | None = None
    ) -> tuple[float, float] | None:
        """Return a group's 95 % interval over queries, percent: a single run's own, else that of the seeds' mean."""
        group = self.groups[number]
        if len(group.metrics) == 1:
            stored = _at((_place(group.metrics[0], part) or {}).get("intervals"), direction, measure)
            if stored is not None:
                return stored[0], stored[1]
        if not self.paired or part == FOLDS:
            return None
        at = self.directions.index(direction)
        side, rows = self.paired[0][0].sides[at], self.rows(part)[at]
        if not all(run.has(measure) for run in self.paired[number]):
            return None
        found = side.interval(query_scores(self.paired[number], SIDES[at], measure).mean(dim=0), rows)
        return None if found is None else (found[0], found[1])


def label_parts(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the names of head, mid and tail by labels.

    >>> label_parts(["type"])
    ('type head', 'type mid', 'type tail')
    """
    return tuple(f"{label} {name}" for label in labels for name in GROUP_NAMES)


def query_scores(runs: Sequence[Judged], side: str, measure: str) -> Tensor:
    """Return (S, Q) in [0, 1], one row per run: "text" or "media" queries' hits, mean recall or graded measure."""
    return torch.stack([run.sides[SIDES.index(side)].scores(measure) for run in runs])


def read_results(paths: Sequence[str | Path], names: Sequence[str] | None = None) -> Results:
    """Read judged runs; runs whose recipes differ only in the seed make one group.

    A path is a run directory, or a file that `mmts evaluate` wrote into its evaluations/. Among several paths, any that
    is not a judged run is passed over with a note, and a run that is given twice, or has the recipe and the seed of
    another, counts once. names: one for each group, in order; by default those of their folders. Where runs found other
    concepts, head, mid and tail of all go by the first one's.
    Raises RunError where no run remains, or where runs were judged on different queries.
    """
    notes: list[str] = []
    groups = _gather(_usable(paths, notes), names, notes)
    _check_same_queries([run for group in groups for run in group.runs])
    if len({_checkpoint(group) for group in groups}) > 1:
        last = [group.name for group in groups if _checkpoint(group) == "last"]
        notes.append(f"judged at the last checkpoint, not the best: {_few(last)}")
    groups, labels = _divided_alike(groups, notes)
    return Results(tuple(groups), labels, tuple(notes))


def _checkpoint(group: RunGroup) -> str:
    return str(group.metrics[0].get("checkpoint", "best"))


def refuse_other_queries(first: str, differing: Mapping[Path, str]) -> None:
    """Raise RunError if there are runs that were judged on other queries than the first; each says what differs."""
    if differing:
        raise RunError(
            f"these were not judged on the same queries as {first}: "
            f"{_few([f'{path} ({how})' for path, how in differing.items()])}. Figures of other queries cannot be "
            "compared. `mmts evaluate RUN --data PATH --split NAME` judges each run on the same data; where it writes "
            "RUN/evaluations/NAME.json, name that file in place of RUN"
        )


# --- which runs ------------------------------------------------------------------------------------------------------


def _usable(paths: Sequence[str | Path], notes: list[str]) -> list[JudgedRun]:
    """Return the judged runs among paths, each once, and note what else is there; raises RunError if there are none."""
    if not paths:
        raise RunError("at least one run directory is needed")
    runs: dict[tuple[int, int], JudgedRun] = {}
    passed, again = [], []
    for path in map(Path, paths):
        run, file = RunDirectory.of_judgement(path)
        if why := run.problem() or run.not_judged(file):
            if len(paths) == 1 or not os.path.lexists(path):  # nobody means a path that is not there
                raise RunError(why)
            passed.append(why)
            continue
        about = file.stat()
        if (first := runs.get((about.st_dev, about.st_ino))) is not None:
            again.append(f"{path} is {first.given}" if path != first.given else str(path))
            continue
        ranks = run.ranks_file(file)
        judged = Judged(path, *load_judgement(ranks)) if ranks.exists() else None
        runs[about.st_dev, about.st_ino] = JudgedRun(path, run, run.recipe(), _metrics(file, run), judged)
    if not runs:
        raise RunError(f"none of the {len(paths)} paths is a judged run: {_few(passed)}")
    if passed:
        notes.append(f"passed over: {_few(passed)}")
    if again:
        notes.append(f"given twice and counted once: {_few(again)}")
    return list(runs.values())


def _gather(runs: Sequence[JudgedRun], names: Sequence[str] | None, notes: list[str]) -> list[RunGroup]:
    gathered: dict[str, dict[int, JudgedRun]] = {}
    left_out = []
    for run in runs:
        plain = run.recipe.model_dump(mode="json", exclude={"description", "published"})
        del plain["train"]["seed"]
        members = gathered.setdefault(json.dumps([plain, run.metrics.get("checkpoint", "best")]), {})
        first = members.setdefault(run.recipe.train.seed, run)
        if first is not run:
            left_out.append(f"{run.given} has the recipe and the seed of {first.given}")
    if left_out:
        notes.append(f"not another seed, so left out: {_few(left_out)}")
    groups = [RunGroup("", tuple(members.values())) for members in gathered.values()]
    found = _names(groups)
    return [replace(group, name=name) for name, group in zip(_given(names, found) or found, groups, strict=True)]


def _metrics(file: Path, run: RunDirectory) -> dict[str, Any]:
    metrics = read_json(file)
    if not (
        isinstance(metrics, dict)
        and {"split", "num_media", "num_captions", *directions_of(metrics)} <= metrics.keys()
        and all(isinstance(metrics[direction], dict) for direction in directions_of(metrics))
    ):
        raise RunError(f"{file} is damaged; `mmts evaluate {run.path}` rewrites it")
    return metrics


# --- names of groups -------------------------------------------------------------------------------------------------


def _given(names: Sequence[str] | None, found: Sequence[str]) -> Sequence[str] | None:
    if names is None:
        return None
    if len(names) != len(found):
        rules = counted(len(found), "rule")
        raise RunError(f"{len(names)} names are given for {rules}: {_few(found)}; one for each is right")
    if len({*names}) < len(names) or not all(names):
        raise RunError(f"names must differ and not be empty: {', '.join(map(repr, names))}")
    return names


def _names(groups: Sequence[RunGroup]) -> list[str]:
    """Name groups by their folders; where those are equal by what differs in their recipes, else by longer paths."""
    whole = [[Path(os.path.abspath(path)) for path in group.paths] for group in groups]
    recipes = [group.recipe for group in groups]
    folders = [_folder(paths) or Path(recipe.name) for paths, recipe in zip(whole, recipes, strict=True)]
    names = [folder.name for folder in folders]
    if _are_distinct(names):
        return names
    names = []
    for recipe in recipes:
        first = next(other for other in recipes if other.name == recipe.name)
        changed = {key: new for key, (_, new) in differences(first, recipe).items() if key != "train.seed"}
        said = ", ".join(f"{key.rpartition('.')[2]} {'none' if new is None else new}" for key, new in changed.items())
        names.append(f"{recipe.name} ({said})" if said else recipe.name)
    if _are_distinct(names) and max(map(len, names)) <= _LONGEST_NAME:
        return names
    places = [_folder(paths) or paths[0] for paths in whole]
    for length in range(1, 1 + max(len(place.parts) for place in places)):
        names = [str(Path(*place.parts[-length:])) for place in places]
        if _are_distinct(names):
            return names
    return [str(paths[0]) for paths in whole]


def _folder(paths: Sequence[Path]) -> Path | None:
    """Return the folder of a run, or that of several without what tells seeds apart; None if nothing is common.

    >>> [str(_folder([Path(f"runs/{name}") for name in names])) for names in (["a-2"], ["a-1", "a-2"], ["a", "b"])]
    ['runs/a-2', 'runs/a', 'None']
    >>> str(_folder([Path("rules/mm-ts/seed-0"), Path("rules/mm-ts/seed-1")]))
    'rules/mm-ts'
    """
    if len(paths) == 1:
        return paths[0].parent if _ONLY_SEED.fullmatch(paths[0].name) else paths[0]
    stems = {path.parent / stem if (stem := _SEED.sub("", path.name)) else path.parent for path in paths}
    return stems.pop() if len(stems) == 1 else None


def _are_distinct(names: Sequence[str]) -> bool:
    return len({*names}) == len(names)


def _few(words: Sequence[str]) -> str:
    """List a few words, and say how many more there are.

    >>> _few(["a", "b"]), _few(list("abcdefg"))
    ('a; b', 'a; b; c; d; e; and 2 more')
    """
    more = [f"and {len(words) - _LISTED:,} more"] if len(words) > _LISTED else []
    return "; ".join([*words[:_LISTED], *more])


# --- the same queries ------------------------------------------------------------------------------------------------


def _check_same_queries(runs: Sequence[JudgedRun]) -> None:
    first = runs[0]
    differing = {}
    for run in runs[1:]:
        if how := (
            run.judged.differs_from(first.judged)
            if run.judged and first.judged
            else _other_metrics(run.metrics, first.metrics)
        ):
            differing[run.given] = how
    sizes = f"{first.metrics['num_media']:,} media, {first.metrics['num_captions']:,} captions"
    refuse_other_queries(f"{first.given} ({first.metrics['split']}, {sizes})", differing)


def _other_metrics(own: Mapping[str, Any], first: Mapping[str, Any]) -> str:
    """Say how the queries of two runs differ by metrics.json alone; empty if it shows no difference."""
    if directions_of(own) != directions_of(first):
        return f"{directions_of(own)[0]}, not {directions_of(first)[0]}"
    shapes = {"split": "split {}", "relevance": "relevance {}", "num_media": "{} media", "num_captions": "{} captions"}
    for key, shape in shapes.items():
        if own.get(key, first.get(key)) != first.get(key, own.get(key)):  # old ones lack some keys
            return f"{shape.format(own[key])}, not {first[key]}"
    return ""


def _divided_alike(groups: Sequence[RunGroup], notes: list[str]) -> tuple[list[RunGroup], dict[str, MediaLabel]]:
    """Let head, mid and tail mean the same queries in all runs: by the first run's concepts, and by all runs' labels.

    The groups of a run without judgement.npz are left out if its queries may be divided differently; without that of
    the first run, there are no labels.
    """
    first = groups[0].runs[0]
    labels: dict[str, MediaLabel] = {}
    for judged in (run.judged for group in groups for run in group.runs if first.judged and run.judged):
        labels = {**judged.labels, **labels}
    regrouped, dropped = [], []

    def divided(run: JudgedRun) -> JudgedRun:
        metrics, judged = dict(run.metrics), run.judged
        if judged is not None and first.judged is not None:
            if not all(map(torch.equal, judged.groups, first.judged.groups)):
                metrics["groups"] = figures_by_group(judged.sides, first.judged.groups)
                regrouped.append(str(run.given))
        elif run.recipe.concepts != first.recipe.concepts or _sizes(metrics) != _sizes(first.metrics):
            metrics["groups"] = {}
            dropped.append(str(run.given))
        if judged is not None:
            own = metrics.get("labels") or {}
            metrics["labels"] = {
                name: own[name] if name in own and judged.labels.get(name) == label
                else figures_by_label(judged.sides, judged.owner, label)
                for name, label in labels.items()
            }  # fmt: skip
        elif run is not first:
            metrics.pop("labels", None)
        return replace(run, metrics=metrics)

    found = [replace(group, runs=tuple(map(divided, group.runs))) for group in groups]
    if regrouped:
        notes.append(f"head, mid and tail go by the concepts of {first.given}, also for {_few(regrouped)}")
    if dropped:
        notes.append(
            f"head, mid and tail are left out for {_few(dropped)}: only judgement.npz, which `mmts evaluate` writes, "
            f"can tell whether its queries are divided like those of {first.given}"
        )
    return found, labels


def _sizes(metrics: Mapping[str, Any]) -> list[Any]:
    return [(_place(metrics, part) or {}).get("num_queries") for part in GROUP_NAMES]


def _split_part(part: str | None) -> tuple[str, str]:
    """Return the label and the name of a part: "article_type tail" is ("article_type", "tail"), "tail" ("", "tail")."""
    label, _, name = (part or "").rpartition(" ")
    return label, name


def _place(metrics: Mapping[str, Any], part: str | None) -> Mapping[str, Any] | None:
    """Return the figures of a part in metrics.json; None if there are none."""
    if part is None or part == FOLDS:
        return metrics if part is None else metrics.get(FOLDS)
    label, name = _split_part(part)
    divided = (metrics.get("labels") or {}).get(label) if label else metrics
    place: Mapping[str, Any] | None = ((divided or {}).get("groups") or {}).get(name)
    return place


def _numbers(found: Iterable[Any]) -> tuple[float, ...] | None:
    values = tuple(float(each) if isinstance(each, int | float) else np.nan for each in found)
    return values if np.isfinite(values).all() else None


def _at(place: Mapping[str, Any] | None, direction: str, measure: str) -> Any:
    return ((place or {}).get(direction) or {}).get(measure)
