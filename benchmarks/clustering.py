"""Concepts of rows on disk against plain faiss: the same rows drawn for k-means, as many steps, everything assigned.

`python -m benchmarks.clustering ours rows.npy 1000 262144` clusters a file by one of the two and prints what it took.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Comparison, peak_of_own_memory
from mmts.concepts.kmeans import SAMPLE
from mmts.concepts.stored_rows import assign_rows, open_rows, sampled_centroids

W, ITERATIONS = 384, 20
Found = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def run(N: int = 300_000, K: int = 200, sample: int = 2**16) -> Iterator[Comparison]:
    """Compare time and memory, each in a process of its own that has nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _write_rows(Path(folder) / "rows.npy", N)
        ours, plain = (_in_fresh_process(way, rows, K, sample, Path(folder)) for way in ("ours", "plain"))
    if ours["distance"] > 1.02 * plain["distance"]:  # two random starts end elsewhere, but about equally well
        raise AssertionError(f"rows lie {ours['distance']} from their centroids, with faiss {plain['distance']}")
    setting = f"{N:,} x {W}, float16 on disk, K = {K:,}, k-means on {sample:,} rows, {ITERATIONS} steps"
    yield Comparison("concepts of rows on disk, against faiss", setting, ours["seconds"], plain["seconds"])
    yield Comparison("the same", "peak memory, without the pages of the file", ours["MiB"], plain["MiB"], "MiB")


def large() -> Iterator[Comparison]:
    """Compare on as many captions as CC3M has."""
    return run(3_000_000, 1_000, SAMPLE)


def _write_rows(path: Path, N: int) -> Path:
    """Write unit rows around 5,000 centres, of which a few are common and most are rare."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5_000, W), np.float32)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (N, W))
    for start in range(0, N, 100_000):
        of = (len(centres) * rng.random(min(100_000, N - start)) ** 3).astype(int)
        part = centres[of] + 0.7 * rng.standard_normal((len(of), W), np.float32)
        rows[start : start + len(of)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    rows.flush()
    return path


def _in_fresh_process(way: str, rows: Path, K: int, sample: int, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.clustering", way, str(rows), str(K), str(sample)]
    environment = os.environ | {"MMTS_CACHE": str(cache / "cache")}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout))


def _ours(rows: Path, K: int, sample: int) -> Found:
    centroids = sampled_centroids(rows, K, sample=sample, iterations=ITERATIONS)
    return centroids, assign_rows(rows, centroids)


def _plain(rows: Path, K: int, sample: int) -> Found:
    import faiss

    values = np.load(rows).astype(np.float32)
    search = faiss.Kmeans(W, K, niter=ITERATIONS, max_points_per_centroid=sample // K, seed=0)
    search.train(values)
    return search.centroids, search.index.search(values, 1)[1][:, 0]


def main(way: str, rows: Path, K: int, sample: int) -> None:
    """Cluster a file and print seconds, memory, and how far from their centroids 10,000 of the rows lie."""
    import faiss  # noqa: F401 (loaded before the clock starts)

    found: list[Found] = []
    start = time.perf_counter()
    memory = peak_of_own_memory(lambda: found.append({"ours": _ours, "plain": _plain}[way](rows, K, sample)))
    seconds = time.perf_counter() - start
    centroids, labels = found[0]
    some = open_rows(rows).read(slice(0, 10_000))
    distance = float(((some - centroids[labels[:10_000]]) ** 2).sum(axis=1).mean())
    print(json.dumps({"seconds": seconds, "MiB": memory, "distance": distance}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
