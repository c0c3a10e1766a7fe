"""From the density around each sample to its shift of temperature or margin."""

import math
from typing import Literal

import torch
from torch import Tensor

from mmts.errors import InputError, plain

Scale = Literal["linear", "log", "rank"]
SCALES: tuple[Scale, ...] = ("linear", "log", "rank")


def density_shift(density: Tensor, low: float, high: float, scale: Scale = "linear") -> Tensor:
    """Map positive densities n, such as the sizes of concepts, to [low, high] (docs/method.md, 2.1 to 2.3).

        shift = low + (high - low) f(n)
        linear: f = (n - n_min) / (n_max - n_min)
        log:    f = (ln n - ln n_min) / (ln n_max - ln n_min)
        rank:   f = (r - 1) / (R - 1), r = rank of n among the R distinct densities

    and f = 1/2 if all are equal. With `low` above `high`, small densities get the larger value.

    Args:
        density: (N,) finite and positive, whole or real.
        low: Value of the smallest density.
        high: Value of the largest.
        scale: "linear" leaves nearly all at `low` when one dominates; "log" and "rank" spread them.

    Returns:
        (N,) float32, on the same device.

    Raises:
        InputError: A density is not finite and positive (names its row), a bound is not finite, or the scale is
            unknown.

    >>> density_shift(torch.tensor([0.01, 0.1, 1.0]), 0.0, 1.0, scale="log")
    tensor([0.0000, 0.5000, 1.0000])

    Source: MM-TS, arXiv 2603.08202 (linear, over sizes of clusters).
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError(f"low and high must be finite numbers, not {low} and {high}")
    if scale not in SCALES:
        raise InputError(f"scale is {scale!r}; it must be one of {', '.join(SCALES)}")
    if density.ndim != 1 or not len(density) or density.is_complex() or density.dtype == torch.bool:
        raise InputError(f"density is {tuple(density.shape)} {density.dtype}; it must be (N,), N >= 1, of numbers")
    wrong = ~(torch.isfinite(density) & (density > 0))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(f"density[{row}] is {plain(density[row].item())}; every density must be finite and positive")
    distinct, rank = torch.unique(density, return_inverse=True)  # sorted, so the inverse is the rank - 1
    if len(distinct) == 1:
        fraction = torch.full(density.shape, 0.5, dtype=torch.float64, device=density.device)
    elif scale == "rank":
        fraction = rank.double() / (len(distinct) - 1)
    else:
        n = density.double().log() if scale == "log" else density.double()
        fraction = (n - n.min()) / (n.max() - n.min())
    return (low + (high - low) * fraction).float()
