"""The errors mmts raises for people: what was wrong, where, and what would be right."""

import difflib
from collections.abc import Iterable


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


class Interrupted(MmtsError):
    """Work was asked to stop and can be resumed; `signal_number` says by which signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


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
