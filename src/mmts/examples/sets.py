"""The examples: Flickr30K, MSCOCO, CC3M, EPIC-KITCHENS-100 and YouCook2 in small, in the layouts of the originals."""

import csv
import itertools
import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.examples.drawing import COLOURS, SHAPES, picture, write_film, write_image

_KINDS = tuple(itertools.product(COLOURS, SHAPES))  # 12
_PLACES = (("on the left", 0.0), ("in the middle", 0.5), ("on the right", 1.0))
_TRAIN = (6, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1)  # how often each kind is drawn for training: a long tail
_TEXTS = (
    "A {colour} {shape} {side} of the picture.",
    "The {shape} is {colour}.",
    "There is one {colour} {shape} on grey.",
    "{colour} {shape} {side}",
    "A photo of a {shape}, {colour}.",
)
_SIXTH = "Something {colour}, a {shape} perhaps."


def draw_example(dataset: str, folder: Path, *, features: bool = False) -> Path:
    """Draw the example of flickr30k, coco, cc3m, ek100 or youcook2 into `folder`, and return what `--data` takes.

    Existing files are overwritten. `features`: feature rows instead of films, for ek100.
    """
    if dataset == "ek100":
        return draw_ek100(folder, features)
    draw = {"flickr30k": draw_flickr30k, "coco": draw_coco, "cc3m": draw_cc3m, "youcook2": draw_youcook2}
    return draw[dataset](folder)


def draw_flickr30k(folder: Path) -> Path:
    """Draw 24 images for train, 4 for val and 10 for test, and write dataset_flickr30k.json; return the folder."""
    return _draw_karpathy(folder, "flickr30k", ["train"] * 24 + ["val"] * 4 + ["test"] * 10)


def draw_coco(folder: Path) -> Path:
    """Draw 24 images for train (8 of them restval), 4 for val and 10 for test, the first of these with six captions."""
    return _draw_karpathy(folder, "coco", ["train"] * 16 + ["restval"] * 8 + ["val"] * 4 + ["test"] * 10)


def _draw_karpathy(folder: Path, name: str, splits: list[str]) -> Path:
    train = [kind for kind, times in zip(_KINDS, _TRAIN, strict=True) for _ in range(times)]
    kinds = [*train, *(_KINDS[at % len(_KINDS)] for at in range(len(splits) - len(train)))]
    rows, numbers = [], itertools.count()
    for imgid, (split, (colour, shape)) in enumerate(zip(splits, kinds, strict=True)):
        side, phase = _PLACES[imgid % len(_PLACES)]
        texts = (*_TEXTS, _SIXTH) if name == "coco" and imgid == splits.index("test") else _TEXTS
        raws = [text.format(colour=colour, shape=shape, side=side) for text in texts]
        about = [{"tokens": re.findall(r"\w+", raw.lower()), "raw": raw, "imgid": imgid} for raw in raws]
        sentences = [sentence | {"sentid": next(numbers)} for sentence in about]
        row: dict[str, Any] = {"sentids": [sentence["sentid"] for sentence in sentences]}
        row |= {"imgid": imgid, "sentences": sentences, "split": split}
        if name == "flickr30k":
            part = "flickr30k-images"
            row |= {"filename": f"{1_000_000_000 + 7 * imgid}.jpg"}
        else:
            part, cocoid = "train2014" if split == "train" else "val2014", 9 + 11 * imgid
            row |= {"filepath": part, "filename": f"COCO_{part}_{cocoid:012d}.jpg", "cocoid": cocoid}
        write_image(folder / part / row["filename"], picture(colour, shape, phase))
        rows.append(row)
    (folder / f"dataset_{name}.json").write_text(json.dumps({"images": rows, "dataset": name}), encoding="utf-8")
    return folder


def draw_cc3m(folder: Path) -> Path:
    """Write the two TSV files and the images that could be "downloaded", and return the folder.

    Training images are named as in img2dataset's output format "files" (00000/000000012.jpg, the number is the row),
    validation images by row number alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, pattern in (
        ("Train_GCC-training.tsv", 30, "training/00000/{:09d}.jpg"),
        ("Validation_GCC-1.1.0-Validation.tsv", 8, "validation/{}.jpg"),
    ):
        lines = [f"{_sample(number)[0]}\thttp://example.com/{number}.jpg\n" for number in range(count)]
        (folder / name).write_text("".join(lines))
        for number in filter(_is_downloaded, range(count)):
            write_image(folder / pattern.format(number), _sample(number)[1])
    return folder


def _sample(number: int) -> tuple[str, npt.NDArray[np.uint8]]:
    """Return a caption and its picture."""
    # Squares of small numbers coincide, so the first colors and shapes are drawn most often.
    color = list(COLOURS)[(number % 6) ** 2 * 4 // 36]
    shape = SHAPES[(number // 6 % 4) ** 2 * 3 // 16]
    place, phase = _PLACES[number % len(_PLACES)]
    return f"a {color} {shape} {place} of a grey wall", picture(color, shape, phase)


def _is_downloaded(number: int) -> bool:
    return number % 7 != 6


_RECIPES = {"101": "stew", "205": "salad", "402": "pie"}
_INSTRUCTIONS = ("add the {} {} to the pot", "stir the {} {}", "serve a {} {}")
# The dishes of each video by number, some of them often; the last video of each part is missing.
_DISHES = {
    "training": [(0, 0, 4, 0), (0, 4, 0, 8), (0, 4, 0, 3), (0, 8, 4, 7), (0, 4, 1, 11), (0, 3, 8, 2), (5, 0, 4, 0)],
    "validation": [(0, 4, 8, 3), (0, 7, 4, 11), (0, 1, 2, 5)],
}


def draw_youcook2(folder: Path) -> Path:
    """Write 24 segments of 6 videos to train with and 8 of 2 to evaluate; one more video of each part is missing."""
    database: dict[str, dict[str, Any]] = {}
    rate, seconds = 8, 2  # frames per second; seconds of a segment: the films are as long as their segments
    count = seconds * rate
    for subset, videos in _DISHES.items():
        for at, dishes in enumerate(videos):
            identity = f"drawn_{subset[:3]}{at:02d}"  # 11 characters
            recipe = list(_RECIPES)[at % len(_RECIPES)]
            segments = []
            for step, dish in enumerate(dishes):
                sentence = _INSTRUCTIONS[step % len(_INSTRUCTIONS)].format(*_KINDS[dish])
                times = [seconds * step, seconds * (step + 1)]
                segments.append({"segment": times, "id": step, "sentence": sentence})
            database[identity] = {
                "duration": float(seconds * len(dishes)),
                "subset": subset,
                "recipe_type": recipe,
                "annotations": segments,
                "video_url": f"https://www.youtube.com/watch?v={identity}",
            }
            if at < len(videos) - 1:
                film = [picture(*_KINDS[dish], frame / (count - 1)) for dish in dishes for frame in range(count)]
                write_film(folder / "raw_videos" / subset / recipe / f"{identity}.mp4", film, rate)
    (folder / "youcookii_annotations_trainval.json").write_text(json.dumps({"database": database}))
    (folder / "label_foodtype.csv").write_text("".join(f"{number},{name}\n" for number, name in _RECIPES.items()))
    return folder


_RATE = 10  # frames per second
_ACTION, _PAUSE = 1.3, 0.3  # seconds; the tenth action of a video is in two chunks
_CHUNK = 15
_NOUNS = tuple(f"{shape}:{colour}" for colour, shape in _KINDS)  # keys are written like "tap:water"
_VERBS = {"take": 0, "put": 1, "wash": 2}  # their official numbers
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


def draw_ek100(folder: Path, features: bool = False) -> Path:
    """Write 24 clips to train with and 8 to evaluate into `folder` and return it.

    Videos are in chunks of 15 seconds, as AVION's preparation makes them, or each clip has `features` (4, 16).
    """
    annotations = folder / "retrieval_annotations"
    annotations.mkdir(parents=True, exist_ok=True)
    for split, videos in _VIDEOS.items():
        clips: list[dict[str, object]] = []
        sentences: dict[str, dict[str, object]] = {}
        for video, actions in videos.items():
            for at, (verb, nouns) in enumerate(actions):
                identity, start = f"{video}_{at}", at * (_ACTION + _PAUSE)
                end, names = start + _ACTION, [_NOUNS[noun] for noun in nouns]
                narration = f"{verb} {' on '.join(' '.join(reversed(name.split(':'))) for name in names)}"
                about: dict[str, object] = {"narration_id": identity, "narration": narration}
                clips.append({
                    "narration_id": identity, "participant_id": video[:3], "video_id": video,
                    "narration_timestamp": _timestamp(start) + "0",
                    "start_timestamp": _timestamp(start), "stop_timestamp": _timestamp(end),
                    "start_frame": round(start * _RATE) + 1, "stop_frame": round(end * _RATE),
                    "narration": narration, "verb": verb, "verb_class": _VERBS[verb],
                    "noun": names[0], "noun_class": nouns[0], "all_nouns": names, "all_noun_classes": [*nouns],
                })  # fmt: skip
                if split == "train":
                    about |= {"verb_class": _VERBS[verb], "noun_classes": [*nouns], "verb": verb, "nouns": names}
                sentences[narration] = about
                if features:
                    _write_features(folder / "features" / f"{identity}.npy", (verb, nouns))
            if not features:
                film, path = _film(actions), folder / "videos" / video[:3] / f"{video}.MP4"
                for start in range(0, len(film), _CHUNK * _RATE):
                    write_film(path / f"{start // _RATE}.MP4", film[start : start + _CHUNK * _RATE], _RATE)
        _write_csv(annotations / f"EPIC_100_retrieval_{split}.csv", clips)
        _write_csv(annotations / f"EPIC_100_retrieval_{split}_sentence.csv", [*sentences.values()])
    for kind, keys in (("verb", [*_VERBS]), ("noun", _NOUNS)):
        rows = [
            {"id": at, "key": key, "instances": [key], "category": key.split(":")[0]} for at, key in enumerate(keys)
        ]
        _write_csv(folder / f"EPIC_100_{kind}_classes.csv", rows)
    return folder


def _timestamp(seconds: float) -> str:
    """Write seconds as the annotations do: 00:01:01.50."""
    return f"{int(seconds // 3600):02d}:{int(seconds // 60) % 60:02d}:{seconds % 60:05.2f}"


def _write_csv(file: Path, rows: Sequence[dict[str, object]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _film(actions: Sequence[_Action]) -> list[npt.NDArray[np.uint8]]:
    """Return the pictures of a video: each action shows its nouns one after the other, then there is a pause."""
    film: list[npt.NDArray[np.uint8]] = []
    count = round(_ACTION * _RATE)
    for verb, nouns in actions:
        for at in range(count):
            way = at / (count - 1)
            phase = {"take": way, "put": 1 - way, "wash": 0.5}[verb]
            film.append(picture(*_KINDS[nouns[at * len(nouns) // count]], phase))
        film.extend([np.full_like(film[0], 90)] * round(_PAUSE * _RATE))
    return film


def _write_features(file: Path, action: _Action) -> None:
    """Write (4, 16) float32: the mean of a direction for each noun and verb of the action, with a little noise."""
    verb, nouns = action
    noise = np.random.default_rng(zlib.crc32(file.stem.encode()))
    directions = np.random.default_rng(0).standard_normal((len(_NOUNS) + len(_VERBS), 16))
    mean = directions[[*nouns, len(_NOUNS) + _VERBS[verb]]].mean(0)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, (mean + 0.1 * noise.standard_normal((4, 16))).astype(np.float32))
