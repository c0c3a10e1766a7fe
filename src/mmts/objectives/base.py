"""What all objectives have in common: the call, what comes back, and asking a policy for a batch's values."""

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.normalize import cosine_similarity
from mmts.losses.rows import cosine_stripes, own_cosines
from mmts.policies import PairPolicy, Policy
from mmts.schedules import check_progress


class ObjectiveOutput(NamedTuple):
    """A batch's loss, shape (), and what to log of it: detached tensors of shape (), (B,) or (B, B) by name.

    Of a share of the batch, b queries, a value a pair is logged as these queries' rows, (b, B).
    """

    loss: Tensor
    log: dict[str, Tensor]


class Share(NamedTuple):
    """Which of a batch's queries a call works out the loss of, and what is to happen once all of them are known.

    rows: the queries, b in number. then(update, *found): calls update with each found (b,) of these queries as (B,) of
    all, detached, once the others' are there too.
    """

    rows: slice
    then: Callable[..., None]

    def log_relative(self, log: dict[str, Tensor], pull: Tensor) -> None:
        """Log as "weight" these queries' pulls, (b,), over the batch's mean."""

        def update(pulls: Tensor) -> None:
            log["weight"] = relative(pulls)

        self.then(update, pull)


def whole(B: int) -> Share:
    """Return the share that is the whole batch.

    >>> whole(3).rows
    slice(0, 3, None)
    """
    return Share(slice(0, B), lambda update, *found: update(*found))


class Objective(nn.Module):
    """Base of all objectives: objective(x, y, *, progress, index, ...) -> ObjectiveOutput.

    Shapes: x (media) and y (text) (B, D) of any norm; `progress` a float in [0, 1]; `index` (B,) int64, the pairs'
    stable positions; `media_index` (B,) int64, their media's; `positives` (B, B) bool or None, pairs of the batch that
    are right too; `relevance` (B, B) floating point in [0, 1] or None, how relevant medium i is to text j, which only
    rules on graded relevance look at. State a rule keeps for the media side goes by media_index, for the text side by
    index.

    Of several processes each asks for the loss of its own queries: `share` says which, and over shares that together
    are the batch, losses add up to the batch's. One whose forward takes no `share` works out the whole on each. One
    that takes it may get sparse `positives` (COO), and with several processes the queries' rows of `relevance`, (2, b,
    B), as the losses here take them.
    """

    value_name: str = "temperature"
    """What its policy's value is: a temperature or a margin; also the name of the policy."""

    uses_relevance: bool = False
    """Whether it looks at `relevance`, which takes time to work out for every batch."""

    takes_share: bool = True
    """Whether forward takes `share`, as its signature says."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.takes_share = "share" in signature(cls.forward).parameters

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
        share: Share | None = None,
    ) -> ObjectiveOutput:
        """Return the loss of a batch, or the share of it that is asked for, and what to log."""
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


def policy_values(
    policy: Policy, x: Tensor, y: Tensor, progress: float, index: Tensor, rows: slice | None = None
) -> Tensor:
    """Ask a policy for a batch's values; a rule that looks at the batch gets the detached similarities (B, B).

    Any callable (progress, index, similarity) will do; one that does not say `uses_similarity` gets them. Where only
    the `rows` of b queries count, a rule on pairs is asked for theirs alone, and gives (2, b, B), x to y, then y to x.
    """
    if len(index) != len(x):
        raise InputError(f"index has {len(index)} rows and x has {len(x)}; they must be as many")
    x, y, similarity = x.detach(), y.detach(), None
    if rows is not None and rows != slice(0, len(x)):
        if isinstance(policy, PairPolicy) and type(policy).forward is PairPolicy.forward:
            check_progress(progress)
            return pair_values(policy, x, y, rows)
        if getattr(policy, "looks_at_own_pairs_only", False):
            similarity = own_cosines(x, y)[:, None].expand(len(x), len(x))
    if similarity is None and getattr(policy, "uses_similarity", True):
        similarity = cosine_similarity(x, y)
    values: Tensor = policy(progress, index, similarity)
    return values


def pair_values(policy: PairPolicy, x: Tensor, y: Tensor, rows: slice) -> Tensor:
    """Return a rule's value of each pair, (B, B), or of the queries', (2, b, B), where not all of a batch are."""
    if rows == slice(0, len(x)):
        return policy.values(cosine_similarity(x, y))
    return torch.stack([policy.values(each) for each in cosine_stripes(x, y, rows)])


def shown(values: Tensor) -> Tensor:
    """Return a policy's values for the log, detached: of a value a pair the queries' rows of x to y."""
    return (values[0] if values.ndim == 3 else values).detach()


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
