"""Which pairs of a batch are right for each other beside the ones on the diagonal."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmts.data.records import Split

Indices = npt.NDArray[np.int64]


def positives(split: Split, media_index: Tensor, text_index: Tensor) -> Tensor | None:
    """Say which samples are right for each other: (B, B) sparse bool, symmetric, or None where only the diagonal is.

    Two samples are positives of each other when they share the medium, when the caption drawn for one is among the
    captions of the other's medium, or when the same caption is drawn for both.

    Args:
        split: whose captions count.
        media_index: (B,) positions of media.
        text_index: (B,) positions of the captions drawn for them.

    >>> from pathlib import Path
    >>> from mmts.data.records import Medium
    >>> split = Split("train", [Medium("1", Path("1"), ("a cat", "a pet")), Medium("2", Path("2"), ("a pet",))])
    >>> positives(split, torch.tensor([0, 1]), torch.tensor([0, 2])).to_dense().tolist()
    [[True, True], [True, True]]
    """
    text, first = split.text.numpy(), split.first.numpy()
    media = media_index.numpy()
    drawn = text[text_index.numpy()]
    # Every caption of every medium in the batch and the one drawn for it, by batch row ...
    after = np.minimum(media + 1, len(first) - 1)
    counts = np.where(media + 1 < len(first), first[after], split.num_captions) - first[media]
    row = np.concatenate([np.repeat(np.arange(len(media)), counts), np.arange(len(media))])
    number = np.concatenate([text[_ranges(first[media], counts)], drawn])
    # ... joined with the captions drawn, on being the same text.
    order = np.argsort(drawn, kind="stable")
    left, right = (np.searchsorted(drawn[order], number, side) for side in ("left", "right"))
    rows = np.repeat(row, right - left)
    columns = order[_ranges(left, right - left)]
    if np.array_equal(rows, columns):
        return None
    both = np.stack([np.concatenate([rows, columns]), np.concatenate([columns, rows])])
    pairs = torch.from_numpy(np.unique(both, axis=1))
    true = torch.ones(pairs.shape[1], dtype=torch.bool)
    return torch.sparse_coo_tensor(pairs, true, (len(media), len(media)), is_coalesced=True, check_invariants=False)


def _ranges(starts: Indices, counts: Indices) -> Indices:
    """Return the numbers start, start + 1, ... (count of them) for each pair, one after the other."""
    before = np.cumsum(counts) - counts
    result: Indices = np.arange(counts.sum()) + np.repeat(starts - before, counts)
    return result
