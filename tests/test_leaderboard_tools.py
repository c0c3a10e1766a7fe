"""The benchmarks' tools: cuts with a long tail of a given imbalance, and sweeps side by side."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests_support import draw_shapes

from benchmarks.leaderboard.curves import draw, read_board, table
from benchmarks.leaderboard.long_tail_cut import class_sizes, cut
from mmts.data.read import read_dataset
from mmts.errors import DataError


@pytest.mark.parametrize("imbalance", [1, 10, 100])
def test_sizes_fall_by_the_imbalance_and_add_up(imbalance: float) -> None:
    sizes = class_sizes(25, imbalance, 3000)
    assert sum(sizes) == 3000
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] / sizes[-1] == pytest.approx(imbalance, rel=0.15)


def lines() -> list[dict[str, Any]]:
    """Return 40, 30, 20, 3 media of four classes, every fifth of them in test."""
    classes = [name for name, size in zip("abcd", (40, 30, 20, 3), strict=True) for _ in range(size)]
    return [
        {"id": str(i), "labels": {"class": name}, "split": "test" if i % 5 == 0 else "train"}
        for i, name in enumerate(classes)
    ]


def test_a_cut_keeps_the_queries_and_as_many_training_media_as_asked() -> None:
    left = cut(lines(), "class", 3, 4, 21)
    train = Counter(line["labels"]["class"] for line in left if line["split"] == "train")
    assert train == {"a": 12, "b": 6, "c": 3}
    other = cut(lines(), "class", 3, 1, 21)
    queries = [[line["id"] for line in each if line["split"] == "test"] for each in (left, other)]
    assert queries[0] == queries[1] == [line["id"] for line in lines() if line["split"] == "test"][:18]
    assert cut(lines(), "class", 3, 4, 21) == left


def test_a_cut_that_cannot_be_is_refused() -> None:
    with pytest.raises(DataError, match="class has 4 classes in train, fewer than --classes 5"):
        cut(lines(), "class", 5, 1, 10)
    with pytest.raises(DataError, match="c has 16 training media but needs 20"):
        cut(lines(), "class", 3, 1, 60)


def test_a_cut_is_a_data_set(tmp_path: Path) -> None:
    shapes = draw_shapes(tmp_path / "shapes", 60)
    command = [
        "benchmarks.leaderboard.long_tail_cut",
        shapes,
        "--label",
        "shape",
        "--imbalance",
        4,
        "--out",
        tmp_path / "cut",
    ]
    command += ["--classes", 3, "--total", 21]
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, cwd=Path(__file__).parent.parent)
    train = read_dataset(tmp_path / "cut").split("train")
    assert sorted(Counter(medium.labels["shape"] for medium in train.media).values()) == [3, 6, 12]
    assert all(medium.path.is_file() for medium in train.media)
    assert (
        len((tmp_path / "cut" / "captions.jsonl").read_text().splitlines())
        == len([each for each in map(json.loads, (shapes / "captions.jsonl").open()) if each["split"] != "train"]) + 21
    )


def board(folder: Path, values: dict[str, list[float]]) -> Path:
    """Write the lines of a leaderboard.csv that matter here, and some that don't."""
    folder.mkdir()
    names = ["variant", "stage", "seed", "direction", "part", "mean recall"]
    with (folder / "leaderboard.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for variant, of_seeds in values.items():
            writer.writerow([variant, "trial", 100, "both", "all", 1.0])
            for seed, value in enumerate(of_seeds):
                writer.writerow([variant, "test", seed, "both", "all", value])
                writer.writerow([variant, "test", seed, "both", "tail", value + 10])
                writer.writerow([variant, "test", seed, "text_to_image", "all", 2.0])
    return folder


def test_sweeps_side_by_side(tmp_path: Path) -> None:
    short = board(tmp_path / "short", {"fixed": [50.0, 52.0], "mm-ts": [60.0, 60.0]})
    long = board(tmp_path / "long", {"fixed": [55.0]})
    boards = {"15": read_board(short, "all"), "60": read_board(long, "all")}
    assert table("epochs", boards) == [
        "| epochs | 15 | 60 |",
        "|---|---|---|",
        "| fixed | 51.0 ± 1.4 | 55.0 |",
        "| mm-ts | 60.0 ± 0.0 |  |",
    ]
    assert read_board(short, "tail") == {"fixed": [60.0, 62.0], "mm-ts": [70.0, 70.0]}
    draw(tmp_path / "curves.png", "epochs", "recall", boards)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="nothing about 'mid'"):
        read_board(short, "mid")
