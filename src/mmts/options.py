"""How a component's constructor says more about its options than a type: ranges, and what a recipe takes by default.

A component is a schedule, a policy or an objective that a recipe names. Its constructor's signature is the list of its
options there (`mmts.training.components`).
"""

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


@dataclass(frozen=True)
class RecipeDefault:
    """What stands in a recipe that leaves a component's own component out, such as the temperature of InfoNCE.

    Attributes:
        content: the section as a recipe would have it.
        options: other defaults of a component's options here than its constructor's, by the component's name.
    """

    content: Mapping[str, Any]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
