"""A small EPIC-KITCHENS-100: the official CSV files and folders around kitchens where shapes are moved."""

import csv
import zlib
from collections.abc import Iterable, Sequence
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
# The official file of test sentences has the first two.
_SENTENCE_COLUMNS = ("narration_id", "narration", "verb_class", "noun_classes", "verb", "nouns")
# The actions of each video in order: a verb and its nouns by number, some of them often.
_Action = tuple[str, tuple[int, ...]]
_VIDEOS: dict[str, dict[str, Sequence[_Action]]] = {
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
        clips = []
        sentences: dict[str, Sequence[object]] = {}
        for video, actions in videos.items():
            for at, (verb, nouns) in enumerate(actions):
                identity, start = f"{video}_{at}", at * (_ACTION + _PAUSE)
                end, names = start + _ACTION, [_NOUNS[noun] for noun in nouns]
                narration = f"{verb} {' on '.join(' '.join(reversed(name.split(':'))) for name in names)}"
                clips.append((
                    *(identity, video[:3], video, _timestamp(start) + "0", _timestamp(start), _timestamp(end)),
                    *(round(start * _RATE) + 1, round(end * _RATE), narration, verb, _VERBS[verb], names[0], nouns[0]),
                    *(names, [*nouns]),
                ))  # fmt: skip
                sentences[narration] = (identity, narration, _VERBS[verb], [*nouns], verb, names)
            _write_media(folder, layout, video, actions)
        _write_csv(annotations / f"EPIC_100_retrieval_{split}.csv", _CLIP_COLUMNS, clips)
        columns = _SENTENCE_COLUMNS if split == "train" else _SENTENCE_COLUMNS[:2]
        rows = [row[: len(columns)] for row in sentences.values()]
        _write_csv(annotations / f"EPIC_100_retrieval_{split}_sentence.csv", columns, rows)
    class_columns = ("id", "key", "instances", "category")
    verbs = [(number, verb, [verb], "handling") for verb, number in _VERBS.items()]
    nouns_by_number = [(number, noun, [noun], noun.split(":")[0]) for number, noun in enumerate(_NOUNS)]
    _write_csv(folder / "EPIC_100_verb_classes.csv", class_columns, verbs)
    _write_csv(folder / "EPIC_100_noun_classes.csv", class_columns, nouns_by_number)
    return folder


def _timestamp(seconds: float) -> str:
    """Write seconds as the annotations do: 00:01:01.50."""
    return f"{int(seconds // 3600):02d}:{int(seconds // 60) % 60:02d}:{seconds % 60:05.2f}"


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as opened:
        csv.writer(opened, lineterminator="\n").writerows([columns, *rows])


def _write_media(folder: Path, layout: str, video: str, actions: Sequence[_Action]) -> None:
    if layout == "features":
        for at, action in enumerate(actions):
            _write_features(folder / "features" / f"{video}_{at}.npy", action)
        return
    # Each action shows its nouns one after the other, then there is a pause.
    film: list[npt.NDArray[np.uint8]] = []
    count = round(_ACTION * _RATE)
    for verb, nouns in actions:
        for at in range(count):
            shape, colour = _NOUNS[nouns[at * len(nouns) // count]].split(":")
            way = at / (count - 1)
            film.append(picture(colour, shape, {"take": way, "put": 1 - way, "wash": 0.5}[verb]))
        film.extend([np.full_like(film[0], 90)] * round(_PAUSE * _RATE))
    participant = video[:3]
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
    verb, nouns = action
    noise = np.random.default_rng(zlib.crc32(file.stem.encode()))
    directions = np.random.default_rng(0).standard_normal((len(_NOUNS) + len(_VERBS), _WIDTH))
    mean = directions[[*nouns, len(_NOUNS) + _VERBS[verb]]].mean(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, (mean + 0.1 * noise.standard_normal((_STEPS, _WIDTH))).astype(np.float32))
