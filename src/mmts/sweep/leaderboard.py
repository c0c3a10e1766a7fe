"""The result of a sweep: one table as CSV and as Markdown, and one figure."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mmts.concepts import ConceptDistribution
from mmts.console import figure_table
from mmts.data.records import Dataset
from mmts.evaluation.compare import Gap
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.results import SIDES, refuse_other_queries
from mmts.files import atomic_write
from mmts.recipe.run_directory import RunDirectory
from mmts.sweep.divisions import AVERAGE, CONCEPT, PARTS, Division, divisions
from mmts.sweep.figure import draw_standings
from mmts.sweep.standings import BOTH, Column, Standings
from mmts.sweep.sweep_file import Sweep, Trial, in_words
from mmts.sweep.trials import Finals, Tuned

_ABOUT = ("rule", "stage", "trial", "seed", "setting", "chosen", "split", "direction", "part")


@dataclass(frozen=True)
class Leaderboard:
    """All that a sweep found."""

    sweep: Sweep
    dataset: Dataset
    of_labels: Mapping[str, ConceptDistribution]
    tuned: tuple[Tuned, ...]
    finals: tuple[Finals, ...]
    standings: Standings

    @property
    def title(self) -> str:
        """Return the sweep file's name and the data's."""
        return f"{Path(self.sweep.source).stem} on {self.dataset.root.name}"


def make_leaderboard(
    sweep: Sweep,
    dataset: Dataset,
    of_labels: Mapping[str, ConceptDistribution],
    tuned: Sequence[Tuned],
    finals: Sequence[Finals],
) -> Leaderboard:
    """Read the judged runs, divided by concepts and by labels (see `label_concepts`).

    Raises RunError where they were not judged on the same queries.
    """
    runs = tuple(tuple(Judged.load(run) for run in final.runs) for final in finals)
    first = runs[0][0]
    _refuse_other_queries(runs)
    names = tuple(final.tuned.trial.rule for final in finals)
    standings = Standings(names, runs, tuple(divisions(first, dataset, of_labels)))
    return Leaderboard(sweep, dataset, of_labels, tuple(tuned), tuple(finals), standings)


def _refuse_other_queries(runs: Sequence[Sequence[Judged]]) -> None:
    first = runs[0][0]
    others = {run.path: how for of_rule in runs for run in of_rule if (how := run.differs_from(first))}
    refuse_other_queries(str(first.path), others)


def write_leaderboard(out: Path, board: Leaderboard) -> tuple[Path, Path, Path]:
    """Write leaderboard.md, leaderboard.csv and leaderboard.png, and return their paths."""
    page, table, picture = (out / f"leaderboard.{ending}" for ending in ("md", "csv", "png"))
    with atomic_write(table, "w") as file:
        writer = csv.DictWriter(file, [*_ABOUT, *board.standings.measures], lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(board))
    with atomic_write(page, "w") as file:
        file.write("\n".join(_page(board)) + "\n")
    draw_standings(picture, board.title, board.standings)
    return page, table, picture


def standings_table(standings: Standings) -> Table:
    """Draw the rules for a terminal, best first: the headline, the difference to the first rule, and the tail."""
    headline, overall = standings.headline, standings.headline_of()
    spread = ": mean ± spread over seeds" if len(standings.runs[0]) > 1 else ""
    title = f"test, both directions, %{spread}"
    table = figure_table(title, "rule", headline, "difference", "tail")
    table.caption = f"difference to {standings.names[0]}: 95 % interval over queries and seeds; * leaves out 0"
    for rule in standings.ranking():
        gap = standings.gap(rule, overall) if rule else None
        table.add_row(
            standings.names[rule],
            str(standings.figure(rule, overall)),
            "" if gap is None else f"{gap.mean:+.1f}{'*' if gap.is_clear else ' '} ({gap.low:+.1f}, {gap.high:+.1f})",
            str(standings.figure(rule, standings.headline_of(part="tail")) or "–"),
        )
    return table


# --- the table -------------------------------------------------------------------------------------------------------


def _rows(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """Yield a row for each run, direction and part; val, as test, is divided by the first rule's concepts."""
    chosen = [final.tuned.trial for final in board.finals]
    trials = [each for each in board.tuned if each.runs and each.metrics is not None]
    runs = tuple(tuple(Judged.load(run) for run in each.runs) for each in trials)
    if runs:
        _refuse_other_queries(runs)
        names = tuple(each.trial.rule for each in trials)
        on_val = Standings(names, runs, tuple(divisions(runs[0][0], board.dataset, board.of_labels)))
        for number, each in enumerate(trials):
            yield from _rows_of(each.trial, each.trial in chosen, "trial", on_val, number)
    for rule, final in enumerate(board.finals):
        yield from _rows_of(final.tuned.trial, True, "test", board.standings, rule)


def _rows_of(trial: Trial, is_chosen: bool, stage: str, standings: Standings, rule: int) -> Iterator[dict[str, Any]]:
    for number, run in enumerate(standings.runs[rule]):
        about = {
            "rule": trial.rule,
            "stage": stage,
            "trial": trial.number,
            "seed": RunDirectory(run.path).recipe().train.seed,
            "setting": str(trial),
            "chosen": int(is_chosen),
            "split": run.meta["split"],
        }
        for side in (BOTH, *SIDES):
            for division, part in _parts(standings):
                columns = (Column(side, measure, division, part) for measure in standings.measures)
                found = {column.measure: standings.values(rule, column) for column in columns}
                figures = {name: round(values[number], 4) for name, values in found.items() if values is not None}
                if figures:
                    named = {"direction": standings.direction(side), "part": _part_name(division, part)}
                    yield about | named | figures


def _parts(standings: Standings) -> Iterator[tuple[Division, str | None]]:
    """Yield all queries once, and every division's other parts."""
    for place, division in enumerate(standings.divisions):
        yield from ((division, part) for part in PARTS if part is not None or place == 0)


def _part_name(division: Division, part: str | None) -> str:
    """Name a part in the table: "all", "tail", "article_type tail"."""
    if part is None:
        return "all"
    return part if division.name == CONCEPT else f"{division.name} {part}"


# --- the page --------------------------------------------------------------------------------------------------------


def _page(board: Leaderboard) -> Iterator[str]:
    """Yield the lines of leaderboard.md."""
    file, standings = board.sweep.file, board.standings
    first = standings.names[0]
    yield f"# {board.title}"
    yield ""
    yield f"Recipe {file.recipe}{f' with `{in_words(file.set)}`' if file.set else ''}. {_tuning(board)}"
    yield (
        f"Judged on test ({len(standings.divisions[0].media_groups):,} media) with {_seeds(file.seeds.test)}. Percent; "
        f"mean ± sample standard deviation over seeds. Differences are to {first}, in points, with the 95 % bootstrap "
        "interval over queries and seeds; bold where it leaves out 0."
    )
    yield from ("", f"## {standings.headline.capitalize()} of both directions", "")
    for division in standings.divisions:
        yield from _by_part(standings, division)
    for side in SIDES:
        yield from ("", f"## {standings.direction(side).replace('_to_', '→')}", "")
        yield from _by_measure(standings, side)
    yield from ("", "## Settings", "")
    yield from _settings(board)


def _tuning(board: Leaderboard) -> str:
    file = board.sweep.file
    if file.trials == 1:
        return "Every rule has one setting; nothing was chosen."
    return (
        f"Every rule got {file.trials} trials with {_seeds(file.seeds.tune)}; the best by {file.choose} on val (mean "
        "of both directions) was kept."
    )


def _by_part(standings: Standings, division: Division) -> Iterator[str]:
    """Yield a table of all queries and of a division's parts, both directions."""
    names = {None: "all", AVERAGE: f"average by {division.name}"}
    yield f"By {division.name}:"
    yield ""
    yield from _ranked(standings, {names.get(part, f"{part}"): standings.headline_of(division, part) for part in PARTS})
    yield ""


def _by_measure(standings: Standings, side: str) -> Iterator[str]:
    """Yield a table of a direction: every measure of all queries, and R@5 (or mAP) of the tail."""
    columns = {name: Column(side, name, standings.divisions[0]) for name in standings.measures}
    of_tail = standings.headline if standings.is_graded else "R@5"
    for division in standings.divisions:
        columns[f"{of_tail}, tail by {division.name}"] = Column(side, of_tail, division, "tail")
    yield from _ranked(standings, columns)


def _ranked(standings: Standings, columns: Mapping[str, Column]) -> Iterator[str]:
    """Yield a table of the rules, best first: figures with their differences to the first rule."""
    columns = {name: column for name, column in columns.items() if standings.values(0, column) is not None}
    rows = []
    for rule in standings.ranking():
        cells = [str(standings.figure(rule, column)) for column in columns.values()]
        gaps = [standings.gap(rule, column) if rule else None for column in columns.values()]
        cells = [cell if gap is None else f"{cell}, {_gap(gap)}" for cell, gap in zip(cells, gaps, strict=True)]
        rows.append([standings.names[rule], *cells])
    yield from _table(["rule", *columns], rows)


def _settings(board: Leaderboard) -> Iterator[str]:
    """Yield a table of all trials, or of the rules where each has but one setting."""
    file = board.sweep.file
    if file.trials == 1:
        rows = [[name, f"`{in_words(file.rules[name].set | final.tuned.trial.setting)}`"]
                for name, final in zip(board.standings.names, board.finals, strict=True)]  # fmt: skip
        yield from _table(["rule", "setting"], rows)
        return
    chosen = [final.tuned.trial for final in board.finals]
    rows = []
    for each in board.tuned:
        figure = f"failed: {each.failed}" if each.failed else f"{each.figure(file.choose):.1f}"
        if each.trial in chosen:
            figure = f"**{figure}**"
        rows.append([each.trial.rule, str(each.trial.number), f"`{each.trial}`", figure])
    yield from _table(["rule", "trial", "setting", f"{file.choose} on val"], rows)


def _gap(gap: Gap) -> str:
    text = f"{gap.mean:+.1f}"
    return f"{f'**{text}**' if gap.is_clear else text} ({gap.low:+.1f}, {gap.high:+.1f})"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield "|---" * len(heading) + "|"
    for row in rows:
        escaped = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(escaped)} |"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
