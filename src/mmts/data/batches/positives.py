"""The extra positives of a batch: pairs beside the diagonal that belong together."""

import numpy as np
import torch
from torch import Tensor

from mmts.data.batches.epoch_plan import Indices, ranges
from mmts.data.records import Split

SPARSE_BELOW = 17
"""Positives are sparse below this share of all pairs, 1/17: a sparse entry takes 17 bytes, a dense one 1."""


def positives(split: Split, media_index: Tensor, text_index: Tensor) -> Tensor | None:
    """Return which samples are positives of each other: (B, B) bool, symmetric, or None if only the diagonal is.

    Two samples are positives of each other when they share the medium, when the caption drawn for one is among the
    captions of the other's medium, or when the same caption is drawn for both. The tensor is sparse and coalesced if
    few pairs are (see `SPARSE_BELOW`), else dense.

    >>> from pathlib import Path
    >>> from mmts.data.records import Medium
    >>> split = Split("train", [Medium("1", Path("1"), ("a cat", "a pet")), Medium("2", Path("2"), ("a pet",))])
    >>> positives(split, torch.tensor([0, 1]), torch.tensor([0, 2])).to_dense().tolist()
    [[True, True], [True, True]]
    """
    media = media_index.numpy()
    rows, own = np.arange(len(media)), media
    drawn = split.text_numbers(text_index.numpy())
    # Every caption of every medium in the batch and the caption drawn for it, by batch row ...
    if split.num_captions > split.num_media:
        first = split.first.numpy()
        after = np.minimum(media + 1, len(first) - 1)
        counts = np.where(media + 1 < len(first), first[after], split.num_captions) - first[media]
        rows, own = np.repeat(rows, counts), ranges(first[media], counts)
    row = np.concatenate([rows, np.arange(len(media))])
    number = np.concatenate([split.text_numbers(own), drawn])
    # ... joined with the drawn captions on equal text.
    return equal_pairs(row, number, drawn)


def equal_pairs(rows: Indices, keys: Indices, drawn: Indices) -> Tensor | None:
    """Return for which (i, j) or (j, i) one of `keys`, in row i of `rows`, equals drawn[j], as `positives` does."""
    order = np.argsort(drawn, kind="stable")
    left, right = (np.searchsorted(drawn[order], keys, side) for side in ("left", "right"))
    rows = np.repeat(rows, right - left)
    columns = order[ranges(left, right - left)]
    if np.array_equal(rows, columns):
        return None
    B = len(drawn)
    if 2 * len(rows) > B * B // SPARSE_BELOW:
        dense = torch.zeros(B, B, dtype=torch.bool)
        dense[rows, columns] = True
        return dense | dense.T
    places = np.unique(np.concatenate([rows * B + columns, columns * B + rows]))
    pairs = torch.from_numpy(np.stack(np.divmod(places, B)))
    true = torch.ones(len(places), dtype=torch.bool)
    return torch.sparse_coo_tensor(pairs, true, (B, B), is_coalesced=True, check_invariants=False)


def on_device(positives: Tensor | None, device: torch.device | str) -> Tensor | None:
    """Return positives on a device; dense on Apple's, for which older versions of torch have no sparse tensors."""
    if positives is None:
        return None
    return (positives.to_dense() if torch.device(device).type == "mps" else positives).to(device)
