"""Searching an index: by text, by a picture or clip, or by one of its own items."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mmts.data.records import Medium
from mmts.errors import InputError, RunError
from mmts.recipe.run_directory import RunDirectory
from mmts.search.index_files import Index, Item, Rows, is_exact, load_index, nearest
from mmts.training.encoder import Encoder, open_encoder


@dataclass(frozen=True)
class Hit:
    """An item of the index: its rank from 1, its number there, and its cosine with the query (None without a query)."""

    rank: int
    number: int
    score: float | None
    item: Item
    medium: Medium

    @property
    def place(self) -> str:
        """Its path below the index's root, with the part of that file."""
        return replace(self.medium, path=Path(self.item.path)).place

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints for it."""
        item = self.item.model_dump(mode="json", exclude={"path", "size", "changed", "content"}, exclude_none=True)
        return {"rank": self.rank, "score": self.score, "path": str(self.medium.path), **item}


@dataclass(frozen=True)
class Searcher:
    """An index and the model that made it, both in memory."""

    run: Path
    index: Index
    encoder: Encoder

    @property
    def is_exact(self) -> bool:
        """Whether a search compares every item."""
        return is_exact(self.index.vectors)

    def by_text(self, query: str, k: int) -> list[Hit]:
        """Return the k items nearest to a text. Raises InputError if it is empty."""
        if not query.strip():
            raise InputError("the query is empty; give some words")
        return self._nearest(self.encoder.text([query])[0], k)

    def by_file(self, path: Path, k: int) -> list[Hit]:
        """Return the k items nearest to an image, or to a clip for a run on videos. Raises DataError naming it."""
        if self.encoder.media_tower is None:
            raise RunError(f"{self.run} takes precomputed features, so it can only be searched by text")
        return self._nearest(self.encoder.media([Medium("query", path, ("query",), kind=self.encoder.kind)])[0], k)

    def by_item(self, number: int, k: int) -> list[Hit]:
        """Return the k items nearest to an item of the index."""
        return self._nearest(self.index.vectors.reconstruct_n(number, 1)[0], k)

    def some(self, k: int) -> list[Hit]:
        """Return k random items, the same ones each time; a larger k adds to them."""
        numbers = np.random.default_rng(0).permutation(len(self.index))[:k]
        return self._hits((number, None) for number in numbers.tolist())

    def _nearest(self, query: Rows, k: int) -> list[Hit]:
        numbers, scores = nearest(self.index.vectors, query, k)
        return self._hits(zip(numbers.tolist(), scores.tolist(), strict=True))

    def _hits(self, pairs: Iterable[tuple[int, float | None]]) -> list[Hit]:
        items, medium = self.index.contents.items, self.index.medium
        return [Hit(rank, at, score, items[at], medium(at)) for rank, (at, score) in enumerate(pairs, 1)]


def open_searcher(run: Path, folder: Path | None = None, checkpoint: str = "best") -> Searcher:
    """Load a run's checkpoint and its index (by default RUN/index).

    Raises RunError if either is missing or damaged, or if another checkpoint made the index.
    """
    directory = RunDirectory(run)
    directory.recipe()  # an error here names a path that is not a run
    index = load_index(folder or directory.index)
    encoder = open_encoder(str(run), index.media(), checkpoint)
    if index.contents.checkpoint != encoder.fingerprint:
        option = "" if checkpoint == "best" else f" --checkpoint {checkpoint}"
        raise RunError(
            f"{index.folder} was made by another run, or by another checkpoint of {run}; "
            f"`mmts index {run} {index.contents.root}{option}` brings it up to date"
        )
    return Searcher(run, index, encoder)
