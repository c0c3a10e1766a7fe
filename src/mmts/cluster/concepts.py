"""`mmts concepts`: clusters of stored embeddings, k-means on a sample and one pass over all rows, in parts."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mmts.cluster.parts import parse_part
from mmts.cluster.stored import Stored, open_stored
from mmts.concepts import ConceptDistribution, assign_rows, sampled_centroids
from mmts.concepts.encoders import open_encoder
from mmts.console import console
from mmts.errors import InputError, counted
from mmts.files import atomic_write, check_file_path, content_hash, locked

_NAMED = 5_000_000  # captions that are held in memory, to name the concepts and to recognize them in training


def cluster(
    path: Path,
    num_concepts: int,
    out: Path,
    *,
    part: str | None = None,
    column: str = "embedding",
    encoder: str | None = None,
    seed: int = 0,
) -> ConceptDistribution | None:
    """Cluster the embeddings at `path` and write the concepts to `out`, for `concepts: {source: file}` of a recipe.

    path: a folder of `mmts embed` or of clip-retrieval, a .npy file, or parquet (see `open_stored`).
    part: `I/N`, the I-th of N processes, which assigns a share of the rows; whoever comes last writes `out`.
    column: of parquet, the lists of numbers.
    encoder: the model that made the embeddings, which evaluation needs to find the concepts of other captions.

    Return the concepts, or None if other processes have yet to assign theirs. A repeated command resumes. Raises
    DataError or InputError for embeddings that cannot be clustered.
    """
    number, count = parse_part(part)
    check_file_path(out)
    if encoder == "tfidf":
        raise InputError("--encoder tfidf differs from data to data; `concepts: {encoder: tfidf}` in a recipe uses it")
    stored = open_stored(path, column)
    N, W = stored.rows.values.shape
    if encoder is not None and (width := open_encoder(encoder)(["width"]).shape[1]) != W:
        raise InputError(f"--encoder {encoder} makes rows of {width} numbers, and those at {path} have {W}")
    console.print(f"{path}: {counted(N, 'row')} of {W} numbers")
    folder, lock = out.with_name(f"{out.name}.parts"), out.with_name(f"{out.name}.lock")
    job = content_hash(stored.rows.identity, f"{num_concepts} {seed} {count}")
    files = [folder / f"{job}-{at + 1}-of-{count}.npy" for at in range(count)]
    shared = folder / f"{job}-centroids.npy"
    if not shared.exists():
        centroids = sampled_centroids(stored.rows, num_concepts, seed=seed)
        with locked(lock, wait=True):  # another machine's may differ by rounding: all take those of the first
            if not shared.exists():
                _save(shared, centroids)
    centroids = np.load(shared, allow_pickle=False)
    rows = range(N * (number - 1) // count, N * number // count)
    labels = assign_rows(stored.rows, centroids, rows) if rows else np.empty(0, np.int32)
    with locked(lock, wait=True):  # only one process comes last
        _save(files[number - 1], labels)
        if missing := sum(not file.exists() for file in files):
            console.print(f"part {number} of {count} is done; {counted(missing, 'part')} to come")
            return None
        labels = np.concatenate([np.load(file, allow_pickle=False) for file in files])
        concepts = _named(stored, labels, centroids, encoder, {"num_concepts": num_concepts, "seed": seed})
        concepts.save(out)
        for file in (*files, shared):
            file.unlink()
        with suppress(OSError):  # another job's parts may be there, too
            folder.rmdir()
    console.print(f"concepts: {concepts.num_concepts} of {counted(len(labels), 'sample')}, in {out}")
    return concepts


def _save(path: Path, array: Any) -> None:
    with atomic_write(path) as file:
        np.save(file, array)


def _named(
    stored: Stored, labels: Any, centroids: Any, encoder: str | None, about: dict[str, Any]
) -> ConceptDistribution:
    """Return the concepts, with names if captions are stored beside the embeddings and fit into memory."""
    captions, why = None, ""
    if stored.caption_column is None:
        why = "no captions are stored beside the embeddings"
    elif len(labels) > _NAMED:
        why = f"there are more than {_NAMED:,} captions"
    else:
        captions = list(stored.captions())
        if not all(map(str.strip, captions)):
            captions, why = None, "some captions are empty"
    if why:
        console.print(f"note: {why}, so concepts have numbers for names")
    if encoder is None:
        console.print("note: a run can use these concepts only if --encoder names the model that made the embeddings")
    return ConceptDistribution.from_clusters(labels, centroids, captions=captions, encoder=encoder, **about)
