"""The errors mmts raises for people: what was wrong, where, and what would be right."""


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
