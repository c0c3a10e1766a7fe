"""A transformers Trainer that trains two-tower models, such as CLIPModel, under a rule of ours."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer

from mmts.adapters.batch_loss import Rule, batch_loss
from mmts.adapters.trainer_callback import RuleCallback
from mmts.drop_in import MMTSLoss
from mmts.errors import InputError, listed
from mmts.objectives import Objective
from mmts.training.optimizer import OWN_RATE, parameter_groups

MEDIA_COLUMN = "media_index"


class KeepColumns:
    """A collator that keeps columns of integers, which other collators drop, as tensors (B,).

    The other columns go to `collate`. InputError if a row lacks a column, naming it.

    >>> from transformers import default_data_collator
    >>> collate = KeepColumns(default_data_collator, ["index"])
    >>> collate([{"index": 7, "input_ids": [1, 2]}, {"index": 8, "input_ids": [3, 4]}])["index"]
    tensor([7, 8])
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]], columns: Sequence[str]) -> None:
        self.collate = collate
        self.columns = columns

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch of `collate` with the kept columns beside it."""
        for name in self.columns:
            if any(name not in row for row in rows):
                raise InputError(f"a row has no {name!r}, only {listed(rows[0])}; add such a column to the data set")
        kept = {name: torch.tensor([int(row[name]) for row in rows]) for name in self.columns}
        rest = [{name: value for name, value in row.items() if name not in kept} for row in rows]
        return {**self.collate(rest), **kept}


class ContrastiveTrainer(Trainer):  # type: ignore[misc]  # transformers has no types here
    """A Trainer whose loss is that of a rule on the model's image_embeds and text_embeds.

    rule: an objective or MMTSLoss. The data set has a column `index`, the pair's index (for MMTSLoss a column `count`,
        the size of its concept); with shared_media=True also `media_index`. The collator is wrapped to keep them, and
        remove_unused_columns leaves them alone.

    The rule's parameters are added to the optimizer that the trainer makes; a learning rate of their own is where their
    schedule starts. A logit_scale of the model is frozen, since the rule replaces it. The trainer's log gets the means
    of what the rule logs, such as "temperature"; `rule_log` has the last batch's values by sample.

    InputError for a row without its columns, RunError if a resumed checkpoint lacks the rule's state.
    """

    def __init__(self, *arguments: Any, rule: Rule, shared_media: bool = False, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.shared_media = shared_media
        self.sample_column = "count" if isinstance(rule, MMTSLoss) else "index"
        # The trainer keeps labels, and computes a loss in evaluation if all of them are there.
        self.label_names = [self.sample_column, *([MEDIA_COLUMN] if shared_media else [])]
        self.data_collator: Any = KeepColumns(self.data_collator, self.label_names)
        self.loss_is_scaled_for_ga = False  # a mean over the batch
        self.rule = rule.to(self.args.device)
        self.rule_callback = RuleCallback(self.rule)
        self.add_callback(self.rule_callback)
        self.rule_log: dict[str, Tensor] = {}
        scale = getattr(self.model, "logit_scale", None)
        if isinstance(scale, nn.Parameter):
            scale.requires_grad_(False)  # DDP would wait for its gradient

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the rule's loss of a batch, shape (), with the model's outputs if `return_outputs`."""
        outputs = model(**{name: value for name, value in inputs.items() if name not in self.label_names})
        self.rule.train(model.training)
        output = batch_loss(
            self.rule,
            outputs["image_embeds"],
            outputs["text_embeds"],
            progress=self.rule_callback.progress,
            samples=inputs[self.sample_column],
            media=inputs[MEDIA_COLUMN] if self.shared_media else None,
        )
        self.rule_log = output.log
        return (output.loss, outputs) if return_outputs else output.loss

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Make the optimizer, the rule's parameters included; an optimizer given to the trainer stays unchanged."""
        is_given = self.optimizer is not None
        optimizer: Optimizer = super().create_optimizer(model)
        if not is_given:
            own_rates = self.rule.learning_rates() if isinstance(self.rule, Objective) else {}
            for group in parameter_groups([self.rule], self.args.weight_decay, own_rates):
                rate = group.pop(OWN_RATE, self.args.learning_rate)
                if group["params"]:
                    optimizer.add_param_group({**group, "lr": rate})
        return optimizer

    def log(self, logs: dict[str, float], *more: Any, **rest: Any) -> None:
        """Log, in training together with the means of what the rule logged of the last batch."""
        means = {name: value.double().mean().item() for name, value in self.rule_log.items()} if "loss" in logs else {}
        super().log({**logs, **means}, *more, **rest)
