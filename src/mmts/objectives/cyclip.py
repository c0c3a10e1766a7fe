"""CyCLIP: InfoNCE and two terms on the consistency of similarities."""

from typing import Annotated

from torch import Tensor

from mmts.losses import cyclic_consistency
from mmts.losses.queries import Anchor
from mmts.objectives.base import ObjectiveOutput, Pairs
from mmts.objectives.info_nce import InfoNCE
from mmts.objectives.max_margin import MARGIN
from mmts.objectives.prior import Prior
from mmts.objectives.row_weights import RowWeights
from mmts.options import NotNegative, RecipeDefault, ZeroToOne
from mmts.policies import Policy


class CyCLIP(InfoNCE):
    """CyCLIP: InfoNCE with similarities that agree across modalities (docs/method.md, 4.27; arXiv 2205.14459).

    temperature: the policy of InfoNCE; the two terms have none.
    in_modal: weight of the differences between the similarities of two media and of their texts.
    cross_modal: weight of the differences between medium i with text j and medium j with text i.

    The rest is as in InfoNCE, and changes its part of the loss alone.

    >>> import torch
    >>> from mmts.policies import Fixed
    >>> x, y = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> batch = {"progress": 0.0, "index": torch.tensor([0, 1])}
    >>> (CyCLIP(Fixed(1.0))(x, y, **batch).loss - InfoNCE(Fixed(1.0))(x, y, **batch).loss).item()
    0.5
    """

    def __init__(
        self,
        temperature: Annotated[Policy, RecipeDefault({"rule": "fixed"})],
        *,
        in_modal: NotNegative = 0.25,
        cross_modal: NotNegative = 0.25,
        anchor: Anchor = "row",
        label_smoothing: ZeroToOne = 0.0,
        scale_by_temperature: bool = False,
        prior: Prior | None = None,
        weights: RowWeights | None = None,
        margin: Annotated[Policy | None, RecipeDefault(None, MARGIN.options)] = None,
    ) -> None:
        super().__init__(
            temperature,
            anchor=anchor,
            label_smoothing=label_smoothing,
            scale_by_temperature=scale_by_temperature,
            prior=prior,
            weights=weights,
            margin=margin,
        )
        self.in_modal, self.cross_modal = in_modal, cross_modal

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return InfoNCE and the two terms."""
        contrast, log = super().compute(x, y, pairs)
        terms = cyclic_consistency(x, y, in_modal=self.in_modal, cross_modal=self.cross_modal, queries=pairs.queries)
        return ObjectiveOutput(contrast + terms, log)
