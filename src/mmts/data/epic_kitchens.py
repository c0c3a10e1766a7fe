"""EPIC-KITCHENS-100 multi-instance retrieval: the official CSV files beside videos, chunks, frames or features."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from mmts.data.formats.collect import PLAIN_NAME, Collector, clean_text, find_file
from mmts.data.formats.table import csv_records
from mmts.data.graded import Graded
from mmts.data.records import Dataset
from mmts.errors import DataError, listed, quoted

_SPLITS = ("train", "test")
_VERBS, _NOUNS = 97, 300
_ANNOTATIONS = tuple(
    f"{outer}{inner}"
    for outer in ("", "annotations/", "epic-kitchens-100-annotations/")
    for inner in ("", "retrieval_annotations/")
)
# Where videos may be: our own name, the two of AVION's preparation, the official downloader's, the folder itself.
_BASES = ("videos/", "video_320p_15sec/", "EK100_320p_15sec_30fps_libx264/", "EPIC-KITCHENS/", "")
_INNER_NAMES = ("{video}.MP4", "{video}.mp4", "videos/{video}.MP4", "videos/{video}.mp4")
_FRAMES = "frame folders"
# By layout: how to look for a medium, and where it may be.
_LAYOUTS: dict[str, tuple[Callable[[Path], bool], Sequence[str]]] = {
    "videos in chunks": (Path.is_dir, [f"{base}{{participant}}/{{video}}.MP4" for base in _BASES]),
    "whole videos": (Path.is_file, [f"{base}{{participant}}/{name}" for base in _BASES for name in _INNER_NAMES]),
    _FRAMES: (Path.is_dir, [f"{base}{{participant}}/rgb_frames/{{video}}" for base in ("", "EPIC-KITCHENS/")]),
    "features": (Path.is_file, ["features/{clip}.npy"]),
}
_TIMESTAMP = re.compile(r"(\d{1,4}):([0-5]\d):([0-5]\d(?:\.\d+)?)")
_NUMBER = re.compile(r"\d{1,9}")
_LIST = re.compile(r"\[\s*\d{1,9}\s*(?:,\s*\d{1,9}\s*)*\]")
_Row = dict[str, str]
_Check = tuple[Callable[[str], object], str]  # a check of the cells of a column, and the words for what they should be


def _class_below(count: int) -> _Check:
    return lambda text: _NUMBER.fullmatch(text) and int(text) < count, f"a class number from 0 to {count - 1}"


_NAME: _Check = (PLAIN_NAME.fullmatch, "a name like P01_11")
_SENTENCE_COLUMNS: Mapping[str, _Check] = {"narration_id": _NAME, "narration": (clean_text, "text")}
_CLIP_COLUMNS: Mapping[str, _Check] = {
    **_SENTENCE_COLUMNS,
    **dict.fromkeys(("participant_id", "video_id"), _NAME),
    **dict.fromkeys(("start_timestamp", "stop_timestamp"), (_TIMESTAMP.fullmatch, "a time like 00:01:23.45")),
    **dict.fromkeys(("start_frame", "stop_frame"), (_NUMBER.fullmatch, "a whole number")),
    "verb_class": _class_below(_VERBS),
    "noun_class": _class_below(_NOUNS),
    "all_noun_classes": (
        lambda text: _LIST.fullmatch(text) and max(map(int, _NUMBER.findall(text))) < _NOUNS,
        f"a list of class numbers from 0 to {_NOUNS - 1} like [2, 17]",
    ),
}


def read_epic_kitchens(path: str | Path) -> Dataset:
    """Read the splits that are there, train and test, one medium per clip, with graded relevance (docs/datasets.md).

    The clips of train may be a part of the official ones. A clip's labels are noun, verb, verb_noun (names if the class
    files are there, else numbers) and participant. All clips use one layout of media, the one with the most media.
    Without media the annotations can still be read.

    Raises DataError: missing files, a split without its sentences, or an invalid row, naming file and row.
    """
    folder = Path(path)
    clips: dict[str, dict[str, _Row]] = {}
    graded, notes = {}, []
    for split, file in _files(folder).items():
        clips[split] = _rows(file, _CLIP_COLUMNS, "a file of clips")
        sentences = find_file(folder, _ANNOTATIONS, f"{file.stem}_sentence.csv")
        if sentences is None:
            raise DataError(f"{file.with_name(f'{file.stem}_sentence.csv')} is missing: {split} is evaluated with it")
        graded[split], note = _graded(clips[split], sentences, is_whole=split == "test")
        notes += [f"{split}: {note}"] if note else []
    if not clips:
        wanted = " or ".join(f"EPIC_100_retrieval_{split}.csv" for split in _SPLITS)
        raise DataError(f"{folder}: no {wanted} there, in annotations/ or in retrieval_annotations/")
    verbs, nouns = _class_names(folder, "verb", _VERBS), _class_names(folder, "noun", _NOUNS)
    layout, pattern, note = _media(folder, [row for rows in clips.values() for row in rows.values()])
    collector = Collector(folder, folder)
    collector.notes += [note, *notes]
    for split, rows in clips.items():
        for where, row in rows.items():
            verb, noun = str(int(row["verb_class"])), str(int(row["noun_class"]))
            verb, noun = verbs.get(verb, verb), nouns.get(noun, noun)
            names = {"noun": noun, "verb": verb, "verb_noun": f"{verb} {noun}", "participant": row["participant_id"]}
            part: dict[str, Any] = {"start": _seconds(row["start_timestamp"]), "end": _seconds(row["stop_timestamp"])}
            if layout == _FRAMES:
                part["frames"] = int(row["start_frame"]), int(row["stop_frame"])
            identity, path, texts = row["narration_id"], _fill(pattern, row), [row["narration"]]
            collector.add(where, identity, path, texts, kind="video", labels=names, split=split, **part)
    return replace(collector.finish(), name="ek100", graded=graded)


def looks_like_epic_kitchens(path: str | Path) -> bool:
    """Return whether a folder holds clips of this data set, even if only as pickles."""
    return bool(_files(Path(path)))


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of clips by split: the CSV file, or the pickle if only that is there."""
    names = {split: f"EPIC_100_retrieval_{split}" for split in _SPLITS}
    found = {
        split: find_file(folder, _ANNOTATIONS, f"{name}.csv") or find_file(folder, _ANNOTATIONS, f"{name}.pkl")
        for split, name in names.items()
    }
    return {split: file for split, file in found.items() if file is not None}


def relevancy_matrix(clips_csv: str | Path, sentences_csv: str | Path) -> Tensor:
    """Return how relevant each sentence is to each clip, (clips, sentences) float64 in [0, 1] (docs/method.md, 6.9).

    (IoU of the verb classes + IoU of the noun classes) / 2, where a sentence has the classes of the clip that its row
    names. A clip has one verb class and one or more noun classes (all_noun_classes). Rows and columns in file order.

    Raises DataError naming file and row; a pickle is refused unopened.
    Source: Damen et al., arXiv 2006.13256; Wray et al., CVPR 2021 (arXiv 2103.10095).

    >>> import tempfile
    >>> from mmts.examples.sets import draw_ek100
    >>> folder = draw_ek100(Path(tempfile.mkdtemp()), features=True) / "retrieval_annotations"
    >>> files = [folder / f"EPIC_100_retrieval_test{end}.csv" for end in ("", "_sentence")]
    >>> relevancy_matrix(*files).shape
    torch.Size([8, 7])
    """
    clips = _rows(Path(clips_csv), _CLIP_COLUMNS, "a file of clips")
    return _graded(clips, Path(sentences_csv))[0].relevance()


def _graded(clips: Mapping[str, _Row], file: Path, is_whole: bool = True) -> tuple[Graded, str]:
    """Return the graded relevance of clips and the sentences in a file, and a note about sentences without their clip.

    If the clips are not `is_whole`, a sentence whose clip is missing stands for the first one with the same classes.
    """
    rows = _rows(file, _SENTENCE_COLUMNS, "a file of sentences")
    place = {row["narration_id"]: at for at, row in enumerate(clips.values())}
    first: dict[tuple[str, frozenset[str]], int] = {}  # by classes: the first clip
    for at, row in enumerate(clips.values()):
        first.setdefault(_classes(row, "all_noun_classes"), at)
    owner: list[int] = []
    texts: list[str] = []
    gone: dict[str, str] = {}  # by place: the missing clip
    for where, row in rows.items():
        if "start_timestamp" in row:
            raise DataError(f"{file}: these are clips, with times; the sentences are in the file ..._sentence.csv")
        owned_by = place.get(row["narration_id"])
        if owned_by is None:
            gone[where] = row["narration_id"]
            if {"verb_class", "noun_classes"} <= row.keys():
                owned_by = first.get(_classes(row, "noun_classes"))
        if owned_by is not None:
            owner.append(owned_by)
            texts.append(clean_text(row["narration"]))
    if gone and (is_whole or len(gone) == len(rows)):
        where, clip = next(iter(gone.items()))
        raise DataError(f"{where}: the clip {quoted(clip)} is not among the {len(clips):,} clips")
    verbs = _indicators((row["verb_class"] for row in clips.values()), _VERBS)
    nouns = _indicators((row["all_noun_classes"] for row in clips.values()), _NOUNS)
    note = ""
    if gone:
        note = (
            f"the clips are a part: those of {len(gone):,} of {len(rows):,} sentences are missing; "
            f"{len(rows) - len(owner):,} sentences are left out, and the others stand for clips with the same classes"
        )
    return Graded(tuple(texts), torch.tensor(owner, dtype=torch.int64), (verbs, nouns)), note


def _classes(row: _Row, nouns: str) -> tuple[str, frozenset[str]]:
    """Return the classes of a row: its verb, and its nouns from that column."""
    return row["verb_class"], frozenset(_NUMBER.findall(row[nouns]))


def _indicators(cells: Iterable[str], count: int) -> csr_matrix:
    """Return a sparse (rows, count) matrix with 1 at every class that the row's cell names."""
    classes = [sorted({*map(int, _NUMBER.findall(cell))}) for cell in cells]
    starts = np.cumsum([0, *map(len, classes)])
    return csr_matrix((np.ones(starts[-1]), np.concatenate(classes), starts), shape=(len(classes), count))


def _class_names(folder: Path, what: str, count: int) -> dict[str, str]:
    """Return the names of classes by number; none without a file of them."""
    # EPIC_100_noun_classes_v2.csv has the same numbers and later names than EPIC_100_noun_classes.csv.
    files = (find_file(folder, _ANNOTATIONS, f"EPIC_100_{what}_classes{end}.csv") for end in ("_v2", ""))
    columns: Mapping[str, _Check] = {"id": _class_below(count), "key": (str, "a name")}
    rows = _rows(file, columns, "a file of classes") if (file := next(filter(None, files), None)) else {}
    return {str(int(row["id"])): row["key"] for row in rows.values()}


def _rows(file: Path, columns: Mapping[str, _Check], what: str) -> dict[str, _Row]:
    """Return the rows of a CSV file by their place ("FILE, line N"); no value of the first column may repeat."""
    if file.suffix.lower() in (".pkl", ".pickle"):
        raise DataError(f"{file} is a pickle, and opening it could run code: give the CSV file published beside it")
    records = csv_records(file)
    _, header = next(records, ("", []))
    if missing := [column for column in columns if column not in header]:
        raise DataError(f"{file}: not {what}: {listed(missing)} is missing; found the columns {listed(header)}")
    key = next(iter(columns))
    places: dict[str, str] = {}
    rows: dict[str, _Row] = {}
    for where, cells in records:
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} fields, while the header names {len(header)} columns")
        row = dict(zip(header, map(str.strip, cells), strict=True))
        for column, (check, expected) in columns.items():
            if not check(row[column]):
                raise DataError(f"{where}: {column} should be {expected}, not {quoted(row[column])}")
        if row[key] in places:
            raise DataError(f"{where}: the {key} {quoted(row[key])} is there already, in {places[row[key]]}")
        places[row[key]], rows[where] = where, row
    if not rows:
        raise DataError(f"{file}: no row below the header")
    return rows


def _seconds(timestamp: str) -> float:
    hours, minutes, seconds = timestamp.split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _fill(pattern: str, clip: _Row) -> str:
    return pattern.format(participant=clip["participant_id"], video=clip["video_id"], clip=clip["narration_id"])


def _media(folder: Path, clips: Sequence[_Row]) -> tuple[str, str, str]:
    """Return the layout that is there, its pattern of paths, and a note about it."""
    names = ", ".join(f"{layout} ({_fill(patterns[0], clips[0])})" for layout, (_, patterns) in _LAYOUTS.items())
    note = f"no media found, so only the annotations can be used; looked for {names}"
    best, result = 0.0, ("", _LAYOUTS["videos in chunks"][1][0], note)
    for layout, (is_there, patterns) in _LAYOUTS.items():
        for pattern in patterns:
            first = pattern.split("/", 1)[0]
            if "{" not in first and not (folder / first).is_dir():
                continue  # spares looking for thousands of files on slow disks
            paths = dict.fromkeys(_fill(pattern, clip) for clip in clips)
            present = sum(is_there(folder / path) for path in paths)
            if present / len(paths) > best:
                best = present / len(paths)
                counts = f"{present:,} of {len(paths):,} there"
                result = layout, pattern, f"media: {layout} ({next(iter(paths))} and so on), {counts}"
    return result
