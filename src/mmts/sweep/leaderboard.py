"""The result of a sweep: leaderboard.md, leaderboard.csv and leaderboard.png, and a table for the terminal."""

import csv
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich.table import Table

from mmts.concepts import ConceptDistribution
from mmts.console import figure_table
from mmts.data.records import Dataset
from mmts.errors import counted
from mmts.evaluation.judgement_file import SIDES
from mmts.files import atomic_write
from mmts.sweep.standings import ALL_PARTS, AVERAGE, BOTH, CONCEPT, Column, Standings, TrialRuns
from mmts.sweep.sweep_file import Sweep, in_words

_ABOUT = ("variant", "stage", "trial", "seed", "setting", "chosen", "split", "direction", "part")
_FIRST, _OTHERS, _LINE = "#777777", "#1f5fa8", "#bbbbbb"


@dataclass(frozen=True)
class Leaderboard:
    """All results of a sweep: its trials on val, and the runs of the chosen ones on test.

    labels: what `label_concepts` returned.
    """

    sweep: Sweep
    dataset: Dataset
    labels: Mapping[str, ConceptDistribution]
    tuned: Sequence[TrialRuns]
    finals: Sequence[TrialRuns]
    standings: Standings

    def write(self, out: Path) -> tuple[Path, Path, Path]:
        """Write leaderboard.md, leaderboard.csv and leaderboard.png into a folder, and return their paths."""
        page, table, picture = (out / f"leaderboard.{ending}" for ending in ("md", "csv", "png"))
        title = f"{Path(self.sweep.source).stem} on {self.dataset.root.name}"
        with atomic_write(table, "w") as file:
            writer = csv.DictWriter(file, [*_ABOUT, *self.standings.measures], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows())
        with atomic_write(page, "w") as file:
            file.write(self._page(title))
        _draw(picture, title, self.standings)
        return page, table, picture

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per run, direction and part; queries of val are divided by the first variant's concepts too."""
        if on_val := [result for result in self.tuned if result.runs and not result.failed]:
            standings = Standings.read(on_val, self.dataset, self.labels)
            yield from self._rows_of("trial", on_val, standings, self.sweep.file.seeds.tune)
        yield from self._rows_of("test", self.finals, self.standings, self.sweep.file.seeds.test)

    def _rows_of(
        self, stage: str, results: Sequence[TrialRuns], standings: Standings, seeds: Sequence[int]
    ) -> Iterator[dict[str, Any]]:
        chosen = [final.trial for final in self.finals]
        for variant, result in enumerate(results):
            setting = {
                "variant": result.trial.variant,
                "stage": stage,
                "trial": result.trial.number,
                "setting": str(result.trial),
                "chosen": int(result.trial in chosen),
                "split": standings.runs[0][0].meta["split"],
            }
            for at, seed in enumerate(seeds):
                for side in (BOTH, *SIDES):
                    for name, division, part in _parts(standings):
                        columns = [Column(side, measure, division, part) for measure in standings.measures]
                        known = {column.measure: standings.figure(variant, column) for column in columns}
                        figures = {name: round(figure.values[at], 4) for name, figure in known.items() if figure}
                        if figures:
                            place = {"direction": standings.direction(side), "part": name}
                            yield setting | {"seed": seed} | place | figures

    def _page(self, title: str) -> str:
        file, standings = self.sweep.file, self.standings
        by_part, by_measure = {}, {}
        for division in standings.weights:
            names = {None: "all", AVERAGE: f"average by {division}"}
            columns = {names.get(part, str(part)): standings.headline_of(division, part) for part in ALL_PARTS}
            by_part[division] = _ranked(standings, columns)
        in_tail = standings.headline if standings.is_graded else "R@5"
        for side in SIDES:
            columns = {measure: Column(side, measure) for measure in standings.measures}
            for division in standings.weights:
                columns[f"{in_tail}, tail by {division}"] = Column(side, in_tail, division, "tail")
            by_measure[standings.direction(side)] = _ranked(standings, columns)
        environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        template = resources.files("mmts.sweep").joinpath("leaderboard.md.jinja").read_text(encoding="utf-8")
        page = environment.from_string(template).render(
            title=title, file=file, standings=standings, num_media=len(standings.runs[0][0].meta["media_ids"]),
            by_part=by_part, by_measure=by_measure, settings=self._settings(), in_words=in_words,
        )  # fmt: skip
        return page.rstrip("\n") + "\n"

    def _settings(self) -> tuple[list[str], list[list[Any]]]:
        """Return a table of all trials, or of the variants if each has one setting."""
        file = self.sweep.file
        if file.trials == 1:
            trials = [final.trial for final in self.finals]
            settings = [in_words(file.variants[trial.variant].set | trial.setting) for trial in trials]
            return ["variant", "setting"], [[t.variant, f"`{s}`"] for t, s in zip(trials, settings, strict=True)]
        chosen = [final.trial for final in self.finals]
        rows = []
        for result in self.tuned:
            figure = f"failed: {result.failed}" if result.failed else f"{result.on_val(file.choose):.1f}"
            bold = "**" if result.trial in chosen else ""
            trial = result.trial
            rows.append([trial.variant, trial.number, f"`{trial}`", f"{bold}{figure}{bold}"])
        return ["variant", "trial", "setting", f"{file.choose} on val"], rows


def standings_table(standings: Standings) -> Table:
    """Draw the variants for a terminal, best first: headline, difference to the first variant, and tail."""
    headline, overall = standings.headline, standings.headline_of()
    spread = ": mean ± spread over seeds" if len(standings.runs[0]) > 1 else ""
    table = figure_table(f"test, both directions, %{spread}", "variant", headline, "difference", "tail")
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


def _parts(standings: Standings) -> Iterator[tuple[str, str, str | None]]:
    """Yield the name of every part in the table ("all", "tail", "article_type tail"), its division, and the part."""
    yield "all", CONCEPT, None
    for division in standings.weights:
        prefix = "" if division == CONCEPT else f"{division} "
        yield from ((f"{prefix}{part}", division, part) for part in ALL_PARTS if part)


def _ranked(standings: Standings, columns: Mapping[str, Column]) -> tuple[list[str], list[list[str]]]:
    """Return a table of the variants, best first: figures with their differences to the first variant."""
    columns = {name: column for name, column in columns.items() if standings.figure(0, column) is not None}
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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    panels = {"all queries": standings.headline_of()}
    for division in standings.weights:
        panels[f"tail by {division}"] = standings.headline_of(division, "tail")
        panels[f"average by {division}"] = standings.headline_of(division, AVERAGE)
    panels = {name: column for name, column in panels.items() if standings.figure(0, column) is not None}
    order = standings.ranking()
    drawing = Drawing(figsize=(1.6 + 2.3 * len(panels), 1.3 + 0.27 * len(order)), dpi=150, layout="constrained")
    FigureCanvasAgg(drawing)
    all_axes = drawing.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, column) in zip(all_axes, panels.items(), strict=True):
        for place, variant in enumerate(order):
            figure = standings.figure(variant, column)
            assert figure is not None
            color = _OTHERS if variant else _FIRST
            if variant == 0:
                axes.axvline(figure.mean, color=_LINE, linewidth=1, zorder=0)
            seeds = figure.values
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
        f"{title}: {standings.headline} of both directions, percent; mean ± spread over "
        f"{counted(len(standings.runs[0]), 'seed')}; grey: {standings.names[0]}",
        fontsize=9, x=0.01, ha="left", parse_math=False,
    )  # fmt: skip
    with atomic_write(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may use a script that the font lacks
        drawing.savefig(file, format="png")
