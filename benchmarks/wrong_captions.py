"""Plant wrong captions in a data set, train on it, and count how many of them the report's score finds.

    python -m benchmarks.wrong_captions DATA --label article_type

DATA is a folder with captions.jsonl. A share of its captions is swapped between media of the same split that differ in
the label. The rows go into docs/reading-the-report.md.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mmts.console import console, figure_table, quiet
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.mismatch import SUSPECTED
from mmts.evaluation.run import evaluate
from mmts.recipe.recipe import load_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.training.run import train


def plant(records: list[dict[str, Any]], label: str, share: float, seed: int) -> set[str]:
    """Swap that share of the captions in place, and return the ids of the media that got those of another."""
    rng, swapped = random.Random(seed), set()
    chosen = rng.sample(records, round(share * len(records)))
    for split in sorted({record["split"] for record in chosen}):
        left = [record for record in chosen if record["split"] == split and record["labels"].get(label)]
        while left:
            first = left.pop()
            other = next((record for record in left if record["labels"][label] != first["labels"][label]), None)
            if other is None:
                break
            left.remove(other)
            first["captions"], other["captions"] = other["captions"], first["captions"]
            swapped |= {first["id"], other["id"]}
    return swapped


def found(folder: Path, data: Path, label: str, share: float, seed: int, settings: list[str]) -> list[tuple[str, ...]]:
    """Return a row for each split: how many captions were wrong, suspected, and both."""
    records = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    wrong = plant(records, label, share, seed)
    (folder / "data").mkdir()
    (folder / "data" / "images").symlink_to((data / "images").resolve())
    (folder / "data" / "captions.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    run, rows = RunDirectory(folder / "run"), []
    with quiet():
        train(load_recipe("catalogue", [f"train.seed={seed}", *settings]), run.path, data=folder / "data")
        evaluate(run.path, split_name="train")
    for split, file in (("train", run.evaluations / "data-train.npz"), ("test", run.judgement_file)):
        judged = Judged.load(run.path, file)
        assert judged.mismatches is not None
        is_wrong = np.array([judged.meta["media_ids"][owner] in wrong for owner in judged.owner.tolist()])
        scores = judged.mismatches.scores.numpy()
        suspected, both = scores > SUSPECTED, (scores > SUSPECTED) & is_wrong
        order = is_wrong[np.argsort(-scores, kind="stable")]
        precisions = (order.cumsum() / np.arange(1, len(order) + 1))[order]
        rows.append(
            (
                split, f"{len(scores):,}", f"{is_wrong.sum():,}", f"{suspected.sum():,}",
                f"{100 * both.sum() / max(1, suspected.sum()):.0f} %", f"{100 * both.sum() / is_wrong.sum():.0f} %",
                f"{100 * precisions.mean():.0f} %",
            )
        )  # fmt: skip
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--share", type=float, nargs="+", default=[0.05])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    columns = ("seed", "split", "captions", "wrong", "suspected", "precision", "recall", "average precision")
    table = figure_table(f"captions of {given.data.name} swapped between values of {given.label}", "share", *columns)
    for share in given.share:
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                for row in found(Path(folder), given.data, given.label, share, seed, given.set):
                    table.add_row(f"{100 * share:g} %", str(seed), *row)
                    console.print(share, seed, *row)
    console.print(table)


if __name__ == "__main__":
    main()
