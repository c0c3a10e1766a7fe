"""NUCLR: SogCLR that learns how popular each candidate is, and discounts the popular ones."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.objectives.base import ObjectiveOutput, Pairs, policy_values
from mmts.objectives.memory import SIDES, as_schedule, over_same_rows
from mmts.objectives.sogclr import SogCLR
from mmts.options import AboveZeroToOne, NotNegative, RecipeDefault, checked
from mmts.policies import Policy
from mmts.schedules import Constant, Cosine, Join, Schedule

ETA = Join(
    (
        Constant(0.0),
        Cosine(0.0, 5e-6, cycles=0.2),
        Cosine(0.0, 5e-7, cycles=0.15, phase=0.2),
        Cosine(0.0, 5e-8, cycles=0.15, phase=0.35),
    ),
    (1 / 6, 0.5, 0.75),
)
"""The published rate of zeta: 0 for 5 of 30 epochs, then half a cosine from 5e-6 to 0, divided by 10 from the middle of
training on, and by 100 in the last quarter."""


class NUCLR(SogCLR):
    """NUCLR: SogCLR with a learned popularity zeta_j of every candidate (docs/method.md, 5.11; arXiv 2410.09156).

        w_ij = exp((s_ij - s_ii - zeta_j) / tau_i) / (S_i + |N_i| / (N - 1) exp(-xi / tau_i)),   xi = max(0, zeta)

    in the loss of SogCLR, with zeta_j in S_i too. After each batch, with p_ij the share of candidate j among all
    candidates of query i by the current estimate,

        v_j <- (1 - theta) v_j + theta (1 - N mean_i p_ij),   zeta_j <- zeta_j - eta v_j

    so that zeta rises for candidates that many queries are near.

    eta: rate of zeta of texts, a number or a schedule of progress; 0 leaves zeta and v as they are.
    media_ratio: rate of zeta of media over that of texts.
    theta: share of the new in v.
    start: where every zeta starts, as the published -.05.

    The rest is as in SogCLR. Buffers zeta_media, v_media (M,) and zeta_text, v_text (N,) hold popularities and their
    averaged slopes; N, the number of captions, stands for the candidates of both directions.
    Source: Wang et al., arXiv 2410.09156, with the numbers of the CC3M script of its released code.

    >>> objective = NUCLR(num_media=2, num_captions=2, temperature=0.5, eta=0.1, start=0.0)
    >>> output = objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> output.loss, objective.zeta_text  # each candidate has one unit of shares: 2 mean_i p_ij = 1
    (tensor(-0.2384), tensor([0., 0.]))
    """

    zeta_media: Tensor
    zeta_text: Tensor

    @checked
    def __init__(
        self,
        num_media: int,
        num_captions: int,
        temperature: Annotated[Policy | float, RecipeDefault({"rule": "fixed", "value": 0.01})],
        gamma: float | Schedule = 0.8,
        eta: float | Schedule = ETA,
        media_ratio: NotNegative = 0.1,
        theta: AboveZeroToOne = 0.9,
        start: float = -0.05,
    ) -> None:
        super().__init__(num_media, num_captions, temperature, gamma)
        if num_captions < 2:
            raise InputError("NUCLR: num_captions is 1; a popularity needs 2 candidates")
        self.eta = as_schedule(eta)
        if not self.eta.minimum >= 0:
            raise InputError(f"NUCLR: eta is {eta}; it must be 0 or more throughout")
        self.media_ratio, self.theta = media_ratio, theta
        for side, size in (("media", num_media), ("text", num_captions)):
            self.register_buffer(f"zeta_{side}", torch.full((size,), float(start)))
            self.register_buffer(f"v_{side}", torch.zeros(size))

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the loss at the current popularities, and what each candidate received of the queries' shares."""
        zeta = torch.stack([self.state["zeta_text"], self.state["zeta_media"]])  # (2, B), of x to y's candidates first
        xi = self._largest_zeta().clamp_min(0.0)
        tau = policy_values(self.temperature, x, y, pairs)
        if tau.ndim > 1:
            raise InputError(f"temperature is {tuple(tau.shape)}, one per pair; NUCLR needs one per sample")
        of_queries = tau.expand(len(x))[pairs.queries]
        others = math.log(self.num_captions - 1)
        log_pair = -zeta[:, pairs.queries] / of_queries  # (2, b), the log share of the positive pair, as a sum
        result = self.contrast(
            x,
            y,
            (tau, tau),
            pairs,
            log_added=-xi[:, None] / of_queries - others,
            lowered=zeta,
            log_received=log_pair - others,
        )
        assert result.received is not None
        log_mean = result.log_sum - result.number.to(result.log_sum).clamp_min(1).log()
        own = (log_pair - torch.logaddexp(log_mean, log_pair - others)).exp()
        result.received[:, pairs.queries] += own.where(result.contrasted, 0.0)
        of_text, of_media = result.received
        log = self.log(tau, result, number=result.number)
        return ObjectiveOutput(result.loss, log | {"_sum_text": of_text, "_sum_media": of_media})

    def _largest_zeta(self) -> Tensor:
        """Return the largest popularity (2,) of all texts and of all media; all processes call it."""
        own = torch.stack([self.zeta_text.max(), self.zeta_media.max()])
        if self.share is None:
            return own
        each = own.new_zeros(self.share.number, 2)
        each[self.share.process] = own
        self.share.add(each)
        return each.amax(dim=0)

    def remember(self, pairs: Pairs, gathered: Mapping[str, Tensor]) -> None:
        """Keep the sums over negatives, and take one step with the popularities of the batch's media and texts."""
        super().remember(pairs, gathered)
        rate, N = self.eta(pairs.progress), self.num_captions
        if not rate:
            return
        rates = self.media_ratio * rate, rate
        for side, other, rows, step in zip(SIDES, reversed(SIDES), self.rows(pairs), rates, strict=True):
            zeta, v = self.state[f"zeta_{side}"], self.state[f"v_{side}"]
            # The queries with this candidate: those that it has as negatives in its own direction, and its pair's.
            queries = gathered[f"_number_{side}"] + gathered[f"_contrasted_{other}"].long()
            slope = 1 - N / (N - 1) * gathered[f"_sum_{side}"].to(v) / queries.clamp_min(1)
            counts = (queries > 0).to(v)
            number = over_same_rows(rows, counts, "sum")
            new = over_same_rows(rows, slope * counts, "sum") / number.clamp_min(1)
            average = torch.where(v == 0, new, (1 - self.theta) * v + self.theta * new)
            self.keep(f"v_{side}", rows, torch.where(number > 0, average, v))
            self.keep(f"zeta_{side}", rows, torch.where(number > 0, zeta - step * average, zeta))
