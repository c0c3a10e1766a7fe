"""The results of a sweep as leaderboard.md, .csv and .png, and as a table for the terminal."""

import csv
import itertools
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
from mmts.report.charts import picture
from mmts.sweep.standings import ALL_PARTS, AVERAGE, BOTH, CONCEPT, HARDEST, Column, Division, Standings
from mmts.sweep.sweep_file import Sweep, Trial, in_words

_ABOUT = ("variant", "stage", "trial", "seed", "setting", "chosen", "split", "direction", "part")


def write_leaderboard(
    out: Path,
    sweep: Sweep,
    dataset: Dataset,
    divisions: Mapping[str, Division],
    tuned: Sequence[Trial],
    chosen: Sequence[Trial],
    standings: Standings,
) -> tuple[Path, Path, Path]:
    """Write leaderboard.md, .csv and .png of all trials (on val) and the chosen ones (on test); return the paths."""
    page, table, drawn = (out / f"leaderboard.{ending}" for ending in ("md", "csv", "png"))
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
    _draw(drawn, title, standings)
    return page, table, drawn


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
                figures = {}
                for measure in standings.measures:
                    if values := standings.values(variant, Column(side, measure, division, part)):
                        figures[measure] = round(values[at], 4)
                name = (part or "all") if division == CONCEPT else f"{division} {part}"
                if figures:
                    yield setting | {"seed": seed, "direction": standings.direction(side), "part": name} | figures


def _page(title: str, sweep: Sweep, tuned: Sequence[Trial], chosen: Sequence[Trial], standings: Standings) -> str:
    file, headline = sweep.file, standings.measures[0]
    in_tail = "R@5" if headline == MEAN_RECALL else headline
    by_part, by_measure = {}, {}
    for division in standings.weights:
        names = {None: "all", AVERAGE: f"average by {division}", HARDEST: f"{HARDEST} by {division}"}
        columns = {names.get(part, str(part)): standings.headline_of(division, part) for part in ALL_PARTS}
        by_part[division] = _ranked(standings, columns)
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
    """Draw the variants for a terminal, best first, with their differences to the first: headline, and its tail."""
    overall = standings.headline_of()
    heading, rows = _ranked(standings, {overall.measure: overall, "tail": standings.headline_of(part="tail")}, mark="*")
    spread = ": mean ± spread over seeds" if len(standings.runs[0]) > 1 else ""
    table = figure_table(f"test, both directions, %{spread}", *heading)
    table.caption = f"+/-: difference to {standings.names[0]}, with 95 % interval; between * if that leaves out 0"
    for row in rows:
        table.add_row(*row)
    return table


def _ranked(standings: Standings, columns: Mapping[str, Column], mark: str = "**") -> tuple[list[str], list[list[str]]]:
    """Return a table of the variants, best first: figures with their differences to the first, clear ones `mark`ed."""
    columns = {name: column for name, column in columns.items() if standings.values(0, column) is not None}
    rows = []
    for variant in standings.ranking():
        row = [standings.names[variant]]
        for column in columns.values():
            row.append(str(standings.figure(variant, column)))
            if (gap := standings.gap(variant, column)) is not None:
                around = mark if gap.is_clear else ""
                row[-1] += f", {around}{gap.mean:+.1f}{around} ({gap.low:+.1f}, {gap.high:+.1f})"
        rows.append(row)
    return ["variant", *columns], rows


def _draw(path: Path, title: str, standings: Standings) -> None:
    """Draw the headline measure of both directions as PNG: all queries, then tail and average of each division."""
    columns = {"all queries": standings.headline_of()}
    for division in standings.weights:
        columns[f"tail by {division}"] = standings.headline_of(division, "tail")
        columns[f"average by {division}"] = standings.headline_of(division, AVERAGE)
    columns = {name: column for name, column in columns.items() if standings.values(0, column) is not None}
    order = standings.ranking()
    with picture(path, 130 + 190 * len(columns), 110 + 24 * len(order)) as empty:
        drawing = empty.figure
        empty.remove()
        panels = drawing.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (name, column) in zip(panels, columns.items(), strict=True):
            for place, variant in enumerate(order):
                figure, color = standings.figure(variant, column), "#1f5fa8" if variant else "#777777"
                assert figure is not None
                if variant == 0:
                    axes.axvline(figure.mean, color="#bbbbbb", linewidth=1, zorder=0)
                axes.plot(figure.values, [place] * len(figure.values), "o", color=color, alpha=0.35, markersize=5)
                axes.errorbar(figure.mean, place, xerr=figure.spread, fmt="D", color=color, markersize=5, capsize=4)
            axes.set_title(name)
            axes.grid(axis="x")
            axes.set_yticks(range(len(order)), [standings.names[variant] for variant in order])
            axes.set_ylim(len(order) - 0.5, -0.5)
        seeds = counted(len(standings.runs[0]), "seed")
        what = f"{standings.measures[0]} of both directions, percent; mean ± spread over {seeds}"
        drawing.suptitle(f"{title}: {what}; gray: {standings.names[0]}", fontsize=12, x=0.01, ha="left")
