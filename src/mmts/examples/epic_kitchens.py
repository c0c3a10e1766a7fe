"""A small EPIC-KITCHENS-100: the official CSV files and folders around kitchens where shapes are moved."""

import csv
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmts.errors import InputError
from mmts.examples.drawing import COLOURS, SHAPES, picture, write_film, write_image

LAYOUTS = ("chunks", "videos", "frames", "features")
_RATE = 10  # frames per second
_ACTION, _PAUSE = 1.3, 0.3  # seconds; the tenth action of a video is in two chunks
_CHUNK = 15
_WIDTH, _STEPS = 16, 4  # of the features
_NOUNS = tuple(f"{shape}:{colour}" for colour in COLOURS for shape in SHAPES)  # keys are written like "tap:water"
_VERBS = {"take": 0, "put": 1, "wash": 2}  # their official numbers
_CLIP_COLUMNS = (
    *("narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp"),
    *("start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns"),
    "all_noun_classes",
)
_SENTENCE_COLUMNS = ("narration_id", "narration", "verb_class", "noun_classes", "verb", "nouns")  # test: two of them
# The actions of each video in order: a verb and its nouns by number, some of them often.
_VIDEOS: dict[str, dict[str, Sequence[tuple[str, tuple[int, ...]]]]] = {
    "train": {
        "P01_01": [(verb, (noun,)) for noun in (0, 0, 4, 0) for verb in _VERBS],
        "P02_101": [
            *[("take", (0,)), ("put", (0, 4)), ("take", (4,)), ("put", (4,)), ("take", (8,)), ("wash", (8,))],
            *[("put", (8, 0)), ("take", (3,)), ("wash", (3,)), ("take", (7,)), ("put", (11,)), ("wash", (1,))],
        ],
    },
    "test": {
        "P01_11": [("take", (0,)), ("put", (0, 4)), ("take", (4,)), ("wash", (8,))],
        "P03_02": [("take", (3,)), ("put", (11,)), ("take", (0,)), ("wash", (4,))],
    },
}


@dataclass(frozen=True)
class _Action:
    id: str
    video: str
    start: float
    verb: str
    nouns: Sequence[int]

    @property
    def narration(self) -> str:
        first, *others = (" ".join(reversed(_NOUNS[noun].split(":"))) for noun in self.nouns)
        return " ".join([self.verb, first, *(f"on {other}" for other in others)])


def draw_ek100(folder: Path, layout: str = "chunks") -> Path:
    """Write 24 clips to train with and 8 to evaluate into `folder` and return it.

    `layout`: "chunks" of 15 seconds as AVION's preparation makes them, whole "videos", official "frames" folders, or
    "features" (4, 16) per clip. Raises InputError for any other.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    annotations = folder / "retrieval_annotations"
    annotations.mkdir(parents=True, exist_ok=True)
    for split, videos in _VIDEOS.items():
        by_video = {video: _actions(video) for video in videos}
        actions = [action for part in by_video.values() for action in part]
        _write_csv(annotations / f"EPIC_100_retrieval_{split}.csv", _CLIP_COLUMNS, map(_clip_row, actions))
        columns = _SENTENCE_COLUMNS if split == "train" else _SENTENCE_COLUMNS[:2]
        distinct = {action.narration: action for action in actions}
        rows = [_sentence_row(action)[: len(columns)] for action in distinct.values()]
        _write_csv(annotations / f"EPIC_100_retrieval_{split}_sentence.csv", columns, rows)
        for video, part in by_video.items():
            _write_media(folder, layout, video, part)
    class_columns = ("id", "key", "instances", "category")
    verbs = [(number, verb, [verb], "handling") for verb, number in _VERBS.items()]
    nouns = [(number, noun, [noun], noun.split(":")[0]) for number, noun in enumerate(_NOUNS)]
    _write_csv(folder / "EPIC_100_verb_classes.csv", class_columns, verbs)
    _write_csv(folder / "EPIC_100_noun_classes.csv", class_columns, nouns)
    return folder


def _actions(video: str) -> list[_Action]:
    happenings = {**_VIDEOS["train"], **_VIDEOS["test"]}[video]
    return [
        _Action(f"{video}_{at}", video, at * (_ACTION + _PAUSE), verb, nouns)
        for at, (verb, nouns) in enumerate(happenings)
    ]


def _clip_row(action: _Action) -> Sequence[object]:
    end = action.start + _ACTION
    names = [_NOUNS[noun] for noun in action.nouns]
    return (
        *(action.id, action.video[:3], action.video, _timestamp(action.start) + "0"),
        *(_timestamp(action.start), _timestamp(end), round(action.start * _RATE) + 1, round(end * _RATE)),
        *(action.narration, action.verb, _VERBS[action.verb], names[0], action.nouns[0], names, [*action.nouns]),
    )


def _sentence_row(action: _Action) -> Sequence[object]:
    names = [_NOUNS[noun] for noun in action.nouns]
    return (action.id, action.narration, _VERBS[action.verb], [*action.nouns], action.verb, names)


def _timestamp(seconds: float) -> str:
    """Write seconds as the annotations do.

    >>> _timestamp(61.5)
    '00:01:01.50'
    """
    return f"{int(seconds // 3600):02d}:{int(seconds // 60) % 60:02d}:{seconds % 60:05.2f}"


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, lineterminator="\n").writerows([columns, *rows])


def _film(actions: Sequence[_Action]) -> list[npt.NDArray[np.uint8]]:
    """Return the frames of a video: each action, its nouns one after the other, then a pause."""
    frames: list[npt.NDArray[np.uint8]] = []
    for action in actions:
        count = round(_ACTION * _RATE)
        for at in range(count):
            shape, colour = _NOUNS[action.nouns[at * len(action.nouns) // count]].split(":")
            way = at / (count - 1)
            phase = {"take": way, "put": 1 - way, "wash": 0.5}[action.verb]
            frames.append(picture(colour, shape, phase))
        frames.extend([np.full_like(frames[0], 90)] * round(_PAUSE * _RATE))
    return frames


def _write_media(folder: Path, layout: str, video: str, actions: Sequence[_Action]) -> None:
    participant = video[:3]
    if layout == "features":
        for action in actions:
            _write_features(folder / "features" / f"{action.id}.npy", action)
        return
    film = _film(actions)
    path = folder / "videos" / participant / f"{video}.MP4"
    if layout == "frames":
        for number, pixels in enumerate(film, 1):
            write_image(folder / participant / "rgb_frames" / video / f"frame_{number:010d}.jpg", pixels)
    elif layout == "videos":
        write_film(path, film, _RATE)
    else:
        for start in range(0, len(film), _CHUNK * _RATE):
            write_film(path / f"{start // _RATE}.MP4", film[start : start + _CHUNK * _RATE], _RATE)


def _write_features(file: Path, action: _Action) -> None:
    """Write (4, 16) float32: the mean of a direction for each noun and verb of the action, with a little noise."""
    noise = np.random.default_rng(zlib.crc32(action.id.encode()))
    directions = np.random.default_rng(0).standard_normal((len(_NOUNS) + len(_VERBS), _WIDTH))
    mean = directions[[*action.nouns, len(_NOUNS) + _VERBS[action.verb]]].mean(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, (mean + 0.1 * noise.standard_normal((_STEPS, _WIDTH))).astype(np.float32))
