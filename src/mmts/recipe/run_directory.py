"""The folder of one run: which file holds what, and the log that a resumed run continues."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from mmts.console import console
from mmts.errors import RunError, few
from mmts.files import atomic_write, leftovers, locked, read_json, why_missing, write_json
from mmts.recipe.components import MAY_RUN, Trust
from mmts.recipe.recipe import Recipe, load_yaml, parse_recipe, save_recipe

# Settings that a resumed run may change: none of them affects the batches, the schedules or the gradients.
_MAY_CHANGE = {
    "data.workers",
    "evaluation.classify",
    "evaluation.prompts",
    "train.checkpoint_every",
    "train.evaluate_every",
    "train.gradient_checkpointing",
    "train.log_every",
    "train.micro_batch",
    "train.on_nan",
    "train.project",
    "train.shard",
    "train.trackers",
}
CHECKPOINTS = ("best", "last", "interpolated")
"""The checkpoints that can be evaluated, searched with and exported."""
_CLOCK = ("train.epochs", "train.steps", "train.batch_size")
_TRUSTED: ContextVar[Trust] = ContextVar("trusted", default=lambda name: False)


@contextmanager
def trusting_code(trusted: Trust = lambda name: True) -> Iterator[None]:
    """Within it, run the code outside mmts that recipes of run directories name, if `trusted`; otherwise refuse it."""
    token = _TRUSTED.set(trusted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def trusted_code() -> Trust:
    """Return what `trusting_code` was given, for another process that continues the work."""
    return _TRUSTED.get()


class RunDirectory:
    """Names every file of a run; besides these, `mmts export` writes onnx/ and sentence-transformers/ there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.yaml"  # the resolved recipe, with versions
        self.log_file = path / "log.jsonl"  # one JSON object per logged step
        self.checkpoints = path / "checkpoints"  # last.pt, the one before it (previous.pt), best.pt
        self.concepts_file = path / "concepts.npz"  # the concepts of the training samples
        self.vocabulary_file = path / "vocabulary.json"  # words of a text tower trained from scratch
        self.unreadable_file = path / "unreadable.txt"  # media that could not be decoded, with the reason
        self.diverged_file = path / "diverged.json"  # the batch at which training stopped because of a NaN
        self.metrics_file = path / "metrics.json"  # the run's scores on its own data
        self.judgement_file = path / "judgement.npz"  # behind metrics.json: ranks, first results, groups and labels
        self.evaluations = path / "evaluations"  # scores on other data or splits: NAME.json and NAME.npz
        self.before_file = self.evaluations / "before.json"  # scores of the pretrained pair that the run started from
        self.interpolation_file = path / "interpolation.json"  # the curve of `mmts evaluate --interpolate`
        self.index = path / "index"  # what `mmts index` made, for searching
        self.lock_file = path / ".lock"  # the process that writes the run, while it does
        self.clock_file = path / ".clock"  # the step at which that process began to train; written at that moment

    @classmethod
    def of_judgement(cls, path: Path) -> "tuple[RunDirectory, Path]":
        """Return the run and the file of scores that a path names: a run directory, or RUN/evaluations/NAME.json."""
        run = cls(path.parent.parent)
        if path.suffix == ".json" and path.parent == run.evaluations and path.is_file():
            return run, path
        return cls(path), cls(path).metrics_file

    def ranks_file(self, figures: Path) -> Path:
        """Return the file of the ranks behind metrics.json or a file of evaluations/."""
        return self.judgement_file if figures == self.metrics_file else figures.with_suffix(".npz")

    @property
    def is_finished(self) -> bool:
        """Whether the run has taken its last step and was evaluated after it."""
        return self.metrics_file.exists() and "stopped_at" not in read_json(self.metrics_file)

    @property
    def has_started(self) -> bool:
        """Whether training has written anything here."""
        saved = any(file != self.checkpoint_file("start") for file in self.checkpoints.glob("*.pt"))
        return self.log_file.exists() or saved or self.metrics_file.exists()

    @staticmethod
    def check_checkpoint(name: str) -> None:
        """Raise RunError unless this names a checkpoint that can be evaluated."""
        if name not in CHECKPOINTS:
            raise RunError(f"--checkpoint is best, last or interpolated, not {name!r}")

    def checkpoint_file(self, name: str) -> Path:
        """Return the file of the checkpoint `start`, `last`, `previous`, `best` or `interpolated`."""
        return self.checkpoints / f"{name}.pt"

    def problem(self) -> str:
        """Say why this is not a run directory; empty if it is one."""
        if self.recipe_file.is_file():
            return ""
        if self.path.is_dir():
            files = [*self.path.glob("*/recipe.yaml"), *self.path.glob("runs/*/*/recipe.yaml")]
            holds = f", but holds {len(files):,}, such as {min(files).parent}" if files else " (it has no recipe.yaml)"
            return f"{self.path} is not a run directory{holds}"
        if self.path.exists():
            in_run = self.path.with_name("recipe.yaml").is_file()
            folder = f"its folder, {self.path.parent}" if in_run else "the folder that `mmts train` wrote"
            return f"{self.path} is a file, not a run directory; give {folder}"
        return f"{self.path} {why_missing(self.path)}"

    def not_judged(self, figures: Path) -> str:
        """Say that this run has no such file of figures, and what to do; empty if it has it."""
        if figures.is_file():
            return ""
        if not self.has_started:
            return f"{self.path} holds a recipe, but was never trained"
        todo = f"finish it, or call `mmts evaluate {self.path}`"
        return f"{self.path} has not been evaluated yet (it has no metrics.json): {todo}"

    def recipe(self) -> Recipe:
        """Read the resolved recipe; raises RunError if this is not a run directory."""
        content, token = self.content(), MAY_RUN.set(_TRUSTED.get())
        try:
            return parse_recipe(content, str(self.recipe_file))
        finally:
            MAY_RUN.reset(token)

    def own_objects(self) -> dict[str, str]:
        """Return the classes of the model and the objective that `mmts.train` was given as objects, by "model" etc."""
        return self._written("own_objects")

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that trained the run."""
        return self._written("versions")

    def _written(self, section: str) -> dict[str, str]:
        words = self.content().get(section)
        return {str(name): str(value) for name, value in words.items()} if isinstance(words, dict) else {}

    def content(self) -> dict[str, Any]:
        """Return recipe.yaml as it is, with the versions; raises RunError if it is none."""
        if why := self.problem():
            raise RunError(why)
        try:
            content = load_yaml(self.recipe_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            content = None
        if not isinstance(content, dict):
            raise RunError(f"{self.recipe_file} is not a resolved recipe")
        return content

    @contextmanager
    def held(self, resume: bool) -> Iterator[None]:
        """Lock the folder for this process while the body trains.

        If the body fails before the first step, what it wrote and the folders it made are removed, so that the command
        can be repeated. Raises RunError if a run cannot go into the folder, or if another process holds it.
        """
        self.check(resume)
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        if not self.has_started and self.recipe_file.exists():  # left by a run that was killed before its first step
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
                    self.clock_file.unlink(missing_ok=True)
        finally:
            for folder in new:
                with suppress(OSError):  # there is something in it
                    folder.rmdir()

    def _remove_start(self) -> None:
        """Remove the files written before the first step, if there are no others (such as unreadable.txt)."""
        start = {self.recipe_file, self.concepts_file, self.vocabulary_file, self.evaluations}
        start.add(self.path / "tensorboard")
        if not self.has_started:
            start.add(self.checkpoints)  # which may hold the model before the first step
        if set(self.path.iterdir()) - {self.lock_file, self.clock_file} <= start:
            for file in start:
                shutil.rmtree(file, ignore_errors=True) if file.is_dir() else file.unlink(missing_ok=True)

    def check(self, resume: bool) -> None:
        """Raise RunError if a run cannot go into this folder; nothing is written yet."""
        if self.has_started:
            if not resume:
                raise RunError(f"{self.path} already holds a run; add --resume to continue it, or choose another --out")
        elif self.path.is_dir() and not self.recipe_file.exists():
            # A process that was killed before its first step may have left these.
            if {*self.path.iterdir()} - {*leftovers(self.path), *self.path.glob(f"{self.lock_file.name}*")}:
                raise RunError(f"{self.path} holds files that are not a run's; choose another --out")
        elif self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; --out names a folder")

    def begin(self, recipe: Recipe, versions: dict[str, str], own_objects: Mapping[str, str] = {}) -> None:
        """Save the recipe in the folder, or check that the one there is the same; raises RunError if it differs.

        The files of a run that never trained (for example, because of a mistake in its recipe) are replaced. Keys that
        affect neither batches nor schedules nor gradients may differ (see `go_on`), and so may the path of the data.
        """
        start = [self.concepts_file, self.vocabulary_file, self.before_file, self.ranks_file(self.before_file)]
        start.append(self.checkpoint_file("start"))
        for file in [*leftovers(self.path), *([] if self.has_started else start)]:
            file.unlink(missing_ok=True)
        if not self.has_started:
            save_recipe(recipe, self.recipe_file, versions, own_objects)
            return
        if (before := self.own_objects()) != own_objects:
            how = f"was started with {_objects(before)}, and is resumed with {_objects(own_objects)}"
            remedy = "resume it by mmts.train(..., resume=True) with objects of those classes, or choose another --out"
            raise RunError(f"{self.path} {how}; {remedy}")
        changed = differences(self.recipe(), recipe)
        may_change = _MAY_CHANGE if self.is_finished else _MAY_CHANGE | {"data.path"}
        wrong = {key: values for key, values in changed.items() if key not in may_change}
        if wrong:
            jump = "; the progress that all schedules follow would jump" if {*wrong} & {*_CLOCK} else ""
            raise RunError(f"{self.path} holds a run of another recipe: {_listed(wrong)}{jump}; choose another --out")

    def go_on(self, recipe: Recipe, versions: dict[str, str], own_objects: Mapping[str, str] = {}) -> None:
        """Print and save the settings that a resumed run changes, once its data are known to be the same."""
        changed = differences(self.recipe(), recipe)
        if changed and not self.is_finished:
            console.print(f"note: resuming with other settings: {_listed(changed)}")
            save_recipe(recipe, self.recipe_file, versions, own_objects)

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """Read the log, oldest line first, up to a line that a crash cut short."""
        with suppress(FileNotFoundError, ValueError, RecursionError):
            for text in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
                line = json.loads(text)
                if not isinstance(line, dict):
                    return
                yield line

    def prepare_for(self, steps_done: int) -> None:
        """Make the folder ready for the steps to come: drop log lines of steps that a resumed run will take again."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.clock_file, steps_done)
        self.diverged_file.unlink(missing_ok=True)
        if self.log_file.exists():
            steps = [(line.get("step"), json.dumps(line)) for line in self.log_lines()]
            with atomic_write(self.log_file, "w") as file:
                file.writelines(f"{line}\n" for step, line in steps if isinstance(step, int) and step < steps_done)


def _objects(own_objects: Mapping[str, str]) -> str:
    return " and ".join(f"the {name} {kind}" for name, kind in own_objects.items()) or "no objects of the caller"


def _listed(changed: dict[str, tuple[Any, Any]]) -> str:
    return few([f"{key} ({old!r} there, {new!r} now)" for key, (old, new) in changed.items()])


def dotted(value: Any, prefix: str = "", sign: str = ".") -> dict[str, Any]:
    """Return the values of nested mappings by their keys, joined by a sign: `train.epochs`."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= dotted(inner, f"{prefix}{sign}{key}" if prefix else key, sign)
    return flat


def differences(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values differ between two recipes; what only describes them does not count."""
    only_words = {"name", "description", "published"}
    old, new = (dotted(recipe.model_dump(mode="json", exclude=only_words)) for recipe in (first, second))
    return {key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)}
