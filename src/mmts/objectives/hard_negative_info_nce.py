"""InfoNCE with weights on its negatives."""

from typing import Annotated

from mmts.losses import hard_negative_info_nce
from mmts.losses.queries import Anchor
from mmts.objectives.info_nce import InfoNCE
from mmts.options import NotNegative, RecipeDefault, ZeroToBelowOne, ZeroToOne
from mmts.policies import Policy


class HardNegativeInfoNCE(InfoNCE):
    """HN-NCE and HCL: InfoNCE in which nearer negatives count more (docs/method.md, 4.25).

    beta: how much more near negatives count; 0 is InfoNCE. Published: .5 in CoVR's code, 1 in HCL's.
    alpha: weight of the positive pair in the denominator (HN-NCE); 0 decouples it.
    tau_plus: share of the negatives that are probably positives (HCL, published .1); 0 in HN-NCE.

    Source: Radenovic et al., arXiv 2301.02280; Robinson et al., arXiv 2010.04592.

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> objective, x, index = HardNegativeInfoNCE(Fixed(1.0)), torch.eye(3), torch.arange(3)
    >>> round(objective(x, x, progress=0.0, index=index).loss.item(), 4)  # equal negatives: as InfoNCE
    0.5514
    """

    loss = staticmethod(hard_negative_info_nce.with_pull)

    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        beta: NotNegative = 0.5,
        alpha: ZeroToOne = 1.0,
        tau_plus: ZeroToBelowOne = 0.0,
        anchor: Anchor = "row",
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"beta": beta, "alpha": alpha, "tau_plus": tau_plus, "anchor": anchor}
