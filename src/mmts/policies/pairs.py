"""Values for each pair of a medium and a text, from how similar they are already: DySTreSS and TeMo.

Both return (B, B), which info_nce and max_margin take; cosines that rounding left outside [-1, 1] count as -1 or 1.
"""

import math

from torch import Tensor

from mmts.errors import InputError
from mmts.options import Positive
from mmts.policies.base import Policy, check_positive, check_similarity
from mmts.schedules import check_progress


class PairPolicy(Policy):
    """Base of the rules whose value of a pair follows from its similarity alone, whichever pairs are asked for."""

    uses_similarity = True
    name: str

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return each pair's value, shape (B, B)."""
        check_progress(progress)
        return self.values(check_similarity(self.name, similarity, index).detach())

    def values(self, similarity: Tensor) -> Tensor:
        """Return the values of cosines of any shape."""
        raise NotImplementedError


class DySTreSS(PairPolicy):
    """DySTreSS: one value per pair, `high` at a similarity of 1 and -1 and `low` at 0 (docs/method.md, 3.6).

    value_ij = low + (high - low)/2 (1 + cos(pi (1 + s_ij)))

    similarity (B, B) -> (B, B), without gradient. With `low` above `high` it is the reverse rule. InputError unless
    both are finite and positive, and when called without similarities. `progress` and the sample do not matter.

    As in the authors' code, positive pairs get their value by the same formula, and no gradient runs through it.
    Their pairs are views of images, of one modality and of both; here they are a medium and a text. The paper's
    shifted and stretched profiles, tuned for each data set, are left out.
    low: the value at similarity 0.
    high: the value at similarity 1 and -1.

    Source: Manna et al., arXiv 2308.01140 (low .1, high .2).

    >>> import torch
    >>> DySTreSS()(0.0, torch.tensor([0, 1]), similarity=torch.tensor([[1.0, 0.5], [0.0, -1.0]]))
    tensor([[0.2000, 0.1500],
            [0.1000, 0.2000]])
    """

    name = "DySTreSS"

    def __init__(self, low: Positive = 0.1, high: Positive = 0.2) -> None:
        super().__init__()
        check_positive("DySTreSS: low", low)
        check_positive("DySTreSS: high", high)
        self.low, self.high = float(low), float(high)

    def values(self, similarity: Tensor) -> Tensor:
        """Return the values of cosines of any shape."""
        s = similarity.clamp(-1.0, 1.0)
        return self.low + (self.high - self.low) / 2 * (1.0 + (math.pi * (1.0 + s)).cos())

    def extra_repr(self) -> str:
        """Show the bounds in the module's repr."""
        return f"low={self.low:g}, high={self.high:g}"


class TeMoTemperature(PairPolicy):
    """TeMo's temperature: one value per pair, which grows with its similarity (docs/method.md, 3.7).

    value_ij = tau_min + tau_alpha sqrt((s_ij + 1)/2)

    similarity (B, B) -> (B, B), without gradient; from tau_min at s = -1 to tau_min + tau_alpha at s = 1. A negative
    `tau_alpha` is the reverse rule. InputError unless both of these ends are finite and positive, and when called
    without similarities. `progress` and the sample do not matter. The whole rule of the paper is the objective `TeMo`.
    tau_min: the value at similarity -1.
    tau_alpha: what is added to it at similarity 1.

    Source: TeMo, arXiv 2609.07540 (tau_min .01 and tau_alpha .04 on CC3M).

    >>> import torch
    >>> TeMoTemperature(0.05, 0.1)(0.0, torch.tensor([0, 1]), similarity=torch.tensor([[1.0, -0.5], [0.0, -1.0]]))
    tensor([[0.1500, 0.1000],
            [0.1207, 0.0500]])
    """

    name = "TeMo"

    def __init__(self, tau_min: Positive = 0.01, tau_alpha: float = 0.04) -> None:
        super().__init__()
        check_positive("TeMo: tau_min", tau_min)
        if not 0 < tau_min + tau_alpha < math.inf:
            raise InputError(
                f"TeMo: tau_min {tau_min:g} + tau_alpha {tau_alpha:g} = {tau_min + tau_alpha:g} is the value at s = 1; "
                "it must be finite and positive"
            )
        self.tau_min, self.tau_alpha = float(tau_min), float(tau_alpha)

    def values(self, similarity: Tensor) -> Tensor:
        """Return the values of cosines of any shape; the gradient runs through, and is 0 from s = -1 down."""
        u = ((similarity + 1.0) / 2.0).clamp(max=1.0)
        # The slope of the root is infinite at 0, and infinity times a gradient of 0 would be NaN.
        return self.tau_min + self.tau_alpha * u.where(u > 0, 1.0).sqrt().where(u > 0, 0.0)

    def extra_repr(self) -> str:
        """Show the settings in the module's repr."""
        return f"tau_min={self.tau_min:g}, tau_alpha={self.tau_alpha:g}"
