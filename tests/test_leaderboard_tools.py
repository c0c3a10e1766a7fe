"""The benchmarks' tools: sweeps side by side."""

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks.leaderboard.columns import read_tables, side_by_side
from benchmarks.leaderboard.curves import draw, read_board, table
from benchmarks.leaderboard.tuned import draw_change, draw_curves, of_part
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


def scores(of_all: float, of_tail: float) -> dict[str, Any]:
    both = {side: {"R@5": of_all} for side in ("text_to_image", "image_to_text")}
    tail = {side: {"R@5": of_tail + at} for at, side in enumerate(("text_to_image", "image_to_text"))}
    return {**both, "groups": {"head": None, "mid": None, "tail": tail}}


def test_pictures_of_what_tuning_changed(tmp_path: Path) -> None:
    runs = [{**scores(40.0 + seed, 30.0), "before": scores(20.0, 10.0)} for seed in range(2)]
    assert [of_part(runs[1], part) for part in ("all", "head", "tail")] == [41.0, None, 30.5]
    draw_change(tmp_path / "tuned.png", {"photos": runs})
    points = [{"share": share, **scores(20.0 + share, 1.0)} for share in (0.0, 1.0)]
    draw_curves(tmp_path / "curve.png", {"photos": [{"data": {"val": {"points": points}, "b": {"points": points}}}]})
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("tuned.png", "curve.png"))


def test_columns_of_two_divisions_side_by_side() -> None:
    by_concept = "| variant | all | tail |\n|---|---|---|\n| a | 1 | 2 |\n| b | 3 | 4, **+2.0** |\n"
    by_kind = "| variant | tail | average by kind |\n|---|---|---|\n| b | 5 | 6 |\n| a | 7 | 8 |\n"
    page = f"## Mean\n\nBy concept:\n\n{by_concept}\n\nBy kind:\n\n{by_kind}\n\n## Other\n"
    tables = read_tables(page)
    assert side_by_side(tables, ["concept:all", "concept:tail", "kind:tail", "kind:average by kind"]) == [
        "| variant | all | tail by concept | tail by kind | average by kind |",
        "|---|---|---|---|---|",
        "| a | 1 | 2 | 7 | 8 |",
        "| b | 3 | 4, **+2.0** | 5 | 6 |",
    ]
    with pytest.raises(DataError, match="no column 'tial'; did you mean 'tail'"):
        side_by_side(tables, ["kind:tial"])
