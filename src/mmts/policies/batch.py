"""Values from how well the batch is aligned: MACL."""

from torch import Tensor

from mmts.errors import InputError
from mmts.options import Positive
from mmts.policies.base import Policy, check_positive, check_similarity
from mmts.schedules import check_progress


class MACL(Policy):
    """MACL: one value for all samples, which grows with how well the batch's pairs agree (docs/method.md, 3.5).

    value = tau0 (1 + alpha (A - A0)),   A = mean over the batch of s_ii, without gradient

    similarity (B, B) -> (). A is taken to lie in [-1, 1], where rounding may have left it. InputError when a number is
    not finite, when the value would not be positive everywhere in [-1, 1] (found when the policy is built), and when
    called without similarities. `progress` and the sample do not matter.

    The paper's two views are a medium and its caption here: A runs over the B pairs. Its row weight is a loss of its
    own, `reweighted_info_nce`. A negative `alpha` is the reverse rule.
    tau0: temperature of a batch whose mean positive cosine is `A0`.
    alpha: how fast it grows with that cosine.
    A0: the cosine it is measured from.

    Source: Huang et al., arXiv 2207.07874 (alpha .5, A0 0, tau0 .1 on images).

    >>> import torch
    >>> MACL()(0.0, torch.tensor([0, 1]), similarity=torch.tensor([[0.8, 0.1], [0.0, 0.4]]))
    tensor(0.1300)
    """

    uses_similarity = True
    looks_at_own_pairs_only = True

    def __init__(self, tau0: Positive = 0.1, alpha: float = 0.5, A0: float = 0.0) -> None:
        super().__init__()
        check_positive("MACL: tau0", tau0)
        self.tau0, self.alpha, self.A0 = float(tau0), float(alpha), float(A0)
        for alignment in (-1.0, 1.0):  # linear in A, so smallest at an end
            value = self.tau0 * (1.0 + self.alpha * (alignment - self.A0))
            if not 0 < value < float("inf"):
                raise InputError(
                    f"MACL: with alpha {self.alpha:g} and A0 {self.A0:g} the value at A = {alignment:g} is {value:g}; "
                    "it must be finite and positive for every A in [-1, 1]: bring alpha closer to 0"
                )

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the batch's value, shape ()."""
        check_progress(progress)
        similarity = check_similarity("MACL", similarity, index).detach()
        alignment = similarity.diagonal().mean().clamp(-1.0, 1.0)
        return self.tau0 * (1.0 + self.alpha * (alignment - self.A0))

    def extra_repr(self) -> str:
        """Show the settings in the module's repr."""
        return f"tau0={self.tau0:g}, alpha={self.alpha:g}, A0={self.A0:g}"
