"""What all adapters share: one call for the loss of a batch under an objective or MMTSLoss."""

from typing import TypeAlias

import numpy as np
from torch import Tensor

from mmts.data.batches.positives import equal_pairs, on_device
from mmts.distributed.processes import all_values, gather
from mmts.distributed.shared_loss import shared_loss
from mmts.drop_in import MMTSLoss
from mmts.errors import InputError
from mmts.objectives import Objective, ObjectiveOutput, Pairs

Rule: TypeAlias = Objective | MMTSLoss


def batch_loss(
    rule: Rule, x: Tensor, y: Tensor, *, progress: float | None, samples: Tensor, media: Tensor | None = None
) -> ObjectiveOutput:
    """Return the rule's loss of a batch and what to log.

    x, y (B, D); samples (B,): the pairs' index, or for MMTSLoss the sizes of their concepts. media (B,): the index of
    each pair's medium, if pairs may share one and so are positives of each other. With several processes each gives its
    own rows and gets the loss of all; the mean of their gradients is that of one process with the whole batch.
    InputError if `progress` is None, and on all processes if the rule raises it on one.

    >>> import torch
    >>> rule = MMTSLoss(total_steps=1, count_range=(1, 100))
    >>> output = batch_loss(rule, torch.eye(2), torch.eye(2), progress=0.0, samples=torch.tensor([1, 100]))
    >>> output.log["temperature"]
    tensor([0.0900, 0.2400], dtype=torch.float64)
    """
    if progress is None:
        raise InputError("progress is unknown: nothing has set the rule's progress (in a trainer, its callback does)")
    for name, values in (("samples", samples), ("media", media)):
        if values is not None and values.shape != (len(x),):
            raise InputError(f"{name} is {tuple(values.shape)}; for {len(x)} pairs it must be ({len(x)},)")
    sizes = all_values(len(x), x.device)
    media = None if media is None else gather(media, sizes)
    objective = _Published(rule) if isinstance(rule, MMTSLoss) else rule
    positives = None
    if media is not None:
        keys = media.cpu().numpy()
        positives = on_device(equal_pairs(np.arange(len(keys)), keys, keys), media.device)  # sparse if few, else None
    batch = {"progress": progress, "index": gather(samples, sizes), "media_index": media, "positives": positives}
    return shared_loss(objective, x, y, sizes, **batch)


class _Published(Objective):
    """MMTSLoss as an objective, with the sizes of concepts for an index."""

    splits_queries = True

    def __init__(self, rule: MMTSLoss) -> None:
        super().__init__()
        self.rule = rule

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        step, counts = pairs.progress * self.rule.total_steps, pairs.index
        loss = self.rule(x, y, step=step, counts=counts, positives=pairs.positives, queries=pairs.queries)
        name = "margin" if self.rule.kind == "max_margin" else "temperature"
        return ObjectiveOutput(loss, {name: self.rule.values(step=step, counts=counts)})
