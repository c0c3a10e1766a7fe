"""The folder of one run: which file holds what, and the log that a resumed run continues."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmts.console import console
from mmts.errors import RunError
from mmts.files import append_line, atomic_write, flush_to_disk, leftovers, locked, read_json, why_missing
from mmts.recipe.components import Trust
from mmts.recipe.recipe import Recipe, parse_recipe, save_recipe
from mmts.recipe.yaml_text import load_yaml

_ABOUT = {"name", "description", "published"}
# Settings that a resumed run may change: none of them affects the batches, the schedules or the gradients.
_MAY_CHANGE = frozenset(
    {
        "data.workers",
        "train.checkpoint_every",
        "train.evaluate_every",
        "train.gradient_checkpointing",
        "train.log_every",
        "train.micro_batch",
        "train.on_nan",
        "train.project",
        "train.trackers",
    }
)
_CLOCK = ("train.epochs", "train.steps", "train.batch_size")


_TRUSTED: ContextVar[Trust] = ContextVar("trusted", default=lambda name: False)


@contextmanager
def trusting_code(trusted: Trust = lambda name: True) -> Iterator[None]:
    """Let the recipes of run directories name code outside mmts meanwhile, all or what `trusted` says: it is run.

    Outside this such a recipe is refused: a run directory may be somebody else's.
    """
    token = _TRUSTED.set(trusted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


class _Place:
    """A file or folder inside a run directory, by its name there."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "RunDirectory", owner: type) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunDirectory:
    """Names every file of a run.

    recipe.yaml       the resolved recipe, with versions
    log.jsonl         one JSON object per logged step
    checkpoints/      last.pt, the one before it (previous.pt), best.pt
    concepts.npz      the concepts of the training samples
    vocabulary.json   words of a text tower trained from scratch
    unreadable.txt    media that could not be decoded, with the reason
    diverged.json     the batch that training stopped at because of a NaN
    metrics.json      how the run is judged
    judgement.npz     rank of every query behind metrics.json, the first ten results, and the labels it was judged by
    evaluations/      judgements on other data or splits: NAME.json, and NAME.npz like judgement.npz
    index/            what `mmts index` made, for searching
    onnx/, sentence-transformers/   what `mmts export` wrote
    .lock             the process that writes the run, while one does
    """

    path: Path

    recipe_file = _Place("recipe.yaml")
    log_file = _Place("log.jsonl")
    concepts_file = _Place("concepts.npz")
    vocabulary_file = _Place("vocabulary.json")
    unreadable_file = _Place("unreadable.txt")
    diverged_file = _Place("diverged.json")
    metrics_file = _Place("metrics.json")
    judgement_file = _Place("judgement.npz")
    evaluations = _Place("evaluations")
    index = _Place("index")
    lock_file = _Place(".lock")

    @classmethod
    def of_judgement(cls, path: Path) -> "tuple[RunDirectory, Path]":
        """Return the run that a path names and the figures that are meant: metrics.json, or RUN/evaluations/NAME.json.

        The path may be the run directory, or the file of an evaluation.
        """
        run = cls(path.parent.parent)
        if path.suffix == ".json" and path.parent == run.evaluations and path.is_file():
            return run, path
        return cls(path), cls(path).metrics_file

    def ranks_file(self, figures: Path) -> Path:
        """Return the file of the ranks behind metrics.json or a file of evaluations/."""
        return self.judgement_file if figures == self.metrics_file else figures.with_suffix(".npz")

    @property
    def is_finished(self) -> bool:
        """Whether the run has taken its last step and been judged after it."""
        return self.metrics_file.exists() and "stopped_at" not in read_json(self.metrics_file)

    @property
    def has_started(self) -> bool:
        """Whether there is anything that training has made."""
        return self.log_file.exists() or (self.path / "checkpoints").exists() or self.metrics_file.exists()

    @staticmethod
    def check_checkpoint(name: str) -> None:
        """Raise RunError unless this names a checkpoint that can be judged."""
        if name not in ("best", "last"):
            raise RunError(f"--checkpoint is best or last, not {name!r}")

    def checkpoint_file(self, name: str) -> Path:
        """Return the file of the checkpoint `last`, `previous` or `best`."""
        return self.path / "checkpoints" / f"{name}.pt"

    def problem(self) -> str:
        """Say why this is not a run directory; empty where it is one."""
        if self.recipe_file.is_file():
            return ""
        if self.path.is_dir():
            runs = sorted(
                file.parent for pattern in ("*", "runs/*/*") for file in self.path.glob(f"{pattern}/recipe.yaml")
            )
            holds = f", but holds {len(runs):,}, such as {runs[0]}" if runs else " (it has no recipe.yaml)"
            return f"{self.path} is not a run directory{holds}"
        if self.path.exists():
            own = RunDirectory(self.path.parent)
            folder = f"its folder, {own.path}" if own.recipe_file.is_file() else "the folder that `mmts train` wrote"
            return f"{self.path} is a file; a run directory is wanted: {folder}"
        return f"{self.path} {why_missing(self.path)}"

    def not_judged(self, figures: Path) -> str:
        """Say that this run has no such file of figures, and what to do; empty where it has."""
        if figures.is_file():
            return ""
        if not self.has_started:
            return f"{self.path} holds a recipe, but was never trained"
        todo = f"finish it, or call `mmts evaluate {self.path}`"
        return f"{self.path} has not been judged yet (it has no metrics.json): {todo}"

    def recipe(self) -> Recipe:
        """Read the resolved recipe; raises RunError if this is not a run directory."""
        if why := self.problem():
            raise RunError(why)
        try:
            content = load_yaml(self.recipe_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            content = None
        if not isinstance(content, dict):
            raise RunError(f"{self.recipe_file} is not a resolved recipe")
        return parse_recipe(content, str(self.recipe_file), _TRUSTED.get())

    @contextmanager
    def held(self, resume: bool) -> Iterator[None]:
        """Keep the folder for this process while the body trains.

        If the body fails before the first step, what it wrote and the folders it made are removed, so that the command
        can be repeated. Raises RunError if a run cannot go into the folder, or if another process holds it.
        """
        self.check(resume)
        new = [each for each in (self.path, *self.path.parents) if not each.exists()]
        if not self.has_started and self.recipe_file.exists():  # of a start that was killed
            new.append(self.path)
        try:
            with locked(self.lock_file):
                self.check(resume)  # again: the process that held the lock may have left a run
                try:
                    yield
                except BaseException:
                    self._remove_start()
                    raise
        finally:
            for folder in new:
                with suppress(OSError):  # there is something in it
                    folder.rmdir()

    def _remove_start(self) -> None:
        """Remove the files written before the first step, if there are no others (such as unreadable.txt)."""
        start = {self.recipe_file, self.concepts_file, self.vocabulary_file, self.path / "tensorboard"}
        if set(self.path.iterdir()) - {self.lock_file} <= start:
            for each in start:
                shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink(missing_ok=True)

    def check(self, resume: bool) -> None:
        """Raise RunError where a run cannot go into this folder; nothing is written yet."""
        if self.has_started:
            if not resume:
                raise RunError(f"{self.path} already holds a run; add --resume to continue it, or choose another --out")
        elif self.path.is_dir() and not self.recipe_file.exists() and self._strange():
            raise RunError(f"{self.path} holds files that are not a run's; choose another --out")
        elif self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; --out names a folder")

    def _strange(self) -> bool:
        """Whether the folder holds files that a process killed before its first step would not have left."""
        return bool({*self.path.iterdir()} - {*leftovers(self.path), *self.path.glob(f"{self.lock_file.name}*")})

    def begin(self, recipe: Recipe, versions: dict[str, str]) -> None:
        """Save the recipe in the folder, or check that the one there is the same; raises RunError if it differs.

        The files of a run that never trained (for example, because of a mistake in its recipe) are replaced. Keys that
        affect neither batches nor schedules nor gradients may differ (see `go_on`), and so may the path of the data.
        """
        for leftover in leftovers(self.path):
            leftover.unlink(missing_ok=True)
        if not self.has_started:
            for leftover in (self.concepts_file, self.vocabulary_file):
                leftover.unlink(missing_ok=True)
            save_recipe(recipe, self.recipe_file, versions)
            return
        changed = differences(self.recipe(), recipe)
        may_change = _MAY_CHANGE if self.is_finished else _MAY_CHANGE | {"data.path"}
        wrong = {key: values for key, values in changed.items() if key not in may_change}
        if wrong:
            jump = "; the progress that all schedules follow would jump" if not wrong.keys().isdisjoint(_CLOCK) else ""
            raise RunError(f"{self.path} holds a run of another recipe: {_listed(wrong)}{jump}; choose another --out")

    def go_on(self, recipe: Recipe, versions: dict[str, str]) -> None:
        """Print and save the settings that a resumed run changes, once its data are known to be the same."""
        changed = differences(self.recipe(), recipe)
        if changed and not self.is_finished:
            console.print(f"note: going on with other settings: {_listed(changed)}")
            save_recipe(recipe, self.recipe_file, versions)

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """Read the log, oldest line first; a last line cut short by a crash is left out."""
        if not self.log_file.exists():
            return
        for text in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                return
            if not isinstance(line, dict):
                return
            yield line

    def trim_log(self, steps_done: int) -> None:
        """Drop the lines of steps that a resumed run will take again."""
        if self.log_file.exists():
            kept = [line for line in self.log_lines() if _is_before(line, steps_done)]
            with atomic_write(self.log_file, "w") as file:
                file.writelines(json.dumps(line) + "\n" for line in kept)

    def append_log(self, line: dict[str, Any]) -> None:
        """Add one line to the log."""
        append_line(self.log_file, json.dumps(line))

    def flush_log(self) -> None:
        """Have the log on the disk: a checkpoint that outlives a power cut must find the lines before it there."""
        flush_to_disk(self.log_file)


def _is_before(line: dict[str, Any], steps_done: int) -> bool:
    step = line.get("step")
    return isinstance(step, int) and step < steps_done


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    listed = ", ".join(f"{key} ({old!r} there, {new!r} now)" for key, (old, new) in list(changed.items())[:3])
    return listed + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def dotted(value: Any, prefix: str = "", sign: str = ".") -> dict[str, Any]:
    """Return the values of nested mappings by their keys, joined by a sign.

    >>> dotted({"train": {"epochs": 3, "trackers": []}})
    {'train.epochs': 3, 'train.trackers': []}
    """
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= dotted(inner, f"{prefix}{sign}{key}" if prefix else key, sign)
    return flat


def differences(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the keys, dotted, whose values differ between two recipes; what only describes them does not count."""

    old = dotted(first.model_dump(mode="json", exclude=_ABOUT))
    new = dotted(second.model_dump(mode="json", exclude=_ABOUT))
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}
