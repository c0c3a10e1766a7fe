"""`mmts curate`: which training media to keep, by the sizes of their concepts, and without near duplicates."""

from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmts.cluster.embed import open_folder
from mmts.concepts.distribution import TAIL
from mmts.concepts.kmeans import unit_rows
from mmts.console import console, progress_bar
from mmts.data.batches.sampling import copy_numbers
from mmts.data.keys import check_uids, write_keys
from mmts.data.records import Split
from mmts.errors import InputError, RecipeError, counted, percent
from mmts.recipe.sections import Columns, Concepts, Data
from mmts.report.charts import logarithmic_ticks, picture
from mmts.training.concepts import build_distribution
from mmts.training.splits import open_data

_AT_ONCE = 2**24  # similarities in memory at a time


def curate(
    data: Path,
    out: Path,
    *,
    cap: int | None = None,
    power: float | None = None,
    dedup: float | None = None,
    embeddings: Path | None = None,
    concepts: Concepts | None = None,
    columns: Columns | None = None,
    seed: int = 0,
) -> list[str]:
    """Choose the training media to keep, write their ids to `out` and a picture beside it, and return the ids.

    A medium's concept is that of its first caption. The media of a concept that are kept are drawn at random.

    out: .npy for DataComp's uids, else text, one id per line; `data.keep` of a recipe takes either.
    cap: keep at most this many media of each concept, as MetaCLIP does on average.
    power: keep n^power media of a concept of n, in units in which the smallest concept stays whole, at least 1.
    dedup: first leave out media whose cosine with an earlier one that is kept is at least this.
    embeddings: of the train split's media, for `dedup`: a folder of `mmts embed --side media --split train`.

    Raises RecipeError unless one of cap, power and dedup is given, and not both cap and power; and what the data raise.
    """
    if (cap is None) == (power is None) and (cap is not None or dedup is None):
        raise RecipeError("mmts curate needs --cap or --power, or --dedup with or without one of them")
    if (dedup is None) != (embeddings is None):
        raise RecipeError("--dedup and --embeddings (a folder of mmts embed --side media --split train) go together")
    dataset = open_data(Data(columns=columns or Columns()), data)
    split = dataset.split("train")
    ids = [*split.ids()]
    check_uids(out, ids)
    distribution = build_distribution(concepts or Concepts(), split)
    labels = distribution.labels[split.first].numpy()
    kept = np.arange(split.num_media)
    if dedup is not None and embeddings is not None:
        kept = distinct(_rows_of(embeddings, split), dedup)
        console.print(f"{counted(split.num_media - len(kept), 'near duplicate')} left out")
    if cap is not None or power is not None:
        sizes = np.bincount(labels[kept], minlength=distribution.num_concepts)
        wanted = np.minimum(sizes, cap) if cap is not None else powered(sizes, power or 0.0)
        order = np.random.default_rng(seed).permutation(kept)
        kept = np.sort(order[copy_numbers(labels[order]) < wanted[labels[order]]])
    is_tail = distribution.groups()[split.first].numpy() == TAIL
    shares = [percent(float(part.mean())) for part in (is_tail, is_tail[kept])]
    chosen = [ids[at] for at in kept.tolist()]
    write_keys(out, chosen)
    drawn = out.with_suffix(".png")
    _draw(drawn, np.bincount(labels), np.bincount(labels[kept], minlength=int(labels.max()) + 1))
    media = counted(split.num_media, "training medium", "training media")
    console.print(f"kept {len(kept):,} of {media}: the tail's share goes from {shares[0]} to {shares[1]}")
    console.print(f"ids: {out}\npicture: {drawn}\nto train on them: --set data.keep={out}")
    return chosen


def powered(sizes: npt.NDArray[np.int64], power: float) -> npt.NDArray[np.int64]:
    """Return how many media of each concept remain: n_min (n / n_min)^power, rounded, n the sizes above 0.

    >>> powered(np.array([400, 100, 4, 0]), 0.5).tolist()
    [40, 20, 4, 0]
    """
    least = int(sizes[sizes > 0].min())
    wanted: npt.NDArray[np.int64] = np.rint(least * (sizes / least) ** power).astype(np.int64)
    return np.minimum(wanted, sizes)


def distinct(rows: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.int64]:
    """Return the places of rows (N, W), of norm 1, whose cosine with every earlier place returned is below a threshold.

    >>> distinct(np.array([[1, 0], [0.8, 0.6], [0.96, 0.28]], np.float32), 0.9).tolist()
    [0, 1]
    """
    if not 0.0 < threshold <= 1.0:
        raise InputError(f"--dedup {threshold}: it is a cosine, above 0 and at most 1")
    kept: list[int] = []
    size = max(64, _AT_ONCE // len(rows))
    with progress_bar("near duplicates", len(rows), "media") as bar:
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            new = (rows[kept] @ block.T).max(axis=0, initial=-1.0) < threshold
            inside = block @ block.T
            for at in range(len(block)):
                if new[at]:
                    new[at + 1 :] &= inside[at, at + 1 :] < threshold
            kept += [start + at for at in np.flatnonzero(new).tolist()]
            bar.advance(len(block))
    return np.array(kept, np.int64)


def _rows_of(folder: Path, split: Split) -> npt.NDArray[np.float32]:
    """Return the embeddings of a split's media; raises InputError naming the first medium that differs."""
    stored = open_folder(folder)
    parts = [stored.read(part) for part in range(stored.num_parts)]
    names, ids = [name for _, table in parts for name in table["id"].to_pylist()], [*split.ids()]
    if names != ids:
        at = next(at for at, (name, key) in enumerate(zip_longest(names, ids)) if name != key)
        raise InputError(
            f"{folder} has {len(names):,} rows and train {len(ids):,} media, which differ from row {at} on; "
            "`mmts embed DATA --side media --split train` makes a folder that fits"
        )
    return unit_rows(np.concatenate([rows for rows, _ in parts]).astype(np.float32))


def _draw(path: Path, before: npt.NDArray[np.int64], after: npt.NDArray[np.int64]) -> None:
    """Draw the sizes of the concepts before and after, the largest first, as a PNG file."""
    order = np.argsort(-before, kind="stable")
    with picture(path, 700, 340) as axes:
        for sizes, color, label in ((before, "#bbbbbb", "all"), (after, "#1f5fa8", "kept")):
            name = f"{label}: {counted(int(sizes.sum()), 'medium', 'media')}"
            axes.bar(np.arange(len(order)) + 1, sizes[order], width=1.0, color=color, label=name)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.8)
        logarithmic_ticks(axes.yaxis, 1, int(before.max()))
        axes.set_xlabel("concepts, largest first")
        axes.set_ylabel("training media (log scale)")
        axes.legend(frameon=False)
