"""A part of a recipe."""

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from mmts.errors import nearest


class Section(BaseModel):
    """A part of a recipe: immutable and finite; an unknown key is an error that names the nearest known one."""

    # What stands below a key describes it: docs/reference/recipe.md is made of that.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Section):
            return value
        if not isinstance(value, Mapping):
            empty = " ({} for none of them)" if value is None else ""
            raise _section_wanted(f"a section with keys among {', '.join(cls.model_fields)}{empty}")
        for key in value:
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}; {nearest(str(key), cls.model_fields)}")
            kind = cls.model_fields[key].annotation
            if isinstance(value[key], bool) and {int, float} & {kind, *get_args(kind)}:  # pydantic takes true for 1
                raise ValueError(f"{key} is {str(value[key]).lower()}; it must be a number")
        return value


def _section_wanted(wanted: str) -> PydanticCustomError:
    return PydanticCustomError("section", "{wanted}", {"wanted": wanted})


def is_number(value: Any) -> bool:
    """Return whether a value of a recipe is a number, or text that YAML should have read as one."""
    if isinstance(value, str):  # YAML reads 1e-2 as text
        return re.fullmatch(r"[+-]?[\d.]+e[+-]?\d+", value.strip(), re.IGNORECASE) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)
