"""Dual temperature: InfoNCE with rows weighted as at a second, higher temperature."""

from typing import Annotated

from mmts.losses import dual_temperature
from mmts.losses.queries import Anchor
from mmts.objectives.info_nce import InfoNCE
from mmts.options import Positive, RecipeDefault
from mmts.policies import Policy


class DualTemperature(InfoNCE):
    """Dual temperature: InfoNCE whose rows weigh as much as at a second temperature (docs/method.md, 4.23).

    temperature: the policy, published as Fixed(0.1).
    ratio: the second temperature over the first; 1 is InfoNCE.

    Source: Zhang et al., arXiv 2203.17248.

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> output = DualTemperature(Fixed(0.5))(torch.eye(2), torch.eye(2), progress=0.0, index=torch.tensor([0, 1]))
    >>> round(output.loss.item(), 4)
    0.4793
    """

    loss = staticmethod(dual_temperature.with_pull)

    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        ratio: Positive = 10.0,
        anchor: Anchor = "row",
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"ratio": ratio, "anchor": anchor}
