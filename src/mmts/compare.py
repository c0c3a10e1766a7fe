"""Runs side by side: mean and spread over seeds, and the paired interval of the difference to the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import console
from mmts.errors import RunError
from mmts.evaluation import CUTOFFS, GRADED, coverage_in_words, load_judgement, shown_measures
from mmts.files import read_json
from mmts.metrics import paired_bootstrap_interval
from mmts.training.measures import MEAN_RECALL
from mmts.training.recipe import Recipe
from mmts.training.run_directory import RunDirectory, differences

PARTS = (None, *GROUP_NAMES)
"""What is judged: all queries, and those of head, mid and tail."""

FOLDS = "folds"
"""The mean over equal parts of the media, each judged by itself, as MSCOCO's five times 1,000."""

_WIDTH = 80
_UNBROKEN = 19  # columns that a name may take, indented, before it is broken


@dataclass(frozen=True)
class Figure:
    """Mean and sample standard deviation over seeds (None for a single one)."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


@dataclass(frozen=True)
class RunGroup:
    """Runs of one recipe that differ only in their seed."""

    name: str
    paths: tuple[Path, ...]
    recipe: Recipe
    metrics: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]

    def figure(self, direction: str, measure: str, group: str | None = None) -> Figure | None:
        """Return a measure over the seeds, overall, in head, mid or tail, or in folds; None where it is empty."""
        values = []
        for metrics in self.metrics:
            place = metrics.get(FOLDS) if group == FOLDS else metrics["groups"][group] if group else metrics
            if place is None or place[direction] is None:
                return None
            values.append(place[direction][measure])
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Figure(float(np.mean(values)), spread)


@dataclass(frozen=True)
class Judged:
    """One run's ranks and first results, as judgement.npz holds them."""

    path: Path
    arrays: dict[str, np.ndarray[Any, Any]]
    meta: dict[str, Any]

    @classmethod
    def load(cls, run: Path) -> "Judged":
        """Read a run's judgement.npz; raises DataError where it has none."""
        return cls(run, *load_judgement(RunDirectory(run).judgement_file))

    def differs_from(self, other: "Judged") -> str | None:
        """Name what makes this run's queries others than the other's; None where they are the same."""
        keys = ("split", "relevance", "media_ids", "captions")
        return next((key for key in keys if self.meta[key] != other.meta[key]), None)


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

    def __neg__(self) -> "Gap":
        return Gap(-self.mean, -self.high, -self.low)


GapKey = tuple[int, str, str, str | None]
"""number of the group, direction, measure, and head, mid or tail (None: all queries)"""


@dataclass(frozen=True)
class Comparison:
    """Groups in the order given, and every group's gaps to the first."""

    groups: tuple[RunGroup, ...]
    directions: tuple[str, str]
    gaps: dict[GapKey, Gap]


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Compare judged runs; runs whose recipes differ only in the seed make one group.

    Raises RunError where a run has not been judged, or where runs were judged on different queries.
    """
    groups = group_runs(paths)
    judged = [[Judged.load(path) for path in group.paths] for group in groups]
    first = judged[0][0]
    for runs in judged:
        for run in runs:
            if (key := run.differs_from(first)) is not None:
                raise RunError(f"{run.path} and {first.path} were not judged on the same queries: {key} differs")
    directions = directions_of(groups[0])
    return Comparison(tuple(groups), directions, paired_gaps(judged, directions))


def comparison_as_mapping(comparison: Comparison) -> dict[str, Any]:
    """Return what the tables say as plain data: each group's figures by seed, and its gaps to the first, in points."""
    gaps: list[dict[str, Any]] = [{} for _ in comparison.groups]
    for (number, direction, measure, part), gap in comparison.gaps.items():
        at = gaps[number].setdefault(part or "all", {}).setdefault(direction, {})
        at[measure] = {"mean": gap.mean, "low": gap.low, "high": gap.high}
    return {
        "groups": [
            {"name": group.name, "runs": [str(path) for path in group.paths], "metrics": group.metrics, "gaps": own}
            for group, own in zip(comparison.groups, gaps, strict=True)
        ]
    }


def paired_gaps(judged: Sequence[Sequence[Judged]], directions: tuple[str, str]) -> dict[GapKey, Gap]:
    """Return every group's gaps to the first, overall and by head, mid and tail (docs/method.md, 7.2).

    The interval is a paired bootstrap over the queries (all captions of a medium drawn together) of the hits, or the
    measures of graded relevance, averaged over each group's seeds: it says how far the result depends on the queries,
    as the spread does for the seeds.
    All runs must have been judged on the same queries; parts are left out where runs divide them differently.
    """
    gaps: dict[GapKey, Gap] = {}
    first = judged[0][0].arrays
    sides = (("text", torch.from_numpy(first["owner"])), ("media", None))
    for direction, (side, clusters) in zip(directions, sides, strict=True):
        ranks, parts = f"{side}_ranks", f"{side}_groups"
        same_parts = all(np.array_equal(run.arrays[parts], first[parts]) for runs in judged for run in runs)
        for number_of_part, part in enumerate(PARTS if same_parts else PARTS[:1], start=-1):
            rows = torch.from_numpy(first[parts] == number_of_part) if part else torch.ones(len(first[ranks])).bool()
            if not rows.any():
                continue
            inside = clusters[rows] if clusters is not None else None
            for measure in (*GRADED, *(f"R@{k}" for k in CUTOFFS)):
                if measure in GRADED and f"{side}_graded" not in first:
                    continue
                scores = [query_scores(runs, side, measure).mean(dim=0)[rows] for runs in judged]
                for number, own in enumerate(scores[1:], start=1):
                    low, high = paired_bootstrap_interval(scores[0], own, clusters=inside)
                    mean = float((own - scores[0]).mean())
                    gaps[number, direction, measure, part] = Gap(100 * mean, 100 * low, 100 * high)
    return gaps


def query_scores(runs: Sequence[Judged], side: str, measure: str) -> torch.Tensor:
    """Return (S, Q) in [0, 1], a row a run: "text" or "media" queries' hits, mean recall or graded measure."""

    def of_run(run: Judged) -> torch.Tensor:
        if measure in GRADED:
            return torch.from_numpy(run.arrays[f"{side}_graded"][:, GRADED.index(measure)])
        cutoffs = CUTOFFS if measure == MEAN_RECALL else (int(measure.removeprefix("R@")),)
        ranks = torch.from_numpy(run.arrays[f"{side}_ranks"])
        return torch.stack([(ranks <= k).double() for k in cutoffs]).mean(dim=0)

    return torch.stack([of_run(run) for run in runs])


def group_runs(paths: Sequence[str | Path]) -> list[RunGroup]:
    """Gather judged runs by recipe, in the order given; raises RunError naming what is no run or not judged yet."""
    runs = [RunDirectory(Path(path)) for path in paths]
    gathered: list[tuple[Recipe, list[RunDirectory]]] = []
    for run in runs:
        recipe = run.recipe()
        for other, members in gathered:
            if recipe.name == other.name and set(differences(other, recipe)) <= {"train.seed"}:
                members.append(run)
                break
        else:
            gathered.append((recipe, [run]))
    names = _distinct_names([recipe for recipe, _ in gathered])
    return [
        RunGroup(
            name,
            tuple(run.path for run in members),
            recipe,
            tuple(_metrics(run) for run in members),
            tuple(run.recipe().train.seed for run in members),
        )
        for name, (recipe, members) in zip(names, gathered, strict=True)
    ]


def _distinct_names(recipes: Sequence[Recipe]) -> list[str]:
    """Use the recipes' names; where some are equal, add of what differs from the first as little as it takes."""
    changes: list[list[str]] = []
    for recipe in recipes:
        first = next(other for other in recipes if other.name == recipe.name)
        changed = {key: new for key, (_, new) in differences(first, recipe).items() if new is not None}
        changes.append([f"{key.rpartition('.')[2]} {value}" for key, value in changed.items() if key != "train.seed"])
    for number in range(1 + max(len(each) for each in changes)):
        names = [
            f"{recipe.name} ({', '.join(each[:number])})" if each[:number] else recipe.name
            for recipe, each in zip(recipes, changes, strict=True)
        ]
        if len(set(names)) == len(names):
            break
    return names


def _metrics(run: RunDirectory) -> dict[str, Any]:
    if not run.metrics_file.exists():
        raise RunError(
            f"{run.path} has not been judged yet (no metrics.json); finish it or call `mmts evaluate {run.path}`"
        )
    metrics = read_json(run.metrics_file)
    if not isinstance(metrics, dict) or not {"split", "groups", "intervals"} <= set(metrics):
        raise RunError(f"{run.metrics_file} is damaged; `mmts evaluate {run.path}` writes it anew")
    return metrics


def directions_of(group: RunGroup) -> tuple[str, str]:
    """Return (text_to_image, image_to_text), or the same of video."""
    kind = "video" if "text_to_video" in group.metrics[0] else "image"
    return f"text_to_{kind}", f"{kind}_to_text"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Draw the comparison for a terminal 80 columns wide: overall, by concept size, and the differences."""
    tables = [_overall(comparison), _by_concept_size(comparison)]
    return [*tables, _differences(comparison)] if comparison.gaps else tables


def _overall(comparison: Comparison) -> Table:
    metrics = comparison.groups[0].metrics[0]
    measures = shown_measures(metrics)
    table = _table(comparison, f"{metrics['split']}, %: mean ± spread over seeds", *measures, "MedR")
    for direction in comparison.directions:
        table.add_row(_named(direction))
        for group in comparison.groups:
            cells = [_cell(group.figure(direction, measure)) for measure in (*measures, "median_rank")]
            table.add_row(_indented(group), *cells)
    if FOLDS in metrics:
        number = metrics[FOLDS]["num"]
        for direction in comparison.directions:
            table.add_row(f"{_named(direction)}, {number} folds")
            for group in comparison.groups:
                figures = [group.figure(direction, measure, FOLDS) for measure in (*measures, "median_rank")]
                table.add_row(_indented(group), *map(_cell, figures))
    table.caption = "\n".join(each for each in (folds_in_words(metrics), coverage_in_words(metrics)) if each) or None
    return table


def folds_in_words(metrics: dict[str, Any]) -> str:
    """Say what the figures of folds are; empty where there are none.

    >>> folds_in_words({"num_media": 5000, "folds": {"num": 5}})
    '5 folds: mean over 5 parts of 1,000 media, each judged by itself'
    """
    if FOLDS not in metrics:
        return ""
    number = metrics[FOLDS]["num"]
    about = "about " if metrics["num_media"] % number else ""
    size = metrics["num_media"] // number
    return f"{number} folds: mean over {number} parts of {about}{size:,} media, each judged by itself"


def _by_concept_size(comparison: Comparison) -> Table:
    measure = "mAP" if "mAP" in shown_measures(comparison.groups[0].metrics[0]) else "R@5"
    table = _table(comparison, f"{measure} by size of the concept, %", *GROUP_NAMES)
    for direction in comparison.directions:
        table.add_row(_named(direction))
        for group in comparison.groups:
            table.add_row(_indented(group), *(_cell(group.figure(direction, measure, part)) for part in GROUP_NAMES))
    return table


def _differences(comparison: Comparison) -> Table:
    """Put intervals beside the differences, or under them where the table would be too wide."""
    table = _difference_table(comparison)
    wide = console.options.update(max_width=10 * _WIDTH)
    fits = console.measure(table, options=wide).maximum <= _WIDTH
    return table if fits else _difference_table(comparison, under=True)


def _difference_table(comparison: Comparison, under: bool = False) -> Table:
    first = comparison.groups[0]
    measures = shown_measures(first.metrics[0])
    table = _table(comparison, f"difference to {first.name}, points, 95 % interval over queries", *measures)
    table.caption = "* the interval leaves out 0"
    for direction in comparison.directions:
        table.add_row(_named(direction))
        for number, group in enumerate(comparison.groups[1:], start=1):
            gaps = [comparison.gaps[number, direction, measure, None] for measure in measures]
            table.add_row(_indented(group), *(_gap_cell(gap, under) for gap in gaps))
    return table


def _table(comparison: Comparison, title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    longest = max(len(_indented(group)) for group in comparison.groups)
    table.add_column("recipe", min_width=max(10, min(longest, _UNBROKEN)), overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _named(direction: str) -> str:
    return direction.replace("_to_", "→")


def _indented(group: RunGroup) -> str:
    return f"  {group.name}"


def _gap_cell(gap: Gap, under: bool) -> str:
    interval = f"({gap.low:+.1f}, {gap.high:+.1f})"
    if under:
        return f"{gap.mean:+.1f}\n{'*' if gap.is_clear else ''}{interval}"
    return f"{gap.mean:+.1f}{'*' if gap.is_clear else ' '} {interval}"


def _cell(figure: Figure | None) -> str:
    return "–" if figure is None else str(figure)
