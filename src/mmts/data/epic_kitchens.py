"""EPIC-KITCHENS-100 multi-instance retrieval: the official CSV files beside videos, chunks, frames or features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mmts.data.formats.collect import Collector, find_file
from mmts.data.formats.epic_annotations import (
    NOUN_CLASSES,
    VERB_CLASSES,
    Clip,
    graded_relevance,
    read_class_names,
    read_clips,
    read_sentences,
)
from mmts.data.records import Dataset
from mmts.errors import DataError

_SPLITS = ("train", "test")
_ANNOTATIONS = tuple(
    f"{outer}{inner}"
    for outer in ("", "annotations/", "epic-kitchens-100-annotations/")
    for inner in ("", "retrieval_annotations/")
)
# Where videos may lie: our own name, the two of AVION's preparation, the official downloader's, the folder itself.
_BASES = ("videos/", "video_320p_15sec/", "EK100_320p_15sec_30fps_libx264/", "EPIC-KITCHENS/", "")
_NO_MEDIA = "videos/{participant}/{video}.MP4"


@dataclass(frozen=True)
class _Layout:
    name: str
    patterns: Sequence[str]
    is_there: Callable[[Path], bool]


_FRAMES = _Layout(
    "frame folders", [f"{base}{{participant}}/rgb_frames/{{video}}" for base in ("", "EPIC-KITCHENS/")], Path.is_dir
)
_LAYOUTS = (
    _Layout("videos in chunks", [f"{base}{{participant}}/{{video}}.MP4" for base in _BASES], Path.is_dir),
    _Layout(
        "whole videos",
        [
            f"{base}{{participant}}/{inner}{{video}}{suffix}"
            for base in _BASES
            for inner in ("", "videos/")
            for suffix in (".MP4", ".mp4")
        ],
        Path.is_file,
    ),
    _FRAMES,
    _Layout("features", ["features/{clip}.npy"], Path.is_file),
)


def read_epic_kitchens(path: str | Path) -> Dataset:
    """Read the splits there are, train and test, one medium a clip with graded relevance (docs/datasets.md).

    A clip's labels are noun, verb, verb_noun (names where the class files are there, else numbers) and participant.
    Media are, for all clips alike, whichever is there most: videos in 15-second chunks, whole videos, frame folders or
    features. Without any the annotations can still be read, to judge and to analyse.

    Args:
        path: the folder with EPIC_100_retrieval_train.csv, EPIC_100_retrieval_test.csv and their _sentence.csv files
            in it, in annotations/, in retrieval_annotations/ or in a clone of epic-kitchens-100-annotations.

    Raises:
        DataError: no such files, a split without its sentences, or a row that cannot be, naming file and row.
    """
    folder = Path(path)
    clips, graded = {}, {}
    for split in _SPLITS:
        file = find_file(folder, _ANNOTATIONS, f"EPIC_100_retrieval_{split}.csv")
        if file is None:
            continue
        sentence_file = find_file(folder, _ANNOTATIONS, f"EPIC_100_retrieval_{split}_sentence.csv")
        if sentence_file is None:
            raise DataError(f"{file.with_name(f'{file.stem}_sentence.csv')} is missing: {split} is judged with it")
        clips[split] = read_clips(file)
        graded[split] = graded_relevance(clips[split], read_sentences(sentence_file))
    if not clips:
        raise DataError(_nothing_found(folder))
    verbs, nouns = _names(folder, "verb", VERB_CLASSES), _names(folder, "noun", NOUN_CLASSES)
    layout, pattern, note = _media(folder, [clip for each in clips.values() for clip in each])
    collector = Collector(folder, folder)
    collector.notes.append(note)
    for split, of_split in clips.items():
        for clip in of_split:
            verb, noun = verbs.get(clip.verb, str(clip.verb)), nouns.get(clip.noun, str(clip.noun))
            collector.add(
                clip.where,
                clip.id,
                _fill(pattern, clip),
                [clip.narration],
                kind="video",
                labels={"noun": noun, "verb": verb, "verb_noun": f"{verb} {noun}", "participant": clip.participant},
                split=split,
                start=clip.start,
                end=clip.end,
                frames=clip.frames if layout is _FRAMES else None,
            )
    return replace(collector.finish(), name="ek100", graded=graded)


def looks_like_epic_kitchens(path: str | Path) -> bool:
    """Say whether a folder holds clips of this data set, if only as pickles."""
    names = [f"EPIC_100_retrieval_{split}{suffix}" for split in _SPLITS for suffix in (".csv", ".pkl")]
    return any(find_file(Path(path), _ANNOTATIONS, name) for name in names)


def relevancy_matrix(clips_csv: str | Path, sentences_csv: str | Path) -> Tensor:
    """Return how relevant each sentence is to each clip, (clips, sentences) float64 in [0, 1] (docs/method.md, 6.9).

    (IoU of the verb classes + IoU of the noun classes) / 2, where a sentence's classes are those of the clip that its
    row names, and IoU is the size of the intersection over that of the union. A clip has one verb class and one or
    more noun classes (all_noun_classes). Rows and columns in file order.

    Raises DataError naming file and row; a pickle is refused unopened.
    Source: Damen et al., arXiv 2006.13256; Wray et al., CVPR 2021 (arXiv 2103.10095).

    >>> import tempfile
    >>> from mmts.examples.epic_kitchens import draw_ek100
    >>> folder = draw_ek100(Path(tempfile.mkdtemp()), layout="features") / "retrieval_annotations"
    >>> files = [folder / f"EPIC_100_retrieval_test{end}.csv" for end in ("", "_sentence")]
    >>> relevancy_matrix(*files).shape
    torch.Size([8, 7])
    """
    return graded_relevance(read_clips(Path(clips_csv)), read_sentences(Path(sentences_csv))).relevance()


def _nothing_found(folder: Path) -> str:
    wanted = "EPIC_100_retrieval_train.csv or EPIC_100_retrieval_test.csv"
    pickle = next(
        filter(None, (find_file(folder, _ANNOTATIONS, f"EPIC_100_retrieval_{split}.pkl") for split in _SPLITS)), None
    )
    if pickle is not None:
        return f"{pickle} is a pickle, and opening one runs whatever is in it: put {wanted} there instead"
    if folder.is_file():
        return f"{folder} is a file: give the folder that holds {wanted}"
    return f"{folder}: no {wanted} there, in annotations/ or in retrieval_annotations/"


def _names(folder: Path, what: str, count: int) -> dict[int, str]:
    # EPIC_100_noun_classes_v2.csv has the same numbers and later names than EPIC_100_noun_classes.csv.
    for end in ("_v2", ""):
        file = find_file(folder, _ANNOTATIONS, f"EPIC_100_{what}_classes{end}.csv")
        if file is not None:
            return read_class_names(file, count)
    return {}


def _fill(pattern: str, clip: Clip) -> str:
    return pattern.format(participant=clip.participant, video=clip.video, clip=clip.id)


def _media(folder: Path, clips: Sequence[Clip]) -> tuple[_Layout | None, str, str]:
    """Return the layout that is there, its pattern of paths, and a note about it."""
    found: list[tuple[int, int, _Layout, str, str]] = []
    for layout in _LAYOUTS:
        for pattern in layout.patterns:
            first = pattern.split("/", 1)[0]
            if "{" not in first and not (folder / first).is_dir():
                continue  # spares looking for thousands of files on slow disks
            paths = dict.fromkeys(_fill(pattern, clip) for clip in clips)
            present = sum(layout.is_there(folder / path) for path in paths)
            if present:
                found.append((present, len(paths), layout, pattern, next(iter(paths))))
    if found:  # the one that has most, the first of equals
        present, count, layout, pattern, example = max(found, key=lambda each: each[0] / each[1])
        return layout, pattern, f"media: {layout.name} ({example} and so on), {present:,} of {count:,} there"
    names = ", ".join(f"{layout.name} ({_fill(layout.patterns[0], clips[0])})" for layout in _LAYOUTS)
    return None, _NO_MEDIA, f"no media found, so only the annotations can be used; looked for {names}"
