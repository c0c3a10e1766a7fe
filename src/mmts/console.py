"""What a person sees while something runs: one console, one progress bar."""

import json
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, Task, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text


class _PlainConsole(Console):
    """A console for text that is not ours: paths, ids, captions and names of splits are printed unchanged.

    Nothing is read as markup or as the name of an emoji. A control character or half of a surrogate pair, which could
    steer the terminal or not be encoded at all, is shown as U+FFFD.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of whatever is printed: a line, a table's cell or a bar's title."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(_harmless(segment.text), segment.style)


def _harmless(text: str) -> str:
    """Keep printable characters, spaces of any width, and the joiners of Persian, Indic scripts and emoji."""
    return "".join(
        char if char.isprintable() or char in "\n\t\u200c\u200d" or unicodedata.category(char) == "Zs" else "\ufffd"
        for char in text
    )


console = _PlainConsole()
errors = _PlainConsole(stderr=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Print nothing and draw no bar within it: the work inside is a part of something that has its own bar."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def print_json(value: object) -> None:
    """Print a value as JSON to standard output, even while the console is quiet."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, indent=2, ensure_ascii=not is_unicode))


def figure_table(title: str, first: str, *columns: str, least: int = 10) -> Table:
    """Return an empty table: a column of names, at least `least` characters wide, and columns of numbers."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, min_width=least, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


@dataclass(frozen=True)
class Bar:
    """A running progress bar."""

    _progress: Progress
    _task: TaskID

    def advance(self, count: int = 1) -> None:
        """Add `count` finished items."""
        self._progress.advance(self._task, count)

    def describe(self, text: str) -> None:
        """Replace the text at the right end of the bar."""
        self._progress.update(self._task, note=text)


@contextmanager
def progress_bar(title: str, total: int, unit: str = "items", done: int = 0, window: float = 30) -> Iterator[Bar]:
    """Show a bar with rate and time left, on standard error if that is a terminal.

    The rate is that of the last `window` seconds; slow items need a longer window.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=8),  # so that everything fits into a line of 80 columns
        TaskProgressColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    unseen = not errors.is_terminal or console.quiet
    with Progress(*columns, console=errors, disable=unseen, transient=True, speed_estimate_period=window) as progress:
        yield Bar(progress, progress.add_task(title, total=total, completed=done, note=""))


class _Rate(TextColumn):
    """Items per second, or per minute if they are slow; its text is their unit."""

    def render(self, task: Task) -> Text:
        speed, unit = task.speed or 0, self.text_format
        slow = f"{60 * speed:,.1f} {unit}/min" if speed else ""
        return Text(f"{speed:,.0f} {unit}/s" if speed >= 1 else slow)
