"""A small YouCook2: the official annotations and films in which shapes are cooked; two films are missing."""

import json
from itertools import product
from pathlib import Path
from typing import Any

from mmts.examples.drawing import COLOURS, SHAPES, picture, write_film

_RATE = 8  # frames per second
_SECONDS = 2  # of a segment; the films are as long as their segments
_RECIPES = {"101": "stew", "205": "salad", "402": "pie"}
_STEPS = ("add the {} {} to the pot", "stir the {} {}", "serve a {} {}")
# The dishes of each video by number, some of them often; the last video of each part is missing.
_DISHES = {
    "training": [(0, 0, 4, 0), (0, 4, 0, 8), (0, 4, 0, 3), (0, 8, 4, 7), (0, 4, 1, 11), (0, 3, 8, 2), (5, 0, 4, 0)],
    "validation": [(0, 4, 8, 3), (0, 7, 4, 11), (0, 1, 2, 5)],
}
_KINDS = tuple(product(COLOURS, SHAPES))


def draw_youcook2(folder: Path) -> Path:
    """Write 24 segments of 6 videos to train with and 8 of 2 to evaluate into `folder`, and return it.

    One more video of each part is annotated, and missing.
    """
    database: dict[str, dict[str, Any]] = {}
    count = _SECONDS * _RATE
    for subset, videos in _DISHES.items():
        for at, dishes in enumerate(videos):
            identity = f"drawn_{subset[:3]}{at:02d}"  # 11 characters
            recipe = list(_RECIPES)[at % len(_RECIPES)]
            segments = []
            for step, dish in enumerate(dishes):
                sentence = _STEPS[step % len(_STEPS)].format(*_KINDS[dish])
                times = [_SECONDS * step, _SECONDS * (step + 1)]
                segments.append({"segment": times, "id": step, "sentence": sentence})
            database[identity] = {
                "duration": float(_SECONDS * len(dishes)),
                "subset": subset,
                "recipe_type": recipe,
                "annotations": segments,
                "video_url": f"https://www.youtube.com/watch?v={identity}",
            }
            if at < len(videos) - 1:
                film = [picture(*_KINDS[dish], frame / (count - 1)) for dish in dishes for frame in range(count)]
                write_film(folder / "raw_videos" / subset / recipe / f"{identity}.mp4", film, _RATE)
    (folder / "youcookii_annotations_trainval.json").write_text(json.dumps({"database": database}))
    (folder / "label_foodtype.csv").write_text("".join(f"{number},{name}\n" for number, name in _RECIPES.items()))
    return folder
