"""What readers of one large JSON file share: reading it whole, and naming the row and field that cannot be."""

import json
from pathlib import Path
from typing import Any

from mmts.data.captions_jsonl import kind_in_words, why_not_parsed
from mmts.data.collect import check_is_text
from mmts.errors import DataError, listed

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
        raise DataError(f"{file} cannot be read: {why_not_parsed(error)}") from None
    if not isinstance(document, dict):
        raise DataError(f"{file}: expected an object at the top, not {kind_in_words(document)}")
    return document


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
        raise DataError(f"{where}: {name!r} should be {expected}, not {kind_in_words(value)}")
    return value
