"""Types for the options of components, their constructors' parameters (`mmts.recipe.components`), and their checks."""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache, reduce, wraps
from inspect import signature
from numbers import Real
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt

from mmts.errors import InputError, check_one_of, check_rows, plain

P = ParamSpec("P")
R = TypeVar("R")
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
ZeroToOne = Annotated[float, Ge(0), Le(1)]
AboveZeroToOne = Annotated[float, Gt(0), Le(1)]
ZeroToBelowOne = Annotated[float, Ge(0), Lt(1)]
AtLeastOne = Annotated[int, Ge(1)]


@dataclass(frozen=True, eq=False)  # by identity, because Python 3.10 hashes what stands in an annotation
class RecipeDefault:
    """The section that a recipe gets if it leaves out a component inside a component, such as InfoNCE's temperature."""

    content: Mapping[str, Any] | None  # the section as a recipe would have it
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by component, defaults that differ here


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function or a constructor check its arguments by its annotations, as `check_value` does."""
    parameters = signature(function)
    # Annotations may name what follows in their file.
    hints = cache(lambda: get_type_hints(function, include_extras=True))

    @wraps(function)
    def checking(*arguments: P.args, **options: P.kwargs) -> R:
        owner = f"{type(arguments[0]).__name__}: " if function.__name__ == "__init__" else ""
        for name, value in parameters.bind(*arguments, **options).arguments.items():
            check_value(owner + name, value, hints().get(name))
        return function(*arguments, **options)

    return checking


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raise InputError, naming it, unless a value is one of a Literal, or finite and in a range such as `Positive`.

    Values other than numbers, such as None or a schedule, are not checked.

    >>> check_value("beta", 1.0, ZeroToBelowOne)
    Traceback (most recent call last):
    mmts.errors.InputError: beta is 1; it must lie in [0, 1)
    """
    if get_origin(hint) is Literal:
        check_one_of(name, value, get_args(hint))
    elif isinstance(value, Real) and has_range(hint) and not in_range(value, hint, math.isfinite):
        raise InputError(f"{name} is {plain(float(value))}; it must {range_in_words(hint)}")


def check_table(name: str, values: Any, hint: Any) -> None:
    """Raise InputError, naming the row, unless a tensor is (N,), N >= 1, finite and in the range of an annotation."""
    if values.ndim != 1 or not len(values):
        raise InputError(f"{name} is {tuple(values.shape)} {values.dtype}; it must be (N,), N >= 1, of numbers")
    inside = in_range(values, hint, type(values).isfinite)
    check_rows(inside, f"{name}[{{row}}] is {{value}}; it must {range_in_words(hint)}", values)


def has_range(hint: Any) -> bool:
    """Return whether an annotation is of numbers: `float`, or a range, or either of them and something else."""
    return hint is float or bool(_limits(hint))


def in_range(value: Any, hint: Any, isfinite: Callable[[Any], Any]) -> Any:
    """Return whether a number, or each of a tensor's, is finite and in the range that an annotation gives."""
    inside = [getattr(operator, key)(value, end) for key, end in _limits(hint).items()]
    return reduce(operator.and_, inside if len(inside) == 2 else [isfinite(value), *inside])


def range_in_words(hint: Any) -> str:
    """Describe the range that a number must lie in.

    >>> range_in_words(Positive), range_in_words(ZeroToOne)
    ('be finite and positive', 'lie in [0, 1]')
    """
    limits = _limits(hint)
    low = f"[{limits['ge']:g}" if "ge" in limits else f"({limits.get('gt', -math.inf):g}"
    high = f"{limits['le']:g}]" if "le" in limits else f"{limits.get('lt', math.inf):g})"
    words = {"(-inf, inf)": "be finite", "(0, inf)": "be finite and positive", "[0, inf)": "be finite and not negative"}
    return words.get(f"{low}, {high}", f"lie in {low}, {high}")


@cache
def _limits(hint: Any) -> dict[str, float]:
    """Return the bounds in an annotation by the operators that they name, such as "gt"."""
    kinds = (hint,) if get_origin(hint) is Annotated else (hint, *get_args(hint))
    bounds = [bound for kind in kinds for bound in getattr(kind, "__metadata__", ()) if isinstance(bound, BaseMetadata)]
    return {key: end for bound in bounds for key, end in asdict(bound).items()}  # type: ignore[call-overload]
