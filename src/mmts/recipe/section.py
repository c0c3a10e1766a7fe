"""A part of a recipe or a sweep file, checked by pydantic; a mistake is one line that names key, value and remedy."""

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from mmts.errors import RecipeError, few, nearest, quoted

SectionType = TypeVar("SectionType", bound="Section")
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""What numpy and scikit-learn accept as a seed."""

_REQUIRED = {  # pydantic's types of error, and how "it must be ..." goes on
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "dict": "a section of keys and values",
    "too_short": "{min_length} or more entries long",
    "too_long": "{max_length} or fewer entries long",
}


class Section(BaseModel):
    """A part of a recipe: immutable and finite; an unknown key is an error that names the nearest known one."""

    # The string below each key describes it; docs/reference/recipe.md is made of these.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _name_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, Section):
            return value
        if not isinstance(value, Mapping):
            empty = " ({} keeps all defaults)" if value is None else ""
            required = f"a section with keys among {', '.join(cls.model_fields)}{empty}"
            raise PydanticCustomError("section", "{required}", {"required": required})
        for key in value:
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}; {nearest(str(key), cls.model_fields)}")
            kind = cls.model_fields[key].annotation
            if isinstance(value[key], bool) and {int, float} & {kind, *get_args(kind)}:  # pydantic reads true as 1
                raise ValueError(f"{key} is {str(value[key]).lower()}; it must be a number")
        return value


def validated(section: type[SectionType], content: Mapping[str, Any], source: str) -> SectionType:
    """Check nested mappings against a section; raises RecipeError naming `source`, key, value and what is accepted.

    >>> from mmts.recipe.sections import Train
    >>> validated(Train, {"epochs": "few", "warmup": 1}, "train")
    Traceback (most recent call last):
    mmts.errors.RecipeError: train: epochs is 'few'; it must be a whole number; warmup is 1; it must be less than 1
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{source}: {explain(error, content)}") from None


def explain(error: ValidationError, content: Any, place: str = "") -> str:
    """Put pydantic's errors about `content`, at a place in a recipe, into one line: `key is value; it must be ...`."""
    problems = groupby(error.errors(), lambda item: ".".join(filter(None, (place, _key(item, content)))))
    return " ".join(few([_message(key, list(items)) for key, items in problems]).split())


def is_number(value: Any) -> bool:
    """Return whether a value of a recipe is a number, or text such as 1e-2, which YAML does not read as a number."""
    if isinstance(value, str):
        return re.fullmatch(r"[+-]?[\d.]+e[+-]?\d+", value.strip(), re.IGNORECASE) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(item: ErrorDetails, content: Any) -> str:
    """Name the key as the user wrote it; pydantic's path also holds the alternatives it tried."""
    loc = item["loc"][:-2] if item["loc"][-1:] == ("[key]",) else item["loc"]  # a wrong key is named by its section
    keys: list[int | str] = []
    for place, key in enumerate(loc, start=1):
        missing = item["type"] == "missing" and place == len(loc)
        with suppress(LookupError, TypeError):  # not a key of the user's
            content = None if missing and isinstance(content, Mapping | list | tuple) else content[key]
            keys.append(key)
    return ".".join(map(str, keys))


def _message(place: str, items: list[ErrorDetails]) -> str:
    """Describe the problem at one place; several items are alternatives that all failed."""
    item = items[0]
    if item["type"] == "missing":
        return f"{place} is missing"
    begin = f"{place}: " if place else ""
    if item["loc"][-1:] == ("[key]",):
        return f"{begin}the key {_as_yaml(item['input'])} is not text; write it in quotes"
    required = [_required(item) for item in items]
    if None in required:
        return begin + item["msg"].removeprefix("Value error, ")
    return f"{place or 'all of it'} is {_as_yaml(item['input'])}; it must be {' or '.join(map(str, required))}"


def _required(item: ErrorDetails) -> str | None:
    """Say what the value must be; None if pydantic's message already does."""
    if item["type"] == "section":
        return item["msg"]
    if item["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", item["ctx"]["expected"])
        return f"one of {', '.join(known)}" if len(known) > 1 else known[0]
    kind = re.sub("_(type|parsing|parsing_size|from_float)$", "", item["type"])
    if kind in _REQUIRED:
        return _REQUIRED[kind].format(**item.get("ctx", {}))
    _, is_limit, limit = item["msg"].partition("Input should be ")
    limit = limit.replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    return limit if is_limit else None


def _as_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value is None else quoted(value)
