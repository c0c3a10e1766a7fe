"""Adjustments of a loss by the size of concepts: logit adjustment of candidates, and weights of rows."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmts.options import AboveZeroToOne, Positive, ZeroToBelowOne, ZeroToOne, check_table, checked
from mmts.policies.base import rows_of
from mmts.schedules import check_progress

Candidates = Literal["both", "text", "media"]
Of = Literal["all", "negatives"]


class Prior(nn.Module):
    """Logit adjustment by the share of each candidate's concept, log Q (docs/method.md, 4.20; arXiv 2007.07314).

        z_ij = s_ij / tau_ij - strength ln pi_c(j)

    by: `concept`, or a label of the media (of a list, the rarest value); the concept's share pi_c is of the training
        samples as the data have them, whatever `data.sampling` draws.
    strength: 1 is the log-Q correction of a sampled softmax, which leaves cosines that favor frequent concepts; -1 is
        the training loss of Menon et al., which leaves cosines that favor rare ones.
    candidates: which candidates are adjusted, `text` (media to texts), `media` (texts to media) or both.
    of: `negatives` leaves the logits of positives without the prior.

    `share` is (N,), pi_c of each training sample, in (0, 1]. The prior is part of the training loss alone: a model is
    evaluated by its cosines. InputError naming the row of a share out of range, or for an index outside 0..N-1.
    Source: log Q: Yi et al., RecSys 2019; Menon et al., arXiv 2007.07314, equation 10 (the other sign).

    >>> prior = Prior(torch.tensor([0.75, 0.75, 0.75, 0.25]))
    >>> prior(torch.tensor([0, 3]))  # -ln .75 and -ln .25 of texts, then of media
    tensor([[0.2877, 1.3863],
            [0.2877, 1.3863]])
    """

    words = "by {by}, of strength {strength:g} (candidates {candidates}, of {of})"
    bias: Tensor

    @checked
    def __init__(
        self,
        share: Tensor,
        strength: float = 1.0,
        candidates: Candidates = "both",
        of: Of = "all",
    ) -> None:
        super().__init__()
        self.candidates, self.of = candidates, of
        check_table("Prior: share", share, AboveZeroToOne)
        self.register_buffer("bias", -strength * share.log())  # (N,)

    @classmethod
    def from_recipe(
        cls,
        run: Any,
        by: str = "concept",
        strength: float = 1.0,
        candidates: Candidates = "both",
        of: Of = "all",
    ) -> "Prior":
        """Return the prior of a run's training samples."""
        concepts = run.concepts_by(by)
        return cls((concepts.counts.double() / concepts.sizes.sum()).float(), strength, candidates, of)

    def forward(self, index: Tensor) -> Tensor:
        """Return the bias of each sample as a candidate, (2, B): of its text, then of its medium."""
        bias = rows_of(self.bias, index)
        return torch.stack([bias * (self.candidates in (side, "both")) for side in ("text", "media")])


class RowWeights(nn.Module):
    """Weights of rows by the effective number of a concept's samples (docs/method.md, 4.21; arXiv 1901.05555).

        w_i = v_c(i) over its mean over the training samples,   v_c = (1 - beta) / (1 - beta^n_c)

    by: `concept`, or a label of the media (of a list, the rarest value).
    beta: 0 weighs all samples alike; towards 1 they are weighed by 1 / n_c.
    start: progress from which on the weights count; before, all are 1.

    `counts` is (N,), n_c of each training sample, positive. InputError naming the row of one that is not, or for an
    index outside 0..N-1.
    Source: Cui et al., arXiv 1901.05555, section 4; deferred: LDAM-DRW, arXiv 1906.07413 (from .8 on).

    >>> weights = RowWeights(torch.tensor([3, 3, 3, 1]), beta=0.9)
    >>> weights(0.5, torch.tensor([0, 3])), weights(0.8, torch.tensor([0, 3]))
    (None, tensor([0.7005, 1.8984]))
    """

    words = "by {by} (beta {beta:g}) from progress {start:g}"
    weight: Tensor

    @checked
    def __init__(self, counts: Tensor, beta: ZeroToBelowOne = 0.9999, start: ZeroToOne = 0.8) -> None:
        super().__init__()
        check_table("RowWeights: counts", counts, Positive)
        n = counts.double()
        v = (1.0 - beta) / -torch.expm1(n * torch.tensor(beta, dtype=torch.float64).log())
        self.start = start
        self.register_buffer("weight", (v / v.mean()).float())  # (N,)

    @classmethod
    def from_recipe(
        cls, run: Any, by: str = "concept", beta: ZeroToBelowOne = 0.9999, start: ZeroToOne = 0.8
    ) -> "RowWeights":
        """Return the weights of a run's training samples."""
        return cls(run.concepts_by(by).counts, beta, start)

    def forward(self, progress: float, index: Tensor) -> Tensor | None:
        """Return the weight of each sample, (B,), or None before `start`."""
        weights = rows_of(self.weight, index)
        return weights if check_progress(progress) >= self.start else None
