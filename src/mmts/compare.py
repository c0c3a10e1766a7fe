"""Runs side by side: mean and spread over seeds, and the paired interval of the difference to the first."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from mmts.errors import RunError
from mmts.evaluation import CUTOFFS, GROUP_NAMES, load_judgement
from mmts.files import read_json
from mmts.metrics import paired_bootstrap_interval
from mmts.training.recipe import Recipe
from mmts.training.run_directory import RunDirectory, differences


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
        """Return a measure over the seeds, overall or in `head`, `mid` or `tail`; None where it is empty."""
        values = []
        for metrics in self.metrics:
            place = metrics if group is None else metrics["groups"][group]
            if place is None or place[direction] is None:
                return None
            values.append(place[direction][measure])
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Figure(float(np.mean(values)), spread)


@dataclass(frozen=True)
class Difference:
    """Mean over seeds of a group's recall minus the first group's, in percent, with its 95 % interval."""

    name: str
    direction: str
    measure: str
    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """Groups in the order given, and every group's differences to the first."""

    groups: tuple[RunGroup, ...]
    directions: tuple[str, str]
    differences: tuple[Difference, ...]


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Compare judged runs; runs whose recipes differ only in the seed make one group.

    The interval of a difference is a paired bootstrap over the queries (all captions of a medium drawn together) of
    the hits averaged over each group's seeds: it says how far the result depends on the queries, while the spread
    says how far it depends on the seed. Raises RunError where runs were judged on different queries.
    """
    groups = _group([RunDirectory(Path(path)) for path in paths])
    directions = _directions(groups[0])
    hits = [_mean_hits(group, groups[0], directions) for group in groups]
    found = []
    for group, own in zip(groups[1:], hits[1:], strict=True):
        for direction in directions:
            for k in CUTOFFS:
                first, clusters = hits[0][direction, k]
                second, _ = own[direction, k]
                low, high = paired_bootstrap_interval(first, second, clusters=clusters)
                mean = float((second - first).mean())
                found.append(Difference(group.name, direction, f"R@{k}", 100 * mean, 100 * low, 100 * high))
    return Comparison(tuple(groups), directions, tuple(found))


def _group(runs: Sequence[RunDirectory]) -> list[RunGroup]:
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
    """Use the recipes' names; where two are equal, add what sets each apart from the first of them."""
    names: list[str] = []
    for recipe in recipes:
        first = next(other for other in recipes if other.name == recipe.name)
        changed = {key: new for key, (_, new) in differences(first, recipe).items() if new is not None}
        added = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in changed.items() if key != "train.seed")
        names.append(f"{recipe.name} ({added})" if added else recipe.name)
    return names


def _metrics(run: RunDirectory) -> dict[str, Any]:
    if not run.metrics_file.exists():
        raise RunError(
            f"{run.path} has not been judged yet (no metrics.json); finish it or call `mmts evaluate {run.path}`"
        )
    return dict(read_json(run.metrics_file))


def _directions(group: RunGroup) -> tuple[str, str]:
    kind = "video" if "text_to_video" in group.metrics[0] else "image"
    return f"text_to_{kind}", f"{kind}_to_text"


def _mean_hits(
    group: RunGroup, first: RunGroup, directions: tuple[str, str]
) -> dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor | None]]:
    """Return, for each direction and cutoff, every query's hits averaged over seeds, and which queries go together."""
    expected = load_judgement(RunDirectory(first.paths[0]).judgement_file)[1]
    sums: dict[tuple[str, int], torch.Tensor] = {}
    clusters = None
    for path in group.paths:
        arrays, meta = load_judgement(RunDirectory(path).judgement_file)
        for key in ("split", "relevance", "media_ids", "captions"):
            if meta[key] != expected[key]:
                raise RunError(f"{path} and {first.paths[0]} were not judged on the same queries: {key} differs")
        clusters = torch.from_numpy(arrays["owner"])
        for direction, name in zip(directions, ("text_ranks", "media_ranks"), strict=True):
            for k in CUTOFFS:
                hits = torch.from_numpy(arrays[name] <= k).double() / len(group.paths)
                sums[direction, k] = sums[direction, k] + hits if (direction, k) in sums else hits
    to_media = directions[0]
    return {key: (value, clusters if key[0] == to_media else None) for key, value in sums.items()}


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Draw the comparison for a terminal: overall, by group, and the differences."""
    tables = [_overall(comparison), _by_group(comparison)]
    return [*tables, _differences(comparison)] if comparison.differences else tables


def _overall(comparison: Comparison) -> Table:
    measures = [f"R@{k}" for k in CUTOFFS] + ["median_rank"]
    table = Table(title=f"on {comparison.groups[0].metrics[0]['split']}, mean ± spread over seeds, %")
    table.add_column("recipe")
    table.add_column("seeds", justify="right")
    for direction in comparison.directions:
        for measure in measures:
            table.add_column(f"{_arrow(direction)}\n{measure.replace('median_rank', 'MedR')}", justify="right")
    for group in comparison.groups:
        cells = [str(group.figure(direction, measure)) for direction in comparison.directions for measure in measures]
        table.add_row(group.name, str(len(group.seeds)), *cells)
    return table


def _by_group(comparison: Comparison) -> Table:
    table = Table(title="R@5 by size of the concept, %")
    table.add_column("recipe")
    for direction in comparison.directions:
        for name in GROUP_NAMES:
            table.add_column(f"{_arrow(direction)}\n{name}", justify="right")
    for group in comparison.groups:
        figures = [group.figure(direction, "R@5", name) for direction in comparison.directions for name in GROUP_NAMES]
        table.add_row(group.name, *("–" if figure is None else str(figure) for figure in figures))
    return table


def _differences(comparison: Comparison) -> Table:
    table = Table(
        title=f"difference to {comparison.groups[0].name}, points, and its 95 % paired bootstrap interval over queries",
        caption="* the interval leaves out 0",
    )
    table.add_column("recipe")
    for direction in comparison.directions:
        for k in CUTOFFS:
            table.add_column(f"{_arrow(direction)}\nR@{k}", justify="right")
    for group in comparison.groups[1:]:
        own = [each for each in comparison.differences if each.name == group.name]
        table.add_row(
            group.name, *(f"{d.mean:+.1f}{'*' if d.is_clear else ''}\n[{d.low:+.1f}, {d.high:+.1f}]" for d in own)
        )
    return table


def _arrow(direction: str) -> str:
    return direction.replace("_to_", "→")
