"""What readers of JSON share: reading a file whole or line by line, and naming the row and field that cannot be."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import check_is_text, read_lines
from mmts.errors import DataError, listed, quoted

_BEGINNING = 65_536


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object. Raises DataError naming it where it cannot be opened or is none."""
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
    if not isinstance(document, dict):
        raise DataError(f"{file}: expected an object at the top, not {kind_in_words(document)}")
    return document


def json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("FILE, line N", object) for every line that is not blank. Raises DataError naming the line."""
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            # Not strict: raw control characters inside a string are let in here and cleaned later.
            record = json.loads(line.rstrip(), strict=False)
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: broken JSON: {error.msg} at column {error.colno}") from None
        except (RecursionError, ValueError) as error:
            raise DataError(f"{where}: broken JSON: {_why_not_parsed(error)}") from None
        if not isinstance(record, dict):
            raise DataError(f'{where}: expected an object like {{"id": ...}}, not {kind_in_words(record)}')
        yield where, record


def _why_not_parsed(error: RecursionError | ValueError) -> str:
    """Say in words why JSON of the right form could not be read."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number in it has thousands of digits"


def kind_in_words(value: object) -> str:
    """Say what kind of JSON value this is.

    >>> kind_in_words([1]), kind_in_words(None), kind_in_words("x" * 50)
    ('a list', 'null', "the string 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'")
    """
    if isinstance(value, str):
        return f"the string {value if len(value) <= 40 else value[:40] + '...'!r}"
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    return f"the number {quoted(value)}"


def beginning(file: Path) -> bytes:
    """Return how a file begins, to tell its kind without reading all of it; nothing where it cannot be opened."""
    try:
        with open(file, "rb") as opened:
            return opened.read(_BEGINNING)
    except OSError:
        return b""


def a_row(where: str, row: object) -> dict[str, Any]:
    """Return a row that is an object. Raises DataError where it is none."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, not {kind_in_words(row)}")
    return row


def field(where: str, row: dict[str, Any], name: str, kinds: type | tuple[type, ...], expected: str) -> Any:
    """Return a field of a row. Raises DataError where it is missing or of another kind.

    >>> field("x.json, images[0]", {"id": "7"}, "id", int, "a whole number")
    Traceback (most recent call last):
    mmts.errors.DataError: x.json, images[0]: 'id' should be a whole number, not the string '7'
    """
    if name not in row:
        raise DataError(f"{where}: {name!r} is missing; found {listed(row)}")
    value = row[name]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise wrong(where, name, expected, value)
    return value


def wrong(where: str, name: str, expected: str, value: object) -> DataError:
    """Return the error about a field that holds something else."""
    return DataError(f"{where}: {name!r} should be {expected}, not {kind_in_words(value)}")
