"""A sweep small enough for tests, and how they read its table."""

import csv
from pathlib import Path
from typing import Any

import yaml

SWEEP: dict[str, Any] = {
    "recipe": "catalogue",
    "trials": 2,
    "seeds": {"tune": [100], "test": [0, 1]},
    "set": {
        "model.image": {
            "tower": "small-resnet", "train": "all", "size": 16, "options": {"channels": 8, "depth": 1},
        },
        "model.text": {"tower": "small-transformer", "train": "all", "options": {"width": 16, "depth": 1, "heads": 2}},
        "model.width": 16,
        "concepts": {"encoder": "tfidf", "num_concepts": 4},
        "train.epochs": 2,
        "train.batch_size": 24,
    },
    "variants": {
        "fixed": {"grid": {"objective.temperature.value": [0.02, 0.1]}},
        "mm-ts": {
            "set": {"objective.temperature.rule": "shifted"},
            "random": {
                "objective.temperature.alpha": {"low": 0.001, "high": 0.09, "log": True},
                "objective.temperature.scale": ["linear", "log", "rank"],
            },
        },
    },
}  # fmt: skip
ONLY_FIXED = {"fixed": SWEEP["variants"]["fixed"]}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """Write the sweep file with some of its keys changed."""
    path = folder / "variants.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
    return path


def rows(out: Path) -> list[dict[str, str]]:
    """Return the lines of leaderboard.csv."""
    with (out / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def row(out: Path, direction: str, part: str, variant: str = "fixed", seed: str = "0") -> dict[str, str]:
    """Return the line of a run on test."""
    wanted = {"variant": variant, "stage": "test", "seed": seed, "direction": direction, "part": part}
    return next(line for line in rows(out) if wanted.items() <= line.items())
