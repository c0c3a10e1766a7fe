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
    """A collator that keeps columns of whole numbers, which others drop, as tensors (B,).

    The rest of a row goes to `collate`. InputError naming the column where a row lacks it.

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

    rule: an objective or MMTSLoss. Rows of the data set have a column `index`, the pair's index (for MMTSLoss a column
        `count`, the size of its concept); with shared_media=True also `media_index`. The collator is wrapped to keep
        them, and remove_unused_columns leaves them alone.

    What the rule learns goes to the optimizer the trainer makes, where a learning rate of its own is what the schedule
    starts from. A logit_scale of the model is frozen: the rule has its place. The trainer's log gets the means of what
    the rule logs ("temperature", for one), and `rule_log` has those of the last batch by sample.

    InputError for a row without its columns, RunError where a resumed checkpoint lacks the rule's state.
    """

    def __init__(self, *arguments: Any, rule: Rule, shared_media: bool = False, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.shared_media = shared_media
        self.sample_column = "count" if isinstance(rule, MMTSLoss) else "index"
        # Labels are no unused columns, and with all of them there is a loss in evaluation.
        self.label_names = [self.sample_column, *([MEDIA_COLUMN] if shared_media else [])]
        self.data_collator: Any = KeepColumns(self.data_collator, self.label_names)
        self.loss_is_scaled_for_ga = False  # a mean over the batch
        self.rule = rule.to(self.args.device)
        self.rule_callback = RuleCallback(self.rule)
        self.add_callback(self.rule_callback)
        self.rule_log: dict[str, Tensor] = {}
        scale = getattr(self.model, "logit_scale", None)
        if isinstance(scale, nn.Parameter):
            scale.requires_grad_(False)  # the loss does not reach it, and several processes would wait for its gradient

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the rule's loss of a batch, shape (), with the model's outputs where asked for."""
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
        """Make the optimizer, the rule's parameters among the others; one that was handed in stays as it is."""
        handed_in = self.optimizer is not None
        optimizer: Optimizer = super().create_optimizer(model)
        if not handed_in:
            own_rates = self.rule.learning_rates() if isinstance(self.rule, Objective) else {}
            for group in parameter_groups([self.rule], self.args.weight_decay, own_rates):
                rate = group.pop(OWN_RATE, self.args.learning_rate)
                if group["params"]:
                    optimizer.add_param_group({**group, "lr": rate})
        return optimizer

    def log(self, logs: dict[str, float], *more: Any, **rest: Any) -> None:
        """Log, and of training also the means of what the rule logged of the last batch."""
        means = {name: each.double().mean().item() for name, each in self.rule_log.items()} if "loss" in logs else {}
        super().log({**logs, **means}, *more, **rest)
