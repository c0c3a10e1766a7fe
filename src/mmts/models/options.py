"""Checks shared by everything that is built from names and options in a recipe."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmts.errors import RecipeError, nearest


def check_options(tower: str, options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise RecipeError for an option that `tower` does not have, naming the nearest one it has."""
    known = list(known)
    for option in options:
        if option not in known:
            raise RecipeError(f"tower {tower!r} has no option {option!r}; {nearest(option, known)}")


def check_int(tower: str, option: str, value: Any, low: int) -> int:
    """Return `value`, or raise RecipeError where it is not a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RecipeError(f"tower {tower!r}: {option} must be a whole number of at least {low}, not {value!r}")
    return value


def check_choice(tower: str, option: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value`, or raise RecipeError where it is none of `choices`."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise RecipeError(f"tower {tower!r}: {option} must be one of {', '.join(choices)}, not {value!r}")
    return value


def check_rate(tower: str, option: str, value: Any) -> float:
    """Return `value`, or raise RecipeError where it is not a probability below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise RecipeError(f"tower {tower!r}: {option} must be at least 0 and below 1, not {value!r}")
    return float(value)


def agreed(tower: str, option: str, given: int | None, own: int, source: str | None, *, low: int = 1) -> int:
    """Return the option that was `given`, or where it is None the tower's `own`.

    Where weights from `source` decide about it, RecipeError is raised for any other value than theirs.
    """
    if given is None:
        return own
    check_int(tower, option, given, low)
    if source is not None and given != own:
        raise RecipeError(f"tower {tower!r}: {source} has {option} {own}, not {given}; leave the option out")
    return given
