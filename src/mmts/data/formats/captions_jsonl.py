"""Our own format: a folder with captions.jsonl, one JSON object per line for every image or video."""

import os
import sys
from functools import lru_cache
from pathlib import Path

from mmts.data.formats.collect import Collector
from mmts.data.formats.json_file import Record, json_lines, kind_in_words
from mmts.data.records import Dataset, Label, Medium
from mmts.errors import DataError, listed, quoted, shortened

_MEMBER = "the byte in a tar file and the length in bytes"
_FIELDS = ("id", "image", "video", "captions", "labels", "split", "start", "end", "frames", "member")


def read_captions_jsonl(file: str | Path) -> Dataset:
    """Read captions.jsonl; paths in it are relative to its folder. docs/datasets.md lists the fields.

    Raises DataError naming file and line: broken JSON, a missing or wrong field, a repeated id.
    """
    file = Path(file)
    collector = Collector(file, file.parent, merge=True)
    ignored: dict[str, None] = {}
    size = lru_cache(maxsize=1024)(os.path.getsize)  # one tar holds many images
    for record in json_lines(file):
        ignored |= dict.fromkeys(key for key in record.fields if key not in _FIELDS)
        medium = _add(collector, record)
        tar, end = medium.path, sum(medium.member or (0,))
        if end and os.path.isfile(tar) and end > size(tar):  # tar.is_file() may raise
            raise DataError(
                f"{record.where}: 'member' ends at byte {end:,}, and {shortened(record.fields[medium.kind])} has "
                f"{size(tar):,} bytes; it should be {_MEMBER}"
            )
    if ignored:
        collector.notes.append(f"unknown fields were ignored: {listed(ignored)}")
    return collector.finish()


def caption_texts(record: Record, name: str) -> list[str]:
    """Return captions given as a string or a list; null and NaN are empty. Raises DataError for anything but text."""
    value = record.get(name, object, "a string or a list of strings")
    texts = value if isinstance(value, list) else [value]
    for at, text in enumerate(texts, 1):
        if not isinstance(text, str) and text is not None and text == text:
            expected = f"{name!r} should be a string or a list of strings"
            raise DataError(f"{record.where}: {expected}; caption {at} is {kind_in_words(text)}")
    return [text if isinstance(text, str) else "" for text in texts]


def scalar_text(value: object) -> str | None:
    """Return a string, number or boolean as a label's text; None for anything else, and NaN."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) and value == value else None


def label_value(value: object) -> Label | None:
    """Return a label's text, or of a list the text of each value; None for anything else, and NaN."""
    if not isinstance(value, list):
        return scalar_text(value)
    texts = [text for item in value if (text := scalar_text(item)) is not None]
    return texts if len(texts) == len(value) else None


def _add(collector: Collector, record: Record) -> Medium:
    filled = [kind for kind in ("image", "video") if record.fields.get(kind) is not None]
    if not filled:
        raise DataError(f"{record.where}: 'image' (or 'video') is missing; found {listed(record.fields)}")
    if len(filled) == 2:
        raise DataError(f"{record.where}: both 'image' and 'video'; one line is one of them")
    kind, split = filled[0], record.optional("split", (str, int), "a string")
    return collector.add(
        record.where,
        str(record.get("id", (str, int), "a string or a whole number")),
        record.get(kind, str, "a path"),
        caption_texts(record, "captions"),
        kind=kind,
        labels=_labels(record),
        split=None if split is None else str(split),
        start=_seconds(record, "start"),
        end=_seconds(record, "end"),
        frames=_pair(record, "frames", "the first and the last frame"),
        member=_pair(record, "member", _MEMBER),
    )


def _labels(record: Record) -> dict[str, Label]:
    labels = {}
    for name, label in (record.optional("labels", dict, 'an object like {"colour": "blue"}') or {}).items():
        value = label_value(label)
        if value is not None:
            labels[name] = value
        elif label is not None and label == label:  # NaN is a missing label
            wrong = [item for item in label if scalar_text(item) is None] if isinstance(label, list) else [label]
            expected = "a string, a number or a list of strings and numbers"
            raise DataError(f"{record.where}: label {quoted(name)} should be {expected}, not {kind_in_words(wrong[0])}")
    return labels


def _seconds(record: Record, name: str) -> float | None:
    value = record.optional(name, (int, float), "a number of seconds from 0")
    if value is not None and not 0 <= value <= sys.float_info.max:
        raise record.wrong(name, "a number of seconds from 0")
    return None if value is None else float(value)


def _pair(record: Record, name: str, expected: str) -> tuple[int, int] | None:
    value = record.fields.get(name)
    if value is None:
        return None
    is_pair = isinstance(value, list) and list(map(type, value)) == [int, int]
    if not is_pair or min(value) < 0 or max(value) >= 2**63:
        wanted = f"a list of two whole numbers from 0 to 2^63 - 1: {expected}"
        raise DataError(f"{record.where}: {name!r} should be {wanted}, not {quoted(value)}")
    return value[0], value[1]
