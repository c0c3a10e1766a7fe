"""The results that compare, report and sweep share: judged runs grouped by recipe, named, and on the same queries."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import RunError, counted, few
from mmts.evaluation.figures import MediaLabel, figures_by_group, figures_by_label
from mmts.evaluation.judgement_file import SIDES, Judged
from mmts.evaluation.measures import FOLDS, GRADED, RECALLS, directions_of
from mmts.files import read_json
from mmts.metrics import paired_bootstrap_interval
from mmts.recipe.recipe import Recipe
from mmts.recipe.run_directory import RunDirectory

PARTS = (None, *GROUP_NAMES)
"""The parts of the queries that have figures: all of them (None), and those of head, mid and tail."""

START = "start"
"""The checkpoint, in files of scores, of a pretrained pair before training."""

# The ends of folders that tell the seeds of one recipe apart: fixed-0 and fixed-1, a0 and a1, mm-ts-seed3, or seed-3.
_SEED = re.compile(r"(?:[-_. ]*seed|[-_. ]s)?[-_. ]*\d+$")
_ONLY_SEED = re.compile(r"seed[-_. ]*\d+")
# Keys of a recipe that do not tell rules apart.
_BESIDE: dict[str, Any] = {"description": True, "published": True, "evaluation": True, "train": {"seed"}}


@dataclass(frozen=True)
class Figure:
    """Mean and sample standard deviation over seeds (None for a single one), and the value of each seed."""

    mean: float
    spread: float | None
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Iterable[Any]) -> "Figure | None":
        """Return the figure of one value per seed; None without any, or if a value is missing or NaN.

        >>> str(Figure.of([50.0, 75.0])), str(Figure.of([50.0])), Figure.of([50.0, None])
        ('62.5 ± 17.7', '50.0', None)
        """
        known = tuple(values)
        if not known or not all(isinstance(value, int | float) and value == value for value in known):
            return None
        return cls(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, known)

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


@dataclass(frozen=True)
class Gap:
    """A group's figure minus the first group's, in points, averaged over seeds, with its 95 % interval over queries."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class JudgedRun:
    """A run and one judgement of it: metrics.json or a file in evaluations/, and the ranks behind it.

    given: the path as the user wrote it.
    """

    given: Path
    run: RunDirectory
    recipe: Recipe
    metrics: dict[str, Any]
    judged: Judged

    @property
    def is_evaluation(self) -> bool:
        """Whether this is a file in evaluations/ instead of the run's own metrics.json."""
        return self.given != self.run.path

    @property
    def checkpoint(self) -> str:
        """The checkpoint that was judged: best, last, interpolated, or START."""
        return str(self.metrics.get("checkpoint", "best"))


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
    def is_start(self) -> bool:
        """Whether this is not a tuned model, but the pretrained pair that it started from."""
        return self.runs[0].checkpoint == START

    @property
    def own_objects(self) -> dict[str, str]:
        """The classes of the model and the objective that the first run was given as objects, if any."""
        return self.runs[0].run.own_objects()

    @property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """The figures of each run."""
        return tuple(run.metrics for run in self.runs)

    @property
    def judged(self) -> tuple[Judged, ...]:
        """The queries of each run."""
        return tuple(run.judged for run in self.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each run."""
        return tuple(run.recipe.train.seed for run in self.runs)

    def figure(self, direction: str, measure: str, part: str | None = None) -> Figure | None:
        """Return a measure over the seeds, of all queries, a part ("tail", "LABEL tail") or folds; None without it."""
        places = [_place(metrics, part).get(direction) or {} for metrics in self.metrics]
        return Figure.of(place.get(measure) for place in places)

    def class_figure(self, label: str, value: str, direction: str, measure: str) -> Figure | None:
        """Return a measure over the seeds of the queries whose medium has a value of a label; None without it."""
        places = [metrics["labels"][label]["classes"][value].get(direction) or {} for metrics in self.metrics]
        return Figure.of(place.get(measure) for place in places)


@dataclass(frozen=True)
class Results:
    """Judged runs in groups, in the order given, all on the same queries and with the same head, mid and tail.

    labels: those of the media that also divide the queries. notes: sentences about runs left out or regrouped.
    """

    groups: tuple[RunGroup, ...]
    labels: dict[str, MediaLabel]
    notes: tuple[str, ...]

    @property
    def directions(self) -> tuple[str, str]:
        """(text_to_image, image_to_text), or the same with video."""
        return directions_of(self.groups[0].metrics[0])

    @property
    def parts(self) -> tuple[str | None, ...]:
        """All queries (None), head, mid and tail, and the same of every label, as "article_type tail"."""
        return (*PARTS, *label_parts(self.labels))

    def rows(self, part: str | None) -> tuple[Tensor, Tensor]:
        """Return which text queries (N,) and media (M,) belong to a part, bool."""
        first = self.groups[0].judged[0]
        text, media = first.groups
        if part is None:
            return torch.ones_like(text, dtype=torch.bool), torch.ones_like(media, dtype=torch.bool)
        label, _, name = part.rpartition(" ")
        if label:
            media = self.labels[label].groups()
            text = media[first.owner]
        return text == GROUP_NAMES.index(name), media == GROUP_NAMES.index(name)

    def interval(
        self, number: int, direction: str, measure: str, part: str | None = None
    ) -> tuple[float, float] | None:
        """Return a group's 95 % interval over queries, percent; None without the measure, or for a single medium."""
        group, at = self.groups[number], self.directions.index(direction)
        if len(group.runs) == 1:
            intervals = _place(group.metrics[0], part).get("intervals", {})
            if (stored := intervals.get(direction, {}).get(measure)) is not None:
                return stored[0], stored[1]
        if part == FOLDS or not all(run.has(measure) for run in group.judged):
            return None
        scores = query_scores(group.judged, SIDES[at], measure).mean(dim=0)
        return self.groups[0].judged[0].sides[at].interval(scores, self.rows(part)[at])

    @cached_property
    def gaps(self) -> dict[tuple[int, str, str, str | None], Gap]:
        """Every group's gaps to the first by number, direction, measure and part or None (docs/method.md, 7.2).

        The intervals are over queries, of scores averaged over each group's seeds; a single medium's have no gap.
        """
        gaps = {}
        judged = [group.judged for group in self.groups]
        measures = [name for name in (*GRADED, *RECALLS) if all(run.has(name) for runs in judged for run in runs)]
        for part in self.parts if len(self.groups) > 1 else ():
            for name, side, rows in zip(SIDES, judged[0][0].sides, self.rows(part), strict=True):
                for measure in measures if side.has_interval(rows) else ():
                    first, *others = [query_scores(runs, name, measure).mean(dim=0)[rows] for runs in judged]
                    for number, scores in enumerate(others, start=1):
                        low, high = paired_bootstrap_interval(first, scores, clusters=side.media[rows])
                        mean = float((scores - first).mean())
                        gaps[number, side.direction, measure, part] = Gap(100 * mean, 100 * low, 100 * high)
        return gaps


def label_parts(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the names of head, mid and tail by labels."""
    return tuple(f"{label} {name}" for label in labels for name in GROUP_NAMES)


def query_scores(runs: Sequence[Judged], side: str, measure: str) -> Tensor:
    """Return (S, Q) in [0, 1], one row per run: "text" or "media" queries' hits, mean recall or graded measure."""
    return torch.stack([run.sides[SIDES.index(side)].scores(measure) for run in runs])


def _place(metrics: Mapping[str, Any], part: str | None) -> Mapping[str, Any]:
    """Return the figures of a part in metrics.json; empty if there are none."""
    if part is None or part == FOLDS:
        return metrics if part is None else metrics.get(FOLDS) or {}
    label, _, name = part.rpartition(" ")
    return (metrics["labels"][label] if label else metrics)["groups"][name] or {}


def read_results(paths: Sequence[str | Path], names: Sequence[str] | None = None) -> Results:
    """Read judged runs; runs whose recipes differ only in the seed make one group (docs/reading-the-report.md).

    A path is a run directory, or a file that `mmts evaluate` wrote into its evaluations/. names: one per group, in
    order; by default those of their folders. A single group that was tuned from a pretrained pair is preceded by that
    pair, as the group "before".
    Raises RunError if no run remains or runs were judged on different queries, DataError if a run lacks its ranks.
    """
    notes: list[str] = []
    usable = _usable(paths, notes)
    groups = _grouped(usable, names, notes)
    if len(groups) == 1 and (starts := _starts(usable, notes)):
        groups = [RunGroup("before", tuple(starts)), *groups]
    first, *others = [run for group in groups for run in group.runs]
    sizes = f"{first.metrics['num_media']:,} media, {first.metrics['num_captions']:,} captions"
    different = {run.given: how for run in others if (how := run.judged.differs_from(first.judged))}
    refuse_other_queries(f"{first.given} ({first.metrics['split']}, {sizes})", different)
    if len({group.runs[0].checkpoint for group in groups} - {START}) > 1:
        for name in ("last", "interpolated"):
            if judged := [group.name for group in groups if group.runs[0].checkpoint == name]:
                notes.append(f"judged at the {name} checkpoint, not the best: {few(judged)}")
    groups, labels = _divided_alike(groups, notes)
    return Results(tuple(groups), labels, tuple(notes))


def refuse_other_queries(first: str, differing: Mapping[Path, str]) -> None:
    """Raise RunError if there are runs that were judged on other queries than the first; each says what differs."""
    if differing:
        runs = few([f"{path} ({how})" for path, how in differing.items()])
        raise RunError(
            f"these were not judged on the same queries as {first}: {runs}. Figures of different queries cannot be "
            "compared. `mmts evaluate RUN --data PATH --split NAME` judges each run on the same data; if it writes "
            "RUN/evaluations/NAME.json, name that file instead of RUN"
        )


def _usable(paths: Sequence[str | Path], notes: list[str]) -> list[JudgedRun]:
    """Return the judged runs among paths, each once, and note what else is there; raises RunError if there are none."""
    if not paths:
        raise RunError("at least one run directory is needed")
    runs: dict[tuple[int, int], JudgedRun] = {}
    passed, again = [], []
    for path in map(Path, paths):
        run, file = RunDirectory.of_judgement(path)
        if why := run.problem() or run.not_judged(file):
            if len(paths) == 1 or not os.path.lexists(path):  # nobody means a path that does not exist
                raise RunError(why)
            passed.append(why)
            continue
        identity = file.stat().st_dev, file.stat().st_ino
        if identity in runs:
            first = runs[identity].given
            again.append(f"{path} is {first}" if path != first else str(path))
            continue
        judged = Judged.load(path, run.ranks_file(file))
        runs[identity] = JudgedRun(path, run, run.recipe(), _metrics(file, run), judged)
    if not runs:
        raise RunError(f"none of the {len(paths)} paths is a judged run: {few(passed)}")
    for what, words in (("passed over", passed), ("given twice and counted once", again)):
        if words:
            notes.append(f"{what}: {few(words)}")
    return list(runs.values())


def _starts(runs: Sequence[JudgedRun], notes: list[str]) -> list[JudgedRun]:
    """Return the scores, before training, of runs that were tuned from a pretrained pair; empty if one has none."""
    files = [run.run.before_file for run in runs]
    if not all(not run.is_evaluation and "before" in run.metrics for run in runs):
        return []
    needed = [*files, *(run.run.ranks_file(file) for run, file in zip(runs, files, strict=True))]
    if gone := [str(file) for file in needed if not file.is_file()]:
        notes.append(f"without the scores before training, since there is no {few(gone)}")
        return []
    starts = _usable(files, [])
    differ = any(at.judged.differs_from(runs[0].judged) for at in starts)
    return starts if len(starts) == len(runs) and not differ else []


def _metrics(file: Path, run: RunDirectory) -> dict[str, Any]:
    metrics = read_json(file)
    if isinstance(metrics, dict):
        has_figures = all(isinstance(metrics.get(direction), dict) for direction in directions_of(metrics))
        if has_figures and {"split", "num_media", "num_captions", "groups"} <= metrics.keys():
            return metrics
    raise RunError(f"{file} is damaged; `mmts evaluate {run.path}` rewrites it")


def _grouped(runs: Sequence[JudgedRun], names: Sequence[str] | None, notes: list[str]) -> list[RunGroup]:
    """Group runs by recipe and checkpoint, and pairs without training by templates, too; name the groups."""
    members: dict[str, dict[int, JudgedRun]] = defaultdict(dict)
    left_out = []
    for run in runs:
        recipe = run.recipe.model_dump(mode="json", exclude=_BESIDE)
        asked = run.judged.meta.get("classes") if run.recipe.model.is_untouched else None
        by_seed = members[json.dumps([recipe, run.checkpoint, asked and asked["templates"]])]
        first = by_seed.setdefault(run.recipe.train.seed, run)
        if first is not run:
            left_out.append(f"{run.given} has the recipe and the seed of {first.given}")
    if left_out:
        notes.append(f"not another seed, so left out: {few(left_out)}")
    groups = [RunGroup("", tuple(by_seed.values())) for by_seed in members.values()]
    folders = _folder_names(groups)
    names = folders if names is None else names
    if len(names) != len(groups):
        groups_of_runs = f"{counted(len(groups), 'group')} of runs: {few(folders)}"
        raise RunError(f"{len(names)} names are given for {groups_of_runs}; give one per group")
    if len({*names}) < len(names) or not all(names):
        raise RunError(f"names must differ and not be empty: {', '.join(map(repr, names))}")
    return [replace(group, name=name) for name, group in zip(names, groups, strict=True)]


def _folder_names(groups: Sequence[RunGroup]) -> list[str]:
    """Name groups by their folders, adding parent folders until the names differ; else by the first paths given."""
    folders = [_folder(group) for group in groups]
    for length in range(1, 1 + max(len(folder.parts) for folder in folders)):
        names = [str(Path(*folder.parts[-length:])) for folder in folders]
        if len({*names}) == len(names):
            return names
    return [str(group.runs[0].given) for group in groups]


def _folder(group: RunGroup) -> Path:
    """Return the folder of a run, or what those of several have in common besides the seed, or the recipe."""
    paths = [Path(os.path.abspath(run.run.path)) for run in group.runs]
    if len(paths) == 1:
        return paths[0].parent if _ONLY_SEED.fullmatch(paths[0].name) else paths[0]
    stems = {path.parent / _SEED.sub("", path.name) for path in paths}  # a name that is a seed alone leaves its folder
    return stems.pop() if len(stems) == 1 else Path(group.recipe.name)


def _divided_alike(groups: Sequence[RunGroup], notes: list[str]) -> tuple[list[RunGroup], dict[str, MediaLabel]]:
    """Divide the queries of all runs alike: by the first run's concepts, and by the labels of any run."""
    first = groups[0].runs[0]
    runs, regrouped = [run for group in groups for run in group.runs], []
    labels = {name: label for run in reversed(runs) for name, label in run.judged.labels.items()}

    def divided(run: JudgedRun) -> JudgedRun:
        metrics, judged = dict(run.metrics), run.judged
        if not all(map(torch.equal, judged.groups, first.judged.groups)):
            metrics["groups"] = figures_by_group(judged.sides, first.judged.groups)
            regrouped.append(str(run.given))
        stored, metrics["labels"] = metrics.get("labels", {}), {}
        for name, label in labels.items():
            is_stored = name in stored and judged.labels.get(name) == label
            metrics["labels"][name] = stored[name] if is_stored else figures_by_label(judged.sides, judged.owner, label)
        return replace(run, metrics=metrics)

    result = [replace(group, runs=tuple(map(divided, group.runs))) for group in groups]
    if regrouped:
        notes.append(f"head, mid and tail go by the concepts of {first.given}, also for {few(regrouped)}")
    return result, labels
