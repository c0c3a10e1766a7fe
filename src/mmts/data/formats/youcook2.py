"""YouCook2: the official annotations beside the videos that can still be had, or features of their segments."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmts.data.formats.collect import PLAIN_NAME, Collector, clean_text, find_file
from mmts.data.formats.json_file import a_row, field, read_json_object
from mmts.data.formats.table import csv_records
from mmts.data.media.suffixes import is_medium
from mmts.data.records import Coverage, Dataset, split_name
from mmts.errors import DataError, nearest, plain, quoted

PUBLISHED_VAL = 3350  # clips of val behind the published tables, fewer than are annotated
_ANNOTATIONS = "youcookii_annotations_trainval.json"
_NAMES = "label_foodtype.csv"
_INNER = ("", "annotations")
_SPLITS = ("train", "val")
# Folders with videos in them, or in folders below as the official script sorts them: training/<recipe>/<id>.mp4.
_VIDEO_FOLDERS = ("videos", "raw_videos", "training", "validation")


@dataclass(frozen=True)
class _Segment:
    where: str
    video: str
    number: int
    split: str
    recipe: str
    start: float
    end: float
    sentence: str

    @property
    def id(self) -> str:
        return f"{self.video}_{self.number}"


def read_youcook2(path: str | Path) -> Dataset:
    """Read the splits train and val, one medium a segment; papers judge on val (docs/datasets.md).

    Segments whose video is not there are left out; the notes and `coverage` of val count them.

    Args:
        path: the folder with youcookii_annotations_trainval.json in it or in annotations/, and with videos named by
            id, below videos/, raw_videos/, training/, validation/ or in the folder itself; or with
            features/<id>_<segment>.npy.

    Raises:
        DataError: no such file, or one of another kind; no video; a segment that cannot be, naming it.
    """
    folder = Path(path)
    file = find_file(folder, _INNER, _ANNOTATIONS)
    if file is None:
        raise DataError(f"{folder}: no {_ANNOTATIONS} there or in annotations/")
    segments = list(_segments(file, _recipe_names(folder)))
    if not segments:
        raise DataError(f"{file}: no video has a segment")
    media = _media(folder, segments)
    collector = Collector(file, folder)
    for segment in segments:
        if segment.id in media:
            collector.add(
                segment.where,
                segment.id,
                media[segment.id],
                [segment.sentence],
                kind="video",
                labels={"recipe": segment.recipe},
                split=segment.split,
                start=segment.start,
                end=segment.end,
            )
    collector.notes += _missing(segments, media)
    dataset = collector.finish()
    annotated = sum(segment.split == "val" for segment in segments)
    coverage = Coverage(dataset.split_sizes.get("val", 0), annotated, PUBLISHED_VAL)
    gone = {
        split: [segment.id for segment in segments if segment.split == split and segment.id not in media]
        for split in _SPLITS
    }
    return replace(dataset, name="youcook2", coverage={"val": coverage}, missing=gone)


def looks_like_youcook2(path: str | Path) -> bool:
    """Say whether a folder holds the annotations of this data set."""
    return find_file(Path(path), _INNER, _ANNOTATIONS) is not None


def _recipe_names(folder: Path) -> dict[str, str]:
    """Read the names of recipe types from lines like 101,bbq; none where the file is not there."""
    file = find_file(folder, _INNER, _NAMES)
    if file is None:
        return {}
    names = {}
    for where, cells in csv_records(file):
        if len(cells) < 2:
            raise DataError(f"{where}: expected a recipe type's number and its name, like 101,burger")
        names[cells[0].strip()] = cells[1].strip()
    return names


def _segments(file: Path, recipes: Mapping[str, str]) -> Iterator[_Segment]:
    database = field(str(file), read_json_object(file), "database", dict, "an object of videos by id")
    for video, row in database.items():
        where = f"{file}, video {quoted(video)}"
        if not PLAIN_NAME.fullmatch(video):
            raise DataError(f"{where}: a video's id is made of letters, digits, - and _")
        row = a_row(where, row)
        subset = field(where, row, "subset", str, "training or validation")
        split = split_name(subset)
        if split not in _SPLITS:
            raise DataError(f"{where}: the subset is {quoted(subset)}; {nearest(subset, ('training', 'validation'))}")
        recipe = str(field(where, row, "recipe_type", (str, int), "a recipe type's number"))
        annotations = field(where, row, "annotations", list, "a list of segments")
        for at, annotation in enumerate(annotations):
            here = f"{where}, annotations[{at}]"
            yield _segment(here, video, a_row(here, annotation), split, recipes.get(recipe, recipe))


def _segment(where: str, video: str, row: dict[str, Any], split: str, recipe: str) -> _Segment:
    number = field(where, row, "id", int, "the segment's number")
    where = f"{where} (segment {quoted(number)})"
    start, end = _times(where, field(where, row, "segment", list, "two numbers of seconds like [12, 20]"))
    sentence = field(where, row, "sentence", str, "a string")
    if not clean_text(sentence):
        raise DataError(f"{where}: the sentence is empty")
    return _Segment(where, video, number, split, recipe, start, end, sentence)


def _times(where: str, segment: Sequence[object]) -> tuple[float, float]:
    seconds = [each for each in segment if isinstance(each, (int, float)) and not isinstance(each, bool)]
    if len(segment) != 2 or len(seconds) != 2 or not all(0 <= each <= sys.float_info.max for each in seconds):
        raise DataError(f"{where}: 'segment' should be two numbers of seconds like [12, 20], not {quoted(segment)}")
    start, end = map(float, seconds)
    if end <= start:
        raise DataError(f"{where}: the segment ends ({plain(end)} s) before it has begun ({plain(start)} s)")
    return start, end


def _media(folder: Path, segments: Sequence[_Segment]) -> dict[str, str]:
    """Return the path in the folder of each segment's medium that is there: videos, or features if they are more."""
    videos = _videos(folder)
    there = {file.name for file in (folder / "features").glob("*.npy")}
    media = {segment.id: videos[segment.video] for segment in segments if segment.video in videos}
    features = {segment.id: f"features/{segment.id}.npy" for segment in segments if f"{segment.id}.npy" in there}
    if len(features) > len(media):
        media = features
    if not media:
        wanted = {segment.video for segment in segments}
        raise DataError(
            f"{folder}: none of the {len(wanted):,} annotated videos is there: looked for files named by id, like "
            f"{segments[0].video}.mp4, in the folder itself and below "
            f"{', '.join(f'{inner}/' for inner in _VIDEO_FOLDERS)}, and for features/{segments[0].id}.npy"
        )
    return media


def _videos(folder: Path) -> dict[str, str]:
    """Return the path inside the folder of each video file by its name without the ending."""
    found = [*folder.iterdir(), *(file for inner in _VIDEO_FOLDERS for file in (folder / inner).rglob("*"))]
    videos = [file for file in found if is_medium(file, "video") and file.is_file()]
    return {file.stem: str(file.relative_to(folder)) for file in sorted(videos, reverse=True)}  # of several the first


def _missing(segments: Sequence[_Segment], media: Mapping[str, str]) -> list[str]:
    """Say for each split how many segments and videos are not there."""
    notes = []
    for split in _SPLITS:
        of_split = [segment for segment in segments if segment.split == split]
        gone = [segment for segment in of_split if segment.id not in media]
        if gone:
            videos, all_videos = Counter(each.video for each in gone), {each.video for each in of_split}
            notes.append(
                f"{split}: left out {len(gone):,} of {len(of_split):,} segments, of {len(videos):,} of "
                f"{len(all_videos):,} videos, for want of a file (first {next(iter(videos))})"
            )
    return notes
