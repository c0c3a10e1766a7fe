"""The result of a sweep: one table as CSV and as Markdown, and one figure."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmts.compare import Comparison, Figure, Gap, Judged
from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import RunError
from mmts.evaluation import CUTOFFS, GRADED, shown_measures
from mmts.files import atomic_write, read_json
from mmts.sweep.sweep_file import Sweep, Trial, in_words
from mmts.training.run_directory import RunDirectory

_COLUMNS = ("rule", "stage", "trial", "seed", "setting", "chosen", "split", "direction", "part")
_MEASURES = (*GRADED, *(f"R@{k}" for k in CUTOFFS), "median_rank", "mean_rank")
RSUM = "RSum"
"""R@1, R@5 and R@10 of both directions added up, at most 600: steadier to choose by than any of them."""
_BY_CONCEPT = tuple(f"concept R@{k}" for k in CUTOFFS)


@dataclass(frozen=True)
class Tuned:
    """A trial's runs, one a seed, and what they reached on val: None where one `failed`, and why."""

    trial: Trial
    runs: tuple[Path, ...]
    metrics: tuple[dict[str, Any], ...] | None
    failed: str | None = None

    def figure(self, measure: str) -> float:
        """Return a measure's mean over both directions (RSum: their sum) and all seeds; -inf where there is none."""
        if self.metrics is None:
            return -np.inf
        judged = [[each[key] for key in each if "_to_" in key] for each in self.metrics]
        if measure == RSUM:
            sums = [sum(way[f"R@{k}"] for way in ways for k in CUTOFFS) for ways in judged]
            return float(np.mean(sums))
        return float(np.mean([way[measure] for ways in judged for way in ways]))


@dataclass(frozen=True)
class Finals:
    """A rule's chosen setting and the runs on test made with it."""

    tuned: Tuned
    runs: tuple[Path, ...]


def best_of(tuned: Sequence[Tuned], measure: str) -> list[Tuned]:
    """Return each rule's best trial on val, the first of equals; raises RunError where none of a rule's trained."""
    by_rule: dict[str, list[Tuned]] = {}
    for each in tuned:
        by_rule.setdefault(each.trial.rule, []).append(each)
    best = [max(trials, key=lambda each: each.figure(measure)) for trials in by_rule.values()]
    for each in best:
        if each.metrics is None:
            raise RunError(f"no trial of rule {each.trial.rule} could be trained: {each.failed}")
    return best


def write_leaderboard(
    out: Path, sweep: Sweep, root: Path, tuned: Sequence[Tuned], finals: Sequence[Finals], comparison: Comparison
) -> tuple[Path, Path, Path]:
    """Write leaderboard.md, leaderboard.csv and leaderboard.png, and return their paths."""
    page, table, picture = (out / f"leaderboard.{ending}" for ending in ("md", "csv", "png"))
    chosen = [final.tuned.trial for final in finals]
    with atomic_write(table, "w") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *_MEASURES, *_BY_CONCEPT], lineterminator="\n")
        writer.writeheader()
        for each in tuned:
            if each.metrics is not None:
                writer.writerows(_rows(each.trial, "trial", each.runs, each.trial in chosen))
        for final in finals:
            writer.writerows(_rows(final.tuned.trial, "test", final.runs, True))
    with atomic_write(page, "w") as file:
        file.write("\n".join(_page(sweep, root, tuned, finals, comparison)) + "\n")
    _draw(picture, root, comparison)
    return page, table, picture


# --- the table -------------------------------------------------------------------------------------------------------


def _rows(trial: Trial, stage: str, runs: Sequence[Path], is_chosen: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for each run, direction and part: all queries, head, mid and tail."""
    for path in runs:
        run = RunDirectory(path)
        metrics = read_json(run.metrics_file)
        about = {
            "rule": trial.rule,
            "stage": stage,
            "trial": trial.number,
            "seed": run.recipe().train.seed,
            "setting": str(trial),
            "chosen": int(is_chosen),
            "split": metrics["split"],
        }
        by_concept = averaged_over_concepts(path)
        for direction in (key for key in metrics if "_to_" in key):
            for part in ("all", *GROUP_NAMES):
                place = metrics if part == "all" else metrics["groups"][part]
                if place is None or place[direction] is None:
                    continue
                figures = {name: round(value, 4) for name, value in place[direction].items()}
                if part == "all":
                    figures |= {name: round(value, 4) for name, value in by_concept.get(direction, {}).items()}
                yield about | {"direction": direction, "part": part} | figures


def averaged_over_concepts(run: Path) -> dict[str, dict[str, float]]:
    """Return recall averaged over concepts, percent, by direction: "concept R@1" and so on, every concept alike.

    A medium's concept is that of its first caption. Empty where relevance is graded: the texts then are nobody's own.
    """
    judged = Judged.load(run)
    if judged.meta["relevance"] == "graded":
        return {}
    of_text, owner = judged.arrays["text_concepts"], judged.arrays["owner"]
    first = np.searchsorted(owner, np.arange(len(judged.arrays["media_ranks"])))  # owners stand in order
    kind = judged.meta["kind"]
    return {
        direction: {
            name: 100 * _mean_of_means(judged.arrays[f"{side}_ranks"] <= k, concepts)
            for name, k in zip(_BY_CONCEPT, CUTOFFS, strict=True)
        }
        for direction, side, concepts in (
            (f"text_to_{kind}", "text", of_text),
            (f"{kind}_to_text", "media", of_text[first]),
        )
    }


def _mean_of_means(hits: np.ndarray[Any, Any], concepts: np.ndarray[Any, Any]) -> float:
    return float(np.mean([hits[concepts == concept].mean() for concept in np.unique(concepts)]))


# --- the page --------------------------------------------------------------------------------------------------------


def _page(
    sweep: Sweep, root: Path, tuned: Sequence[Tuned], finals: Sequence[Finals], comparison: Comparison
) -> Iterator[str]:
    """Yield the lines of leaderboard.md."""
    file = sweep.file
    yield f"# {Path(sweep.source).stem} on {root.name}"
    yield ""
    yield (
        f"Recipe {file.recipe}{f' with {in_words(file.set)}' if file.set else ''}. Every rule got {file.trials} "
        f"{'trial' if file.trials == 1 else 'trials'} with {_seeds(file.seeds.tune)}; the best by {file.choose} on val "
        f"({'sum' if file.choose == RSUM else 'mean'} of both directions) was run with {_seeds(file.seeds.test)} and "
        "judged on test. Percent; mean ± sample standard deviation over seeds."
    )
    for direction in comparison.directions:
        yield from ("", f"## {_named(direction)}, test", "")
        yield from _results(direction, finals, comparison)
    if comparison.gaps:
        yield from ("", f"## Difference to {comparison.groups[0].name}", "")
        yield "Points, with the 95 % paired bootstrap interval over queries; bold where it leaves out 0."
        for direction in comparison.directions:
            yield from ("", f"{_named(direction)}:", "")
            yield from _differences(direction, comparison)
    yield from ("", f"## Trials, {file.choose} on val", "")
    chosen = [final.tuned.trial for final in finals]
    rows = [
        [
            each.trial.rule,
            str(each.trial.number),
            f"`{each.trial}`",
            f"failed: {each.failed}" if each.failed else _bold(f"{each.figure(file.choose):.1f}", each.trial in chosen),
        ]
        for each in tuned
    ]
    yield from _table(["rule", "trial", "setting", f"{file.choose} on val"], rows)


def _results(direction: str, finals: Sequence[Finals], comparison: Comparison) -> Iterator[str]:
    measures, of_part = measures_shown(comparison)
    metrics = comparison.groups[0].metrics[0]
    has_concepts = of_part not in GRADED
    heading = ["rule", *measures, *(f"{of_part} {part}" for part in GROUP_NAMES), *(_BY_CONCEPT[:1] * has_concepts)]
    rows = []
    for group, final in zip(comparison.groups, finals, strict=True):
        figures = [group.figure(direction, measure) for measure in measures]
        figures += [group.figure(direction, of_part, part) for part in GROUP_NAMES]
        if has_concepts:
            values = [averaged_over_concepts(run)[direction][_BY_CONCEPT[0]] for run in final.runs]
            figures.append(Figure(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None))
        rows.append([group.name, *("–" if figure is None else str(figure) for figure in figures)])
    yield from _table(heading, rows)
    if has_concepts:
        yield ""
        yield f"{metrics['num_media']:,} media; {_BY_CONCEPT[0]} is averaged over concepts, each counting alike."


def _differences(direction: str, comparison: Comparison) -> Iterator[str]:
    measures, of_part = measures_shown(comparison)
    columns: list[tuple[str, str | None]] = [(measure, None) for measure in measures]
    columns += [(of_part, part) for part in GROUP_NAMES]
    rows = []
    for number, group in enumerate(comparison.groups[1:], start=1):
        gaps = (comparison.gaps.get((number, direction, measure, part)) for measure, part in columns)
        rows.append([group.name, *map(_gap, gaps)])
    yield from _table(["rule", *(" ".join(filter(None, column)) for column in columns)], rows)


def measures_shown(comparison: Comparison) -> tuple[tuple[str, str, str], str]:
    """Return the measures of all queries, and the one of head, mid and tail."""
    measures = shown_measures(comparison.groups[0].metrics[0])
    return measures, measures[0] if measures[0] in GRADED else "R@5"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield "|---" * len(heading) + "|"
    for row in rows:
        escaped = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(escaped)} |"


def _gap(gap: Gap | None) -> str:
    if gap is None:
        return "–"
    return _bold(f"{gap.mean:+.1f}", gap.is_clear) + f" ({gap.low:+.1f}, {gap.high:+.1f})"


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _named(direction: str) -> str:
    return direction.replace("_to_", "→")


# --- the figure ------------------------------------------------------------------------------------------------------


def _draw(path: Path, root: Path, comparison: Comparison) -> None:
    """Draw mean and spread of every rule: a row of panels for each direction, the last of them the tail."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    measures, of_part = measures_shown(comparison)
    columns: list[tuple[str, str | None]] = [(measures[0], None), (measures[1], None), (of_part, "tail")]
    first = comparison.groups[0]
    columns = [each for each in columns if any(first.figure(way, *each) for way in comparison.directions)]
    names = [group.name for group in comparison.groups]
    drawing = Drawing(figsize=(10, 1.6 + 0.56 * len(names)), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    panels = drawing.subplots(2, len(columns), sharey=True, squeeze=False)
    for row, direction in enumerate(comparison.directions):
        for column, (measure, part) in enumerate(columns):
            axes = panels[row][column]
            axes.set_visible(any(group.figure(direction, measure, part) for group in comparison.groups))
            for place, group in enumerate(comparison.groups):
                figure = group.figure(direction, measure, part)
                if figure is None:
                    continue
                colour = "#777777" if place == 0 else "#1f5fa8"
                if place == 0:  # what the others are compared with
                    axes.axvline(figure.mean, color="#bbbbbb", linewidth=1, zorder=0)
                seeds = [each[direction][measure] for each in _places(group.metrics, part)]
                axes.plot(seeds, [place] * len(seeds), "o", color=colour, alpha=0.35, markersize=4, markeredgewidth=0)
                axes.errorbar(
                    figure.mean,
                    place,
                    xerr=figure.spread,
                    fmt="D",
                    color=colour,
                    markersize=5,
                    capsize=3,
                    linewidth=1.4,
                )
            axes.set_title(f"{_named(direction)}, {measure}{f', {part}' if part else ''}", loc="left", fontsize=9)
            axes.tick_params(labelsize=8)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
            axes.set_axisbelow(True)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
            axes.set_yticks(range(len(names)), names, parse_math=False)
            axes.set_ylim(len(names) - 0.5, -0.5)
    seeds_each = len(comparison.groups[0].metrics)
    drawing.suptitle(
        f"{root.name}, test, percent: mean ± spread over {seeds_each} {'seed' if seeds_each == 1 else 'seeds'}",
        fontsize=10, x=0.01, ha="left", parse_math=False,
    )  # fmt: skip
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that the font lacks
        drawing.savefig(file, format="png")


def _places(metrics: Sequence[Mapping[str, Any]], part: str | None) -> list[Mapping[str, Any]]:
    return [each["groups"][part] if part else each for each in metrics]
