"""Cut a captions.jsonl folder to an exponential long tail over a label, with the same total at every imbalance.

    python -m benchmarks.leaderboard.long_tail_cut FOLDER --label article_type --imbalance 10 --out FOLDER

The `--classes` K largest classes of train are kept. The number of training media of class k = 0, 1, ... falls as
imbalance^(-k / (K - 1)): the last class gets 1/imbalance as many as the first, and all together get `--total`. Val and
test keep all their media of these classes, so that every cut of a folder is evaluated on the same queries.
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
    """Return the sizes of K classes, largest first, rounded such that their sum is `total`.

    >>> class_sizes(3, 1, 30), class_sizes(3, 100, 111)
    ([10, 10, 10], [100, 10, 1])
    """
    shares = [imbalance ** (-k / max(num_classes - 1, 1)) for k in range(num_classes)]
    exact = [total * share / sum(shares) for share in shares]
    sizes = [int(size) for size in exact]
    by_remainder = sorted(range(num_classes), key=lambda k: sizes[k] - exact[k])  # largest remainder first
    for k in by_remainder[: total - sum(sizes)]:
        sizes[k] += 1
    return sizes


def cut(
    lines: Sequence[dict[str, Any]], label: str, num_classes: int, imbalance: float, total: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the lines to keep, in their order; raises DataError if there are too few classes or training media."""
    available = Counter(line["labels"][label] for line in lines if line["split"] == "train")
    names = [name for name, _ in sorted(available.items(), key=lambda item: (-item[1], item[0]))[:num_classes]]
    if len(names) < num_classes:
        raise DataError(f"{label} has {len(names)} classes in train, fewer than --classes {num_classes}")
    kept = set[str]()
    for name, size in zip(names, class_sizes(num_classes, imbalance, total), strict=True):
        if size > available[name]:
            raise DataError(f"{name} has {available[name]} training media but needs {size}; lower --total")
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
    options = parser.parse_args()
    lines = [json.loads(line) for line in (options.folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = cut(lines, options.label, options.classes, options.imbalance, options.total)
    for line in kept:
        target = options.out / line["image"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(options.folder / line["image"], target)
    with atomic_write(options.out / "captions.jsonl", "w") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in kept)
    counts = Counter(line["split"] for line in kept)
    console.print(f"{options.out}: {', '.join(f'{split} {count:,}' for split, count in counts.items())}", markup=False)


if __name__ == "__main__":
    main()
