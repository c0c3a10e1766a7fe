"""What a person sees while something runs: one console, one progress bar."""

import json
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table


class _PlainConsole(Console):
    """A console for text that is not ours: paths, ids, captions and names of splits are printed as they are.

    Nothing is read as markup or as the name of an emoji. A control character or half of a surrogate pair, which could
    steer the terminal or not be encoded at all, is shown as U+FFFD (see `harmless`).
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield the segments of whatever is printed, be it a line, a table's cell or a bar's title."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


def harmless(text: str) -> str:
    r"""Return text in which what a terminal or a picture must not get (control characters, ...) is U+FFFD.

    Spaces of any width stay (names of macOS screenshots hold U+202F), and so do the joiners that Persian, Indic scripts
    and emoji are written with.

    >>> harmless("3:04\u202fPM \x1b[2J") == "3:04\u202fPM \ufffd[2J"
    True
    """
    return "".join(each if each.isprintable() or each in _JOINERS or _is_space(each) else "\ufffd" for each in text)


_JOINERS = "\u200c\u200d"


def _is_space(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) == "Zs"


console = _PlainConsole()
errors = _PlainConsole(stderr=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Say nothing and draw no bar meanwhile: what runs inside is one of many, and the whole has a bar of its own.

    >>> with quiet():
    ...     console.print("not seen")
    """
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def print_json(value: object) -> None:
    """Print a value as JSON to standard output, also while the console is quiet.

    >>> print_json({"R@1": 51.5})
    {
      "R@1": 51.5
    }
    """
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, indent=2, ensure_ascii=not is_unicode))


def figure_table(title: str, first: str, *columns: str, least: int = 10) -> Table:
    """Return an empty table: a column of names, at least `least` characters wide, and columns of numbers."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, min_width=least, overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


class Bar:
    """A running progress bar: `advance(n)` after n more items, `describe(text)` for what stands at its right."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def advance(self, count: int = 1) -> None:
        """Say that `count` more items are done."""
        self._progress.advance(self._task, count)

    def describe(self, text: str) -> None:
        """Replace the text at the bar's right end."""
        self._progress.update(self._task, note=text)


@contextmanager
def progress_bar(title: str, total: int, unit: str = "items", done: int = 0, window: float = 30) -> Iterator[Bar]:
    """Show a bar with rate and time left on a terminal (standard error); elsewhere nothing is drawn.

    The rate is that of the last `window` seconds: slow items need a longer one.

    >>> with progress_bar("counting", 3) as bar:
    ...     for _ in range(3):
    ...         bar.advance()
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=8),  # everything in one line of 80 columns
        TaskProgressColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    unseen = not errors.is_terminal or console.quiet
    with Progress(*columns, console=errors, disable=unseen, transient=True, speed_estimate_period=window) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield Bar(progress, task)


class _Rate(TextColumn):
    """Items a second, or a minute where they are slow."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self.unit = unit

    def render(self, task):  # type: ignore[no-untyped-def]
        from rich.text import Text

        if not task.speed:
            return Text("")
        if task.speed >= 1:
            return Text(f"{task.speed:,.0f} {self.unit}/s")
        return Text(f"{60 * task.speed:,.1f} {self.unit}/min")
