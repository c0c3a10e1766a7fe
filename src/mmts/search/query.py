"""Searching an index: by text, by a picture or clip, or by one of its own items, among all items or some."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmts.concepts import ConceptDistribution
from mmts.data.records import Label, Medium, values_of
from mmts.errors import InputError, RunError, nearest, quoted, shortened
from mmts.recipe.run_directory import RunDirectory
from mmts.search.index_files import Index, Item, Numbers, Rows, is_exact, load_index
from mmts.search.index_files import nearest as nearest_items
from mmts.training.encoder import Encoder, open_encoder

_SUGGESTED = 12  # concepts on the start page


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

    @property
    def record(self) -> dict[str, Label]:
        """All columns of its record in the data; the id and the caption only where they say more than the path."""
        known: dict[str, Label] = {"id": self.item.id, "caption": list(self.medium.captions)}
        return {name: value for name, value in known.items() if self.item.path not in value} | self.item.columns

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints for it."""
        left_out = {"path", "size", "changed", "content", "other_captions"}
        item = self.item.model_dump(mode="json", exclude=left_out, exclude_none=True)
        hit = {"rank": self.rank, "score": self.score, "path": str(self.medium.path)}
        return {**hit, **item, "captions": list(self.medium.captions)}


@dataclass(frozen=True)
class Searcher:
    """An index and the model that made it, both in memory; searches look at all items, or at those in `among`."""

    run: Path
    index: Index
    encoder: Encoder

    @property
    def is_exact(self) -> bool:
        """Whether a search of all items compares every one; a search of some always does."""
        return is_exact(self.index.vectors)

    @cached_property
    def values(self) -> dict[str, Counter[str]]:
        """The columns of the index, and how many items have each value."""
        values: dict[str, Counter[str]] = defaultdict(Counter)
        for item in self.index.contents.items:
            for name, label in item.columns.items():
                values[name].update(values_of(label))
        return dict(values)

    @cached_property
    def concepts(self) -> list[str]:
        """Names of at most 12 concepts that the run was trained on, from the largest to the smallest."""
        file = RunDirectory(self.run).concepts_file
        if not file.exists():
            return []
        known = ConceptDistribution.load(file)
        if known.provenance.get("kind") == "counts":
            return []
        by_size = [known.names[at] for at in known.sizes.argsort(descending=True, stable=True).tolist()]
        names = [name for name in by_size if name != "no concept" and not name.startswith("cluster ")]
        return names[:: max(1, -(-len(names) // _SUGGESTED))]

    def by_text(self, query: str, k: int, among: Numbers | None = None) -> list[Hit]:
        """Return the k items nearest to a text. Raises InputError if it is empty."""
        if not query.strip():
            raise InputError("the query is empty; give some words")
        return self.by_row(self.encoder.text([query])[0], k, among)

    def by_file(self, path: Path, k: int, among: Numbers | None = None) -> list[Hit]:
        """Return the k items nearest to an image, or to a clip for a run on videos. Raises DataError naming it."""
        return self.by_row(self.row_of(Medium("query", path, ("query",), kind=self.encoder.kind)), k, among)

    def by_item(self, number: int, k: int, among: Numbers | None = None) -> list[Hit]:
        """Return the k items nearest to an item of the index."""
        return self.by_row(self.index.vectors.reconstruct_n(number, 1)[0], k, among)

    def by_row(self, row: Rows, k: int, among: Numbers | None = None) -> list[Hit]:
        """Return the k items nearest to a unit embedding (D,)."""
        numbers, scores = nearest_items(self.index.vectors, row, k, among)
        return self._hits(zip(numbers.tolist(), scores.tolist(), strict=True))

    def row_of(self, medium: Medium) -> Rows:
        """Return the unit embedding (D,) of an image or clip. Raises DataError naming it."""
        if self.encoder.media_tower is None:
            raise RunError(f"{self.run} takes precomputed features, so it can only be searched by text")
        row: Rows = self.encoder.media([medium])[0]
        return row

    def some(self, k: int, among: Numbers | None = None) -> list[Hit]:
        """Return k random items, the same ones each time; a larger k adds to them."""
        numbers = np.random.default_rng(0).permutation(len(self.index) if among is None else among)[:k]
        return self._hits((number, None) for number in numbers.tolist())

    def fitting(self, where: Sequence[str]) -> Numbers | None:
        """Return the numbers of the items that fit all conditions, such as "color=red"; None without conditions.

        Conditions on one column are alternatives. Raises InputError for one that no item of the index can meet.
        """
        if not where:
            return None
        wanted = defaultdict(set)
        for name, value in map(self._condition, where):
            wanted[name].add(value)

        def fits(item: Item) -> bool:
            return all(wanted[name].intersection(values_of(item.columns.get(name))) for name in wanted)

        return np.array([at for at, item in enumerate(self.index.contents.items) if fits(item)], np.int64)

    def _condition(self, text: str) -> tuple[str, str]:
        """Return the column and the value of a condition; a column's name may hold a `=` too."""
        if fitting := [name for name in self.values if text.startswith(f"{name}=")]:
            name = max(fitting, key=len)
            value = text[len(name) + 1 :]
            if value in self.values[name]:
                return name, value
            hint = nearest(value, [known for known, _ in self.values[name].most_common(1000)])
            raise InputError(f"nothing in the index has {name}={quoted(value)}; {shortened(hint, 160)}")
        if not self.values:
            raise InputError(f"the index has no labels, so that {quoted(text)} cannot narrow a search")
        name, sign, _ = text.partition("=")
        if not sign:
            example = next(f"{name}={next(iter(known))}" for name, known in self.values.items())
            raise InputError(f"a condition is LABEL=VALUE, such as {quoted(example)}, not {quoted(text)}")
        raise InputError(f"nothing in the index has a label {quoted(name)}; {nearest(name, self.values)}")

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
    option = "" if checkpoint == "best" else f" --checkpoint {checkpoint}"
    update = f"`mmts index {run} {index.contents.root}{option}`"
    if index.contents.checkpoint != encoder.fingerprint:
        other = f"another run, or by another checkpoint of {run}"
        raise RunError(f"{index.folder} was made by {other}; {update} brings it up to date")
    return Searcher(run, index, encoder)
