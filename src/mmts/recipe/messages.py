"""What is wrong with a recipe or a sweep file, in one line: the key, what stands there, and what it may be."""

import difflib
import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mmts.errors import nearest, plain, quoted

_MOST = 5  # problems named in one message

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "dict_type": "a section of keys and values",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "{min_length} or more entries long",
    "too_long": "{max_length} or fewer entries long",
}
"""pydantic's kinds of error, and what each asks for: "it must be ..."."""


def explain(error: ValidationError, content: Mapping[str, Any]) -> str:
    """Put what pydantic found wrong with `content` into one line, `key is value; it must be ...` for each problem.

    >>> from mmts.recipe.recipe import Train
    >>> try:
    ...     Train.model_validate({"epochs": "few", "warmup": 1})
    ... except ValidationError as error:
    ...     explain(error, {"epochs": "few", "warmup": 1})
    "epochs is 'few'; it must be a whole number; warmup is 1; it must be less than 1"
    """
    problems = groupby(error.errors(), lambda item: _place(item, content))
    messages = [_message(place, list(items)) for place, items in problems]
    more = [f"and {len(messages) - _MOST} more"] if len(messages) > _MOST else []
    return " ".join("; ".join(messages[:_MOST] + more).split())


def _place(item: ErrorDetails, content: Any) -> str:
    """Name the key as the user wrote it: pydantic's path also has the choices it took, such as a rule or a loss."""
    keys = []
    loc = item["loc"][:-2] if item["loc"][-1:] == ("[key]",) else item["loc"]  # of a wrong key, what it stands in
    *before, last = loc or [""]
    for key in before:
        if _holds(content, key):
            keys.append(key)
            content = content[key]
    if _holds(content, last) or (item["type"] == "missing" and isinstance(content, Mapping | list | tuple)):
        keys.append(last)
    return ".".join(map(str, keys))


def _holds(content: Any, key: int | str) -> bool:
    if isinstance(content, Mapping):
        return key in content
    return isinstance(content, list | tuple) and isinstance(key, int) and key < len(content)


def _message(place: str, items: list[ErrorDetails]) -> str:
    """Say what is wrong at a place; several items are what its alternatives each wanted."""
    item = items[0]
    if item["type"] == "missing":
        return f"{place} is missing"
    if item["type"] == "union_tag_invalid":
        return _wrong_choice(place, item)
    begin = f"{place}: " if place else ""
    if item["loc"][-1:] == ("[key]",):
        return f"{begin}the key {_given(item)} is no text; write it in quotes"
    wanted = [_wanted(each) for each in items]
    if None in wanted:
        return begin + item["msg"].removeprefix("Value error, ")
    return f"{place or 'all of it'} is {_given(item)}; it must be {' or '.join(map(str, wanted))}"


def _wrong_choice(place: str, item: ErrorDetails) -> str:
    """Say which choices there are where the key that chooses is wrong, missing or misspelt."""
    tag = item["ctx"]["discriminator"].strip("'")
    key = f"{place}.{tag}" if place else tag
    known = _names(item["ctx"]["expected_tags"])
    chosen = item["input"][tag]
    if chosen is not None:
        return f"{key} is {quoted(chosen)}; {nearest(str(chosen), known)}"
    meant = difflib.get_close_matches(tag, [str(each) for each in item["input"] if each != tag], n=1)
    if meant:
        return f"{place}: unknown key {meant[0]!r}; did you mean {tag!r}?"
    return f"{key} is missing; it must be one of {', '.join(known)}"


def _wanted(item: ErrorDetails) -> str | None:
    """Say what the value must be; None where the message says it all."""
    if item["type"] == "section":
        return item["msg"]
    if item["type"] == "literal_error":
        known = _names(item["ctx"]["expected"])
        return f"one of {', '.join(known)}" if len(known) > 1 else known[0]
    template = _WANTED.get(item["type"])
    limits = {
        name: plain(each) if isinstance(each, int | float) else each for name, each in item.get("ctx", {}).items()
    }
    return None if template is None else template.format(**limits)


def _names(expected: str) -> list[str]:
    """Return the names that pydantic would take, which it gives as one text."""
    return re.findall(r"'([^']*)'", expected)


def _given(item: ErrorDetails) -> str:
    """Write what stands there as YAML does."""
    value = item["input"]
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value is None else quoted(value)
