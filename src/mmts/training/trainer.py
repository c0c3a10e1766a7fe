"""The one trainer: takes a model, an objective and batches, and owns the clock."""

import json
import math
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
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
from mmts.distributed import processes
from mmts.distributed.divided_state import copy_from_main, divide_state, own_tables, take_tables, whole_state
from mmts.distributed.processes import all_values, num_processes, once, process_index
from mmts.distributed.sharded_model import clip_gradients, gradient_norm, lend, lent, on_main_process, shard_model
from mmts.distributed.shared_loss import shared_loss
from mmts.errors import DataError, Diverged, FailedElsewhere, InputError, Interrupted, RunError, WorkersLost
from mmts.evaluation.measures import measured
from mmts.files import append_line, flush_to_disk
from mmts.models import TwoTower, is_frozen
from mmts.models.base import Tower
from mmts.objectives import Objective, ObjectiveOutput
from mmts.recipe.run_directory import RunDirectory
from mmts.recipe.sections import Train
from mmts.training import checkpoint, log_line, tracking
from mmts.training.averages import MovingAverage
from mmts.training.log_line import NotFinite
from mmts.training.micro_batch import micro_batch_step, refuse_batch_norm
from mmts.training.optimizer import OWN_RATE, SHARE, learning_rate_schedule, parameter_groups
from mmts.training.shards import save_shards
from mmts.training.signals import stop_requests


@dataclass(eq=False)
class Trainer:
    """Trains `model` under `objective`; progress p = step / total_steps is computed here and nowhere else.

    With several processes (see `processes.joined`) each embeds its part of every batch and computes the loss of its own
    queries, so that gradients, schedules and the objective's state are those of one process; only dropout differs. The
    main process logs and writes checkpoints, while the others wait.
    """

    model: TwoTower
    objective: Objective
    settings: Train
    run: RunDirectory
    batches: Callable[[int, int], Iterator[Batch]]  # (epoch, first batch) -> the batches of the epoch from there on
    batches_per_epoch: int
    batch_size: int
    evaluate: Callable[[TwoTower], dict[str, Any]] | None = None  # scores on val; None without validation data
    groups: Tensor | None = None  # (N,), 0, 1, 2 = head, mid, tail of each sample, for the log
    recipe: Mapping[str, Any] | None = None  # values by dotted key, for trackers
    tower_rates: Mapping[str, float] = field(default_factory=dict)  # learning rates by the beginnings of names
    keeps_start: bool = False  # whether the model before the first step is saved, for interpolating with it

    def __post_init__(self) -> None:
        model, settings = self.model, self.settings
        self.total_steps = settings.total_steps(self.batches_per_epoch)
        self.learning_rate = learning_rate_schedule(settings)
        self.step = 0
        self.best = -math.inf
        self.skipped = 0
        self.saved_at: int | None = None

        self.accelerator = _accelerator(settings, self.run)
        self.device = self.accelerator.device
        self.counts = {  # a run resumes only from a checkpoint with the same ones
            "total_steps": self.total_steps,
            "batches_per_epoch": self.batches_per_epoch,
            "batch_size": self.batch_size,
            "processes": num_processes(),
        }
        if self.batch_size < num_processes():
            parts = f"{num_processes()} processes, each of which needs a pair"
            raise RunError(f"a batch of {self.batch_size} is too small for {parts}")
        model.train()
        pairs_here = math.ceil(self.batch_size / num_processes())
        self.micro_batch = None if (settings.micro_batch or pairs_here) >= pairs_here else settings.micro_batch
        if self.micro_batch is not None:
            refuse_batch_norm(model)
        if settings.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        processes.share_batch_norms(model, self.device)
        # `whole` is evaluated; `unwrapped` is trained. They differ only if the model is sharded.
        self.whole = self.unwrapped = model
        self.is_sharded = settings.shard and num_processes() > 1
        if self.is_sharded:
            if self.micro_batch == 1 and self.batch_size % num_processes():
                problem = f"1 gives {num_processes()} processes unequal numbers of pieces of {self.batch_size} pairs"
                raise RunError(f"train.micro_batch: {problem}, and train.shard needs equal ones; set it to 2")
            self.unwrapped = shard_model(model, trained_towers(model), self.device)
        elif settings.shard:
            console.print("note: train.shard changes nothing with one process; start several (docs/scaling.md)")
        own_rates = self.objective.learning_rates()
        shares = {name: rate / settings.learning_rate for name, rate in self.tower_rates.items()}
        parameters = parameter_groups([self.unwrapped, self.objective], settings.weight_decay, own_rates, shares)
        self.trainable = [parameter for group in parameters for parameter in group["params"]]
        self.optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for broadcast_buffers
            self.model = self.accelerator.prepare_model(self.unwrapped, evaluation_mode=self.is_sharded)
        self.average = None if settings.ema is None else MovingAverage(self.unwrapped, settings.ema)
        # The objective is not wrapped: shared_loss handles its gradients, and losses their own precision.
        divide_state(self.objective)
        self.objective = self.objective.to(self.device)
        copy_from_main(self.objective)

    @property
    def progress(self) -> float:
        """The clock: the share of the steps that is done."""
        return self.step / self.total_steps

    def fit(self, resume: bool = False, finish: Callable[[], dict[str, Any]] | None = None) -> dict[str, Any]:
        """Train to the end, or raise Interrupted with a checkpoint written; `resume` starts from the last one.

        `finish` runs on all processes at the end; trackers get the scores that it returns.
        """
        if resume:
            self._restore()
        once(lambda: self.run.prepare_for(self.step))
        if self.keeps_start and self.step == 0 < self.total_steps:
            self._save("start")
        tracking.start_trackers(self.accelerator, self.run, self.settings.project, self.recipe or {})
        try:
            self._take_steps()
            if self.is_sharded:
                lend(self.whole, self.unwrapped.state_dict())  # for good
            metrics = finish() if finish is not None else {}
            if process_index() == 0 and metrics:
                name = "test" if metrics["split"] == "test" else f"final/{metrics['split']}"
                scores = {key: value for key, value in metrics.items() if "_to_" in key or key == "groups"}
                tracking.track(self.accelerator.trackers, log_line.flatten({name: scores}), self.total_steps)
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()  # end_training() would also end the process group, which goes on
        if self.skipped:
            console.print(f"note: {self.skipped:,} of {self.total_steps:,} steps were skipped: train.on_nan is skip")
        return metrics

    def _take_steps(self) -> None:
        """Take the remaining steps; a run of 0 steps saves the initial model as its best and last checkpoint."""
        if self.total_steps == 0:
            if self.evaluate is not None:
                self._validate(self.evaluate)
            self._save_last()
            return
        pairs, done = self.total_steps * self.batch_size, self.step * self.batch_size
        with stop_requests() as stop, progress_bar("training", pairs, "pairs", done) as bar:
            while self.step < self.total_steps:
                self._epoch(bar, stop)

    def _epoch(self, bar: Bar, stop: list[int]) -> None:
        epoch, first = divmod(self.step, self.batches_per_epoch)
        skipped_before = self.skipped
        self.model.train()
        batches = iter(self.batches(epoch, first))
        while (batch := self._next(batches)) is not None:
            line = {"step": self.step, "progress": self.progress, "epoch": epoch, **self._train_step(batch)}
            self.step += 1
            done = self.step == self.total_steps
            ends = done or self.step % self.batches_per_epoch == 0
            if self.skipped - skipped_before == self.batches_per_epoch:
                raise Diverged(f"{line['why']}: every step of epoch {epoch + 1} was skipped, which trains nothing")
            evaluates = ends and (done or (epoch + 1) % self.settings.evaluate_every == 0)
            if evaluates and self.evaluate is not None:
                line["val"] = self._validate(self.evaluate)
            self._log(line, done, evaluates)
            bar.advance(len(batch.index))
            bar.describe(log_line.describe(line))
            every = self.settings.checkpoint_every
            signal_number = max(all_values(stop[0] if stop else 0, self.device))
            if ends or signal_number or (every is not None and self.step % every == 0):
                self._save_last()
            if signal_number:
                where = f"{signal.Signals(signal_number).name} at step {self.step} of {self.total_steps}"
                raise Interrupted(f"{where}; --resume continues", signal_number)
            if ends:
                return

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        """Return the next batch; if the data of one process fail, all write a checkpoint and raise."""
        batch, failure = None, None
        try:
            batch = next(batches, None)
        except (DataError, WorkersLost) as error:
            failure = error
        self._end_all_after(failure)
        return batch

    def _end_all_after(self, failure: DataError | WorkersLost | FailedElsewhere | None) -> None:
        """If any process has a failure, write a checkpoint and raise it there and FailedElsewhere on the others."""
        if any(all_values(int(failure is not None), self.device)):
            if self.step > (self.saved_at or 0):
                self._save_last()
            raise failure or FailedElsewhere()

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        """Embed, loss, backward, check, step; return what to log."""
        rate = self.learning_rate(self.progress)
        decay = self.objective.rate_decay ** (self.step // self.batches_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group[OWN_RATE] * decay if OWN_RATE in group else rate * group.get(SHARE, 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        processes.seed_draws(self.settings.seed, self.step, alike=False)
        buffers = [buffer.clone() for buffer in self.model.buffers()] if self.settings.on_nan == "skip" else []
        try:
            if self.micro_batch is None:
                batch = batch.to(self.device)
                x, y = self.model(batch.media, batch.text)  # (b, D) each, this process's part of the B pairs
                output = self.compute_loss(batch, x, y)
                self.accelerator.backward(output.loss)
            else:
                loss, backward = partial(self.compute_loss, batch), self.accelerator.backward
                alone = nullcontext if self.is_sharded else partial(self.accelerator.no_sync, self.model)
                output = micro_batch_step(self.model, batch, self.micro_batch, loss, backward, self.device, alone)
            self._check_gradients(output)
        except NotFinite as problem:
            return {"lr": rate, **self._skip_or_stop(problem, batch, buffers)}
        self.optimizer.step()
        self.objective.after_step()
        if self.average is not None:
            self.average.update(self.unwrapped, self.step - self.skipped)
        groups = self.groups[batch.index.cpu()] if self.groups is not None else None
        return {"loss": output.loss.item(), "lr": rate, **log_line.summarize(output.log, groups)}

    def compute_loss(self, batch: Batch, x: Tensor, y: Tensor) -> ObjectiveOutput:
        """Return the loss of all processes' embeddings, given this one's x, y (b, D); or NotFinite on all."""
        sizes = processes.process_sizes(len(batch))
        processes.seed_draws(self.settings.seed, self.step, alike=True)
        index = batch.index.to(self.device)
        try:
            with self.accelerator.autocast():  # losses choose their kernels by the precision of the run
                output = shared_loss(
                    self.objective,
                    x,
                    y,
                    sizes,
                    progress=self.progress,
                    index=index,
                    media_index=batch.media_index.to(self.device),
                    positives=on_device(batch.positives, self.device),
                    relevance=None if batch.relevance is None else batch.relevance.to(self.device),
                )
        except InputError as error:
            with suppress(InputError):  # the rule itself may fail, or need embeddings
                raise NotFinite(str(error), self.objective.values(self.progress, index)) from None
            raise NotFinite(str(error), {}) from None
        if not math.isfinite(loss := output.loss.item()):
            raise NotFinite(f"the loss is {loss}", output.log)
        return output

    def _check_gradients(self, output: ObjectiveOutput) -> None:
        """Raise NotFinite if a gradient is not finite; clip the gradients if the settings say so."""
        processes.check_all_reached(self.model)
        norm = gradient_norm(self.trainable)
        if not norm.isfinite():
            what = f"the loss is {output.loss.item():g} and the norm of its gradients {norm.item()}"
            raise NotFinite(what, output.log)
        if self.settings.clip_norm is not None:
            clip_gradients(self.trainable, self.settings.clip_norm, norm)

    def _skip_or_stop(self, problem: NotFinite, batch: Batch, buffers: list[Tensor]) -> dict[str, Any]:
        """Restore the batch statistics, count the step as skipped and return its log line; or raise Diverged."""
        if self.settings.on_nan != "skip":
            report = partial(log_line.diverged, self.run, self.step, self.progress, problem, batch.index, self.saved_at)
            raise once(report) from None
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.skipped += 1
        return {**problem.values, "skipped": self.skipped, "why": str(problem)}

    def _validate(self, evaluate: Callable[[TwoTower], dict[str, Any]]) -> dict[str, Any]:
        """Return the scores on val; the model becomes the best checkpoint if no earlier one scored as much."""
        state = checkpoint.random_state()
        scores, failure = {}, None
        self.whole.eval()
        with self.evaluated_weights():
            try:
                scores = evaluate(self.whole)
            except (DataError, WorkersLost, FailedElsewhere) as error:
                failure = error
        self._end_all_after(failure)
        self.model.train()
        checkpoint.restore_random_state(state)
        score = measured(scores, self.settings.best)
        if score is not None and score > self.best:
            self.best = score
            self._save("best")
        return scores

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Within it, `whole` has the weights that are evaluated; all processes enter it together."""
        if self.is_sharded:
            average = {} if self.average is None else self.average.state
            return lent(self.whole, self.unwrapped.state_dict() | average)
        return nullcontext() if self.average is None else self.average.in_place_of_weights(self.whole)

    def _log(self, line: dict[str, Any], done: bool, evaluates: bool) -> None:
        """Write a step to log.jsonl and the trackers if it is one to log: every `log_every`, and those that matter."""
        step, trackers = line["step"], self.accelerator.trackers
        writes = {"val", "skipped"} & line.keys() or done or step % self.settings.log_every == 0
        if process_index() == 0 and writes:
            append_line(self.run.log_file, json.dumps(line))
            tracking.track(trackers, log_line.flatten(line), step)
        if "val" in line and not errors.is_terminal:
            words = f"{log_line.describe(line)}, val {log_line.recall_in_words(line['val'])}"
            console.print(f"epoch {line['epoch'] + 1}: {words}")
        if evaluates and self.settings.trackers and self.groups is not None:  # the values may be divided: all ask
            own = trackers if process_index() == 0 else []
            tracking.track_histograms(own, self.objective, line["progress"], len(self.groups), self.device, step)

    def _state(self) -> dict[str, Any]:
        """Return what evaluating the model needs: with `train.ema`, the averaged weights; all processes call it."""
        weights = self.unwrapped.trainable_state_dict() if self.average is None else self.average.state
        return {
            "model": on_main_process(weights),
            "objective": whole_state(self.objective),
            "step": self.step,
            "best": self.best,
            "frozen": self.whole.frozen_hash,
        }

    def _save(self, name: str) -> None:
        state = self._state()
        once(lambda: checkpoint.save_checkpoint(self.run.checkpoint_file(name), state))

    def _save_last(self) -> None:
        """Write a checkpoint to resume from; all processes wait until it is there."""
        state = {**self._state(), **self.counts, "skipped": self.skipped, "random": checkpoint.random_state()}
        if self.is_sharded:
            parts = self.unwrapped, self.objective, self.optimizer, self.average
            state["shards"] = save_shards(self.run.checkpoints / f"step-{self.step}", *parts)
        else:
            if self.average is not None:  # the weights that training goes on with
                state["weights"] = self.unwrapped.trainable_state_dict()
            state["optimizer"] = self.optimizer.state_dict()
        flush_to_disk(self.run.log_file)  # after a power cut, a checkpoint must find the log lines before it
        once(lambda: checkpoint.save_in_turn(self.run.checkpoints, state))
        self.saved_at = self.step

    def _restore(self) -> None:
        tables: dict[str, Tensor] = {}  # those that are divided: only a part of them goes to each process

        def load() -> dict[str, Any] | None:
            state = checkpoint.load_newest(self.run.checkpoints)
            if state is not None:
                checkpoint.check_same_clock(state, self.counts)
                tables.update(take_tables(self.objective, state["objective"]))
            return state

        state = once(load)
        if state is None:
            return
        state["objective"] |= own_tables(self.objective, tables)
        parts = self.unwrapped, self.objective, self.optimizer, self.average
        checkpoint.restore(state, *parts, self.run.checkpoints)
        self.step, self.best, self.skipped = state["step"], state["best"], state.get("skipped", 0)
        self.saved_at = self.step


def _accelerator(settings: Train, run: RunDirectory) -> Accelerator:
    """Return accelerate's object for the device, precision and trackers of the settings."""
    trackers = tracking.trackers_for(settings.trackers, run)
    AcceleratorState._reset_state()  # accelerate keeps precision for the whole process; each run has its own
    fsdp = os.environ.pop("ACCELERATE_USE_FSDP", "false")  # of accelerate's launcher; sharding is ours
    accelerator = Accelerator(
        mixed_precision="bf16" if settings.precision == "bf16" else "no",
        log_with=trackers,
        project_dir=str(run.path),
        cpu=num_processes() > 1 and not torch.accelerator.is_available(),
        # Batch norms handle their own statistics.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    os.environ["ACCELERATE_USE_FSDP"] = fsdp
    if accelerator.num_processes != num_processes():
        counts = f"{num_processes()} processes were started, and accelerate knows of {accelerator.num_processes}"
        raise RunError(f"{counts}; start them with torchrun or accelerate launch")
    return accelerator


def trained_towers(model: TwoTower) -> list[Tower]:
    """Return the towers of which anything trains."""
    return [tower for tower in (model.media_tower, model.text_tower) if tower is not None and not is_frozen(tower)]


def enable_gradient_checkpointing(model: TwoTower) -> None:
    """Let every tower that trains keep only the inputs of its blocks; raises RunError if no tower trains."""
    towers = trained_towers(model)
    if not towers:
        raise RunError("train.gradient_checkpointing: no tower trains, so it would save nothing; leave it out")
    for tower in towers:
        tower.enable_gradient_checkpointing()
