"""A callback of a transformers Trainer that tells a rule its progress and saves its state."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments

from mmts.adapters.batch_loss import Rule
from mmts.errors import RunError
from mmts.files import atomic_write
from mmts.objectives import Objective

RULE_FILE = "mmts_rule.pt"


class RuleCallback(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
    """Follows a trainer for a rule: `progress`, None before training, is its global_step / max_steps.

    After each optimizer step it calls the rule's after_step. The rule's state is saved in the file mmts_rule.pt of
    every checkpoint, and loaded from the one in args.output_dir when training resumes there; RunError if that has no
    such file, or one of another rule.
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
                raise RunError(
                    f"{path} is missing, and the rule has state; resume from a checkpoint in output_dir that was "
                    "written with the rule's callback"
                )
            try:
                self.rule.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            except RuntimeError as error:
                raise RunError(f"{path} is not of this rule: {error}") from None

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, *_: Any, **rest: Any) -> None:
        """Set progress."""
        self.progress = state.global_step / state.max_steps

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
