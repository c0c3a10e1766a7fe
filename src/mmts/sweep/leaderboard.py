"""The results of a sweep: each variant's figures, and leaderboard.md, .csv and .png."""

import csv
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.console import figure_table
from mmts.data.records import Dataset
from mmts.errors import RecipeError, counted
from mmts.evaluation.judgement_file import SIDES, Judged
from mmts.evaluation.measures import GRADED, MEAN_RECALL, RECALLS
from mmts.evaluation.results import PARTS, Figure, Gap, query_scores, refuse_other_queries
from mmts.files import atomic_write
from mmts.metrics import seeded_bootstrap_interval
from mmts.sweep.sweep_file import Sweep, Trial, in_words
from mmts.training.concepts import label_of_samples

BOTH = "both"  # the mean of the two directions
CONCEPT = "concept"  # the division of queries by the concepts that the first run found in the training captions
AVERAGE = "average"  # all queries, with the same weight for every concept (or value of a label)
ALL_PARTS = (*PARTS, AVERAGE)
_ABOUT = ("variant", "stage", "trial", "seed", "setting", "chosen", "split", "direction", "part")
_FIRST, _OTHERS, _LINE = "#777777", "#1f5fa8", "#bbbbbb"


class Column(NamedTuple):
    """One column of figures: the queries of a side or of both, a measure, and a part of a division."""

    side: str
    measure: str
    division: str = CONCEPT
    part: str | None = None


@dataclass(frozen=True)
class Standings:
    """The judged runs of every variant, in the order of the sweep file. Methods take a variant's number.

    weights: by division, part and side, the weight (Q,) of each query, of sum 1; without the sides that have no query.
    """

    names: tuple[str, ...]
    runs: tuple[tuple[Judged, ...], ...]
    weights: Mapping[str, Mapping[str | None, Mapping[str, Tensor]]]

    @classmethod
    def read(cls, trials: Sequence[Trial], dataset: Dataset, labels: Mapping[str, ConceptDistribution]) -> "Standings":
        """Read the runs of trials; raises RunError if they were not evaluated on the same queries."""
        runs = tuple(tuple(map(Judged.load, trial.runs)) for trial in trials)
        first = runs[0][0]
        differing = {run.path: how for seeds in runs for run in seeds if (how := run.differs_from(first))}
        refuse_other_queries(str(first.path), differing)
        return cls(tuple(trial.variant for trial in trials), runs, _divide(first, dataset, labels))

    @property
    def measures(self) -> tuple[str, ...]:
        """All measures of the runs; the first one is the headline, by which variants are ranked."""
        graded = GRADED if self.runs[0][0].has(GRADED[0]) else ()
        return (*graded, MEAN_RECALL, *RECALLS)

    def direction(self, side: str) -> str:
        """Name a side: "text_to_image", "image_to_text", the same of video, or "both"."""
        kind = self.runs[0][0].meta["kind"]
        return {"text": f"text_to_{kind}", "media": f"{kind}_to_text", BOTH: BOTH}[side]

    def ranking(self) -> list[int]:
        """Return the variants' numbers, the best by the headline first."""
        means = [np.mean(self.values(variant, self.headline_of()) or -np.inf) for variant in range(len(self.names))]
        return sorted(range(len(means)), key=lambda variant: -means[variant])

    def headline_of(self, division: str = CONCEPT, part: str | None = None) -> Column:
        """Return the column of the headline over both directions, of all queries or of a part."""
        return Column(BOTH, self.measures[0], division, part)

    def values(self, variant: int, column: Column) -> list[float] | None:
        """Return a measure in percent, one value per seed; None if the part has no query."""
        scores = self._scores([variant], column)
        return None if scores is None else (100 * scores[0].mean(dim=1)).tolist()

    def figure(self, variant: int, column: Column) -> Figure | None:
        """Return a measure's mean and spread over seeds, percent; None if the part has no query."""
        values = self.values(variant, column)
        return None if values is None else Figure.of(values)

    def gap(self, variant: int, column: Column) -> Gap | None:
        """Return a variant's figure minus the first one's, in points, with its 95 % interval (docs/method.md, 7.3).

        None for the first variant, and if all queries of the part belong to one medium.
        """
        scores = self._scores([0, variant], column)
        if variant == 0 or scores is None or not (scores[-1] != scores[-1][0]).any():
            return None
        first, other, media = scores
        low, high = seeded_bootstrap_interval(first, other, clusters=media)
        return Gap(100 * float(other.mean() - first.mean()), 100 * low, 100 * high)

    def _scores(self, variants: Sequence[int], column: Column) -> list[Tensor] | None:
        """Return each variant's (S, Q) scores over seeds, then the medium (Q,) of each query; None without queries.

        Scores are weighted so that their plain mean is the figure; with both sides, each has half of the weight.
        """
        sides = SIDES if column.side == BOTH else (column.side,)
        weights = self.weights[column.division][column.part]
        if not weights.keys() >= {*sides}:
            return None
        rows = {side: weights[side].nonzero()[:, 0] for side in sides}
        scale = sum(map(len, rows.values())) / len(sides)
        media = {"text": self.runs[0][0].owner, "media": torch.arange(len(self.runs[0][0].meta["media_ids"]))}
        result = []
        for variant in variants:
            scores = {side: query_scores(self.runs[variant], side, column.measure)[:, at] for side, at in rows.items()}
            result.append(torch.cat([scores[side] * weights[side][at] * scale for side, at in rows.items()], dim=1))
        return [*result, torch.cat([media[side][at] for side, at in rows.items()])]


def label_concepts(dataset: Dataset, labels: Sequence[str]) -> dict[str, ConceptDistribution]:
    """Return the concepts of the training samples for each label, one concept per value.

    Raises RecipeError for the reserved label "concept", and DataError for one that the data do not have.
    """
    if CONCEPT in labels:
        raise RecipeError(f"labels: {CONCEPT!r} already names the division by the concepts of the captions")
    train = dataset.split("train")
    return {label: ConceptDistribution.from_labels(label_of_samples(train, label, "labels")) for label in labels}


def _divide(
    judged: Judged, dataset: Dataset, labels: Mapping[str, ConceptDistribution]
) -> dict[str, dict[str | None, dict[str, Tensor]]]:
    """Return the weights of `Standings`, by the concepts of a judged run and by each label."""
    divisions: dict[str, tuple[Sequence[Tensor | None], Sequence[Tensor]]] = {CONCEPT: (judged.concepts, judged.groups)}
    by_id = {medium.id: medium for medium in dataset.split(judged.meta["split"]).media} if labels else {}
    for label, training in labels.items():
        values = training.assign([by_id[name].labels.get(label) for name in judged.meta["media_ids"]])
        groups = training.groups_of(values)
        divisions[label] = (values[judged.owner], values), (groups[judged.owner], groups)
    result: dict[str, dict[str | None, dict[str, Tensor]]] = {}
    for name, sides in divisions.items():
        result[name] = {part: {} for part in ALL_PARTS}
        for side, concepts, groups in zip(SIDES, *sides, strict=True):
            for part, inside in zip(PARTS, (groups >= 0, groups == 0, groups == 1, groups == 2), strict=True):
                if inside.any():
                    result[name][part][side] = inside.double() / inside.sum()
            if concepts is not None:  # media with graded relevance have no concept
                _, member, counts = torch.unique(concepts, return_inverse=True, return_counts=True)
                result[name][AVERAGE][side] = 1.0 / (len(counts) * counts[member].double())
    return result


# --- leaderboard.md, .csv and .png ---------------------------------------------------------------------------------


def write_leaderboard(
    out: Path,
    sweep: Sweep,
    dataset: Dataset,
    labels: Mapping[str, ConceptDistribution],
    tuned: Sequence[Trial],
    chosen: Sequence[Trial],
    standings: Standings,
) -> tuple[Path, Path, Path]:
    """Write leaderboard.md, leaderboard.csv and leaderboard.png into a folder, and return their paths.

    tuned: all trials, with their runs on val. chosen: the best ones, with the runs on test that `standings` describes.
    """
    page, table, picture = (out / f"leaderboard.{ending}" for ending in ("md", "csv", "png"))
    title = f"{Path(sweep.source).stem} on {dataset.root.name}"
    with atomic_write(table, "w") as file:
        writer = csv.DictWriter(file, [*_ABOUT, *standings.measures], lineterminator="\n")
        writer.writeheader()
        if on_val := [trial for trial in tuned if trial.runs and not trial.failed]:
            tuning = Standings.read(on_val, dataset, labels)  # the first variant's concepts divide these queries too
            writer.writerows(_rows("trial", tuning, on_val, sweep.file.seeds.tune, chosen))
        writer.writerows(_rows("test", standings, chosen, sweep.file.seeds.test, chosen))
    with atomic_write(page, "w") as file:
        file.write(_page(title, sweep, tuned, chosen, standings))
    _draw(picture, title, standings)
    return page, table, picture


def _rows(
    stage: str, standings: Standings, trials: Sequence[Trial], seeds: Sequence[int], chosen: Sequence[Trial]
) -> Iterator[dict[str, Any]]:
    """Yield one row per run, direction and part."""
    split = standings.runs[0][0].meta["split"]
    places = [(CONCEPT, None), *((division, part) for division in standings.weights for part in ALL_PARTS if part)]
    for variant, trial in enumerate(trials):
        setting = {"variant": trial.variant, "stage": stage, "trial": trial.number, "setting": str(trial)}
        setting |= {"chosen": int(trial in chosen), "split": split}
        for at, seed in enumerate(seeds):
            for side, (division, part) in itertools.product((BOTH, *SIDES), places):
                columns = [Column(side, measure, division, part) for measure in standings.measures]
                values = {column.measure: standings.values(variant, column) for column in columns}
                if figures := {measure: round(value[at], 4) for measure, value in values.items() if value}:
                    name = part or "all"
                    place = {"direction": standings.direction(side)}
                    place["part"] = name if division == CONCEPT else f"{division} {name}"
                    yield setting | {"seed": seed} | place | figures


def _page(title: str, sweep: Sweep, tuned: Sequence[Trial], chosen: Sequence[Trial], standings: Standings) -> str:
    file, headline = sweep.file, standings.measures[0]
    by_part, by_measure = {}, {}
    for division in standings.weights:
        names = {None: "all", AVERAGE: f"average by {division}"}
        columns = {names.get(part, str(part)): standings.headline_of(division, part) for part in ALL_PARTS}
        by_part[division] = _ranked(standings, columns)
    in_tail = "R@5" if headline == MEAN_RECALL else headline
    for side in SIDES:
        columns = {measure: Column(side, measure) for measure in standings.measures}
        for division in standings.weights:
            columns[f"{in_tail}, tail by {division}"] = Column(side, in_tail, division, "tail")
        by_measure[standings.direction(side)] = _ranked(standings, columns)
    loader = PackageLoader("mmts.sweep", "")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("leaderboard.md.jinja").render(
        title=title, file=file, headline=headline, names=standings.names, tuned=tuned, chosen=chosen,
        num_media=len(standings.runs[0][0].meta["media_ids"]),
        by_part=by_part, by_measure=by_measure, in_words=in_words,
    )  # fmt: skip
    return page.rstrip("\n") + "\n"


def standings_table(standings: Standings) -> Table:
    """Draw the variants for a terminal, best first: headline, difference to the first variant, and tail."""
    overall = standings.headline_of()
    spread = ": mean ± spread over seeds" if len(standings.runs[0]) > 1 else ""
    table = figure_table(f"test, both directions, %{spread}", "variant", overall.measure, "difference", "tail")
    table.caption = f"difference to {standings.names[0]}: 95 % interval over queries and seeds; * leaves out 0"
    for variant in standings.ranking():
        gap = standings.gap(variant, overall)
        table.add_row(
            standings.names[variant],
            str(standings.figure(variant, overall)),
            "" if gap is None else f"{gap.mean:+.1f}{'*' if gap.is_clear else ' '} ({gap.low:+.1f}, {gap.high:+.1f})",
            str(standings.figure(variant, standings.headline_of(part="tail")) or "–"),
        )
    return table


def _ranked(standings: Standings, columns: Mapping[str, Column]) -> tuple[list[str], list[list[str]]]:
    """Return a table of the variants, best first: figures with their differences to the first variant."""
    columns = {name: column for name, column in columns.items() if standings.values(0, column) is not None}
    rows = []
    for variant in standings.ranking():
        cells = []
        for column in columns.values():
            cell, gap = str(standings.figure(variant, column)), standings.gap(variant, column)
            if gap is not None:
                bold = "**" if gap.is_clear else ""
                cell += f", {bold}{gap.mean:+.1f}{bold} ({gap.low:+.1f}, {gap.high:+.1f})"
            cells.append(cell)
        rows.append([standings.names[variant], *cells])
    return ["variant", *columns], rows


def _draw(path: Path, title: str, standings: Standings) -> None:
    """Draw the headline measure of both directions as PNG: all queries, then tail and average of each division."""
    from matplotlib.figure import Figure as Drawing

    panels = {"all queries": standings.headline_of()}
    for division in standings.weights:
        panels[f"tail by {division}"] = standings.headline_of(division, "tail")
        panels[f"average by {division}"] = standings.headline_of(division, AVERAGE)
    panels = {name: column for name, column in panels.items() if standings.values(0, column) is not None}
    order = standings.ranking()
    drawing = Drawing(figsize=(1.6 + 2.3 * len(panels), 1.3 + 0.27 * len(order)), dpi=150, layout="constrained")
    all_axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, column) in zip(all_axes, panels.items(), strict=True):
        for place, variant in enumerate(order):
            figure, seeds = standings.figure(variant, column), standings.values(variant, column)
            assert figure is not None
            assert seeds is not None
            color = _OTHERS if variant else _FIRST
            if variant == 0:
                axes.axvline(figure.mean, color=_LINE, linewidth=1, zorder=0)
            axes.plot(seeds, [place] * len(seeds), "o", color=color, alpha=0.35, markersize=4, markeredgewidth=0)
            bar = {"xerr": figure.spread, "markersize": 4, "capsize": 3, "linewidth": 1.4}
            axes.errorbar(figure.mean, place, fmt="D", color=color, **bar)
        axes.set_title(name, loc="left", fontsize=9, parse_math=False)
        axes.tick_params(labelsize=8)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#e4e4e4", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_yticks(range(len(order)), [standings.names[variant] for variant in order], parse_math=False)
        axes.set_ylim(len(order) - 0.5, -0.5)
    drawing.suptitle(
        f"{title}: {standings.measures[0]} of both directions, percent; mean ± spread over "
        f"{counted(len(standings.runs[0]), 'seed')}; grey: {standings.names[0]}",
        fontsize=9, x=0.01, ha="left", parse_math=False,
    )  # fmt: skip
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may use a script that the font lacks
        drawing.savefig(file, format="png")
