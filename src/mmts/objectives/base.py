"""What all objectives have in common: the call, what comes back, and asking a policy for a batch's values."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.normalize import cosine_similarity
from mmts.policies import Policy


class ObjectiveOutput(NamedTuple):
    """A batch's loss, shape (), and what to log of it: detached tensors of shape (), (B,) or (B, B) by name."""

    loss: Tensor
    log: dict[str, Tensor]


class Objective(nn.Module):
    """Base of all objectives: objective(x, y, *, progress, index, ...) -> ObjectiveOutput.

    Shapes: x (media) and y (text) (B, D) of any norm; `progress` a float in [0, 1]; `index` (B,) int64, the pairs'
    stable positions; `media_index` (B,) int64, their media's; `positives` (B, B) bool or None, pairs of the batch that
    are right too; `relevance` (B, B) floating point in [0, 1] or None, how relevant medium i is to text j, which only
    rules on graded relevance look at. State a rule keeps for the media side goes by media_index, for the text side by
    index.
    """

    uses_relevance: bool = False
    """Whether it looks at `relevance`, which takes time to work out for every batch."""

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        progress: float,
        index: Tensor,
        media_index: Tensor | None = None,
        positives: Tensor | None = None,
        relevance: Tensor | None = None,
    ) -> ObjectiveOutput:
        """Return the loss of a batch and what to log."""
        raise NotImplementedError

    def values(self, progress: float, index: Tensor) -> dict[str, Tensor]:
        """Return the temperatures or margins of samples by name, () or (B,), as far as no batch decides about them."""
        policies = {name: getattr(self, name, None) for name in ("temperature", "margin")}
        with torch.no_grad():
            return {
                name: policy(progress, index)
                for name, policy in policies.items()
                if isinstance(policy, Policy) and not policy.uses_similarity
            }

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates of parameters that have one of their own, by name as in named_parameters().

        Such a rate stays the same throughout and its parameter is not decayed; the rest, usually all, train as the
        model does.
        """
        return {}

    def after_step(self) -> None:
        """Call after every optimizer step: lets each policy inside do its own after_step."""
        for module in self.modules():
            if isinstance(module, Policy):
                module.after_step()


def policy_values(policy: Policy, x: Tensor, y: Tensor, progress: float, index: Tensor) -> Tensor:
    """Ask a policy for a batch's values; a rule that looks at the batch gets the detached similarities (B, B).

    Any callable (progress, index, similarity) will do; one that does not say `uses_similarity` gets them.
    """
    if len(index) != len(x):
        raise InputError(f"index has {len(index)} rows and x has {len(x)}; they must be as many")
    similarity = cosine_similarity(x.detach(), y.detach()) if getattr(policy, "uses_similarity", True) else None
    values: Tensor = policy(progress, index, similarity)
    return values


def relative(pull: Tensor) -> Tensor:
    """Return pulls (B,) over their mean, hence of mean 1; all ones where nothing pulls.

    >>> relative(torch.tensor([3.0, 0.0, 3.0])), relative(torch.zeros(2))
    (tensor([1.5000, 0.0000, 1.5000]), tensor([1., 1.]))
    """
    mean = pull.mean()
    return torch.where(mean > 0, pull / mean, 1.0)


def needed_relevance(rule: str, relevance: Tensor | None) -> Tensor:
    """Return `relevance`; InputError, naming the rule that needs it, where the data gives none."""
    if relevance is None:
        raise InputError(
            f"{rule} needs relevance (B, B), how relevant each medium is to each text; data without graded relevance "
            "has none"
        )
    return relevance
