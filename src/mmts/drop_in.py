"""MM-TS as one loss for anyone's own training loop: `from mmts import MMTSLoss`."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mmts.errors import InputError, check_rows
from mmts.losses import info_nce, max_margin
from mmts.schedules import Cosine

# The published settings (arXiv 2603.08202): alpha, low, high.
DEFAULTS = {"info_nce": (0.08, 0.05, 0.20), "max_margin": (0.2, 0.17, 0.30)}


class MMTSLoss(nn.Module):
    """The published rule in one object (docs/method.md, 1.4, 2.1, 3.3, then 4.3 or 4.8).

    value_i = (alpha / 2) cos(2 pi cycles step / total_steps) + low + (high - low) (n_i - n_min) / (n_max - n_min)

    is the temperature of info_nce or the margin of max_margin; n_i is the size of sample i's concept. If n_min equals
    n_max every shift is the middle of [low, high]. With low above high, as a control, rare concepts get the larger one.

    kind: "info_nce" (alpha .08, low .05, high .20) or "max_margin" (alpha .2, low .17, high .30).
    total_steps, count_range: required; the optimizer steps of the whole run, and (n_min, n_max), the sizes of the
        training set's smallest and largest concept. label_smoothing: as in info_nce, in [0, 1]; max_margin has none.
    loss(x, y, step=..., counts=(B,), positives=None, queries=None) -> (): x (media) and y (text) (B, D) of any norm,
        step in [0, total_steps], counts (B,) the sizes of the samples' concepts, the rest as in info_nce.

    InputError if the smallest value is not positive (alpha/2 at or above the smaller of low and high), for a step
    outside [0, total_steps], and for a count outside count_range.

    >>> loss = MMTSLoss("info_nce", total_steps=1000, count_range=(1, 100))
    >>> loss.values(step=0, counts=torch.tensor([1, 100]))
    tensor([0.0900, 0.2400], dtype=torch.float64)
    """

    def __init__(
        self,
        kind: Literal["info_nce", "max_margin"] = "info_nce",
        total_steps: float | None = None,
        alpha: float | None = None,
        cycles: float = 5,
        low: float | None = None,
        high: float | None = None,
        count_range: tuple[float, float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check(kind in DEFAULTS, f"kind is {kind!r}; it must be one of {', '.join(DEFAULTS)}")
        steps = math.nan if total_steps is None else total_steps
        _check(0 < steps < math.inf, f"total_steps is {total_steps}; give the optimizer steps of the whole run")
        n_min, n_max = count_range or (math.nan, math.nan)
        sizes = "give (n_min, n_max), the sizes of the training set's smallest and largest concept, 0 < n_min <= n_max"
        _check(0 < n_min <= n_max < math.inf, f"count_range is {count_range}; {sizes}")
        _check(0.0 <= label_smoothing <= 1.0, f"label_smoothing is {label_smoothing}; it must lie in [0, 1]")
        _check(not label_smoothing or kind == "info_nce", "max_margin takes no label_smoothing; leave it out")
        published = zip((alpha, low, high), DEFAULTS[kind], strict=True)
        self.alpha, self.low, self.high = (default if value is None else value for value, default in published)
        _check(0 <= self.alpha < math.inf, f"alpha is {self.alpha}; it must be 0 or more")
        _check(math.isfinite(self.low + self.high), f"low {self.low} and high {self.high} must be finite")
        self.kind, self.total_steps, self.cycles, self.label_smoothing = kind, steps, cycles, label_smoothing
        self.n_min, self.n_max = n_min, n_max
        self.swing = Cosine(-self.alpha / 2, self.alpha / 2, cycles)
        smallest_shift = min(self.low, self.high) if n_min < n_max else (self.low + self.high) / 2
        which = "low" if self.low <= self.high else "high"
        _check(
            self.swing.minimum + smallest_shift > 0,
            f"the swing falls to {self.swing.minimum:g} and the smallest shift is {smallest_shift:g}; their sum must "
            f"be positive, so alpha/2 must stay below {which}: lower alpha or raise {which}",
        )

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        step: float,
        counts: Tensor,
        positives: Tensor | None = None,
        queries: slice | None = None,
    ) -> Tensor:
        """Return the loss of a batch, shape ()."""
        values = self.values(step=step, counts=counts)
        if len(values) != len(x):
            raise InputError(f"counts has {len(values)} rows and x has {len(x)}; the numbers must be equal")
        if self.kind == "max_margin":
            return max_margin(x, y, values, positives=positives, queries=queries)
        return info_nce(x, y, values, positives=positives, label_smoothing=self.label_smoothing, queries=queries)

    def values(self, *, step: float, counts: Tensor) -> Tensor:
        """Return the samples' temperatures or margins at `step`: counts (B,) -> (B,) float64."""
        if not 0 <= step <= self.total_steps:
            raise InputError(f"step is {step}; it must lie in [0, {self.total_steps}] (total_steps)")
        n = torch.as_tensor(counts).detach().to("cpu", torch.float64)  # not every device has float64
        if n.ndim != 1:
            raise InputError(f"counts is {tuple(n.shape)}; it must be (B,), the size of each sample's concept")
        inside = (n >= self.n_min) & (n <= self.n_max)
        check_rows(inside, f"counts[{{row}}] is {{value}}; it must lie in count_range [{self.n_min}, {self.n_max}]", n)
        spread = self.n_max - self.n_min
        density = (n - self.n_min) / spread if spread else torch.full_like(n, 0.5)
        return self.swing(step / self.total_steps) + self.low + (self.high - self.low) * density


def _check(right: bool, message: str) -> None:
    if not right:
        raise InputError(f"MMTSLoss: {message}")
