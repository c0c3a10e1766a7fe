"""What a person sees while something runs: one console, one progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


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
def progress_bar(title: str, total: int, unit: str = "items", done: int = 0) -> Iterator[Bar]:
    """Show a bar with rate and time left on a terminal (standard error); elsewhere nothing is drawn.

    >>> with progress_bar("counting", 3) as bar:
    ...     for _ in range(3):
    ...         bar.advance()
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),  # everything in one line of 80 columns
        TaskProgressColumn(),
        _Rate(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=total, completed=done, note="")
        yield Bar(progress, task)


class _Rate(TextColumn):
    """Items a second."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self.unit = unit

    def render(self, task):  # type: ignore[no-untyped-def]
        from rich.text import Text

        return Text(f"{task.speed:,.0f} {self.unit}/s" if task.speed else "")
