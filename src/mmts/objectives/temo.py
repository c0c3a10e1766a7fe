"""TeMo: from a fixed temperature to one per pair, over training."""

from torch import Tensor

from mmts.losses import info_nce
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs, similarities
from mmts.options import Positive, ZeroToOne, checked
from mmts.policies import TeMoTemperature
from mmts.schedules import check_progress


class TeMo(Objective):
    """TeMo: from one fixed temperature to one per pair as training goes on (docs/method.md, 5.3; arXiv 2609.07540).

    L = (1 - p)^2 info_nce(tau_min) + p^2 info_nce(tau_ij),   tau_ij = tau_min + tau_alpha sqrt((s_ij + 1)/2)

    tau_min: temperature at the start, and of a pair of similarity -1.
    tau_alpha: what is added to it for a pair of similarity 1.
    label_smoothing: share of the target that is spread over all candidates, in both losses.
    detach: hold tau_ij fixed in the gradient. False lets the gradient run through it, as the authors' code does.

    Logs "temperature" (B, B), the tau_ij, and "weight" (B,), the pull on each positive pair (5.1).
    The two factors do not add up to 1 (halfway the loss is halved), as published. The paper's terms between two
    augmented views of each image and each text are left out.
    Source: TeMo, arXiv 2609.07540 (tau_min .01, tau_alpha .04).

    >>> import torch
    >>> objective, x, index = TeMo(0.05, 0.1), torch.eye(2), torch.tensor([0, 1])
    >>> [round(objective(x, x, progress=p, index=index).loss.item(), 6) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.000318, 0.001272]
    """

    splits_queries = True

    @checked
    def __init__(
        self,
        tau_min: Positive = 0.01,
        tau_alpha: float = 0.04,
        *,
        label_smoothing: ZeroToOne = 0.0,
        detach: bool = True,
    ) -> None:
        super().__init__()
        self.temperature = TeMoTemperature(tau_min, tau_alpha)
        self.label_smoothing, self.detach = label_smoothing, detach

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return both losses, weighted by progress."""
        p = check_progress(pairs.progress)
        sides = (x.detach(), y.detach()) if self.detach else (x, y)
        tau = self.temperature.values(similarities(*sides, pairs.queries))
        (first, first_pull), (second, second_pull) = (
            info_nce.with_pull(
                x, y, at, positives=pairs.positives, label_smoothing=self.label_smoothing, queries=pairs.queries
            )
            for at in (self.temperature.tau_min, tau)
        )
        start, end = (1.0 - p) ** 2, p**2
        log = {"temperature": tau, "weight": start * first_pull + end * second_pull}
        return ObjectiveOutput(start * first + end * second, log)
