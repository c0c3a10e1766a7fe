"""Concepts of embeddings on disk, compared with plain faiss on the same number of sampled rows and k-means steps.

`python -m benchmarks.clustering ours rows.npy 1000 262144` clusters a file in one of the two ways and prints its cost.
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

from benchmarks.measure import Comparison, peak_private_memory
from mmts.concepts.kmeans import SAMPLE, assign_rows, open_rows, sampled_centroids

D, ITERATIONS = 384, 20
Clustering = tuple[npt.NDArray[Any], npt.NDArray[Any]]  # centroids (K, D) and the label of each row (N,)


def run(N: int = 300_000, K: int = 200, sample: int = 2**16) -> Iterator[Comparison]:
    """Compare time and memory; each way runs in a process of its own that has nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        rows = _write_rows(Path(folder) / "rows.npy", N)
        ours, plain = (_in_fresh_process(way, rows, K, sample, Path(folder)) for way in ("ours", "plain"))
    if ours["distance"] > 1.02 * plain["distance"]:  # random starts end in different but about equally good clusterings
        raise AssertionError(f"mean distance to the centroids: {ours['distance']}, but {plain['distance']} with faiss")
    what = "clustering embeddings on disk, against faiss"
    setting = f"{N:,} x {D}, float16 on disk, K = {K:,}, k-means on {sample:,} rows, {ITERATIONS} steps"
    yield Comparison(what, setting, ours["seconds"], plain["seconds"])
    yield Comparison(what, "peak memory, without the file's mapped pages", ours["MiB"], plain["MiB"], "MiB")


def large() -> Iterator[Comparison]:
    """Compare on as many captions as CC3M has."""
    return run(3_000_000, 1_000, SAMPLE)


def _write_rows(path: Path, N: int) -> Path:
    """Write unit rows around 5,000 centers, a few of which are common while most are rare."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((5_000, D), np.float32)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (N, D))
    for start in range(0, N, 100_000):
        labels = (len(centers) * rng.random(min(100_000, N - start)) ** 3).astype(int)
        part = centers[labels] + 0.7 * rng.standard_normal((len(labels), D), np.float32)
        rows[start : start + len(labels)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    rows.flush()
    return path


def _in_fresh_process(way: str, rows: Path, K: int, sample: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.clustering", way, str(rows), str(K), str(sample)]
    environment = os.environ | {"MMTS_CACHE": str(folder / "cache")}
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(process.stdout))


def _ours(rows: Path, K: int, sample: int) -> Clustering:
    centroids = sampled_centroids(rows, K, sample=sample, iterations=ITERATIONS)
    return centroids, assign_rows(rows, centroids)


def _plain(rows: Path, K: int, sample: int) -> Clustering:
    import faiss

    values = np.load(rows).astype(np.float32)
    kmeans = faiss.Kmeans(D, K, niter=ITERATIONS, max_points_per_centroid=sample // K, seed=0)
    kmeans.train(values)
    return kmeans.centroids, kmeans.index.search(values, 1)[1][:, 0]


def main(way: str, rows: Path, K: int, sample: int) -> None:
    """Cluster a file; print the time, the memory, and the mean distance of 10,000 rows to their centroids."""
    import faiss  # noqa: F401 (loaded before the clock starts)

    results: list[Clustering] = []
    start = time.perf_counter()
    memory = peak_private_memory(lambda: results.append({"ours": _ours, "plain": _plain}[way](rows, K, sample)))
    seconds = time.perf_counter() - start
    centroids, labels = results[0]
    part = open_rows(rows).read(slice(0, 10_000))
    distance = float(((part - centroids[labels[:10_000]]) ** 2).sum(axis=1).mean())
    print(json.dumps({"seconds": seconds, "MiB": memory, "distance": distance}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
