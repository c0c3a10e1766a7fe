"""The errors that people see; each says what was wrong, where, and what would be right."""

import difflib
import math
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

_QUOTED = 80  # characters of a file's content that a message repeats
_repr = reprlib.Repr()  # looks only a few levels deep, however far a value is nested
_repr.maxstring = _repr.maxlong = _repr.maxother = _QUOTED


class MmtsError(Exception):
    """Anything wrong that the user can put right; the command line prints it in one line and exits with 2."""


class InputError(MmtsError, ValueError):
    """A value passed to a function cannot be right: the message names the argument, the row and what is accepted."""


class DataError(MmtsError):
    """A data file or folder cannot be used: the message names the file and the line or row."""


class RecipeError(MmtsError):
    """A recipe, or a key or a name in it, is wrong: the message names it and the nearest one that exists."""


class RunError(MmtsError):
    """A run directory cannot be used, or a run cannot go on: the message says why and what to do."""


class Diverged(RunError):
    """Training reached a loss or gradient that is not finite; the recipe caused it, not the data or the machine."""


class WorkersLost(RunError):
    """Processes that decode media were killed twice: by the machine (mostly out of memory), not by a file."""


class FailedElsewhere(RunError):
    """One of several processes that train together failed and says why; the others end with this."""

    def __init__(self) -> None:
        super().__init__("another process failed, and says why")


class Interrupted(MmtsError):
    """A signal stopped the work, which can be resumed."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.signal_number)


def check_one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise InputError, naming the argument, unless its value is one of the choices."""
    if value not in (known := list(choices)):
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def shortened(text: str, most: int = _QUOTED) -> str:
    """Cut a text for a message."""
    return text if len(text) <= most else text[: most - 3] + "..."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or its class if it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[0] if lines else type(error).__name__, 240)


def quoted(value: object) -> str:
    """Return a value as Python writes it, cut to 80 characters.

    >>> quoted("a cat"), quoted([0, "b"]), len(quoted("x" * 1000))
    ("'a cat'", "[0, 'b']", 80)
    """
    return shortened(_repr.repr(value))


def listed(names: Iterable[str]) -> str:
    """Return names in quotes, cut to 160 characters.

    >>> listed(["id", "image"]), listed([])
    ("'id', 'image'", 'nothing')
    """
    return shortened(", ".join(map(quoted, names)), 160) or "nothing"


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun; `many` is the plural if it is not `one` and an s.

    >>> counted(1, "caption"), counted(2_000, "medium", "media")
    ('1 caption', '2,000 media')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def few(words: Sequence[str]) -> str:
    """List a few words, and say how many more there are.

    >>> few(["a", "b"]), few(list("abcdefg"))
    ('a; b', 'a; b; c; d; e; and 2 more')
    """
    more = [f"and {len(words) - 5:,} more"] if len(words) > 5 else []
    return "; ".join([*words[:5], *more])


def plain(value: float) -> str:
    """Write a number in full: every digit that tells it from its neighbors, and no exponent from 1e-4 to 1e16.

    >>> plain(4294967295), plain(0.30000000000000004), plain(1.0), plain(1e-7)
    ('4294967295', '0.30000000000000004', '1', '1e-07')
    """
    return str(int(value)) if value == value // 1 and abs(value) < 1e16 else repr(float(value))


def rounded(value: float, digits: int = 3) -> str:
    """Write a number of 0 or more to that many significant digits, without an exponent.

    >>> rounded(12.34, 1), rounded(0.0512, 2), rounded(123456), rounded(0)
    ('12', '0.051', '123456', '0')
    """
    if value == 0:
        return "0"
    written = f"{value:.{max(0, digits - 1 - math.floor(math.log10(value)))}f}"
    return written.rstrip("0").rstrip(".") if "." in written else written


def percent(share: float) -> str:
    """Write a share in percent, to three significant digits; only the whole is 100 %.

    >>> percent(1), percent(0.3333), percent(0.99999), percent(0.00001)
    ('100 %', '33.3 %', '99.9 %', '0.001 %')
    """
    return f"{rounded(min(100 * share, 99.9) if share < 1 else 100)} %"


def check_rows(right: Any, message: str, values: Any = None) -> None:
    """Raise InputError unless all of `right` (N,), an array or tensor of bool, are True.

    In the message {row} stands for the first row that is not, and {value} for its one of `values`.
    """
    if not bool(right.all()):
        row = right.tolist().index(False)
        raise InputError(message.format(row=row, value=None if values is None else plain(values[row].item())))


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that is meant, or list them all.

    >>> nearest("epocs", ["epochs", "seed"])
    "did you mean 'epochs'?"
    >>> nearest("xyz", ["epochs", "seed"])
    'known: epochs, seed'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
