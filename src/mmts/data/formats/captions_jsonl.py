"""Our own format: a folder with captions.jsonl, one JSON object per line for every image or video."""

import os
import sys
from functools import lru_cache
from pathlib import Path

from mmts.data.formats.collect import Collector
from mmts.data.formats.json_file import Record, json_lines, kind_in_words
from mmts.data.records import Dataset
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
    size = lru_cache(maxsize=1024)(_size)  # one tar holds many images
    for record in json_lines(file):
        ignored |= dict.fromkeys(key for key in record.fields if key not in _FIELDS)
        member = _add(collector, record)
        if member is not None:
            path = record.fields["image" if record.fields.get("image") else "video"]
            there = size(collector.root / path)
            if there is not None and sum(member) > there:
                raise DataError(
                    f"{record.where}: 'member' ends at byte {sum(member):,}, and {shortened(path)} has {there:,} "
                    f"bytes; it should be {_MEMBER}"
                )
    if ignored:
        collector.notes.append(f"unknown fields were ignored: {listed(ignored)}")
    return collector.finish()


def caption_texts(record: Record, name: str) -> list[str]:
    """Return captions given as a string or a list; null and NaN are empty. Raises DataError for anything but text."""
    value = record.get(name, object, "")
    texts = []
    for at, text in enumerate(value if isinstance(value, list) else [value], 1):
        if text is None or text != text:
            texts.append("")
        elif isinstance(text, str):
            texts.append(text)
        elif isinstance(value, list):
            raise DataError(f"{record.where}: caption {at} should be a string, not {kind_in_words(text)}")
        else:
            raise record.wrong(name, "a string or a list of strings")
    return texts


def scalar_text(value: object) -> str | None:
    """Return a string, number or boolean as a label's text; None for anything else, and NaN."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) and value == value else None


def _add(collector: Collector, record: Record) -> tuple[int, int] | None:
    """Hand a line to `collector`, and return its member."""
    kind = _kind(record)
    start, end = _seconds(record, "start"), _seconds(record, "end")
    if end is not None and end <= (start or 0):
        raise DataError(f"{record.where}: 'end' ({plain(end)}) must be greater than 'start' ({plain(start or 0)})")
    split = record.optional("split", (str, int), "a string")
    member = _pair(record, "member", _MEMBER)
    collector.add(
        record.where,
        str(record.get("id", (str, int), "a string or a whole number")),
        record.get(kind, str, "a path"),
        caption_texts(record, "captions"),
        kind=kind,
        labels=_labels(record),
        split=None if split is None else str(split),
        start=start,
        end=end,
        frames=_frames(record),
        member=member,
    )
    return member


def _kind(record: Record) -> str:
    kinds = [kind for kind in ("image", "video") if kind in record.fields]
    if not kinds:
        raise DataError(f"{record.where}: 'image' (or 'video') is missing; found {listed(record.fields)}")
    given = [kind for kind in kinds if record.fields[kind] is not None]
    if len(given) == 2:
        raise DataError(f"{record.where}: both 'image' and 'video'; one line is one of them")
    return (given or kinds)[0]


def _labels(record: Record) -> dict[str, str]:
    labels = {}
    for name, label in (record.optional("labels", dict, 'an object like {"colour": "blue"}') or {}).items():
        text = scalar_text(label)
        if text is not None:
            labels[name] = text
        elif label is not None and label == label:  # NaN is a missing label
            kind = kind_in_words(label)
            raise DataError(f"{record.where}: label {quoted(name)} should be a string or a number, not {kind}")
    return labels


def _seconds(record: Record, name: str) -> float | None:
    expected = "a number of seconds from 0"
    value = record.optional(name, (int, float), expected)
    if value is not None and not 0 <= value <= sys.float_info.max:
        raise record.wrong(name, expected)
    return None if value is None else float(value)


def _frames(record: Record) -> tuple[int, int] | None:
    frames = _pair(record, "frames", "the first and the last frame, whole numbers from 0")
    if frames is None:
        return None
    first, last = frames
    if last < first:
        raise DataError(f"{record.where}: the last frame ({last}) must not be smaller than the first ({first})")
    if last - first >= _MAX_FRAMES:
        raise DataError(f"{record.where}: {last - first + 1:,} frames are more than a clip may have, {_MAX_FRAMES:,}")
    return frames


def _pair(record: Record, name: str, expected: str) -> tuple[int, int] | None:
    value = record.fields.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or list(map(type, value)) != [int, int]:
        raise DataError(f"{record.where}: {name!r} should be a list of two: {expected}, not {quoted(value)}")
    if min(value) < 0 or max(value) > _MAX_NUMBER:
        wrong = "a number below 0" if min(value) < 0 else "a number of 2^63 or more"
        raise DataError(f"{record.where}: {name!r} is {quoted(value)}, with {wrong}; it should be {expected}")
    return value[0], value[1]


def _size(path: Path) -> int | None:
    """Return the bytes of a file, None if there are none to count."""
    try:
        return os.path.getsize(path)
    except OSError:
        return None
