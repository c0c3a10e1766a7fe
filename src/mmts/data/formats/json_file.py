"""JSON files of data, whole or line by line; errors name the row and the field."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import check_is_text, read_lines
from mmts.errors import DataError, listed, quoted

_BEGINNING = 65_536


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
    try:
        content = file.read_bytes()
        check_is_text(file, content[:8])
        document = json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start + 1:,} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{file} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {_why_not_parsed(error)}") from None
    return a_record(str(file), document, "an object at the top")


def json_lines(file: Path) -> Iterator[Record]:
    """Yield the object of every line that is not blank. Raises DataError naming the line."""
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            # Not strict: raw control characters inside a string are allowed here and cleaned later.
            record = json.loads(line.rstrip(), strict=False)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from None
        except (RecursionError, ValueError) as error:
            raise DataError(f"{where}: broken JSON: {_why_not_parsed(error)}") from None
        yield a_record(where, record, 'an object like {"id": ...}')


def _why_not_parsed(error: RecursionError | ValueError) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else "a number in it has thousands of digits"


def kind_in_words(value: object) -> str:
    """Return the kind of a JSON value.

    >>> kind_in_words([1]), kind_in_words(None), kind_in_words("x" * 50)
    ('a list', 'null', "the string 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'")
    """
    if isinstance(value, str):
        return f"the string {value if len(value) <= 40 else value[:40] + '...'!r}"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value) if isinstance(value, bool) or value is None else f"the number {quoted(value)}"


def beginning(file: Path) -> bytes:
    """Return the first bytes of a file, to recognize its format; none if it cannot be opened."""
    try:
        with open(file, "rb") as opened:
            return opened.read(_BEGINNING)
    except OSError:
        return b""
