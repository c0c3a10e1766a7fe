"""Runs side by side: mean and spread over seeds, and paired intervals of the differences to the first group."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

from rich.table import Table

from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import console, figure_table
from mmts.evaluation.class_results import ClassResults
from mmts.evaluation.classification import CLASS_WORDS
from mmts.evaluation.measures import (
    BRACKETS,
    FOLDS,
    GRADED,
    RECALLS,
    arrow,
    coverage_in_words,
    folds_in_words,
    in_tenths,
    shown_measures,
)
from mmts.evaluation.results import Gap, Results, label_parts, read_results
from mmts.recipe.run_directory import RunDirectory

_WIDTH = 80
_UNBROKEN = 19  # columns that a name may take, indented, before it is broken


def comparison_as_mapping(results: Results) -> dict[str, Any]:
    """Return the comparison as plain data: each group's figures by seed, its intervals, and its gaps to the first."""
    groups: list[dict[str, Any]] = [
        {"name": group.name, "runs": [str(run.given) for run in group.runs], "metrics": group.metrics}
        | {"intervals": {}, "gaps": {}}
        for group in results.groups
    ]
    for number, part, direction in product(range(len(groups)), results.parts, results.directions):
        ends = {measure: results.interval(number, direction, measure, part) for measure in (*GRADED, *RECALLS)}
        known = {measure: pair for measure, pair in ends.items() if pair is not None}
        groups[number]["intervals"].setdefault(part or "all", {})[direction] = known
    for (number, direction, measure, part), gap in results.gaps.items():
        groups[number]["gaps"].setdefault(part or "all", {}).setdefault(direction, {})[measure] = asdict(gap)
    if (classified := ClassResults.of(results.groups)) is not None:
        for number, name in product(range(len(groups)), classified.measures):
            figure, class_gap = classified.figure(number, name), classified.gap(number, name)
            values: dict[str, Any] = {"figure": figure and asdict(figure)}
            values |= {"interval": classified.interval(number, name), "gap": class_gap and asdict(class_gap)}
            groups[number].setdefault("classification", {})[name] = values
    return {"groups": groups, "notes": results.notes}


def comparison_tables(results: Results) -> list[Table]:
    """Draw the comparison for a terminal 80 columns wide: overall, by size of concepts and labels, and the gaps."""
    measures, by_size = _measures(results)
    tables = [_overall(results, measures)]
    for division, parts in _divisions(results).items():
        tables.append(_by_size(results, f"{by_size} by {division}, %", by_size, parts))
    return tables + _differences(results)


def tables_of_change(run: RunDirectory) -> list[Table]:
    """Draw how a tuned run differs from the pretrained pair that it started from, overall and by size of concepts."""
    return _differences(read_results([run.path], ["after"]))


def _measures(results: Results) -> tuple[Sequence[str], str]:
    """Return the measures of all queries, and the one by size of concepts."""
    measures = shown_measures(results.groups[0].metrics[0])
    return measures, measures[0] if measures[0] in GRADED else "R@5"


def _divisions(results: Results) -> dict[str, Sequence[str]]:
    """Return the three parts of the queries by what divides them: the size of concepts, and each label."""
    return {"concept size": GROUP_NAMES, **{label: label_parts([label]) for label in results.labels}}


def _differences(results: Results) -> list[Table]:
    """Draw the gaps to the first group, overall and by part, and the classifications with theirs."""
    measures, by_size = _measures(results)
    tables = []
    if results.gaps:
        title = f"difference to {results.groups[0].name}, points, 95 % interval over queries"
        tables.append(_gap_table(results, title, {measure: (measure, None) for measure in measures}))
        for division, parts in _divisions(results).items():
            columns = {name: (by_size, part) for name, part in zip(GROUP_NAMES, parts, strict=True)}
            tables.append(_gap_table(results, f"difference in {by_size} by {division}, points", columns))
    if (classified := ClassResults.of(results.groups)) is not None:
        tables.append(_class_table(results, classified))
    return tables


def _overall(results: Results, measures: Sequence[str]) -> Table:
    every = [metrics for group in results.groups for metrics in group.metrics]
    spread = ": mean ± spread over seeds" if len(every) > len(results.groups) else ""
    table = _table(results, f"{every[0]['split']}, %{spread}", *measures, "MedR")
    folds = [metrics[FOLDS]["num"] for metrics in every if metrics.get(FOLDS)]
    for part in (None, FOLDS) if folds else (None,):
        for direction in results.directions:
            table.add_row(arrow(direction) if part is None else f"{arrow(direction)}, {folds[0]} folds")
            for group in results.groups:
                figures = [group.figure(direction, measure, part) for measure in (*measures, "median_rank")]
                table.add_row(f"  {group.name}", *(str(figure or "–") for figure in figures))
    lines = [line for metrics in every for line in (folds_in_words(metrics), coverage_in_words(metrics)) if line]
    table.caption = "\n".join(dict.fromkeys(lines)) or None
    return table


def _by_size(results: Results, title: str, measure: str, parts: Sequence[str]) -> Table:
    """Draw a measure in head, mid and tail, each with its interval over queries below it."""
    table = _table(results, title, *GROUP_NAMES)
    table.caption = BRACKETS
    for direction in results.directions:
        table.add_row(arrow(direction))
        for number, group in enumerate(results.groups):
            cells = []
            for part in parts:
                interval = results.interval(number, direction, measure, part)
                below = "" if interval is None else f"\n({in_tenths(*interval)})"
                cells.append(str(group.figure(direction, measure, part) or "–") + below)
            table.add_row(f"  {group.name}", *cells)
    return table


def _gap_table(results: Results, title: str, columns: Mapping[str, tuple[str, str | None]]) -> Table:
    """Draw columns of a measure and a part, with intervals beside the differences, or below them if it is too wide."""
    for below in (False, True):
        table = _table(results, title, *columns)
        table.caption = "* the interval leaves out 0"
        for direction in results.directions:
            table.add_row(arrow(direction))
            for number, group in enumerate(results.groups[1:], start=1):
                gaps = [results.gaps.get((number, direction, *column)) for column in columns.values()]
                table.add_row(f"  {group.name}", *(_gap_cell(gap, below) for gap in gaps))
        if console.measure(table, options=console.options.update(max_width=10 * _WIDTH)).maximum <= _WIDTH:
            break
    return table


def _class_table(results: Results, classified: ClassResults) -> Table:
    is_compared = len(results.groups) > 1
    title, columns = f"classified by {classified.classes.label}", ["%", "95 % interval"]
    if is_compared:
        title += f", and the difference to {results.groups[0].name}, points"
        columns.append("difference")
    table = _table(results, title, *columns)
    for measure in classified.measures:
        table.add_row(CLASS_WORDS[measure])
        for number, group in enumerate(results.groups):
            interval, gap = classified.interval(number, measure), classified.gap(number, measure)
            cells = [str(classified.figure(number, measure) or "–"), f"({in_tenths(*interval)})" if interval else "–"]
            table.add_row(f"  {group.name}", *cells, *([] if gap is None else [_gap_cell(gap, below=False)]))
    lines = ["intervals over media" + ("; * the interval of the difference leaves out 0" if is_compared else "")]
    if left_out := classified.left_out:
        lines.append(f"not classified, or with other classes: {', '.join(left_out)}")
    if others := classified.other_prompts:
        lines.append(f"classified with other templates than the first: {', '.join(others)}")
    table.caption = "\n".join(lines)
    return table


def _table(results: Results, title: str, *columns: str) -> Table:
    longest = 2 + max(len(group.name) for group in results.groups)
    return figure_table(title, "recipe", *columns, least=max(10, min(longest, _UNBROKEN)))


def _gap_cell(gap: Gap | None, below: bool) -> str:
    if gap is None:
        return "–"
    interval, star = f"({gap.low:+.1f}, {gap.high:+.1f})", "*" if gap.is_clear else ""
    return f"{gap.mean:+.1f}\n{star}{interval}" if below else f"{gap.mean:+.1f}{star or ' '} {interval}"
