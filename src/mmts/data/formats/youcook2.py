"""YouCook2: the official annotations beside the videos that still exist, or features of their segments."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmts.data.formats.collect import PLAIN_NAME, Collector, clean_text, find_file
from mmts.data.formats.json_file import a_record, read_json_object
from mmts.data.formats.table import Row, csv_records
from mmts.data.media.suffixes import is_medium
from mmts.data.records import Coverage, Dataset, split_name
from mmts.errors import DataError, nearest, quoted

PUBLISHED_VAL = 3350  # clips of val in the published tables; more are annotated
_ANNOTATIONS = "youcookii_annotations_trainval.json"
_INNER = ("", "annotations")
_SPLITS = ("train", "val")
# Folders of videos, also in folders below them as the official script sorts them: training/<recipe>/<id>.mp4.
_VIDEO_FOLDERS = ("videos", "raw_videos", "training", "validation")
_Segment = tuple[str, Row]


def read_youcook2(path: str | Path) -> Dataset:
    """Read the splits train and val, one medium per segment; papers evaluate on val (docs/datasets.md).

    Segments without a video or features are left out; the notes and `coverage` of val count them. Without any, all
    segments are read, and only the annotations can be used.

    Raises DataError: a missing or wrong file, or an invalid segment, naming it.
    """
    folder = Path(path)
    file = find_file(folder, _INNER, _ANNOTATIONS)
    if file is None:
        raise DataError(f"{folder}: no {_ANNOTATIONS} there or in annotations/")
    if not (segments := list(_segments(file, _recipe_names(folder)))):
        raise DataError(f"{file}: no video has a segment")
    media = _media(folder, segments)
    collector = Collector(file, folder)
    for video, row in segments:
        if place := media.get(row["identity"]) if media else f"{_VIDEO_FOLDERS[0]}/{video}.mp4":
            collector.add(**row, path=place, kind="video")
    if not media:
        folders = ", ".join(f"{inner}/" for inner in _VIDEO_FOLDERS)
        video, row = segments[0]
        collector.notes.append(
            "no media found, so only the annotations can be used: looked for files named by id, like "
            f"{video}.mp4, in the folder itself and below {folders}, and for features/{row['identity']}.npy"
        )
    missing: dict[str, list[str]] = {}
    coverage = {}
    for split in _SPLITS:
        part = [(video, row["identity"]) for video, row in segments if row["split"] == split]
        gone = [(video, identity) for video, identity in part if identity not in media]
        if split == "val":
            coverage[split] = Coverage(len(part) - len(gone), len(part), PUBLISHED_VAL)
        if media:
            missing[split] = [identity for _, identity in gone]
        if gone and media:
            lost, videos = ({video for video, _ in some} for some in (gone, part))
            collector.notes.append(
                f"{split}: left out {len(gone):,} of {len(part):,} segments, of {len(lost):,} of "
                f"{len(videos):,} videos, because their file is missing (first {gone[0][0]})"
            )
    return replace(collector.finish(), name="youcook2", coverage=coverage, missing=missing)


def looks_like_youcook2(path: str | Path) -> bool:
    """Return whether a folder holds the annotations of this data set."""
    return find_file(Path(path), _INNER, _ANNOTATIONS) is not None


def _recipe_names(folder: Path) -> dict[str, str]:
    """Return the names of recipe types by number, from lines like 101,bbq; none without that file."""
    file = find_file(folder, _INNER, "label_foodtype.csv")
    names = {}
    for where, cells in csv_records(file) if file is not None else ():
        if len(cells) < 2:
            raise DataError(f"{where}: expected a recipe type's number and its name, like 101,burger")
        names[cells[0].strip()] = cells[1].strip()
    return names


def _segments(file: Path, recipes: Mapping[str, str]) -> Iterator[_Segment]:
    """Yield the video of each segment, and its row without a path."""
    for video, row in read_json_object(file).get("database", dict, "an object of videos by id").items():
        where = f"{file}, video {quoted(video)}"
        if not PLAIN_NAME.fullmatch(video):
            raise DataError(f"{where}: a video's id is made of letters, digits, - and _")
        record = a_record(where, row)
        subset = record.get("subset", str, "training or validation")
        split = split_name(subset)
        if split not in _SPLITS:
            raise DataError(f"{where}: the subset is {quoted(subset)}; {nearest(subset, ('training', 'validation'))}")
        recipe = str(record.get("recipe_type", (str, int), "a recipe type's number"))
        labels = {"recipe": recipes.get(recipe, recipe)}
        for segment in record.records("annotations"):
            number = segment.get("id", int, "the segment's number")
            where = f"{segment.where} (segment {quoted(number)})"
            segment = replace(segment, where=where)
            wanted = "two numbers of seconds like [12, 20]"
            times = segment.get("segment", list, wanted)
            if len(times) != 2 or not all(type(at) in (int, float) and 0 <= at <= sys.float_info.max for at in times):
                raise DataError(f"{where}: 'segment' should be {wanted}, not {quoted(times)}")
            sentence = segment.get("sentence", str, "a string")
            if not clean_text(sentence):
                raise DataError(f"{where}: the sentence is empty")
            row = {"where": where, "identity": f"{video}_{number}", "captions": [sentence], "labels": labels}
            yield video, {**row, "split": split, "start": float(times[0]), "end": float(times[1])}


def _media(folder: Path, segments: Sequence[_Segment]) -> dict[str, str]:
    """Return the path in the folder of each segment's medium: of its video, or of its features if they are more."""
    files = [*folder.iterdir(), *(file for inner in _VIDEO_FOLDERS for file in (folder / inner).rglob("*"))]
    videos = sorted((file for file in files if is_medium(file, "video") and file.is_file()), reverse=True)
    by_name = {file.stem: str(file.relative_to(folder)) for file in videos}  # of several the first
    media = {row["identity"]: by_name[video] for video, row in segments if video in by_name}
    stems = {file.stem for file in (folder / "features").glob("*.npy")}
    features = {row["identity"]: f"features/{row['identity']}.npy" for _, row in segments if row["identity"] in stems}
    return features if len(features) > len(media) else media
