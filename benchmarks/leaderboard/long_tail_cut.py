"""Cut a captions.jsonl folder to an exponential long tail over a label, with the same total at every imbalance.

    python -m benchmarks.leaderboard.long_tail_cut FOLDER --label article_type --imbalance 10 --out FOLDER

The largest `--classes` classes of train are kept. Class k = 0, 1, ... of K gets a number of training media that falls
as imbalance^(-k / (K - 1)), from the largest to 1/imbalance of it; all together get `--total`. Val and test keep all
their media of these classes, so that every cut of a folder is judged on the same queries.
"""

import argparse
import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmts.console import console
from mmts.errors import DataError
from mmts.files import atomic_write


def class_sizes(num_classes: int, imbalance: float, total: int) -> list[int]:
    """Return the sizes of K classes, falling, whose sum is `total`: what rounding leaves goes to the largest rests.

    >>> class_sizes(3, 1, 30), class_sizes(3, 100, 111)
    ([10, 10, 10], [100, 10, 1])
    """
    shares = [imbalance ** (-k / max(num_classes - 1, 1)) for k in range(num_classes)]
    exact = [total * share / sum(shares) for share in shares]
    sizes = [int(size) for size in exact]
    by_rest = sorted(range(num_classes), key=lambda k: sizes[k] - exact[k])
    for k in by_rest[: total - sum(sizes)]:
        sizes[k] += 1
    return sizes


def cut(
    lines: Sequence[dict[str, Any]], label: str, num_classes: int, imbalance: float, total: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the lines that stay, in their order; raises DataError where a class has too few training media."""
    available = Counter(line["labels"][label] for line in lines if line["split"] == "train")
    names = [name for name, _ in sorted(available.items(), key=lambda item: (-item[1], item[0]))[:num_classes]]
    if len(names) < num_classes:
        raise DataError(f"there are {len(names)} classes of {label}, not {num_classes}")
    kept = set[str]()
    for name, size in zip(names, class_sizes(num_classes, imbalance, total), strict=True):
        if size > available[name]:
            raise DataError(f"{name} has {available[name]} training media and {size} are asked for; lower --total")
        ids = [line["id"] for line in lines if line["split"] == "train" and line["labels"][label] == name]
        kept |= set(random.Random(f"{seed}/{name}").sample(ids, size))
    return [
        line for line in lines if line["labels"][label] in names and (line["split"] != "train" or line["id"] in kept)
    ]


def main() -> None:
    """Read, cut, copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--imbalance", type=float, required=True)
    parser.add_argument("--classes", type=int, default=25)
    parser.add_argument("--total", type=int, default=3000)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    lines = [json.loads(line) for line in (given.folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    left = cut(lines, given.label, given.classes, given.imbalance, given.total)
    for line in left:
        target = given.out / line["image"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(given.folder / line["image"], target)
    with atomic_write(given.out / "captions.jsonl", "w") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in left)
    counts = Counter(line["split"] for line in left)
    console.print(f"{given.out}: {', '.join(f'{split} {count:,}' for split, count in counts.items())}", markup=False)


if __name__ == "__main__":
    main()
