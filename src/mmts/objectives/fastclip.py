"""FastCLIP v3: SogCLR with one learned temperature for all."""

from torch import Tensor

from mmts.objectives.base import ObjectiveOutput, Share, whole
from mmts.objectives.memory import ObjectiveWithMemory, log_weights
from mmts.options import Positive
from mmts.policies import Learned
from mmts.policies.base import check_positive
from mmts.schedules import Constant, Cosine, Join, Schedule

GAMMA = Join((Cosine(0.2, 1.0, cycles=0.5), Constant(0.2)), (0.5,))
"""The published weight of the new in the moving sum: half a cosine from 1 to .2 over the first half, then .2."""


class FastCLIP(ObjectiveWithMemory):
    """FastCLIP v3: SogCLR with one learned temperature, gamma from 1 to .2 (docs/method.md, 5.7; arXiv 2407.01445).

        L = mean_i of the SogCLR terms + tau (rho + mean_i (log u_i + log u'_i) / 2),   u = S / (B - 1)

    u_i of media against texts, u'_i of texts against media. The embeddings' gradient is SogCLR's; the temperature's is
    that of the second term, through u too: rho + mean_i (log u_i - sum_j w_ij d_ij, and the same of u') / 2.

    start: where the temperature starts; it is trained as a logarithm and clamped after each step.
    rho: radius of the robust loss; it pulls the temperature down, as in ISogCLR, and above log(B - 1) always.
    gamma: as in SogCLR.
    learning_rate: the temperature's own (see `learning_rates`); None takes the model's.
    low: lower bound of the temperature.
    high: upper bound.

    The rest as in SogCLR.

    Logs "temperature" () and "weight" (B,). InputError as in SogCLR.
    Source: Wei et al., arXiv 2407.01445, equation 10 and appendix (its released CC3M script for the numbers). Left open
    and settled here: the gradient of tau is the paper's; the released code lowers its learning rate to a third where
    tau falls to .03, which is not done here.

    >>> import torch
    >>> objective = FastCLIP(num_media=2, num_captions=2, start=0.5)
    >>> objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1])).loss.item()
    0.25
    >>> objective.learning_rates()
    {'temperature.log_value': 0.0002}
    """

    def __init__(
        self,
        num_media: int,
        num_captions: int,
        start: Positive = 0.07,
        rho: Positive = 6.5,
        gamma: float | Schedule = GAMMA,
        learning_rate: Positive | None = 2e-4,
        low: Positive = 0.01,
        high: Positive = 1.0,
    ) -> None:
        super().__init__(num_media, num_captions, gamma)
        check_positive("FastCLIP: rho", rho)
        if learning_rate is not None:
            check_positive("FastCLIP: learning_rate", learning_rate)
        self.rho, self.learning_rate = rho, learning_rate
        self.temperature = Learned(start, low, high)

    def learning_rates(self) -> dict[str, float]:
        """Return the temperature's own learning rate, if it has one."""
        return {} if self.learning_rate is None else {"temperature.log_value": self.learning_rate}

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        progress: float,
        index: Tensor,
        media_index: Tensor | None = None,
        positives: Tensor | None = None,
        relevance: Tensor | None = None,
        share: Share | None = None,
    ) -> ObjectiveOutput:
        """Return the loss at the temperature as it stands; in training mode, remember the batch."""
        share = share or whole(len(x))
        rows = self.rows(index, media_index, x)
        tau = self.temperature(progress, index)
        found = self.contrast(x, y, (tau, tau), progress, rows, positives, share)
        through_log_mean = -found.mean_exponent
        robust = tau * (self.rho + found.log_mean) + (tau - tau.detach()) * through_log_mean  # (2, b)
        log = {"temperature": tau.detach()}
        log_weights(share, log, found)
        return ObjectiveOutput(found.loss + robust.sum() / (2 * len(x)), log)
