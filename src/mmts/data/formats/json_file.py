"""JSON files of data, whole or line by line; errors name the row and the field."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import read_lines
from mmts.errors import DataError, listed, quoted


@dataclass(frozen=True)
class Record:
    """A JSON object of a data file; `where` is its place, for messages.

    >>> Record("x.json, images[0]", {"id": "7"}).get("id", int, "a whole number")
    Traceback (most recent call last):
    mmts.errors.DataError: x.json, images[0]: 'id' should be a whole number, not the string '7'
    """

    where: str
    fields: dict[str, Any]

    def get(self, name: str, kinds: type | tuple[type, ...], expected: str) -> Any:
        """Return a field. Raises DataError if it is missing or of another kind."""
        if name not in self.fields:
            raise DataError(f"{self.where}: {name!r} is missing; found {listed(self.fields)}")
        value = self.fields[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.wrong(name, expected)
        return value

    def optional(self, name: str, kinds: type | tuple[type, ...], expected: str) -> Any:
        """Return a field, or None if it is missing or null."""
        return None if self.fields.get(name) is None else self.get(name, kinds, expected)

    def records(self, name: str) -> Iterator["Record"]:
        """Yield the objects of a list. Raises DataError if the field is not a list, or holds anything else."""
        for at, item in enumerate(self.get(name, list, "a list")):
            yield a_record(f"{self.where}, {name}[{at}]", item)

    def wrong(self, name: str, expected: str) -> DataError:
        """Return the error for a field with a wrong value."""
        return DataError(f"{self.where}: {name!r} should be {expected}, not {kind_in_words(self.fields[name])}")


def a_record(where: str, value: object, expected: str = "an object") -> Record:
    """Return an object as a record. Raises DataError for any other value."""
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected {expected}, not {kind_in_words(value)}")
    return Record(where, value)


def read_json_object(file: Path) -> Record:
    """Read a file that holds one JSON object. Raises DataError if it cannot be read or holds anything else."""
    text = "".join(line for _, line in read_lines(file))
    return a_record(str(file), _parsed(str(file), text), "an object at the top")


def json_lines(file: Path) -> Iterator[Record]:
    """Yield the object of every line that is not blank. Raises DataError naming the line."""
    for number, line in read_lines(file):
        if line.strip():
            where = f"{file}, line {number}"
            yield a_record(where, _parsed(where, line.rstrip()), 'an object like {"id": ...}')


def _parsed(where: str, text: str) -> object:
    try:
        return json.loads(text, strict=False)  # control characters in strings are cleaned later
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        why = f"{error.msg} at {line}column {error.colno}"
    except (RecursionError, ValueError):
        why = "nested too deeply, or a number in it has thousands of digits"
    raise DataError(f"{where}: broken JSON: {why}")


def kind_in_words(value: object) -> str:
    """Return the kind of a JSON value.

    >>> kind_in_words([1]), kind_in_words(None), kind_in_words("x")
    ('a list', 'null', "the string 'x'")
    """
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"the {'string' if isinstance(value, str) else 'number'} {quoted(value)}"


def beginning(file: Path) -> bytes:
    """Return the first bytes of a file, to recognize its format; none if it cannot be opened."""
    try:
        with open(file, "rb") as opened:
            return opened.read(65_536)
    except OSError:
        return b""
