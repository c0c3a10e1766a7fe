"""A data set whose pairs are in a table on disk, so that no list of its media is held in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmts.data.pair_table import PairTable, Rows
from mmts.data.records import Dataset, Split
from mmts.errors import InputError


class TableSplit(Split):
    """Some rows of a table as a split: every pair is a medium with one caption, made on access.

    `media_checked` is True because every image was decoded before the table was written.
    """

    media_checked = True

    def __init__(self, name: str, table: PairTable, rows: Rows) -> None:
        """Raises InputError without rows."""
        if not len(rows):
            raise InputError(f"split {name!r} needs at least one medium")
        self.name = name
        self.table = table
        self.rows = rows
        self.graded = None
        self.media = table.media_of(rows)
        self.captions = table.captions_of(rows)
        self.owner = self.first = torch.arange(len(rows))
        starts = np.flatnonzero(np.diff(table.file[rows], prepend=-1))
        if len(starts) < len(rows):
            self.shard_sizes = np.diff(starts, append=len(rows)).tolist()

    @cached_property
    def text(self) -> Tensor:
        """(N,) int64: equal numbers mean equal caption strings."""
        return self.table.text_numbers(self.rows)

    def _select(self, kept: Rows, dropped: Rows) -> Split:
        return TableSplit(self.name, self.table, self.rows[kept])


@dataclass(frozen=True)
class TableDataset(Dataset):
    """A data set in a table; `media` makes each medium on access."""

    table: PairTable = field(kw_only=True)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Number of media by split: train, val and test first."""
        return self.table.split_sizes()

    def _tables(self, name: str) -> Split:
        return TableSplit(name, self.table, self.table.rows_of(name))

    def _renamed_media(self, new: Mapping[str, str]) -> dict[str, Any]:
        table = self.table.with_splits([new.get(name, name) for name in self.table.splits])
        return {"table": table, "media": table.media_of()}

    def whole(self) -> Split:
        """Return all media as one split named "all"."""
        return TableSplit("all", self.table, np.arange(len(self.table)))
