"""FastCLIP v3: SogCLR with one learned temperature."""

from typing import Literal

from torch import Tensor

from mmts.objectives.base import ObjectiveOutput, Pairs
from mmts.objectives.memory import ObjectiveWithMemory
from mmts.options import NotNegative, Positive, checked
from mmts.policies import Learned
from mmts.schedules import Constant, Cosine, Join, Schedule

GAMMA = Join((Cosine(0.2, 1.0, cycles=0.5), Constant(0.2)), (0.5,))
"""The published weight of the new in the moving sum: half a cosine from 1 to .2 over the first half, then .2."""

TauGradient = Literal["half", "printed", "released"]


class FastCLIP(ObjectiveWithMemory):
    """FastCLIP v3: SogCLR with one learned temperature, gamma from 1 to .2 (docs/method.md, 5.7; arXiv 2407.01445).

        L = mean_i of the SogCLR terms + tau (rho + mean_i (log u_i + log u'_i) / 2),   u = S / (B - 1)

    u_i is of media against texts, u'_i of texts against media. The first term trains the embeddings, the second tau.

    start: where the temperature starts; it is trained as a logarithm and clamped after each step.
    rho: radius of the robust loss; it pulls the temperature down, as in ISogCLR, and always if above log(B - 1).
    gamma: as in SogCLR.
    learning_rate: the temperature's own (see `learning_rates`); None takes the model's.
    low: lower bound of the temperature.
    high: upper bound.
    eps: is added to u_i in w and in log u_i, as in SogCLR.
    tau_gradient: "half", that of L above; "printed", twice that, as equation 10 has it; or "released", that of the
        released code, in which only one of its two parts is doubled (5.7).

    The rest is as in SogCLR.
    Source: Wei et al., arXiv 2407.01445, equation 10, with the numbers of its released CC3M script, which also lowers
    tau's learning rate to a third when tau falls to .03.

    >>> import torch
    >>> objective = FastCLIP(num_media=2, num_captions=2, start=0.5)
    >>> objective(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1])).loss.item()
    0.25
    """

    @checked
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
        eps: NotNegative = 0.0,
        tau_gradient: TauGradient = "half",
    ) -> None:
        super().__init__(num_media, num_captions, gamma, eps)
        self.rho, self.learning_rate, self.tau_gradient = rho, learning_rate, tau_gradient
        self.temperature = Learned(start, low, high)

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the loss at the current temperature."""
        tau = self.temperature(pairs.progress, pairs.index)
        result = self.contrast(x, y, (tau, tau), pairs)
        of_log_mean = 2 if self.tau_gradient == "printed" else 1
        of_exponent = 1 if self.tau_gradient == "half" else 2
        robust = of_log_mean * tau * (self.rho + result.log_mean)  # (2, b)
        # This term is 0: its gradient is that of tau through the log mean.
        robust = robust - of_exponent * (tau - tau.detach()) * result.mean_exponent
        return ObjectiveOutput(result.loss + robust.sum() / (2 * len(x)), self.log(tau, result))
