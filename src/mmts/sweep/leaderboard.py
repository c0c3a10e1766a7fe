"""The result of a sweep: leaderboard.md, leaderboard.csv and leaderboard.png, and a table for the terminal."""

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
from mmts.evaluation.results import SIDES
from mmts.files import atomic_write
from mmts.sweep.figure import draw_standings
from mmts.sweep.standings import ALL_PARTS, AVERAGE, BOTH, CONCEPT, Column, Division, Standings, TrialRuns
from mmts.sweep.sweep_file import Sweep, in_words

_ABOUT = ("variant", "stage", "trial", "seed", "setting", "chosen", "split", "direction", "part")


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
        with atomic_write(table, "w") as file:
            writer = csv.DictWriter(file, [*_ABOUT, *self.standings.measures], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self._rows())
        with atomic_write(page, "w") as file:
            file.write("\n".join(self._page()) + "\n")
        draw_standings(picture, self._title, self.standings)
        return page, table, picture

    @property
    def _title(self) -> str:
        return f"{Path(self.sweep.source).stem} on {self.dataset.root.name}"

    # --- the table ---------------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row per run, direction and part; queries of val are divided by the first variant's concepts too."""
        if on_val := [trial for trial in self.tuned if trial.runs and not trial.failed]:
            standings = Standings.read(on_val, self.dataset, self.labels)
            yield from self._rows_of("trial", on_val, standings, self.sweep.file.seeds.tune)
        yield from self._rows_of("test", self.finals, self.standings, self.sweep.file.seeds.test)

    def _rows_of(
        self, stage: str, trials: Sequence[TrialRuns], standings: Standings, seeds: Sequence[int]
    ) -> Iterator[dict[str, Any]]:
        chosen = [final.trial for final in self.finals]
        for variant, trial in enumerate(trials):
            setting = {
                "variant": trial.trial.variant,
                "stage": stage,
                "trial": trial.trial.number,
                "setting": str(trial.trial),
                "chosen": int(trial.trial in chosen),
                "split": standings.runs[0][0].meta["split"],
            }
            for at, seed in enumerate(seeds):
                for side in (BOTH, *SIDES):
                    for division, part in _parts(standings):
                        columns = [Column(side, name, division, part) for name in standings.measures]
                        values = {column.measure: standings.values(variant, column) for column in columns}
                        figures = {name: round(value[at], 4) for name, value in values.items() if value is not None}
                        if figures:
                            place = {"direction": standings.direction(side), "part": _part_name(division, part)}
                            yield setting | {"seed": seed} | place | figures

    # --- the page ----------------------------------------------------------------------------------------------------

    def _page(self) -> Iterator[str]:
        """Yield the lines of leaderboard.md."""
        file, standings = self.sweep.file, self.standings
        yield from (f"# {self._title}", "")
        yield f"Recipe {file.recipe}{f' with `{in_words(file.set)}`' if file.set else ''}. {self._tuning()}"
        yield (
            f"Evaluated on test ({len(standings.divisions[0].groups['media']):,} media) with "
            f"{_seeds(file.seeds.test)}. Percent; mean ± sample standard deviation over seeds. Differences are to "
            f"{standings.names[0]}, in points, with the 95 % bootstrap interval over queries and seeds; bold if the "
            "interval leaves out 0."
        )
        yield from ("", f"## {standings.headline.capitalize()} of both directions", "")
        names: dict[str | None, str] = {None: "all"}
        for division in standings.divisions:
            yield from (f"By {division.name}:", "")
            names[AVERAGE] = f"average by {division.name}"
            yield from _ranked(
                standings, {names.get(part, str(part)): standings.headline_of(division, part) for part in ALL_PARTS}
            )
            yield ""
        in_tail = standings.headline if standings.is_graded else "R@5"
        for side in SIDES:
            yield from ("", f"## {standings.direction(side).replace('_to_', '→')}", "")
            columns = {name: Column(side, name, standings.divisions[0]) for name in standings.measures}
            for division in standings.divisions:
                columns[f"{in_tail}, tail by {division.name}"] = Column(side, in_tail, division, "tail")
            yield from _ranked(standings, columns)
        yield from ("", "## Settings", "")
        yield from self._settings()

    def _tuning(self) -> str:
        file = self.sweep.file
        if file.trials == 1:
            return "Every variant has one setting, so nothing was tuned."
        return (
            f"Every variant had {file.trials} trials with {_seeds(file.seeds.tune)}; the setting with the best "
            f"{file.choose} on val (mean of both directions) was chosen."
        )

    def _settings(self) -> Iterator[str]:
        """Yield a table of all trials, or of the variants if each has one setting."""
        file = self.sweep.file
        if file.trials == 1:
            settings = [file.variants[final.trial.variant].set | final.trial.setting for final in self.finals]
            rows = [
                [name, f"`{in_words(setting)}`"] for name, setting in zip(self.standings.names, settings, strict=True)
            ]
            yield from _table(["variant", "setting"], rows)
            return
        chosen = [final.trial for final in self.finals]
        rows = []
        for trial in self.tuned:
            figure = f"failed: {trial.failed}" if trial.failed else f"{trial.on_val(file.choose):.1f}"
            bold = "**" if trial.trial in chosen else ""
            rows.append([trial.trial.variant, f"{trial.trial.number}", f"`{trial.trial}`", f"{bold}{figure}{bold}"])
        yield from _table(["variant", "trial", "setting", f"{file.choose} on val"], rows)


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


def _parts(standings: Standings) -> Iterator[tuple[Division, str | None]]:
    """Yield all queries once, and the other parts of every division."""
    for place, division in enumerate(standings.divisions):
        yield from ((division, part) for part in ALL_PARTS if part is not None or place == 0)


def _part_name(division: Division, part: str | None) -> str:
    """Name a part in the table: "all", "tail", "article_type tail"."""
    if part is None:
        return "all"
    return part if division.name == CONCEPT else f"{division.name} {part}"


def _ranked(standings: Standings, columns: Mapping[str, Column]) -> Iterator[str]:
    """Yield a table of the variants, best first: figures with their differences to the first variant."""
    columns = {name: column for name, column in columns.items() if standings.values(0, column) is not None}
    rows = []
    for variant in standings.ranking():
        cells = []
        for column in columns.values():
            figure, gap = str(standings.figure(variant, column)), standings.gap(variant, column)
            cells.append(figure if gap is None else f"{figure}, {_gap(gap)}")
        rows.append([standings.names[variant], *cells])
    yield from _table(["variant", *columns], rows)


def _gap(gap: Gap) -> str:
    bold = "**" if gap.is_clear else ""
    return f"{bold}{gap.mean:+.1f}{bold} ({gap.low:+.1f}, {gap.high:+.1f})"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield "|---" * len(heading) + "|"
    for row in rows:
        escaped = (cell.replace("|", "\\|") for cell in row)
        yield f"| {' | '.join(escaped)} |"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
