"""Searching 100,000 items: cells against a look at every item, recall against it, and what a page's answer takes.

`python -m benchmarks.search` prints a table; it takes a minute on two idle cores and is no part of `make bench`.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mmts.models.features import text_features
from mmts.models.text_towers import load_text_tower
from mmts.search import nearest

Rows = npt.NDArray[np.float32]
QUERIES = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=100_000)
    count = parser.parse_args().items
    print("| embeddings | way | recall@10 | ms a query, median |\n|---|---|---|---|")
    for kind, make in (("random", random_rows), ("clustered", clustered_rows)):
        rows, queries = make(count, 256)
        exact, cells = nearest.make_vectors(rows, count + 1), nearest.make_vectors(rows, count)
        truth = [set(nearest.nearest(exact, query, 10)[0].tolist()) for query in queries]
        found = [set(nearest.nearest(cells, query, 10)[0].tolist()) for query in queries]
        recall = np.mean([len(one & other) / 10 for one, other in zip(truth, found, strict=True)])
        for way, vectors, share in (("exact", exact, 1.0), ("cells", cells, recall)):
            took = median_ms(lambda query, vectors=vectors: nearest.nearest(vectors, query, 10), queries)
            print(f"| {kind} | {way} | {share:.3f} | {took:.1f} |", flush=True)
    tower = load_text_tower("minilm")
    took = median_ms(lambda number: text_features(tower, [f"a red running shoe {number}"], cached=False), range(30))
    print(f"| | one text through MiniLM | | {took:.1f} |")


def random_rows(count: int, width: int) -> tuple[Rows, Rows]:
    """Unit rows in every direction alike: the hardest there are, since no cell is nearer than others."""
    rng = np.random.default_rng(0)
    return unit(rng.normal(size=(count, width))), unit(rng.normal(size=(QUERIES, width)))


def clustered_rows(count: int, width: int) -> tuple[Rows, Rows]:
    """Unit rows around 1,000 centres whose sizes have a long tail, and queries shifted as texts are from images."""
    rng = np.random.default_rng(0)
    centres, shift = rng.normal(size=(1000, width)), rng.normal(size=width)
    sizes = 1 / np.arange(1, 1001)
    rows = centres[rng.choice(1000, count, p=sizes / sizes.sum())] + 0.8 * rng.normal(size=(count, width))
    return unit(rows), unit(centres[rng.choice(1000, QUERIES)] + rng.normal(size=(QUERIES, width)) + shift)


def unit(rows: npt.NDArray[np.float64]) -> Rows:
    """Rows of length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def median_ms(work: Callable[..., object], inputs: "Rows | range") -> float:
    """Milliseconds of one call after another."""
    times = []
    for each in inputs:
        start = time.perf_counter()
        work(each)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
