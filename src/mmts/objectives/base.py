"""The base class of the objectives, its result, and the values of a policy for a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.normalize import pair_cosines
from mmts.losses.queries import cosine_rows
from mmts.policies import Policy


class ObjectiveOutput(NamedTuple):
    """A batch's loss, shape (), and tensors to log by name: one value (), (B,) per sample, or (b, B) per pair."""

    loss: Tensor
    log: dict[str, Tensor]


@dataclass(frozen=True)
class Pairs:
    """What an objective knows about the B pairs of a batch, beside their embeddings."""

    progress: float  # in [0, 1]
    index: Tensor  # (B,) int64, the pairs' stable positions
    queries: slice  # the b pairs whose loss this process computes
    media_index: Tensor | None = None  # (B,) int64, the stable positions of their media
    positives: Tensor | None = None  # (B, B) bool, extra positives, dense or sparse (COO)
    relevance: Tensor | None = None  # (B, B) in [0, 1], of medium i to text j; of b queries also their rows (2, b, B)


class Objective(nn.Module):
    """Base of all objectives: objective(x, y, *, progress, index, ...) -> ObjectiveOutput.

    Shapes: x (media) and y (text) (B, D) of any norm; the keywords are the fields of `Pairs`. A subclass writes
    `compute`. State for the media side is kept by media_index, for the text side by index.
    """

    value_name: str = "temperature"
    """What its policy's value is: a temperature or a margin; also the name of the policy."""

    uses_relevance: bool = False
    """Whether every batch must have `relevance`, which takes time to compute."""

    rate_decay: float = 1.0
    """By what `mmts train` multiplies the rates in `learning_rates` after each epoch."""

    splits_queries: bool = False
    """Whether `compute` returns the loss of `pairs.queries` alone. If False, it returns the whole batch's loss, with
    several processes too, and gets `positives` and `relevance` whole and dense."""

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Return the queries' part of the batch's loss, and tensors to log.

        A tensor (b,) has one value per query and is gathered from all processes; "weight", the pull of the loss on each
        positive pair, is then divided by the batch's mean. Names that begin with "_" are for `remember` only; of those
        that begin with "_sum_", the values of all processes are added up.
        """
        raise NotImplementedError

    def remember(self, pairs: Pairs, gathered: Mapping[str, Tensor]) -> None:
        """Update what is kept from batch to batch, once after each `compute` in training mode.

        gathered: what `compute` logged, without gradient; a value per query is now (B,), of all processes.
        """

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
        pairs = Pairs(progress, index, slice(0, len(x)), media_index, positives, relevance)
        output = self.compute_part(x, y, pairs)
        return ObjectiveOutput(output.loss, self.finish(pairs, output.log))

    def compute_part(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Check the batch; return the queries' part of the loss, whether or not the objective splits queries."""
        for name, index in (("index", pairs.index), ("media_index", pairs.media_index)):
            if index is not None and len(index) != len(x):
                raise InputError(f"{name} has {len(index)} rows and x has {len(x)}; the numbers must be equal")
        if self.uses_relevance and pairs.relevance is None:
            raise InputError(
                f"{type(self).__name__} needs relevance (B, B), how relevant each medium is to each text; data without "
                "graded relevance has none"
            )
        if not self.splits_queries and pairs.positives is not None and pairs.positives.is_sparse:
            pairs = replace(pairs, positives=pairs.positives.to_dense())
        loss, log = self.compute(x, y, pairs)
        if not self.splits_queries:
            loss = loss * ((pairs.queries.stop - pairs.queries.start) / len(x))
        # Of the queries' rows (2, b, B) the log has those of x to y.
        return ObjectiveOutput(loss, {name: (v[0] if v.ndim == 3 else v).detach() for name, v in log.items()})

    def finish(self, pairs: Pairs, gathered: dict[str, Tensor]) -> dict[str, Tensor]:
        """Remember the batch in training mode, and return what to log."""
        if self.training:
            with torch.no_grad():
                self.remember(pairs, gathered)
        log = {name: value for name, value in gathered.items() if not name.startswith("_")}
        if "weight" in log:
            mean = log["weight"].mean()
            log["weight"] = torch.where(mean > 0, log["weight"] / mean, 1.0)  # all ones if nothing pulls
        return log

    def values(self, progress: float, index: Tensor) -> dict[str, Tensor]:
        """Return the temperatures or margins of samples by name, () or (B,), unless they depend on the batch."""
        policies = {name: getattr(self, name, None) for name in ("temperature", "margin")}
        with torch.no_grad():
            return {
                name: policy(progress, index)
                for name, policy in policies.items()
                if isinstance(policy, Policy) and not policy.uses_similarity
            }

    def learning_rates(self) -> dict[str, float]:
        """Return the constant rates of parameters, by name, that do not train as the model does; they have no decay."""
        return {}

    def after_step(self) -> None:
        """Call after every optimizer step."""
        for module in self.modules():
            if isinstance(module, Policy):
                module.after_step()


def policy_values(policy: Policy, x: Tensor, y: Tensor, pairs: Pairs) -> Tensor:
    """Return a policy's values for a batch: (), (B,), or per pair (B, B), or (2, b, B) for some queries only.

    A policy that uses similarities gets those that its `similarity_of` names, without gradient.
    """
    x, y, similarity = x.detach(), y.detach(), None
    if policy.uses_similarity:
        if policy.similarity_of == "positive pairs":
            similarity = pair_cosines(x, y)
        else:
            similarity = similarities(x, y, pairs.queries if policy.similarity_of == "queries" else slice(0, len(x)))
    values: Tensor = policy(pairs.progress, pairs.index, similarity)
    return values


def similarities(x: Tensor, y: Tensor, queries: slice) -> Tensor:
    """Return the cosines of all pairs (B, B), or if not all are queries their rows (2, b, B), x to y, then y to x."""
    xy, yx = cosine_rows(x, y, queries)
    return xy if len(xy) == len(x) else torch.stack([xy, yx])
