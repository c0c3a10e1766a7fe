"""TempNet: SogCLR whose temperatures two small networks predict from the embeddings."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.normalize import unit
from mmts.objectives.base import ObjectiveOutput, Pairs
from mmts.objectives.memory import ObjectiveWithMemory
from mmts.options import AboveZeroToOne, AtLeastOne, NotNegative, Positive, ZeroToBelowOne, checked
from mmts.schedules import Schedule


class TemperatureNet(nn.Module):
    """A temperature for each embedding: (B, D), any norm -> (B,) in [low, high] (docs/method.md, 5.8).

        h = dropout(sigmoid(W x + b));  q = h . unit prototypes;  w = softmax(q / scale)
        tau = low + (high - low) sigmoid(linear((w - 1/M) sigmoid(q)))

    dim: D. num_prototypes: M. scale is learned as a logarithm. tau starts near the middle. x gets no gradient.
    """

    def __init__(
        self, dim: int, num_prototypes: int, low: float, high: float, dropout: float = 0.5, scale: float = 0.01
    ) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.project = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.prototypes = nn.Parameter(torch.randn(num_prototypes, dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.linear = nn.Linear(num_prototypes, 1)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the temperatures, shape (B,), with gradient for the network alone."""
        h = self.dropout(self.project(unit(x.detach().to(self.prototypes))).sigmoid())  # (B, D)
        q = h @ unit(self.prototypes).T  # (B, M)
        w = (q / self.log_scale.exp()).softmax(dim=1)
        out = self.linear((w - 1 / len(self.prototypes)) * q.sigmoid()).squeeze(1)
        tau: Tensor = self.low + (self.high - self.low) * out.sigmoid()
        return tau


Prototypes = Literal["random", "first_batch"]


class TempNet(ObjectiveWithMemory):
    """TempNet: SogCLR at temperatures that two small networks predict (docs/method.md, 5.8; arXiv 2404.04575).

        L = SogCLR terms at tau held fixed + mean_i tau_i (log(S_i / (B - 1)) + rho - sum_j w_ij d_ij), media and texts

    The first term trains the embeddings alone and the second the networks alone.

    width: D of the embeddings.
    num_prototypes: prototypes that an embedding is compared with.
    rho: radius of the robust loss; a larger one pulls temperatures down, as in ISogCLR.
    gamma: as in SogCLR.
    low: lower bound of the temperatures.
    high: upper bound.
    dropout: on the networks' hidden layer.
    learning_rate: the networks' own (see `learning_rates`); None takes the model's.
    eps: is added to S_i / (B - 1) in w and in its logarithm, as in SogCLR.
    prototypes: where prototypes start: "random", or, as in released code, "first_batch", the first num_prototypes
        embeddings of the other modality in the first batch in training mode.
    rate_decay: by what `mmts train` multiplies the networks' learning_rate after each epoch; released code has .9.

    The rest is as in SogCLR; the logged temperature (B,) is the mean of a sample's two.
    Source: Qiu et al., arXiv 2404.04575, section 4, with the numbers of its released code.
    """

    started: Tensor  # whether the prototypes have started at a batch

    @checked
    def __init__(
        self,
        num_media: int,
        num_captions: int,
        width: AtLeastOne,
        num_prototypes: AtLeastOne = 256,
        rho: Positive = 7.0,
        gamma: float | Schedule = 0.8,
        low: Positive = 0.005,
        high: Positive = 0.05,
        dropout: ZeroToBelowOne = 0.5,
        learning_rate: Positive | None = 3e-5,
        eps: NotNegative = 0.0,
        prototypes: Prototypes = "random",
        rate_decay: AboveZeroToOne = 1.0,
    ) -> None:
        super().__init__(num_media, num_captions, gamma, eps)
        if low >= high:
            raise InputError(f"TempNet: low is {low:g} and high {high:g}; needs 0 < low < high")
        if rate_decay < 1 and learning_rate is None:
            raise InputError(f"TempNet: rate_decay is {rate_decay:g}, but learning_rate is None")
        self.width, self.rho, self.learning_rate, self.rate_decay = width, rho, learning_rate, rate_decay
        self.media_net, self.text_net = (TemperatureNet(width, num_prototypes, low, high, dropout) for _ in range(2))
        if prototypes == "first_batch":
            self.register_buffer("started", torch.tensor(False))

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the sum of both losses at the predicted temperatures."""
        for name, side in (("x", x), ("y", y)):
            if side.shape[1:] != (self.width,):
                raise InputError(f"{name} is {tuple(side.shape)}; TempNet was built for (B, {self.width})")
        if self.training and not getattr(self, "started", True):
            self.start_prototypes(x.detach(), y.detach())
        with torch.autocast(x.device.type, enabled=False):
            tau_media, tau_text = self.media_net(x), self.text_net(y)
        result = self.contrast(x, y, (tau_media, tau_text), pairs)
        taus = torch.stack([tau_media, tau_text])[:, pairs.queries]
        of_nets = (taus * result.slack(self.rho)).sum() / len(x)
        return ObjectiveOutput(result.loss + of_nets, self.log((tau_media + tau_text) / 2, result))

    def remember(self, pairs: Pairs, gathered: Mapping[str, Tensor]) -> None:
        """Keep the sums over negatives, and that the prototypes have started."""
        super().remember(pairs, gathered)
        if hasattr(self, "started"):
            self.started.fill_(True)

    @torch.no_grad()
    def start_prototypes(self, x: Tensor, y: Tensor) -> None:
        """Start the prototypes at the first embeddings (B, D) of the other modality."""
        number = len(self.media_net.prototypes)
        if len(x) < number:
            raise InputError(
                f"TempNet: the first batch has {len(x)} pairs for {number} prototypes to start at; set "
                f"num_prototypes to {len(x)} at most, or prototypes to random"
            )
        self.media_net.prototypes.copy_(y[:number])
        self.text_net.prototypes.copy_(x[:number])
