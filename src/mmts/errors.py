"""The errors mmts raises for people: what was wrong, where, and what would be right."""

import difflib
import reprlib
from collections.abc import Iterable

_QUOTED = 80  # characters of what a file holds that a message repeats
_LISTED = 160
_repr = reprlib.Repr()  # looks no deeper than a few levels, however far a value is nested
_repr.maxstring = _repr.maxlong = _repr.maxother = _QUOTED


class MmtsError(Exception):
    """Anything wrong that the user can put right; the command line prints it in one line and exits with 2."""


class InputError(MmtsError, ValueError):
    """A value handed to a function cannot be right: the message names the argument, the row and what is accepted."""


class DataError(MmtsError):
    """A data file or folder cannot be used: the message names the file and the line or row."""


class RecipeError(MmtsError):
    """A recipe, a key or a name in it is wrong: the message names it and the nearest one that exists."""


class RunError(MmtsError):
    """A run directory cannot be used, or a run cannot go on: the message says why and what to do."""


class Diverged(RunError):
    """Training came to what is no number: the recipe's fault, not the data's or the machine's."""


class WorkersLost(RunError):
    """Processes that decode media were killed twice: by the machine (out of memory, mostly), not by a file."""


class FailedElsewhere(RunError):
    """One of several processes that train together failed; that one says why, and the others end with it."""

    def __init__(self) -> None:
        super().__init__("another process failed, and says why")


class Interrupted(MmtsError):
    """Work was asked to stop and can be resumed; `signal_number` says by which signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def shortened(text: str, most: int = _QUOTED) -> str:
    """Cut a text that a message repeats: what lies in a file may be of any length.

    >>> shortened("a cat on a mat", 8)
    'a cat...'
    """
    return text if len(text) <= most else text[: most - 3] + "..."


def quoted(value: object) -> str:
    """Return a value as Python writes it, cut to 80 characters.

    >>> quoted("a cat"), quoted([0, "b"]), len(quoted("x" * 1000))
    ("'a cat'", "[0, 'b']", 80)
    """
    return shortened(_repr.repr(value))


def listed(names: Iterable[str]) -> str:
    """Name what was found, cut to 160 characters.

    >>> listed(["id", "image"]), listed([])
    ("'id', 'image'", 'nothing')
    """
    return shortened(", ".join(map(quoted, names)), _LISTED) or "nothing"


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known name is meant, or list them all.

    >>> nearest("epocs", ["epochs", "seed"])
    "did you mean 'epochs'?"
    >>> nearest("xyz", ["epochs", "seed"])
    'known: epochs, seed'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
