"""Our own format: a folder with captions.jsonl, one JSON object per line for every image or video."""

import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import Collector
from mmts.data.formats.json_file import Record, json_lines, kind_in_words
from mmts.data.records import Dataset, Label, Medium
from mmts.errors import DataError, listed, plain, quoted, shortened

_MAX_FRAMES = 1_000_000  # of one clip: nine hours at 30 frames per second
_MAX_NUMBER = 2**63 - 1
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
    expected = "a string or a list of strings"
    value = record.get(name, object, expected)
    texts = []
    for at, text in enumerate(value if isinstance(value, list) else [value], 1):
        if text is None or text != text:
            texts.append("")
        elif isinstance(text, str):
            texts.append(text)
        elif isinstance(value, list):
            raise DataError(f"{record.where}: caption {at} should be a string, not {kind_in_words(text)}")
        else:
            raise record.wrong(name, expected)
    return texts


def scalar_text(value: object) -> str | None:
    """Return a string, number or boolean as a label's text; None for anything else, and NaN."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) and value == value else None


def label_value(value: object) -> Label | None:
    """Return a label's text, or of a list the text of each value; None for anything else, and NaN."""
    if not isinstance(value, list):
        return scalar_text(value)
    texts = [scalar_text(item) for item in value]
    return None if None in texts else [text for text in texts if text is not None]


def _add(collector: Collector, record: Record) -> Medium:
    kinds = [kind for kind in ("image", "video") if kind in record.fields]
    if not kinds:
        raise DataError(f"{record.where}: 'image' (or 'video') is missing; found {listed(record.fields)}")
    filled = [kind for kind in kinds if record.fields[kind] is not None]
    if len(filled) == 2:
        raise DataError(f"{record.where}: both 'image' and 'video'; one line is one of them")
    kind = (filled or kinds)[0]
    start, end = _seconds(record, "start"), _seconds(record, "end")
    if end is not None and end <= (start or 0):
        raise DataError(f"{record.where}: 'end' ({plain(end)}) must be greater than 'start' ({plain(start or 0)})")
    frames = _pair(record, "frames", "the first and the last frame")
    first, last = frames or (0, 0)
    if last < first:
        raise DataError(f"{record.where}: the last frame ({last}) must not be smaller than the first ({first})")
    if last - first >= _MAX_FRAMES:
        raise DataError(f"{record.where}: {last - first + 1:,} frames are more than a clip may have, {_MAX_FRAMES:,}")
    split = record.optional("split", (str, int), "a string")
    identity, path = record.get("id", (str, int), "a string or a whole number"), record.get(kind, str, "a path")
    texts, labels = caption_texts(record, "captions"), _labels(record)
    part: dict[str, Any] = {"start": start, "end": end, "frames": frames, "member": _pair(record, "member", _MEMBER)}
    split = None if split is None else str(split)
    return collector.add(record.where, str(identity), path, texts, kind=kind, labels=labels, split=split, **part)


def _labels(record: Record) -> dict[str, Label]:
    labels = {}
    for name, label in (record.optional("labels", dict, 'an object like {"colour": "blue"}') or {}).items():
        value = label_value(label)
        if value is not None:
            labels[name] = value
        elif label is not None and label == label:  # NaN is a missing label
            what, wrong = f"label {quoted(name)} should be a string, a number or a list of them", label
            if isinstance(label, list):
                at = next(at for at, item in enumerate(label) if scalar_text(item) is None)
                what, wrong = f"label {quoted(name)}, value {at + 1}: should be a string or a number", label[at]
            raise DataError(f"{record.where}: {what}, not {kind_in_words(wrong)}")
    return labels


def _seconds(record: Record, name: str) -> float | None:
    expected = "a number of seconds from 0"
    value = record.optional(name, (int, float), expected)
    if value is not None and not 0 <= value <= sys.float_info.max:
        raise record.wrong(name, expected)
    return None if value is None else float(value)


def _pair(record: Record, name: str, expected: str) -> tuple[int, int] | None:
    value = record.fields.get(name)
    if value is None:
        return None
    is_pair = isinstance(value, list) and list(map(type, value)) == [int, int]
    if not is_pair or min(value) < 0 or max(value) > _MAX_NUMBER:
        wanted = f"a list of two whole numbers from 0 to 2^63 - 1: {expected}"
        raise DataError(f"{record.where}: {name!r} should be {wanted}, not {quoted(value)}")
    return value[0], value[1]
