"""RINCE with the temperatures of a policy."""

from typing import Annotated

from mmts.losses import rince
from mmts.losses.queries import Anchor
from mmts.objectives.info_nce import InfoNCE
from mmts.options import AboveZeroToOne, RecipeDefault
from mmts.policies import Policy


class RINCE(InfoNCE):
    """RINCE: InfoNCE that is robust to wrong pairs, on which it pulls less (docs/method.md, 4.26; arXiv 2201.04309).

    temperature: the policy; q over the smallest temperature is at most 64.
    q: near 0 this is InfoNCE; with a larger q, pairs of low similarity pull less.
    lam: weight of the sum over all candidates.
    scale_by_temperature: multiply each row by its temperature, which cancels the inverse temperature in its gradient.

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> objective, x = RINCE(Fixed(1.0), q=1.0, lam=0.5), torch.eye(2)
    >>> round(objective(x, x, progress=0.0, index=torch.tensor([0, 1])).loss.item(), 4)
    -0.8591
    """

    loss = staticmethod(rince.with_pull)

    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        q: AboveZeroToOne = 0.1,
        lam: AboveZeroToOne = 0.01,
        anchor: Anchor = "row",
        scale_by_temperature: bool = False,
    ) -> None:
        super().__init__(temperature, anchor=anchor)
        self.options = {"q": q, "lam": lam, "anchor": anchor, "scale_by_temperature": scale_by_temperature}
