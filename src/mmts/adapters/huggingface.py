"""A transformers Trainer that trains two-tower models, such as CLIPModel, under a rule of ours, and its callback."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

from mmts.adapters.batch_loss import Rule, batch_loss
from mmts.drop_in import MMTSLoss
from mmts.errors import InputError, RunError, listed
from mmts.files import atomic_write
from mmts.objectives import Objective
from mmts.training.optimizer import OWN_RATE, parameter_groups

RULE_FILE = "mmts_rule.pt"


def keep_columns(
    collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]], columns: Sequence[str], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the batch of `collate`, and columns of integers, which other collators drop, as tensors (B,)."""
    kept, rest = {}, list(map(dict, rows))
    for name in columns:
        if any(name not in row for row in rows):
            raise InputError(f"a row has no {name!r}, only {listed(rows[0])}; add such a column to the data set")
        kept[name] = torch.tensor([int(row.pop(name)) for row in rest])
    return {**collate(rest), **kept}


class ContrastiveTrainer(Trainer):  # type: ignore[misc]  # transformers has no types here
    """A Trainer whose loss is that of a rule on the model's image_embeds and text_embeds (docs/plug-in.md).

    rule: an objective or MMTSLoss. The data set has a column `index`, the pair's index (for MMTSLoss a column `count`,
    the size of its concept); with shared_media=True also `media_index`. The collator is wrapped to keep them.

    The rule's parameters join the optimizer that the trainer makes, and a logit_scale of the model is frozen. The log
    gets the mean of each value that the rule logs, such as "temperature"; `rule_log` has those of the last batch.
    Raises InputError for a row without its columns, and RunError if a resumed checkpoint lacks the rule's state.
    """

    def __init__(self, *arguments: Any, rule: Rule, shared_media: bool = False, **more: Any) -> None:
        super().__init__(*arguments, **more)
        # The trainer keeps labels, and computes a loss in evaluation if all of them are there.
        self.label_names = ["count" if isinstance(rule, MMTSLoss) else "index"]
        self.label_names += ["media_index"] if shared_media else []
        self.data_collator: Any = partial(keep_columns, self.data_collator, self.label_names)
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
        samples, *media = (inputs[name] for name in self.label_names)
        x, y, progress = outputs["image_embeds"], outputs["text_embeds"], self.rule_callback.progress
        output = batch_loss(self.rule, x, y, progress=progress, samples=samples, media=media[0] if media else None)
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
        """Log; in training, with the means of the values that the rule logged for the last batch."""
        means = {name: value.double().mean().item() for name, value in self.rule_log.items()} if "loss" in logs else {}
        super().log({**logs, **means}, *more, **rest)


class RuleCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """Keeps a rule in step with a trainer: `progress` is global_step / max_steps, None before training.

    After each optimizer step it calls the rule's after_step. The rule's state is saved in the file mmts_rule.pt of
    every checkpoint, and loaded from there when training resumes; RunError if that file is missing or of another rule.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.progress: float | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **rest: Any) -> None:
        """Set progress, and load the rule's state if a run is resumed."""
        self.progress = state.global_step / state.max_steps
        if state.global_step and self.rule.state_dict():
            path = _rule_file(args, state)
            if not path.exists():
                raise RunError(f"{path} is missing: resume from a checkpoint that was written with the rule's callback")
            try:
                self.rule.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except RuntimeError as error:
                raise RunError(f"{path} is not of this rule: {error}") from None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **rest: Any) -> None:
        """Follow an optimizer step, and clear the rule's gradients: the trainer clears its model's only."""
        self.rule.zero_grad()
        if isinstance(self.rule, Objective):
            self.rule.after_step()
        self.progress = state.global_step / state.max_steps

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **rest: Any) -> None:
        """Write the rule's state beside the model's."""
        if state.is_world_process_zero and self.rule.state_dict():
            with atomic_write(_rule_file(args, state)) as file:
                torch.save(self.rule.state_dict(), file)


def _rule_file(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / RULE_FILE
