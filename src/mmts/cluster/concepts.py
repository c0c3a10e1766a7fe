"""`mmts concepts`: clusters of stored embeddings, k-means on a sample and one pass over all rows, in parts."""

import platform
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mmts.cluster.on_ray import connected, parse_part, run_tasks
from mmts.cluster.stored import Stored, open_stored
from mmts.concepts import ConceptDistribution, assign_rows, sampled_centroids
from mmts.concepts.encoders import open_encoder
from mmts.console import console, progress_bar
from mmts.errors import DataError, InputError, counted
from mmts.files import atomic_write, check_file_path, content_hash, leftovers, locked

_ROWS = 2**20  # of a task on Ray: about 20 seconds
_NAMED = 5_000_000  # captions that are held in memory, to name the concepts and to recognize them in training


def cluster(
    path: Path,
    num_concepts: int,
    out: Path,
    *,
    part: str | None = None,
    ray: str | None = None,
    column: str = "embedding",
    encoder: str | None = None,
    seed: int = 0,
) -> ConceptDistribution | None:
    """Cluster the embeddings at `path` and write the concepts to `out`, for `concepts: {source: file}` of a recipe.

    path: a folder of `mmts embed` or of clip-retrieval, a .npy file, or parquet (see `open_stored`).
    part: `I/N`, the I-th of N processes, which assigns a share of the rows; whoever comes last writes `out`.
    ray: the address of a Ray cluster (see `connected`); its nodes must see the embeddings and the folder of `out`.
    column: of parquet, the lists of numbers.
    encoder: the model that made the embeddings, which evaluation needs to find the concepts of other captions.

    Return the concepts, or None if other processes have yet to assign theirs. A repeated command resumes. Raises
    DataError or InputError for embeddings that cannot be clustered.
    """
    number, count = parse_part(part, ray)
    check_file_path(out)
    if encoder == "tfidf":
        raise InputError("--encoder tfidf differs from data to data; `concepts: {encoder: tfidf}` in a recipe uses it")
    stored = open_stored(path, column)
    N, W = stored.rows.values.shape
    if encoder is not None and (width := open_encoder(encoder)(["width"]).shape[1]) != W:
        raise InputError(f"--encoder {encoder} makes rows of {width} numbers, and those at {path} have {W}")
    console.print(f"{path}: {counted(N, 'row')} of {W} numbers")
    folder, lock = out.with_name(f"{out.name}.parts"), out.with_name(f"{out.name}.lock")
    mine: Sequence[int] = [number - 1]
    if ray is not None:
        mine = range(count := -(-N // _ROWS))
    job = content_hash(stored.rows.identity, f"{num_concepts} {seed} {count}")
    files = [folder / f"{job}-{at + 1}-of-{count}.npy" for at in range(count)]
    shared = folder / f"{job}-centroids.npy"
    if not shared.exists():
        centroids = sampled_centroids(stored.rows, num_concepts, seed=seed)
        with locked(lock, wait=True):  # another machine's may differ by rounding: all take those of the first
            if not shared.exists():
                _save(shared, centroids)
    centroids = np.load(shared, allow_pickle=False)
    tasks = [(at, range(N * at // count, N * (at + 1) // count)) for at in mine if not files[at].exists()]
    if ray is None:
        for at, rows in tasks:
            _save(files[at], assign_rows(stored.rows, centroids, rows) if rows else np.empty(0, np.int32))
    elif tasks:
        given = path.absolute(), column, stored.rows.identity, shared.absolute()
        done = N - sum(len(rows) for _, rows in tasks)
        with connected(ray), progress_bar("assigning to concepts", N, "rows", done) as bar:
            for at, _ in run_tasks(_assign, [(*given, rows, files[at].absolute()) for at, rows in tasks]):
                bar.advance(len(tasks[at][1]))
    with locked(lock, wait=True):  # only one process comes last
        if missing := sum(not file.exists() for file in files):
            console.print(f"part {number} of {count} is done; {counted(missing, 'part')} to come")
            return None
        labels = np.concatenate([np.load(file, allow_pickle=False) for file in files])
        about: dict[str, Any] = {"encoder": encoder, "num_concepts": num_concepts, "seed": seed}
        concepts = ConceptDistribution.from_clusters(labels, centroids, captions=_captions(stored), **about)
        if encoder is None:
            console.print("note: a run needs --encoder, the model that made the embeddings, to use these concepts")
        concepts.save(out)
        for file in (*files, shared, *(file for file in leftovers(folder) if job in file.name)):
            file.unlink()
        with suppress(OSError):  # another job's parts may be there, too
            folder.rmdir()
    console.print(f"concepts: {concepts.num_concepts} of {counted(len(labels), 'sample')}, in {out}")
    return concepts


_kept_rows = lru_cache(1)(open_stored)  # a process that gets another task opens the files once


def _assign(path: Path, column: str, identity: str, centroids: Path, rows: range, file: Path) -> None:
    """Write the labels of rows to a file. Raises DataError if this node sees other embeddings than the driver."""
    stored = _kept_rows(path, column)
    if stored.rows.identity != identity:
        raise DataError(f"{path} holds other embeddings on {platform.node()}; all nodes must see the same folders")
    _save(file, assign_rows(stored.rows, np.load(centroids, allow_pickle=False), rows))


def _save(path: Path, array: Any) -> None:
    with atomic_write(path) as file:
        np.save(file, array)


def _captions(stored: Stored) -> list[str] | None:
    """Return the captions, to name the concepts by, if they are stored beside the embeddings and fit into memory."""
    captions, why = None, ""
    if stored.caption_column is None:
        why = "no captions are stored beside the embeddings"
    elif len(stored.rows.values) > _NAMED:
        why = f"there are more than {_NAMED:,} captions"
    elif not all(map(str.strip, captions := list(stored.captions()))):
        captions, why = None, "some captions are empty"
    if why:
        console.print(f"note: {why}, so concepts have numbers for names")
    return captions
