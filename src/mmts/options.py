"""Types for the options of components, the parameters of their constructors (`mmts.recipe.components`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

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
