"""The benchmarks' tools: sweeps side by side."""

import csv
from pathlib import Path

import pytest

from benchmarks.leaderboard.curves import draw, read_board, table
from mmts.errors import DataError


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
