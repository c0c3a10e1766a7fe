"""The one trainer: takes a model, an objective and batches, and owns the clock."""

import importlib.util
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import Bar, console, errors, progress_bar
from mmts.data.loader import Batch
from mmts.errors import Diverged, InputError, Interrupted, RunError
from mmts.models import TwoTower
from mmts.models.base import is_frozen
from mmts.objectives import Objective, ObjectiveOutput
from mmts.schedules import Cosine, Schedule, Warmup
from mmts.training.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint
from mmts.training.micro_batch import micro_batch_step, refuse_batch_norm
from mmts.training.recipe import Train
from mmts.training.run_directory import RunDirectory

_OWN_RATE = "own_rate"  # of a group of parameters that keeps its learning rate


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
        self.model, self.objective, self.optimizer = self.accelerator.prepare(model, objective, optimizer)
        self.trainable = [each for group in optimizer.param_groups for each in group["params"]]
        self.step = 0
        self.best = -math.inf

    @property
    def progress(self) -> float:
        """The clock: the share of the steps that lies behind."""
        return self.step / self.total_steps

    def fit(self, resume: bool = False) -> None:
        """Train to the end, or raise Interrupted with a checkpoint written; `resume` starts from the last one."""
        if resume and self.run.checkpoint_file("last").exists():
            self._restore()
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.run.trim_log(self.step)
        self.accelerator.init_trackers("tensorboard")
        pairs, done = self.total_steps * self.batch_size, self.step * self.batch_size
        with stop_requests() as stop, progress_bar("training", pairs, "pairs", done) as bar:
            while self.step < self.total_steps:
                self._epoch(bar, stop)
        self.accelerator.end_training()

    def _epoch(self, bar: Bar, stop: list[int]) -> None:
        epoch, first = divmod(self.step, self.batches_per_epoch)
        self.model.train()
        for batch in self.batches(epoch, first):
            line = {"step": self.step, "progress": self.progress, "epoch": epoch, **self._train_step(batch)}
            self.step += 1
            done = self.step == self.total_steps
            ends = done or self.step % self.batches_per_epoch == 0
            evaluates = ends and (done or (epoch + 1) % self.settings.evaluate_every == 0)
            if evaluates and self.evaluate is not None:
                line["val"] = self._validate()
            if "val" in line or done or line["step"] % self.settings.log_every == 0:
                self._log(line)
            bar.advance(len(batch.index))
            bar.describe(_describe(line))
            if ends or stop:
                self._save("last")
            if stop:
                name = signal.Signals(stop[0]).name
                raise Interrupted(f"{name} at step {self.step} of {self.total_steps}; --resume continues", stop[0])
            if ends:
                return

    def _train_step(self, batch: Batch) -> dict[str, Any]:
        """Take one optimizer step; return what it did, in plain numbers."""
        rate = self.learning_rate(self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = group.get(_OWN_RATE, rate)
        self.optimizer.zero_grad(set_to_none=True)
        output = self._back_propagate(batch)
        if self.settings.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.trainable, self.settings.clip_norm)
        self.optimizer.step()
        self.objective.after_step()
        return {"loss": output.loss.item(), "lr": rate, **self._summarize(output.log, batch.index)}

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
        """Ask the objective for the loss of the batch's embeddings x, y (B, D); stop the run where it is no number."""
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
            raise self._gone_wrong(str(error), batch) from None
        loss = output.loss.item()
        if not math.isfinite(loss):
            raise self._gone_wrong(f"the loss is {loss}", batch)
        return output

    def _summarize(self, log: dict[str, Tensor], index: Tensor) -> dict[str, Any]:
        """Turn what the objective logs into min, mean and max, and into means by head, mid and tail."""
        summary: dict[str, Any] = {}
        groups: dict[str, dict[str, float]] = {}
        of_sample = self.groups[index.cpu()] if self.groups is not None else None
        for name, value in log.items():
            value = value.detach().float().cpu()
            if name != "weight":  # its mean is 1 by definition; only its groups say something
                summary[name] = {"min": value.min().item(), "mean": value.mean().item(), "max": value.max().item()}
            if of_sample is None or value.shape != index.shape:
                continue
            for number, group in enumerate(GROUP_NAMES):
                inside = of_sample == number
                if inside.any():
                    groups.setdefault(group, {})[name] = value[inside].mean().item()
        return summary | ({"groups": groups} if groups else {})

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
            self._save("best")
        return figures

    def _log(self, line: dict[str, Any]) -> None:
        self.run.append_log(line)
        self.accelerator.log(_flatten(line), step=line["step"])
        if "val" in line and not errors.is_terminal:
            found = ", ".join(
                f"{name.replace('_to_', '→')} {figures['R@1']:.1f}" for name, figures in line["val"].items()
            )
            console.print(f"epoch {line['epoch'] + 1}: {_describe(line)}, val R@1 {found}", markup=False)

    def _save(self, name: str) -> None:
        state = {
            "model": self.accelerator.unwrap_model(self.model).trainable_state_dict(),
            "objective": self.accelerator.unwrap_model(self.objective).state_dict(),
            "step": self.step,
            "best": self.best,
        }
        if name == "last":  # what only going on needs
            state |= {
                "optimizer": self.optimizer.state_dict(),
                "random": random_state(),
                "total_steps": self.total_steps,
            }
        save_checkpoint(self.run.checkpoint_file(name), state)

    def _restore(self) -> None:
        state = load_checkpoint(self.run.checkpoint_file("last"))
        if state["total_steps"] != self.total_steps:
            raise RunError(
                f"the checkpoint counts {state['total_steps']} steps and this run {self.total_steps}: "
                "the training data or the batch size has changed since; choose another --out"
            )
        self.accelerator.unwrap_model(self.model).load_trainable_state_dict(state["model"])
        self.accelerator.unwrap_model(self.objective).load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"])
        self.step, self.best = state["step"], state["best"]

    def _gone_wrong(self, what: str, batch: Batch) -> Diverged:
        last = self.run.checkpoint_file("last")
        good = f"the last checkpoint is {last}" if last.exists() else "no checkpoint was written yet"
        samples = ", ".join(str(each) for each in batch.index.tolist()[:8])
        return Diverged(f"step {self.step}: {what} (samples {samples}, ...); {good}. Try a lower train.learning_rate")


def enable_gradient_checkpointing(model: TwoTower) -> None:
    """Let every tower that trains keep only what enters its blocks; raises RunError where none trains."""
    towers = [tower for tower in (model.media_tower, model.text_tower) if tower is not None and not is_frozen(tower)]
    if not towers:
        raise RunError("train.gradient_checkpointing: no tower trains, so it would save nothing; leave it out")
    for tower in towers:
        tower.enable_gradient_checkpointing()


def learning_rate_schedule(settings: Train) -> Schedule:
    """Half a cosine from the learning rate to the final one, after a linear warm-up from 0."""
    cosine = Cosine(settings.final_learning_rate, settings.learning_rate, cycles=0.5)
    return Warmup(cosine, settings.warmup) if settings.warmup else cosine


def parameter_groups(
    modules: list[nn.Module], weight_decay: float, own_rates: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Split what trains into matrices, which decay, and the rest (biases, norms, temperatures), which does not.

    Parameters of the last module named in `own_rates` keep that learning rate throughout, and do not decay.
    """
    own_rates = own_rates or {}
    own = {id(each): rate for name, each in modules[-1].named_parameters() if (rate := own_rates.get(name)) is not None}
    trainable = [each for module in modules for each in module.parameters() if each.requires_grad]
    shared = [each for each in trainable if id(each) not in own]
    return [
        {"params": [each for each in shared if each.ndim >= 2], "weight_decay": weight_decay},
        {"params": [each for each in shared if each.ndim < 2], "weight_decay": 0.0},
        *(
            {"params": [each for each in trainable if own.get(id(each)) == rate], "weight_decay": 0.0, _OWN_RATE: rate}
            for rate in sorted(set(own.values()))
        ),
    ]


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying of them; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals go elsewhere
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _describe(line: dict[str, Any]) -> str:
    """Put a log line in words for the progress bar."""
    parts = [f"loss {line['loss']:.2f}"]
    for name in ("temperature", "margin"):
        if name in line:
            low, high = line[name]["min"], line[name]["max"]
            parts.append(f"{name} {low:.3f}" + (f"-{high:.3f}" if high - low > 5e-4 else ""))
    return ", ".join(parts)


def _flatten(line: dict[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in line.items():
        name = f"{prefix}/{key}" if prefix else key
        flat |= _flatten(value, name) if isinstance(value, dict) else {name: value}
    return flat
