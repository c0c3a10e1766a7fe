"""The official CSV files of EPIC-KITCHENS-100's multi-instance retrieval: clips, sentences, names of classes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix

from mmts.data.formats.collect import PLAIN_NAME, clean_text
from mmts.data.formats.table import csv_records
from mmts.data.graded import Graded
from mmts.errors import DataError, listed, quoted, shortened

VERB_CLASSES, NOUN_CLASSES = 97, 300
_CLIP_COLUMNS = (
    *("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "start_frame", "stop_frame"),
    *("narration", "verb_class", "noun_class", "all_noun_classes"),
)
_SENTENCE_COLUMNS = ("narration_id", "narration")
_PICKLES = (".pkl", ".pickle")
_TIMESTAMP = re.compile(r"(\d{1,4}):([0-5]\d):([0-5]\d(?:\.\d+)?)")
_WHOLE = re.compile(r"\d{1,9}")
_LIST = re.compile(r"\[\s*(?:\d{1,9}\s*(?:,\s*\d{1,9}\s*)*)?\]")


@dataclass(frozen=True)
class Clip:
    """One row of a clips file; start and end in seconds, frames in the numbering of the official frame folders."""

    where: str
    id: str
    participant: str
    video: str
    start: float
    end: float
    frames: tuple[int, int]
    narration: str
    verb: int
    noun: int
    nouns: tuple[int, ...]


@dataclass(frozen=True)
class Sentence:
    """One row of a sentence file: a text, and the clip whose classes it stands for."""

    where: str
    clip: str
    text: str


def read_clips(file: Path) -> list[Clip]:
    """Read EPIC_100_retrieval_train.csv, EPIC_100_retrieval_test.csv or a file of the same columns.

    Raises DataError naming file and row.
    """
    clips = [_clip(where, row) for where, row in _rows(file, _CLIP_COLUMNS, "a file of clips")]
    _check_once([(clip.where, clip.id) for clip in clips])
    return clips


def read_sentences(file: Path) -> list[Sentence]:
    """Read EPIC_100_retrieval_train_sentence.csv or EPIC_100_retrieval_test_sentence.csv.

    Raises DataError naming file and row.
    """
    sentences = []
    for where, row in _rows(file, _SENTENCE_COLUMNS, "a file of sentences"):
        if "start_timestamp" in row:
            raise DataError(
                f"{file}: these are clips, with times; the sentences are in the file named ..._sentence.csv"
            )
        sentences.append(Sentence(where, _name(where, row, "narration_id"), _text(where, row)))
    _check_once([(sentence.where, sentence.clip) for sentence in sentences])
    return sentences


def read_class_names(file: Path, count: int) -> dict[int, str]:
    """Read the names of classes 0 to `count` - 1 from the columns id and key. Raises DataError naming file and row."""
    names = {}
    for where, row in _rows(file, ("id", "key"), "a file of classes"):
        names[_class(where, "id", row["id"], count)] = row["key"]
    return names


def graded_relevance(clips: Sequence[Clip], sentences: Sequence[Sentence]) -> Graded:
    """Return what to judge clips and sentences with. Raises DataError for a sentence whose clip is not in `clips`."""
    place = {clip.id: at for at, clip in enumerate(clips)}
    lost = next((each for each in sentences if each.clip not in place), None)
    if lost is not None:
        raise DataError(
            f"{lost.where}: the clip {quoted(lost.clip)} is not among the {len(clips):,} clips it is judged with"
        )
    verbs = _indicators([(clip.verb,) for clip in clips], VERB_CLASSES)
    nouns = _indicators([clip.nouns for clip in clips], NOUN_CLASSES)
    owner = torch.tensor([place[each.clip] for each in sentences], dtype=torch.int64)
    return Graded(tuple(clean_text(each.text) for each in sentences), owner, (verbs, nouns))


def _indicators(classes: Sequence[Sequence[int]], count: int) -> csr_matrix:
    """Return a (rows, count) matrix with 1 at each class of a row, however often it is named; columns in order."""
    distinct = [sorted(set(row)) for row in classes]
    starts = np.cumsum([0, *map(len, distinct)])
    columns = np.array([column for row in distinct for column in row])
    return csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(classes), count))


def _rows(file: Path, columns: Sequence[str], what: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield ("FILE, line N", cell by column) for each row of a CSV file that has these columns and perhaps others."""
    if file.suffix.lower() in _PICKLES or _begins_like_a_pickle(file):
        raise DataError(
            f"{file} is a pickle, and opening one runs whatever is in it: give the CSV file published beside it"
        )
    records = csv_records(file)
    _, header = next(records, ("", []))
    missing = [column for column in columns if column not in header]
    if missing:
        lacking = ", ".join(map(repr, missing))
        raise DataError(f"{file}: not {what}: {lacking} is missing; found the columns {listed(header)}")
    some = False
    for where, cells in records:
        some = True
        if len(cells) != len(header):
            raise DataError(f"{where}: {len(cells)} fields, while the header names {len(header)} columns")
        yield where, dict(zip(header, cells, strict=True))
    if not some:
        raise DataError(f"{file}: no row below the header")


def _begins_like_a_pickle(file: Path) -> bool:
    try:
        with open(file, "rb") as opened:
            return opened.read(1) == b"\x80"
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from None


def _clip(where: str, row: dict[str, str]) -> Clip:
    start, end = _seconds(where, row, "start_timestamp"), _seconds(where, row, "stop_timestamp")
    if end <= start:
        raise DataError(
            f"{where}: the clip ends ({shortened(row['stop_timestamp'])}) before it has begun "
            f"({shortened(row['start_timestamp'])})"
        )
    first, last = _number(where, row, "start_frame"), _number(where, row, "stop_frame")
    if last < first:
        raise DataError(f"{where}: the last frame ({last}) comes before the first ({first})")
    nouns = row["all_noun_classes"]
    if not _LIST.fullmatch(nouns.strip()):
        raise DataError(
            f"{where}: all_noun_classes should be a list of class numbers like [2, 17], not {quoted(nouns)}"
        )
    numbers = tuple(_class(where, "all_noun_classes", each, NOUN_CLASSES) for each in _WHOLE.findall(nouns))
    if not numbers:
        raise DataError(f"{where}: all_noun_classes is empty; a clip has at least one noun class")
    return Clip(
        where=where,
        id=_name(where, row, "narration_id"),
        participant=_name(where, row, "participant_id"),
        video=_name(where, row, "video_id"),
        start=start,
        end=end,
        frames=(first, last),
        narration=_text(where, row),
        verb=_class(where, "verb_class", row["verb_class"], VERB_CLASSES),
        noun=_class(where, "noun_class", row["noun_class"], NOUN_CLASSES),
        nouns=numbers,
    )


def _name(where: str, row: dict[str, str], column: str) -> str:
    value = row[column].strip()
    if not PLAIN_NAME.fullmatch(value):
        raise DataError(f"{where}: {column} should be a name like P01_11, not {quoted(value)}")
    return value


def _text(where: str, row: dict[str, str]) -> str:
    if not clean_text(row["narration"]):
        raise DataError(f"{where}: the narration is empty")
    return row["narration"]


def _seconds(where: str, row: dict[str, str], column: str) -> float:
    match = _TIMESTAMP.fullmatch(row[column].strip())
    if match is None:
        raise DataError(f"{where}: {column} should be a time like 00:01:23.45, not {quoted(row[column])}")
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _number(where: str, row: dict[str, str], column: str) -> int:
    if not _WHOLE.fullmatch(row[column].strip()):
        raise DataError(f"{where}: {column} should be a whole number, not {quoted(row[column])}")
    return int(row[column])


def _class(where: str, column: str, text: str, count: int) -> int:
    if not _WHOLE.fullmatch(text.strip()) or int(text) >= count:
        raise DataError(f"{where}: {column} holds {quoted(text)}; its classes are numbered 0 to {count - 1}")
    return int(text)


def _check_once(named: Sequence[tuple[str, str]]) -> None:
    seen: dict[str, str] = {}
    for where, identity in named:
        if seen.setdefault(identity, where) != where:
            raise DataError(f"{where}: the narration_id {quoted(identity)} is there already, in {seen[identity]}")
