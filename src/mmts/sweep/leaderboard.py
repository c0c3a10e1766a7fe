"""The results of a sweep as leaderboard.md, .csv and .png, and as a table for the terminal."""

import csv
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from mmts.console import figure_table
from mmts.data.records import Dataset
from mmts.errors import counted
from mmts.evaluation.judgement_file import SIDES
from mmts.evaluation.measures import MEAN_RECALL
from mmts.files import atomic_write
from mmts.sweep.standings import ALL_PARTS, AVERAGE, BOTH, CONCEPT, HARDEST, Column, Division, Standings
from mmts.sweep.sweep_file import Sweep, Trial, in_words

_ABOUT = ("variant", "stage", "trial", "seed", "setting", "chosen", "split", "direction", "part")
_FIRST, _OTHERS, _LINE = "#777777", "#1f5fa8", "#bbbbbb"


def write_leaderboard(
    out: Path,
    sweep: Sweep,
    dataset: Dataset,
    divisions: Mapping[str, Division],
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
            tuning = Standings.read(on_val, dataset, divisions)  # the first variant's concepts divide these queries too
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
        names = {None: "all", AVERAGE: f"average by {division}", HARDEST: f"{HARDEST} by {division}"}
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
