"""A run on videos: clips are indexed, found by words or by another clip, and shown by one of their frames."""

import json
from pathlib import Path

import pytest

from mmts.examples.drawing import picture, write_film
from mmts.recipe.recipe import load_recipe
from mmts.report.pictures import picture as thumbnail
from mmts.search import build_index, open_searcher
from mmts.training.run import train

COLOURS, SHAPES = ("red", "green", "blue"), ("square", "bar")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve short films of coloured shapes with their captions."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for number in range(12):
        colour, shape = COLOURS[number % 3], SHAPES[number % 2]
        write_film(folder / f"{number}.mp4", [picture(colour, shape, (number + phase) / 20) for phase in range(8)])
        split = "test" if number > 8 else "train"
        lines.append({"id": str(number), "video": f"{number}.mp4", "captions": [f"a {colour} {shape}"], "split": split})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_clips_are_found_by_words_and_by_a_clip(clips: Path, tmp_path: Path) -> None:
    small = [
        "model.video={tower: frames, train: all, frames: 2, size: 16, options: {image: small-resnet, "
        "image_options: {channels: 8, depth: 1}}}",
        "model.text={tower: small-transformer, train: all, options: {width: 16, depth: 1, heads: 2}}",
        "model.head.hidden=16",
        "model.width=16",
        "concepts={encoder: tfidf, num_concepts: 3}",
        "train.epochs=1",
        "train.batch_size=8",
        "train.trackers=[]",
    ]
    run = tmp_path / "run"
    train(load_recipe("clips", small).with_data(clips), run)
    build_index(run, clips)
    searcher = open_searcher(run)
    assert searcher.index.contents.kind == "video"
    assert len(searcher.by_text("a red square", 5)) == 5
    first = searcher.by_file(clips / "4.mp4", 3)[0]
    assert (first.item.path, round(first.score, 5)) == ("4.mp4", 1.0)
    assert thumbnail(first.medium, 64).startswith(b"\xff\xd8")  # a JPEG of a frame
