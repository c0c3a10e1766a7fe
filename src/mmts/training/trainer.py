"""The one trainer: takes a model, an objective and batches, and owns the clock."""

import importlib.util
import math
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from mmts.console import Bar, console, errors, progress_bar
from mmts.data.loader import Batch
from mmts.errors import DataError, Diverged, InputError, Interrupted, RunError, WorkersLost
from mmts.models import TwoTower
from mmts.models.base import is_frozen
from mmts.objectives import Objective, ObjectiveOutput
from mmts.training.checkpoint import (
    load_newest,
    random_state,
    remove_leftovers,
    restore_random_state,
    save_checkpoint,
    save_in_turn,
)
from mmts.training.divergence import NotFinite, diverged, gradient_norm, values_in, values_of
from mmts.training.log_line import describe, flatten, summarize
from mmts.training.micro_batch import micro_batch_step, refuse_batch_norm
from mmts.training.optimizer import OWN_RATE, learning_rate_schedule, parameter_groups
from mmts.training.recipe import Train
from mmts.training.run_directory import RunDirectory
from mmts.training.saved_state import check_same_clock, restore
from mmts.training.stopping import stop_requests


class Trainer:
    """Trains `model` under `objective`; progress p = step / total_steps is computed here and nowhere else.

    `batches(epoch, first_batch)` yields the batches of an epoch from `first_batch` on; `evaluate()` returns the
    validation figures, or is None without validation data; `groups` (N,) is 0, 1, 2 = head, mid, tail by sample.
    """

    def __init__(
        self,
        model: TwoTower,
        objective: Objective,
        settings: Train,
        run: RunDirectory,
        batches: Callable[[int, int], Iterator[Batch]],
        batches_per_epoch: int,
        batch_size: int,
        evaluate: Callable[[TwoTower], dict[str, Any]] | None = None,
        groups: Tensor | None = None,
    ) -> None:
        missing = [name for name in settings.trackers if importlib.util.find_spec(name) is None]
        if missing:
            raise RunError(f"train.trackers: the package {missing[0]} is not installed; install it or leave it out")
        AcceleratorState._reset_state()  # accelerate keeps precision for the whole process; each run has its own
        self.accelerator = Accelerator(
            mixed_precision="bf16" if settings.precision == "bf16" else "no",
            log_with=list(settings.trackers) or None,
            project_dir=str(run.path),
        )
        if self.accelerator.num_processes > 1:
            raise RunError("training on several processes is not supported yet; start one process")
        model.train()
        self.micro_batch = None if (settings.micro_batch or batch_size) >= batch_size else settings.micro_batch
        if self.micro_batch is not None:
            refuse_batch_norm(model)
        if settings.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        self.settings = settings
        self.run = run
        self.batches = batches
        self.batches_per_epoch = batches_per_epoch
        self.batch_size = batch_size
        self.evaluate = evaluate
        self.groups = groups
        self.total_steps = settings.steps or (settings.epochs or 0) * batches_per_epoch
        self.learning_rate = learning_rate_schedule(settings)
        groups_of_parameters = parameter_groups([model, objective], settings.weight_decay, objective.learning_rates())
        optimizer = torch.optim.AdamW(groups_of_parameters, lr=settings.learning_rate)
        self.model, self.objective, prepared = self.accelerator.prepare(model, objective, optimizer)
        # accelerate's own step looks for a package on the disk every time; what else it does is for fp16 and TPUs.
        self.optimizer = prepared.optimizer
        self.trainable = [each for group in optimizer.param_groups for each in group["params"]]
        self.step = 0
        self.best = -math.inf
        self.skipped = 0
        self.saved_at: int | None = None

    @property
    def progress(self) -> float:
        """The clock: the share of the steps that lies behind."""
        return self.step / self.total_steps

    def fit(self, resume: bool = False) -> None:
        """Train to the end, or raise Interrupted with a checkpoint written; `resume` starts from the last one.

        Where the data fail (DataError, WorkersLost), a checkpoint is written too before the error goes on.
        """
        if resume:
            self._restore()
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.trim_log(self.step)
        self.run.diverged_file.unlink(missing_ok=True)
        self.accelerator.init_trackers("tensorboard")
        pairs, done = self.total_steps * self.batch_size, self.step * self.batch_size
        with stop_requests() as stop, progress_bar("training", pairs, "pairs", done) as bar:
            try:
                while self.step < self.total_steps:
                    self._epoch(bar, stop)
            except (DataError, WorkersLost):
                if self.step > (self.saved_at or 0):
                    self._save_last()
                raise
        self.accelerator.end_training()
        if self.skipped:
            console.print(f"note: {self.skipped:,} of {self.total_steps:,} steps were skipped: train.on_nan is skip")

    def _epoch(self, bar: Bar, stop: list[int]) -> None:
        epoch, first = divmod(self.step, self.batches_per_epoch)
        skipped = self.skipped
        self.model.train()
        for batch in self.batches(epoch, first):
            line = {"step": self.step, "progress": self.progress, "epoch": epoch, **self._train_step(batch)}
            self.step += 1
            done = self.step == self.total_steps
            ends = done or self.step % self.batches_per_epoch == 0
            if self.skipped - skipped == self.batches_per_epoch:
                raise Diverged(f"{line['why']}: every step of epoch {epoch + 1} was skipped, which trains nothing")
            evaluates = ends and (done or (epoch + 1) % self.settings.evaluate_every == 0)
            if evaluates and self.evaluate is not None:
                line["val"] = self._validate()
            if {"val", "skipped"} & line.keys() or done or line["step"] % self.settings.log_every == 0:
                self._log(line)
            bar.advance(len(batch.index))
            bar.describe(describe(line))
            every = self.settings.checkpoint_every
            if ends or stop or (every is not None and self.step % every == 0):
                self._save_last()
            if stop:
                name = signal.Signals(stop[0]).name
                raise Interrupted(f"{name} at step {self.step} of {self.total_steps}; --resume continues", stop[0])
            if ends:
                return

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        """Take one optimizer step, or skip it; return what it did, in plain numbers."""
        rate = self.learning_rate(self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get(OWN_RATE, rate)
        self.optimizer.zero_grad(set_to_none=True)
        skips = self.settings.on_nan == "skip"
        statistics = [each.clone() for each in self.model.buffers()] if skips else []
        try:
            output = self._back_propagate(batch)
            self._check_gradients(output)
        except NotFinite as found:
            if not skips:
                raise diverged(self.run, self.step, self.progress, found, batch.index, self.saved_at) from None
            for kept, buffer in zip(statistics, self.model.buffers(), strict=True):
                buffer.copy_(kept)
            self.skipped += 1
            return {"lr": rate, **found.values, "skipped": self.skipped, "why": found.what}
        self.optimizer.step()
        self.objective.after_step()
        of_sample = self.groups[batch.index.cpu()] if self.groups is not None else None
        return {"loss": output.loss.item(), "lr": rate, **summarize(output.log, of_sample)}

    def _check_gradients(self, output: ObjectiveOutput) -> None:
        """Clip the gradients where the settings say so; raises NotFinite where one of them is no number."""
        if self.settings.clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.trainable, self.settings.clip_norm)
        else:
            norm = gradient_norm(self.trainable)
        if not math.isfinite(norm := float(norm)):
            raise NotFinite(
                f"the loss is {output.loss.item():g} and the norm of its gradients {norm}", values_in(output)
            )

    def _back_propagate(self, batch: Batch) -> ObjectiveOutput:
        """Put the batch's gradients into the parameters, at once or in pieces."""
        device, backward = self.accelerator.device, self.accelerator.backward
        if self.micro_batch is not None:
            return micro_batch_step(self.model, batch, self.micro_batch, partial(self._judge, batch), backward, device)
        batch = batch.to(device)
        output = self._judge(batch, *self.model(batch.media, batch.text))
        backward(output.loss)
        return output

    def _judge(self, batch: Batch, x: Tensor, y: Tensor) -> ObjectiveOutput:
        """Ask the objective for the loss of embeddings x, y (B, D); raises NotFinite where it is no number."""
        device = self.accelerator.device
        try:
            output: ObjectiveOutput = self.objective(
                x,
                y,
                progress=self.progress,
                index=batch.index.to(device),
                media_index=batch.media_index.to(device),
                positives=None if batch.positives is None else batch.positives.to(device),
                relevance=None if batch.relevance is None else batch.relevance.to(device),
            )
        except InputError as error:
            values = values_of(self.accelerator.unwrap_model(self.objective), self.progress, batch.index.to(device))
            raise NotFinite(str(error), values) from None
        loss = output.loss.item()
        if not math.isfinite(loss):
            raise NotFinite(f"the loss is {loss}", values_in(output))
        return output

    def _validate(self) -> dict[str, Any]:
        assert self.evaluate is not None
        state = random_state()
        self.model.eval()
        figures = self.evaluate(self.accelerator.unwrap_model(self.model))
        self.model.train()
        restore_random_state(state)
        score = sum(direction["R@1"] for direction in figures.values()) / len(figures)
        if score > self.best:
            self.best = score
            save_checkpoint(self.run.checkpoint_file("best"), self._state())
        return figures

    def _log(self, line: dict[str, Any]) -> None:
        self.run.append_log(line)
        self.accelerator.log(flatten(line), step=line["step"])
        if "val" in line and not errors.is_terminal:
            found = ", ".join(
                f"{name.replace('_to_', '→')} {figures['R@1']:.1f}" for name, figures in line["val"].items()
            )
            console.print(f"epoch {line['epoch'] + 1}: {describe(line)}, val R@1 {found}", markup=False)

    def _state(self) -> dict[str, Any]:
        """Return what judging the model needs."""
        return {
            "model": self.accelerator.unwrap_model(self.model).trainable_state_dict(),
            "objective": self.accelerator.unwrap_model(self.objective).state_dict(),
            "step": self.step,
            "best": self.best,
        }

    def _save_last(self) -> None:
        """Write what going on needs, and keep what was written before it."""
        state = self._state() | {
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(),
            "total_steps": self.total_steps,
            "batches_per_epoch": self.batches_per_epoch,
            "batch_size": self.batch_size,
            "processes": self.accelerator.num_processes,
            "skipped": self.skipped,
        }
        self.run.flush_log()
        save_in_turn(self.run.checkpoint_file("last"), self.run.checkpoint_file("previous"), state)
        self.saved_at = self.step

    def _restore(self) -> None:
        last = self.run.checkpoint_file("last")
        remove_leftovers(last.parent)
        state = load_newest(last, self.run.checkpoint_file("previous"))
        if state is None:
            return
        now = {
            "total_steps": self.total_steps,
            "batches_per_epoch": self.batches_per_epoch,
            "batch_size": self.batch_size,
            "processes": self.accelerator.num_processes,
        }
        check_same_clock(state, now)
        model, objective = (self.accelerator.unwrap_model(each) for each in (self.model, self.objective))
        restore(state, model, objective, self.optimizer)
        self.step, self.best, self.skipped = state["step"], state["best"], state.get("skipped", 0)
        self.saved_at = self.step


def enable_gradient_checkpointing(model: TwoTower) -> None:
    """Let every tower that trains keep only what enters its blocks; raises RunError where none trains."""
    towers = [tower for tower in (model.media_tower, model.text_tower) if tower is not None and not is_frozen(tower)]
    if not towers:
        raise RunError("train.gradient_checkpointing: no tower trains, so it would save nothing; leave it out")
    for tower in towers:
        tower.enable_gradient_checkpointing()
