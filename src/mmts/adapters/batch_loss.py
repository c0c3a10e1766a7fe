"""What all adapters share: one way to ask an objective, or MMTSLoss, for the loss of a batch.

A loop that is not ours knows progress and what a batch carries, which is at most a number or two a pair.
"""

from typing import TypeAlias

import torch
from torch import Tensor

from mmts.data.batches.positives import SPARSE_BELOW
from mmts.distributed.collectives import gather, share_sizes
from mmts.distributed.shared_loss import ask, shared_loss
from mmts.drop_in import MMTSLoss
from mmts.errors import InputError
from mmts.objectives import Objective, ObjectiveOutput
from mmts.objectives.base import Share

Rule: TypeAlias = Objective | MMTSLoss
"""An objective, or the published rule in one object."""


def batch_loss(
    rule: Rule, x: Tensor, y: Tensor, *, progress: float | None, samples: Tensor, media: Tensor | None = None
) -> ObjectiveOutput:
    """Return the rule's loss of a batch and what to log.

    x, y (B, D); samples (B,): for an objective the pairs' index, for MMTSLoss the sizes of their concepts. media (B,):
    the index of each pair's medium where several pairs may share one; those of a batch that do are positives of each
    other. Of several processes each gives its own rows and gets the loss of all; the mean over the processes of the
    gradients is that of one process with the whole batch. InputError where `progress` is None: nothing told it; on all
    processes, where the rule raises it on one.

    >>> import torch
    >>> rule = MMTSLoss(total_steps=1, count_range=(1, 100))
    >>> output = batch_loss(rule, torch.eye(2), torch.eye(2), progress=0.0, samples=torch.tensor([1, 100]))
    >>> output.log["temperature"]
    tensor([0.0900, 0.2400], dtype=torch.float64)
    """
    if progress is None:
        raise InputError(
            "progress is unknown: training has not begun, or nothing tells the rule how far it is (in a trainer, the "
            "rule's callback)"
        )
    for name, each in (("samples", samples), ("media", media)):
        if each is not None and each.shape != (len(x),):
            raise InputError(f"{name} is {tuple(each.shape)}; for {len(x)} pairs it must be ({len(x)},)")
    sizes = share_sizes(len(x), x.device)
    samples = gather(samples, sizes)
    media = None if media is None else gather(media, sizes)
    positives = None if media is None else _same_medium(media)

    def part(x: Tensor, y: Tensor, share: Share | None) -> ObjectiveOutput:
        if isinstance(rule, MMTSLoss):
            step = progress * rule.total_steps
            name = "margin" if rule.kind == "max_margin" else "temperature"
            rows = None if share is None else share.rows
            loss = rule(x, y, step=step, counts=samples, positives=positives, rows=rows)
            return ObjectiveOutput(loss, {name: rule.values(step=step, counts=samples)})
        return ask(rule, x, y, share, progress=progress, index=samples, media_index=media, positives=positives)

    return shared_loss(part, rule.parameters(), x, y, sizes)


def _same_medium(media: Tensor) -> Tensor | None:
    """Return which pairs share their medium, (B, B) bool, sparse where few do, or None where none do."""
    order = media.argsort(stable=True)
    first, last = (torch.searchsorted(media[order], media, side=side) for side in ("left", "right"))
    number = last - first  # of pairs with each one's medium
    total = int(number.sum())
    if total == len(media):
        return None
    if total > len(media) ** 2 // SPARSE_BELOW or media.device.type == "mps":  # as in mmts.data.batches.positives
        return media[:, None] == media
    rows = torch.arange(len(media), device=media.device).repeat_interleave(number)
    within = torch.arange(len(rows), device=media.device) - (number.cumsum(0) - number)[rows]
    pairs = torch.stack([rows, order[first[rows] + within]])
    true = torch.ones_like(rows, dtype=torch.bool)
    return torch.sparse_coo_tensor(pairs, true, (len(media), len(media)), check_invariants=False)
