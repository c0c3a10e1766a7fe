"""Contrast with all negatives of training: SogCLR, and ISogCLR with a temperature per sample."""

import math
from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.objectives.adjustments import Prior
from mmts.objectives.base import ObjectiveOutput, Pairs, policy_values
from mmts.objectives.memory import SIDES, ObjectiveWithMemory, as_schedule, over_same_rows
from mmts.options import AboveZeroToOne, NotNegative, Positive, RecipeDefault, checked
from mmts.policies import Fixed, Policy
from mmts.schedules import Schedule

U_CLIP = 5.0
_MOST_MEDIA = 10_000
GRID = 1000


class SogCLR(ObjectiveWithMemory):
    """SogCLR: contrast with all negatives of training, by one moving sum per sample (docs/method.md, 5.4, 5.5).

        L = mean_i sum_j w_ij (s_ij - s_ii), media against texts, plus the same, texts against media;  w held fixed

    with w_ij = exp((s_ij - s_ii) / tau_i) / S_i and S_i the row's moving sum of those exponentials. The gradient is
    that of tau_i log(mean over all negatives); the value of the loss says little.

    temperature: a number, or a policy that gives () or (B,) and has nothing to train (the loss has no gradient for a
        temperature): SogCLR with an MM-TS policy is SogCLR(..., Shifted(...)).
    num_media, num_captions: M and N of training; state is kept for each, in buffers.
    gamma: weight of the new in the moving sum, in (0, 1], a number or a schedule of progress; 1 forgets the past.
    eps: is added to each mean over negatives S_i / |N_i| in w, not in the state; released code has one, papers none.
    prior: logit adjustment (4.20): each exponential, in S_i and w_ij, is divided by pi_c(j)^strength. `of` has no
        effect: the positive pair is in no sum.

    Extra positives are not negatives; a row without a negative (B = 1) has loss 0 and leaves its state unchanged.
    Without media_index every sample has its own medium. State changes in training mode only. Logs "temperature" and
    "weight" (B,), the pull on each positive pair over the batch's mean. InputError as in `info_nce`, or for an index
    outside the state.
    Source: Yuan et al., arXiv 2202.12387, algorithm 1; two modalities: Qiu et al., arXiv 2305.11965.

    >>> objective = SogCLR(num_media=2, num_captions=2, temperature=0.5)
    >>> objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1])).loss
    tensor(-2.)
    """

    @checked
    def __init__(
        self,
        num_media: int,
        num_captions: int,
        temperature: Annotated[Policy | float, RecipeDefault({"rule": "fixed"})],
        gamma: float | Schedule = 0.8,
        eps: NotNegative = 0.0,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(num_media, num_captions, gamma, eps)
        self.prior = prior
        self.temperature = Fixed(temperature) if isinstance(temperature, int | float) else temperature
        trains = [name for name, value in self.temperature.named_parameters() if value.requires_grad]
        if trains:
            policy = type(self.temperature).__name__
            raise InputError(
                f"{type(self).__name__}: temperature is {policy}, whose {trains[0]} would never move: this loss has no "
                "gradient for it; take FastCLIP or ISogCLR, or a policy with nothing to train"
            )

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the loss at the policy's temperatures."""
        tau = policy_values(self.temperature, x, y, pairs)
        bias = None if self.prior is None else self.prior(pairs.index)
        result = self.contrast(x, y, (tau, tau), pairs, candidate_bias=bias)
        return ObjectiveOutput(result.loss, self.log(tau, result))


class ISogCLR(ObjectiveWithMemory):
    """iSogCLR: SogCLR that learns a temperature for every medium and text (docs/method.md, 5.6; arXiv 2305.11965).

    After each batch, with w and d of SogCLR and S_i the row's moving sum:

        u_i <- (1 - beta) u_i + beta clip(log(S_i / (B - 1)) + rho - sum_j w_ij d_ij, -5, 5)
        tau_i <- clamp(tau_i - eta u_i, low, high)

    Temperatures rise where the weights w are concentrated on few negatives and fall elsewhere.

    rho: radius of the robust loss; keep it below log(B - 1), above which every temperature ends at `low`.
    eta: the temperatures' learning rate.
    beta: share of the new gradient in their moving mean.
    gamma: as in SogCLR.
    low: lower bound of the temperatures, a number or a schedule of progress.
    high: upper bound, likewise; 0 < low <= high throughout. A temperature outside the current bounds is clamped before
        it is used.
    start: where all temperatures start, in [low, high].
    eps: is added to S_i / (B - 1) in w and in its logarithm, as in SogCLR.

    rho, beta and high are those of TempNet's repository, which came later; iSogCLR's own release has rho 6, beta .9 and
    high 1. The rest is as in SogCLR. Buffers tau_media, u_media (M,) and tau_text, u_text (N,) hold the temperatures
    and their averaged gradients; the logged temperature (B,) is the mean of a sample's two, before the update.
    Source: Qiu et al., arXiv 2305.11965, algorithm 1, with the clip of its released code.

    >>> objective = ISogCLR(num_media=2, num_captions=2, low=0.01, high=0.2, start=0.05)
    >>> output = objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> objective.tau_media
    tensor([0.0100, 0.0100])
    """

    tau_media: Tensor
    tau_text: Tensor
    u_media: Tensor
    u_text: Tensor

    @checked
    def __init__(
        self,
        num_media: int,
        num_captions: int,
        rho: Positive = 8.0,
        eta: Positive = 0.03,
        beta: AboveZeroToOne = 0.5,
        gamma: float | Schedule = 0.8,
        low: float | Schedule = 0.005,
        high: float | Schedule = 0.05,
        start: Positive = 0.01,
        eps: NotNegative = 0.0,
    ) -> None:
        super().__init__(num_media, num_captions, gamma, eps)
        self.rho, self.eta, self.beta = rho, eta, beta
        self.low, self.high = as_schedule(low), as_schedule(high)
        for step in range(GRID + 1):  # two schedules can only be compared point by point
            self.bounds(step / GRID)
        lowest, highest = self.bounds(0.0)
        if not lowest <= start <= highest:
            raise InputError(
                f"ISogCLR: start is {start:g}; it must lie in [{lowest:g}, {highest:g}], the bounds at progress 0"
            )
        for side, size in (("media", num_media), ("text", num_captions)):
            self.register_buffer(f"tau_{side}", torch.full((size,), float(start)))
            self.register_buffer(f"u_{side}", torch.zeros(size))

    def bounds(self, progress: float) -> tuple[float, float]:
        """Return low and high at `progress`; InputError unless 0 < low <= high."""
        low, high = self.low(progress), self.high(progress)
        if not 0 < low <= high:
            raise InputError(
                f"ISogCLR: low is {low:g} and high {high:g} at progress {progress:g}; needs 0 < low <= high"
            )
        return low, high

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the loss at each row's temperature."""
        bounds = self.bounds(pairs.progress)
        tau_media, tau_text = (self.state[f"tau_{side}"].clamp(*bounds) for side in SIDES)
        result = self.contrast(x, y, (tau_media, tau_text), pairs)
        mean = (tau_media + tau_text) / 2
        return ObjectiveOutput(result.loss, self.log(mean, result, slack=result.slack(self.rho)))

    def remember(self, pairs: Pairs, gathered: Mapping[str, Tensor]) -> None:
        """Keep the sums over negatives, and take one step with the temperatures of rows that have a negative."""
        super().remember(pairs, gathered)
        bounds = self.bounds(pairs.progress)
        for side, rows in zip(SIDES, self.rows(pairs), strict=True):
            tau, u = self.state[f"tau_{side}"], self.state[f"u_{side}"]
            contrasted = gathered[f"_contrasted_{side}"]
            number = over_same_rows(rows, contrasted.to(u), "sum")
            slack = gathered[f"_slack_{side}"].clamp(-U_CLIP, U_CLIP).to(u).masked_fill(~contrasted, 0.0)
            average = (1 - self.beta) * u + self.beta * over_same_rows(rows, slack, "sum") / number
            self.keep(f"u_{side}", rows, torch.where(number > 0, average, u))
            stepped = (tau.clamp(*bounds) - self.eta * average).clamp(*bounds)
            self.keep(f"tau_{side}", rows, torch.where(number > 0, stepped, tau))

    def values(self, progress: float, index: Tensor) -> dict[str, Tensor]:
        """Return the temperatures of the texts of samples (B,), and of at most 10,000 media, evenly spread."""
        step = math.ceil(self.num_media / _MOST_MEDIA)
        media = torch.arange(0, self.num_media, step, device=self.tau_media.device)
        values = self.read({"text": index.to(media)}) | self.read({"media": media})
        return {f"temperature_{side}": values[f"tau_{side}"].clamp(*self.bounds(progress)) for side in reversed(SIDES)}
