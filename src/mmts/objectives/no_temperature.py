"""InfoNCE without a temperature."""

from typing import Annotated, Any

from annotated_types import Ge, Lt
from torch import Tensor

from mmts.losses import no_temperature
from mmts.losses.no_temperature import SMALLEST_EPS
from mmts.losses.softmax import check_options
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs
from mmts.options import ZeroToOne


class NoTemperature(Objective):
    """InfoNCE without a temperature: a pair's logit is 2 artanh of its cosine (docs/method.md, 4.24; arXiv 2501.17683).

    eps: cosines are clamped to [-1 + eps, 1 - eps], where artanh is finite.
    label_smoothing: share of the target that is spread over all candidates.

    Logs "weight" (B,), the pull on each positive pair over the batch's mean, and no temperature.

    >>> import torch
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    >>> output = NoTemperature()(x, y, progress=0.0, index=torch.tensor([0, 1]))
    >>> round(output.loss.item(), 4), list(output.log)
    (2.3948, ['weight'])
    """

    splits_queries = True

    def __init__(
        self, *, eps: Annotated[float, Ge(SMALLEST_EPS), Lt(1)] = 1e-6, label_smoothing: ZeroToOne = 0.0
    ) -> None:
        super().__init__()
        check_options(label_smoothing=label_smoothing)
        self.options: dict[str, Any] = {"eps": eps, "label_smoothing": label_smoothing}

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return no_temperature."""
        loss, pull = no_temperature.with_pull(x, y, positives=pairs.positives, queries=pairs.queries, **self.options)
        return ObjectiveOutput(loss, {"weight": pull})
