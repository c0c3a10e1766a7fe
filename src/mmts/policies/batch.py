"""Policies that look at the batch's similarities: MACL has one value for all, DySTreSS and TeMo have one per pair.

Cosines that rounding left outside [-1, 1] count as -1 or 1.
"""

import math

from torch import Tensor

from mmts.errors import InputError
from mmts.options import Positive, checked
from mmts.policies.base import Policy, SimilarityOf
from mmts.schedules import check_progress


class SimilarityPolicy(Policy):
    """Base of the rules that depend on the similarities alone; a subclass writes `values`."""

    uses_similarity = True
    similarity_of: SimilarityOf = "queries"

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the values at these similarities, without gradient; InputError for another shape."""
        check_progress(progress)
        owner, B = type(self).__name__, len(index)
        if similarity is None:
            raise InputError(f"{owner} looks at the batch: give it the similarities, ({B}, {B})")
        shape, dtype = tuple(similarity.shape), similarity.dtype
        also = {"queries": shape[:1] + shape[2:] == (2, B), "positive pairs": shape == (B,)}
        if not (shape == (B, B) or also.get(self.similarity_of)) or not dtype.is_floating_point:
            expected = f"for a batch of {B} it must be ({B}, {B}), floating point"
            raise InputError(f"{owner}: similarity is {shape} {dtype}; {expected}")
        return self.values(similarity.detach())

    def values(self, similarity: Tensor) -> Tensor:
        """Return the values at these similarities; a rule on pairs takes them in any shape."""
        raise NotImplementedError


class MACL(SimilarityPolicy):
    """MACL: one value for all samples, which grows with how well the batch's pairs agree (docs/method.md, 3.5).

    value = tau0 (1 + alpha (A - A0)),   A = mean over the batch of s_ii, without gradient

    similarity (B,) of the positive pairs, or (B, B) -> (). InputError unless the value is finite and positive for every
    A in [-1, 1]. The paper's row weight is a loss, `reweighted_info_nce`. A negative `alpha` is the reverse rule.
    tau0: temperature of a batch whose mean positive cosine is `A0`.
    alpha: how fast it grows with that cosine.
    A0: the cosine it is measured from.

    Source: Huang et al., arXiv 2207.07874 (alpha .5, A0 0, tau0 .1 on images).

    >>> import torch
    >>> MACL()(0.0, torch.tensor([0, 1]), similarity=torch.tensor([[0.8, 0.1], [0.0, 0.4]]))
    tensor(0.1300)
    """

    similarity_of = "positive pairs"

    @checked
    def __init__(self, tau0: Positive = 0.1, alpha: float = 0.5, A0: float = 0.0) -> None:
        super().__init__()
        self.tau0, self.alpha, self.A0 = float(tau0), float(alpha), float(A0)
        for alignment in (-1.0, 1.0):  # linear in A, so smallest at an end
            value = self.tau0 * (1.0 + self.alpha * (alignment - self.A0))
            if not 0 < value < math.inf:
                raise InputError(
                    f"MACL: with alpha {self.alpha:g} and A0 {self.A0:g} the value at A = {alignment:g} is {value:g}; "
                    "it must be finite and positive for every A in [-1, 1]: bring alpha closer to 0"
                )

    def values(self, similarity: Tensor) -> Tensor:
        """Return the batch's value, shape ()."""
        cosines = similarity if similarity.ndim == 1 else similarity.diagonal()
        return self.tau0 * (1.0 + self.alpha * (cosines.mean().clamp(-1.0, 1.0) - self.A0))


class DySTreSS(SimilarityPolicy):
    """DySTreSS: one value per pair, `high` at a similarity of 1 and -1 and `low` at 0 (docs/method.md, 3.6).

    value_ij = low + (high - low)/2 (1 + cos(pi (1 + s_ij)))

    similarity (B, B) -> (B, B), for positive pairs too, as in the authors' code. With `low` above `high` it is the
    reverse rule. The paper's shifted and stretched profiles, tuned for each data set, are left out.
    low: the value at similarity 0.
    high: the value at similarity 1 and -1.

    Source: Manna et al., arXiv 2308.01140 (low .1, high .2).

    >>> import torch
    >>> DySTreSS()(0.0, torch.tensor([0, 1]), similarity=torch.tensor([[1.0, 0.5], [0.0, -1.0]]))
    tensor([[0.2000, 0.1500],
            [0.1000, 0.2000]])
    """

    @checked
    def __init__(self, low: Positive = 0.1, high: Positive = 0.2) -> None:
        super().__init__()
        self.low, self.high = float(low), float(high)

    def values(self, similarity: Tensor) -> Tensor:
        """Return the values of cosines of any shape."""
        s = similarity.clamp(-1.0, 1.0)
        return self.low + (self.high - self.low) / 2 * (1.0 + (math.pi * (1.0 + s)).cos())


class TeMoTemperature(SimilarityPolicy):
    """TeMo's temperature: one value per pair, which grows with its similarity (docs/method.md, 3.7).

    value_ij = tau_min + tau_alpha sqrt((s_ij + 1)/2)

    similarity (B, B) -> (B, B), from tau_min at s = -1 to tau_min + tau_alpha at s = 1, which must be positive too. A
    negative `tau_alpha` is the reverse rule. The whole rule of the paper is the objective `TeMo`.
    tau_min: the value at similarity -1.
    tau_alpha: what is added to it at similarity 1.

    Source: TeMo, arXiv 2609.07540 (tau_min .01 and tau_alpha .04 on CC3M).

    >>> import torch
    >>> TeMoTemperature(0.05, 0.1)(0.0, torch.tensor([0, 1]), similarity=torch.tensor([[1.0, -0.5], [0.0, -1.0]]))
    tensor([[0.1500, 0.1000],
            [0.1207, 0.0500]])
    """

    @checked
    def __init__(self, tau_min: Positive = 0.01, tau_alpha: float = 0.04) -> None:
        super().__init__()
        if not 0 < tau_min + tau_alpha < math.inf:
            raise InputError(
                f"TeMo: tau_min {tau_min:g} + tau_alpha {tau_alpha:g} = {tau_min + tau_alpha:g} is the value at s = 1; "
                "it must be finite and positive"
            )
        self.tau_min, self.tau_alpha = float(tau_min), float(tau_alpha)

    def values(self, similarity: Tensor) -> Tensor:
        """Return the values of cosines of any shape, with gradient, which is 0 from s = -1 down."""
        u = (similarity + 1.0) / 2.0
        u = u.where(u <= 1.0, 1.0)  # versions of torch differ in the gradient of clamp at its bound
        # The slope of the root is infinite at 0, and infinity times a gradient of 0 would be NaN.
        return self.tau_min + self.tau_alpha * u.where(u > 0, 1.0).sqrt().where(u > 0, 0.0)
