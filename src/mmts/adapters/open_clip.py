"""A loss that open_clip's training loop calls as its own, and the sample ids that its webdataset pipeline drops."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmts.adapters.batch_loss import Rule, batch_loss
from mmts.errors import DataError, InputError, quoted
from mmts.objectives import Objective


class RuleClipLoss(nn.Module):
    """The loss of a rule (an objective or MMTSLoss), with the call and the return values of open_clip's ClipLoss.

    `tell_samples`, or your own loop, sets `progress` and `samples` (B,) before each batch: the pairs' index, or for
    MMTSLoss the sizes of their concepts. The model's logit_scale and logit_bias get a gradient of 0. `log` has the
    values that the rule logged for the last batch. Raises InputError without samples.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        self.progress: float | None = None
        self.samples: Tensor | None = None
        self.log: dict[str, Tensor] = {}

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the loss of a batch, shape (), or a dictionary with it as "contrastive_loss"."""
        if self.samples is None:
            raise InputError("RuleClipLoss: it does not know which samples the batch has; see tell_samples")
        samples = self.samples.to(image_features.device)
        output = batch_loss(self.rule, image_features, text_features, progress=self.progress, samples=samples)
        self.log = output.log
        # With several processes DDP waits for the gradient of every parameter that the model's output depends on.
        unused = logit_scale if logit_bias is None else logit_scale + logit_bias
        loss = output.loss + 0.0 * unused.sum()
        return {"contrastive_loss": loss} if output_dict else loss


def position_of(keys: Iterable[str]) -> Callable[[str], int]:
    """Return a function from a sample's key to its position in `keys`, which raises DataError for an unknown key.

    InputError if a key occurs twice.
    """
    positions: dict[str, int] = {}
    for at, key in enumerate(keys):
        if (first := positions.setdefault(key, at)) != at:
            raise InputError(f"key {quoted(key)} is at {first} and at {at}; keys must tell samples apart")

    def look_up(key: str) -> int:
        if key not in positions:
            raise DataError(f"the shards have a sample {quoted(key)}, which is not among the {len(positions):,} known")
        return positions[key]

    return look_up


def tell_samples(
    data: Any, loss: RuleClipLoss, sample_of: Callable[[str], int], *, epochs: int, accum_freq: int = 1
) -> None:
    """Make the training data of open_clip's get_data set `progress` and `samples` of `loss` before each batch.

    data: data["train"] of webdataset shards, changed in place before its first epoch. sample_of: from a sample's
    `__key__` to its index (`position_of`), or for MMTSLoss to the size of its concept. epochs, accum_freq: as given to
    open_clip. InputError if `data` is not a webdataset pipeline of open_clip's form.
    """
    try:
        pipeline = data.dataloader.pipeline[0].dataset.pipeline
        to_tuple = next(stage for stage in pipeline if getattr(stage, "args", None) == ("image", "text"))
        data.shared_epoch.get_value()
    except (AttributeError, LookupError, TypeError, StopIteration):
        stage = 'a stage to_tuple("image", "text"), as open_clip makes it for --dataset-type webdataset'
        raise InputError(f"tell_samples: the data is not a webdataset pipeline with {stage}") from None
    to_tuple.args = ("image", "text", "__key__")
    data.dataloader = _TellingLoader(data.dataloader, data.shared_epoch, loss, sample_of, epochs, accum_freq)


@dataclass
class _TellingLoader:
    """Yields the (images, texts) of a loader of (images, texts, keys), and prepares the loss for each batch."""

    loader: Any
    epoch: Any
    loss: RuleClipLoss
    sample_of: Callable[[str], int]
    epochs: int
    accum_freq: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)  # open_clip reads num_batches and num_samples

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        steps = self.loader.num_batches // self.accum_freq
        samples: list[Tensor] = []
        for number, (images, texts, keys) in enumerate(self.loader):
            if number % self.accum_freq == 0:
                samples = []
            samples.append(torch.tensor([self.sample_of(key) for key in keys]))
            step = steps * self.epoch.get_value() + number // self.accum_freq
            self.loss.progress = step / (steps * self.epochs)
            # open_clip accumulates features, and computes the loss of all of them at once.
            self.loss.samples = torch.cat(samples)
            yield images, texts
            if isinstance(self.loss.rule, Objective):
                self.loss.rule.after_step()
