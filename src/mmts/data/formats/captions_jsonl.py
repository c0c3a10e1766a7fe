"""Our own format: a folder with captions.jsonl, one JSON object a line for every image or video."""

import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import Collector
from mmts.data.formats.json_file import field, json_lines, kind_in_words, wrong
from mmts.data.records import Dataset
from mmts.errors import DataError, listed, plain, quoted, shortened

_MOST_FRAMES = 1_000_000  # of one clip: nine hours at 30 a second
_LARGEST = 2**63 - 1
_MEMBER = "the byte in a tar file and the length in bytes"
_FIELDS = ("id", "image", "video", "captions", "labels", "split", "start", "end", "frames", "member")


def read_captions_jsonl(file: str | Path) -> Dataset:
    """Read captions.jsonl; paths in it are relative to its folder. docs/datasets.md lists the fields.

    Raises DataError naming file and line: broken JSON, a field that is missing or of the wrong kind, one id twice.
    """
    file = Path(file)
    collector = Collector(file, file.parent, merge=True)
    ignored: dict[str, None] = {}
    size = lru_cache(maxsize=1024)(_size)  # many images lie in one tar
    for where, record in json_lines(file):
        ignored |= dict.fromkeys(key for key in record if key not in _FIELDS)
        _add(collector, where, record, size)
    if ignored:
        collector.notes.append(f"fields that mean nothing here were ignored: {listed(ignored)}")
    return collector.finish()


def caption_texts(where: str, name: str, value: object) -> list[str]:
    """Return captions given as a string or a list; null and NaN are empty, anything else but text is a DataError."""
    texts = []
    for at, text in enumerate(value if isinstance(value, list) else [value], 1):
        if text is None or text != text:
            texts.append("")
        elif isinstance(text, str):
            texts.append(text)
        elif isinstance(value, list):
            raise DataError(f"{where}: caption {at} should be a string, not {kind_in_words(text)}")
        else:
            raise wrong(where, name, "a string or a list of strings", text)
    return texts


def scalar_text(value: object) -> str | None:
    """Return a string, number or truth value as a label's text; None for anything else, and NaN."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) and value == value else None


def _add(collector: Collector, where: str, record: dict[str, Any], size: Callable[[Path], int | None]) -> None:
    kind = _kind(where, record)
    path = field(where, record, kind, str, "a path")
    start, end = _seconds(where, record, "start"), _seconds(where, record, "end")
    if end is not None and end <= (start or 0):
        raise DataError(f"{where}: 'end' ({plain(end)}) must be greater than 'start' ({plain(start or 0)})")
    split = None if record.get("split") is None else str(field(where, record, "split", (str, int), "a string"))
    member = _pair(where, record, "member", _MEMBER)
    collector.add(
        where,
        str(field(where, record, "id", (str, int), "a string or a whole number")),
        path,
        caption_texts(where, "captions", field(where, record, "captions", object, "a string or a list of strings")),
        kind=kind,
        labels=_labels(where, record),
        split=split,
        start=start,
        end=end,
        frames=_frames(where, record),
        member=member,
    )
    there = None if member is None else size(collector.root / path)
    if member is not None and there is not None and sum(member) > there:
        raise DataError(
            f"{where}: 'member' ends at byte {sum(member):,}, and {shortened(path)} has {there:,} bytes; it should be "
            f"{_MEMBER}"
        )


def _kind(where: str, record: dict[str, Any]) -> str:
    kinds = [kind for kind in ("image", "video") if record.get(kind) is not None]
    if len(kinds) == 2:
        raise DataError(f"{where}: both 'image' and 'video'; one line is one of them")
    if not kinds and record.keys().isdisjoint(("image", "video")):
        raise DataError(f"{where}: 'image' (or 'video') is missing; found {listed(record)}")
    return kinds[0] if kinds else next(kind for kind in ("image", "video") if kind in record)


def _labels(where: str, record: dict[str, Any]) -> dict[str, str]:
    if record.get("labels") is None:
        return {}
    labels = {}
    for name, label in field(where, record, "labels", dict, 'an object like {"colour": "blue"}').items():
        text = scalar_text(label)
        if text is not None:
            labels[name] = text
        elif label is not None and label == label:  # NaN is a missing label
            raise DataError(f"{where}: label {quoted(name)} should be a string or a number, not {kind_in_words(label)}")
    return labels


def _seconds(where: str, record: dict[str, Any], name: str) -> float | None:
    if record.get(name) is None:
        return None
    expected = "a number of seconds from 0"
    value = field(where, record, name, (int, float), expected)
    if not 0 <= value <= sys.float_info.max:
        raise wrong(where, name, expected, value)
    return float(value)


def _frames(where: str, record: dict[str, Any]) -> tuple[int, int] | None:
    frames = _pair(where, record, "frames", "the first and the last frame, whole numbers from 0")
    if frames is None:
        return None
    first, last = frames
    if last < first:
        raise DataError(f"{where}: the last frame ({last}) must not be smaller than the first ({first})")
    if last - first >= _MOST_FRAMES:
        raise DataError(f"{where}: {last - first + 1:,} frames are more than a clip may have, {_MOST_FRAMES:,}")
    return frames


def _pair(where: str, record: dict[str, Any], name: str, expected: str) -> tuple[int, int] | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or [type(each) for each in value] != [int, int]:
        raise DataError(f"{where}: {name!r} should be a list of two: {expected}, not {quoted(value)}")
    if min(value) < 0 or max(value) > _LARGEST:
        wrong = "a number below 0" if min(value) < 0 else "a number of 2^63 or more"
        raise DataError(f"{where}: {name!r} is {quoted(value)}, with {wrong}; it should be {expected}")
    return value[0], value[1]


def _size(path: Path) -> int | None:
    """Return the bytes of a file, None where it cannot be looked at."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
