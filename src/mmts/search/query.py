"""Asking an index: by text, by a picture or clip, or by one of its own items."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmts.data.records import Medium
from mmts.errors import InputError, RunError
from mmts.recipe.run_directory import RunDirectory
from mmts.search.encoder import Encoder, load_encoder
from mmts.search.index_files import Index, Item, load_index
from mmts.search.nearest import is_exact, nearest, rows_of

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """An item that was found: its rank from 1, its number in the index, and the cosine of the two embeddings.

    The score is None where nothing was asked.
    """

    rank: int
    number: int
    score: float | None
    item: Item
    medium: Medium

    @property
    def place(self) -> str:
        """Its path below the index's root, with the part of that file that was found."""
        return replace(self.medium, path=Path(self.item.path)).place

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        segment = {name: getattr(self.item, name) for name in ("start", "end", "frames", "member")}
        return {
            "rank": self.rank,
            "score": self.score,
            "path": str(self.medium.path),
            "id": self.item.id,
            "caption": self.item.caption,
            "labels": self.item.labels,
            **{name: value for name, value in segment.items() if value is not None},
        }


@dataclass(frozen=True)
class Searcher:
    """An index and the model it was made with, both in memory."""

    run: Path
    index: Index
    encoder: Encoder

    @property
    def is_exact(self) -> bool:
        """Whether every item is looked at."""
        return is_exact(self.index.vectors)

    def by_text(self, query: str, k: int) -> list[Hit]:
        """Return the k items nearest to a text. Raises InputError where it is empty."""
        if not query.strip():
            raise InputError("the query is empty; give some words")
        return self._hits(self.encoder.text([query])[0], k)

    def by_file(self, path: Path, k: int) -> list[Hit]:
        """Return the k items nearest to an image, or to a clip for a run on videos. Raises DataError, naming it."""
        if self.encoder.media_tower is None:
            raise RunError(f"{self.run} takes features computed beforehand, so only texts can be asked for")
        return self._hits(self.encoder.media([Medium("query", path, ("query",), kind=self.encoder.kind)])[0], k)

    def by_item(self, number: int, k: int) -> list[Hit]:
        """Return the k items nearest to one of the index's own."""
        return self._hits(rows_of(self.index.vectors, number, 1)[0], k)

    def some(self, k: int) -> list[Hit]:
        """Return k items picked at random, the same ones each time; a larger k adds to them."""
        numbers = np.random.default_rng(0).permutation(len(self.index))[:k]
        return [self._hit(rank, int(number), None) for rank, number in enumerate(numbers, 1)]

    def _hits(self, query: Rows, k: int) -> list[Hit]:
        found = zip(*nearest(self.index.vectors, query, k), strict=True)
        return [self._hit(rank, int(number), float(score)) for rank, (number, score) in enumerate(found, 1)]

    def _hit(self, rank: int, number: int, score: float | None) -> Hit:
        return Hit(rank, number, score, self.index.contents.items[number], self.index.medium(number))


def open_searcher(run: Path, folder: Path | None = None) -> Searcher:
    """Load a run and its index (RUN/index where `folder` is None).

    Raises RunError where either is missing or damaged, or the index was made by another checkpoint.
    """
    RunDirectory(run).recipe()  # a path that is no run is named as such
    index = load_index(folder or RunDirectory(run).index)
    encoder = load_encoder(run, index.media())
    if index.contents.checkpoint != encoder.checkpoint:
        raise RunError(
            f"{index.folder} was made by another checkpoint or run than {run} has now; "
            f"`mmts index {run} {index.contents.root}` brings it up to date"
        )
    return Searcher(run, index, encoder)
