"""The one trainer: takes a model, an objective and batches, and owns the clock."""

import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from mmts.console import Bar, console, errors, progress_bar
from mmts.data.batches.loader import Batch
from mmts.data.batches.positives import on_device
from mmts.distributed.collectives import (
    check_all_reached,
    copy_from_main,
    draw_alike,
    draw_apart,
    process_sizes,
    share_batch_norms,
)
from mmts.distributed.processes import largest, num_processes, once, process_index
from mmts.distributed.shared_loss import shared_loss
from mmts.errors import DataError, Diverged, FailedElsewhere, InputError, Interrupted, MmtsError, RunError, WorkersLost
from mmts.evaluation.measures import measured
from mmts.models import TwoTower
from mmts.models.base import is_frozen
from mmts.objectives import Objective, ObjectiveOutput
from mmts.recipe.recipe import Train
from mmts.recipe.run_directory import RunDirectory
from mmts.training.checkpoint import (
    load_newest,
    random_state,
    remove_leftovers,
    restore_random_state,
    save_checkpoint,
    save_in_turn,
)
from mmts.training.divergence import NotFinite, diverged, gradient_norm, values_in, values_of
from mmts.training.log_line import describe, flatten, recall_in_words, summarize
from mmts.training.micro_batch import micro_batch_step, refuse_batch_norm
from mmts.training.optimizer import OWN_RATE, learning_rate_schedule, parameter_groups
from mmts.training.saved_state import check_same_clock, restore
from mmts.training.signals import stop_requests
from mmts.training.tracking import sample_indices, start_trackers, track, track_histograms, trackers_for


class Trainer:
    """Trains `model` under `objective`; progress p = step / total_steps is computed here and nowhere else.

    `batches(epoch, first_batch)` yields the batches of an epoch from `first_batch` on; `evaluate()` returns the
    validation figures, or is None without validation data; `groups` (N,) is 0, 1, 2 = head, mid, tail by sample;
    `recipe`, by dotted key, is for trackers.

    Of several processes (see `processes.joined`) each embeds its share of every batch and works out that share of the
    whole one's loss, so that gradients, schedules and the objective's state are those of one process; only dropout is
    drawn otherwise. The main process validates, logs and writes checkpoints, while the others wait.
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
        recipe: Mapping[str, Any] | None = None,
    ) -> None:
        trackers = trackers_for(settings.trackers, run)
        refuse_sharded_models()
        AcceleratorState._reset_state()  # accelerate keeps precision for the whole process; each run has its own
        self.accelerator = Accelerator(
            mixed_precision="bf16" if settings.precision == "bf16" else "no",
            log_with=trackers,
            project_dir=str(run.path),
            cpu=num_processes() > 1 and not torch.accelerator.is_available(),
            # Batch norms see to their statistics by themselves.
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        if self.accelerator.num_processes != num_processes():
            raise RunError(
                f"{num_processes()} processes were started, and accelerate knows of {self.accelerator.num_processes}; "
                "start them with torchrun or accelerate launch"
            )
        if batch_size < num_processes():
            raise RunError(f"a batch of {batch_size} is too small for {num_processes()} processes: one has no pair")
        model.train()
        share = math.ceil(batch_size / num_processes())
        self.micro_batch = None if (settings.micro_batch or share) >= share else settings.micro_batch
        if self.micro_batch is not None:
            refuse_batch_norm(model)
        if settings.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        share_batch_norms(model, self.accelerator.device)
        self.settings = settings
        self.run = run
        self.batches = batches
        self.batches_per_epoch = batches_per_epoch
        self.batch_size = batch_size
        self.evaluate = evaluate
        self.groups = groups
        self.recipe = recipe or {}
        self.total_steps = settings.steps or (settings.epochs or 0) * batches_per_epoch
        self.learning_rate = learning_rate_schedule(settings)
        groups_of_parameters = parameter_groups([model, objective], settings.weight_decay, objective.learning_rates())
        optimizer = torch.optim.AdamW(groups_of_parameters, lr=settings.learning_rate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for broadcast_buffers
            self.model, prepared = self.accelerator.prepare(model, optimizer)
        # accelerate's own step looks for a package on the disk every time; what else it does is for fp16 and TPUs.
        self.optimizer = prepared.optimizer
        # As it is: shared_loss sees to its gradients, and losses to their precision.
        self.objective = objective.to(self.accelerator.device)
        copy_from_main(self.objective)
        self.trainable = [each for group in optimizer.param_groups for each in group["params"]]
        self.step = 0
        self.best = -math.inf
        self.skipped = 0
        self.saved_at: int | None = None

    @property
    def progress(self) -> float:
        """The clock: the share of the steps that lies behind."""
        return self.step / self.total_steps

    def fit(self, resume: bool = False, judge: Callable[[], dict[str, Any]] | None = None) -> dict[str, Any]:
        """Train to the end, or raise Interrupted with a checkpoint written; `resume` starts from the last one.

        If the data fail (DataError, WorkersLost), a checkpoint is written before the error is raised. `judge` is called
        at the end; trackers get the figures that it returns, and all processes return them.
        """
        if resume:
            self._restore()
        once(self._open)
        start_trackers(self.accelerator, self.run, self.settings.project, self.recipe)
        try:
            self._fit()
            judged = once(judge) if judge is not None else {}
            self._track_judged(judged)
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()  # end_training() would part the processes too, which go on together
        if self.skipped:
            console.print(f"note: {self.skipped:,} of {self.total_steps:,} steps were skipped: train.on_nan is skip")
        return judged

    def _fit(self) -> None:
        """Take the remaining steps; a run without any saves the initial model as its best and last checkpoint."""
        if self.total_steps == 0:
            if self.evaluate is not None:
                self._validate()
            self._save_last()
            return
        pairs, done = self.total_steps * self.batch_size, self.step * self.batch_size
        with stop_requests() as stop, progress_bar("training", pairs, "pairs", done) as bar:
            try:
                while self.step < self.total_steps:
                    self._epoch(bar, stop)
            except (DataError, WorkersLost):
                if process_index() == 0 and self.step > (self.saved_at or 0):
                    self._write_last()
                raise

    def _open(self) -> None:
        """Make the run directory ready for the steps to come."""
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.trim_log(self.step)
        self.run.diverged_file.unlink(missing_ok=True)

    def _epoch(self, bar: Bar, stop: list[int]) -> None:
        epoch, first = divmod(self.step, self.batches_per_epoch)
        skipped = self.skipped
        self.model.train()
        batches = iter(self.batches(epoch, first))
        for batch in iter(lambda: self._next(batches), None):
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
            if evaluates:
                self._log_histograms(line)
            bar.advance(len(batch.index))
            bar.describe(describe(line))
            every = self.settings.checkpoint_every
            asked = largest(stop[0] if stop else 0, self.accelerator.device)
            if ends or asked or (every is not None and self.step % every == 0):
                self._save_last()
            if asked:
                name = signal.Signals(asked).name
                raise Interrupted(f"{name} at step {self.step} of {self.total_steps}; --resume continues", asked)
            if ends:
                return

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """Return the next batch; where the data of one process fail, all write a checkpoint and raise."""
        failure: MmtsError | None = None
        batch = None
        try:
            batch = next(batches, None)
        except (DataError, WorkersLost) as error:
            failure = error
        if largest(int(failure is not None), self.accelerator.device):
            if self.step > (self.saved_at or 0):
                self._save_last()
            raise failure or FailedElsewhere()
        return batch

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        """Take one optimizer step, or skip it; return what it did, in plain numbers."""
        rate = self.learning_rate(self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get(OWN_RATE, rate)
        self.optimizer.zero_grad(set_to_none=True)
        draw_apart(self.settings.seed, self.step)
        skips = self.settings.on_nan == "skip"
        statistics = [each.clone() for each in self.model.buffers()] if skips else []
        try:
            output = self._back_propagate(batch)
            self._check_gradients(output)
        except NotFinite as found:
            if not skips:
                say = partial(diverged, self.run, self.step, self.progress, found, batch.index, self.saved_at)
                raise once(say) from None
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
        device, backward, judge = self.accelerator.device, self.accelerator.backward, partial(self._judge, batch)
        if self.micro_batch is not None:
            alone = partial(self.accelerator.no_sync, self.model)
            output = micro_batch_step(self.model, batch, self.micro_batch, judge, backward, device, alone)
        else:
            batch = batch.to(device)
            output = judge(*self.model(batch.media, batch.text))
            backward(output.loss)
        check_all_reached(self.model)
        return output

    def _judge(self, batch: Batch, x: Tensor, y: Tensor) -> ObjectiveOutput:
        """Ask the objective for the loss of all processes' embeddings, given this one's x, y (b, D).

        Raises NotFinite, on all of them, where it is no number.
        """
        device, sizes = self.accelerator.device, process_sizes(len(batch))
        draw_alike(self.settings.seed, self.step)
        index = batch.index.to(device)
        try:
            with self.accelerator.autocast():  # losses choose their kernels by the precision of the run
                output = shared_loss(
                    self.objective,
                    x,
                    y,
                    sizes,
                    progress=self.progress,
                    index=index,
                    media_index=batch.media_index.to(device),
                    positives=on_device(batch.positives, device),
                    relevance=None if batch.relevance is None else batch.relevance.to(device),
                )
        except InputError as error:
            values = values_of(self.objective, self.progress, index)
            raise NotFinite(str(error), values) from None
        if not math.isfinite(loss := output.loss.item()):
            raise NotFinite(f"the loss is {loss}", values_in(output))
        return output

    def _validate(self) -> dict[str, Any]:
        figures = once(self._figures)
        score = measured(figures, self.settings.best)
        if score is not None and score > self.best:
            self.best = score
            once(lambda: save_checkpoint(self.run.checkpoint_file("best"), self._state()))
        return figures

    def _figures(self) -> dict[str, Any]:
        assert self.evaluate is not None
        state = random_state()
        self.model.eval()
        figures = self.evaluate(self.accelerator.unwrap_model(self.model))
        self.model.train()
        restore_random_state(state)
        return figures

    def _log(self, line: dict[str, Any]) -> None:
        if process_index() != 0:
            return
        self.run.append_log(line)
        track(self.accelerator.trackers, flatten(line), line["step"])
        if "val" in line and not errors.is_terminal:
            console.print(f"epoch {line['epoch'] + 1}: {describe(line)}, val {recall_in_words(line['val'])}")

    def _track_judged(self, metrics: Mapping[str, Any]) -> None:
        """Send the final figures to trackers, as `test/...`; those of another split as `final/val/...`."""
        if process_index() == 0 and metrics:
            name = "test" if metrics["split"] == "test" else f"final/{metrics['split']}"
            figures = {key: value for key, value in metrics.items() if "_to_" in key or key == "groups"}
            track(self.accelerator.trackers, flatten({name: figures}), self.total_steps)

    def _log_histograms(self, line: dict[str, Any]) -> None:
        """Track how the temperatures or margins of all samples lie at a logged step, where they are not one."""
        if process_index() != 0 or not self.accelerator.trackers or self.groups is None:
            return
        index = sample_indices(len(self.groups)).to(self.accelerator.device)
        values = self.objective.values(line["progress"], index)
        several = {name: value for name, value in values.items() if value.ndim == 1}
        track_histograms(self.accelerator.trackers, several, line["step"])

    def _state(self) -> dict[str, Any]:
        """Return what judging the model needs."""
        return {
            "model": self.accelerator.unwrap_model(self.model).trainable_state_dict(),
            "objective": self.objective.state_dict(),
            "step": self.step,
            "best": self.best,
            "measure": self.settings.best,
        }

    def _save_last(self) -> None:
        """Write a checkpoint to go on from; all processes wait until it is there."""
        once(self._write_last)
        self.saved_at = self.step

    def _write_last(self) -> None:
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

    def _restore(self) -> None:
        state = once(self._read_newest)
        if state is None:
            return
        now = {
            "total_steps": self.total_steps,
            "batches_per_epoch": self.batches_per_epoch,
            "batch_size": self.batch_size,
            "processes": self.accelerator.num_processes,
        }
        check_same_clock(state, now)
        if (measure := state.get("measure", "R@1")) != self.settings.best:
            raise RunError(
                f"the checkpoint's best is by {measure}, and train.best is {self.settings.best}; choose another --out"
            )
        model, objective = (self.accelerator.unwrap_model(each) for each in (self.model, self.objective))
        restore(state, model, objective, self.optimizer)
        self.step, self.best, self.skipped = state["step"], state["best"], state.get("skipped", 0)
        self.saved_at = self.step

    def _read_newest(self) -> dict[str, Any] | None:
        last = self.run.checkpoint_file("last")
        remove_leftovers(last.parent)
        return load_newest(last, self.run.checkpoint_file("previous"))


def refuse_sharded_models() -> None:
    """Raise RunError where a launcher is to cut the model up over the processes, which is not done here."""
    for variable, name in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if os.environ.get(variable, "false").lower() == "true":
            raise RunError(
                f"accelerate launch asks for {name}, which cuts the model up over the processes; mmts keeps a whole "
                "one on each (DDP). Launch without it; train.micro_batch and train.gradient_checkpointing save memory"
            )


def enable_gradient_checkpointing(model: TwoTower) -> None:
    """Let every tower that trains keep only what enters its blocks; raises RunError where none trains."""
    towers = [tower for tower in (model.media_tower, model.text_tower) if tower is not None and not is_frozen(tower)]
    if not towers:
        raise RunError("train.gradient_checkpointing: no tower trains, so it would save nothing; leave it out")
    for tower in towers:
        tower.enable_gradient_checkpointing()
