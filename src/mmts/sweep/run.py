"""What `mmts sweep` does: tune every variant on val, run its best setting with other seeds, evaluate that on test."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmts.console import console, errors, progress_bar
from mmts.data.records import SPLITS, Dataset
from mmts.errors import DataError, RecipeError, RunError, counted
from mmts.evaluation.measures import needs_graded
from mmts.files import atomic_write, locked, read_json
from mmts.recipe.components import outside_names
from mmts.recipe.recipe import Recipe, save_recipe
from mmts.recipe.run_directory import RunDirectory, differences, trusting_code
from mmts.sweep.leaderboard import Leaderboard, standings_table
from mmts.sweep.processes import Job, run_jobs
from mmts.sweep.standings import FAILED, Standings, TrialRuns, label_concepts
from mmts.sweep.sweep_file import Sweep, Trial, load_sweep
from mmts.training.log_line import recall_in_words
from mmts.training.run import versions
from mmts.training.splits import open_data, resolved

_RATE_WINDOW = 3600.0  # seconds: runs take minutes


def run_sweep(
    path: Path, data: Path | None, out: Path, processes: int | None = None, settings: Sequence[str] = ()
) -> Path:
    """Make every unfinished run of the sweep file at `path` under `out`; return the path of leaderboard.md.

    Runs in out/trials/VARIANT/NUMBER/seed-S are evaluated on val and never look at test; those in
    out/runs/VARIANT/seed-S are evaluated on test. A variant none of whose trials could be trained is left out, and
    reported by a RunError at the end; without the first variant there is nothing to compare with. Raises RecipeError,
    DataError or RunError for what the user can put right, and Interrupted after Ctrl-C.
    """
    sweep = load_sweep(path, data, settings)
    trials, choose = sweep.trials(), sweep.file.choose
    dataset = _read_data(sweep, trials)
    labels = label_concepts(dataset, sweep.file.labels)  # before any run: a label may be missing
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    runner = _Runner(sweep, out, processes or cores)
    with locked(out / ".lock"), trusting_code(_outside_names(sweep, trials).__contains__):
        tuned = runner.make(trials, "val") if sweep.file.trials > 1 else [TrialRuns(trial, ()) for trial in trials]
        by_variant = [[result for result in tuned if result.trial.variant == name] for name in sweep.file.variants]
        best = [max(results, key=lambda result: result.on_val(choose)) for results in by_variant]
        failed = [result for result in best if result.failed]
        lost = [f"variant {result.trial.variant}: no trial could be trained: {result.failed}" for result in failed]
        if best[0].failed:
            raise RunError(lost[0])
        chosen = [result for result in best if not result.failed]
        if sweep.file.trials > 1:
            for result in chosen:
                value = f"{choose} {result.on_val(choose):.1f} on val"
                console.print(f"{result.trial.variant}: chose {result.trial}, with {value}")
        finals = runner.make([result.trial for result in chosen], "test")
        standings = Standings.read(finals, dataset, labels)
        console.print(standings_table(standings))
        written = Leaderboard(sweep, dataset, labels, tuned, finals, standings).write(out)
    console.print(f"leaderboard: {', '.join(map(str, written))}")
    if lost:
        raise RunError("; ".join(lost))
    return written[0]


def _outside_names(sweep: Sweep, trials: Sequence[Trial]) -> frozenset[str]:
    """Return the classes outside mmts that the sweep itself names, which its runs may then use."""
    recipes = (sweep.recipe(trial.variant, trial.setting, 0) for trial in trials)
    return frozenset(name for recipe in recipes for name in outside_names(recipe.objective, recipe.model.tower_names))


def _read_data(sweep: Sweep, trials: Sequence[Trial]) -> Dataset:
    """Read the data once, to report early whatever a sweep cannot use."""
    recipe = sweep.recipe(trials[0].variant, trials[0].setting, 0)
    dataset = open_data(recipe.with_data(resolved(sweep.file.data or recipe.data.path)).data)
    if missing := [name for name in SPLITS if name not in dataset.split_names]:
        raise DataError(f"a sweep tunes on val and evaluates on test: {dataset.no_split(missing[0])}")
    if needs_graded(sweep.file.choose) and recipe.data.relevance != "graded":
        raise RecipeError(f"{sweep.source}: choose {sweep.file.choose} needs data.relevance graded; use R@1")
    return dataset


@dataclass(frozen=True)
class _Runner:
    """Makes the runs of a sweep in the folder `out`."""

    sweep: Sweep
    out: Path
    processes: int

    def make(self, trials: Sequence[Trial], split: Literal["val", "test"]) -> list[TrialRuns]:
        """Make the unfinished runs of trials, one per seed: on val to tune, on test with other seeds.

        Raises RunError if a run on test could not be trained.
        """
        if is_tuning := split == "val":
            title, seeds = "tuning on val", self.sweep.file.seeds.tune
            folders = [self.out / "trials" / trial.variant / str(trial.number) for trial in trials]
        else:
            title, seeds = "evaluating on test", self.sweep.file.seeds.test
            folders = [self.out / "runs" / trial.variant for trial in trials]
        jobs = [
            Job(self._recipe(trial, seed), folder / f"seed-{seed}", "val" if is_tuning else None)
            for seed in seeds
            for trial, folder in zip(trials, folders, strict=True)
        ]
        left = [job for job in jobs if not _is_finished(job)]
        count = len(jobs) - len(left)
        console.print(f"{title}: {counted(len(jobs), 'run')}, {count} already finished")
        with (
            progress_bar(title, len(jobs), "runs", count, _RATE_WINDOW) as bar,
            closing(run_jobs(left, min(self.processes, len(left)))) as outcomes,
        ):
            for number, (job, failed) in enumerate(outcomes, count + 1):
                if failed is not None:
                    save_recipe(job.recipe, RunDirectory(job.out).recipe_file, versions())  # may not be there yet
                    with atomic_write(job.out / FAILED, "w") as file:
                        file.write(failed)
                name = job.out.relative_to(self.out)
                bar.advance()
                bar.describe("/".join(name.parts[1:]))
                if not errors.is_terminal:
                    console.print(f"{number}/{len(jobs)} {name}: {failed or _recall(job.out)}")
        for job in jobs if not is_tuning else ():
            if (reason := job.out / FAILED).exists():
                raise RunError(f"{job.out}: {reason.read_text(encoding='utf-8')}; remove the folder to try again")
        runs = [tuple(folder / f"seed-{seed}" for seed in seeds) for folder in folders]
        return list(map(TrialRuns, trials, runs))

    def _recipe(self, trial: Trial, seed: int) -> Recipe:
        recipe = self.sweep.recipe(trial.variant, trial.setting, seed)
        return recipe.with_data(resolved(self.sweep.file.data or recipe.data.path)).with_whole_paths()


def _is_finished(job: Job) -> bool:
    """Whether a run is complete, or could not be trained; RunError if the folder holds a run of another recipe."""
    run, failed = RunDirectory(job.out), (job.out / FAILED).exists()
    if not (run.has_started or failed):
        return False
    if changed := differences(run.recipe(), job.recipe):
        key, (old, new) = next(iter(changed.items()))
        raise RunError(
            f"{job.out} holds a run of another recipe ({key} is {old!r} there, {new!r} now): the sweep, or what it "
            "chose, has changed; remove that folder, or choose another --out"
        )
    return failed or run.is_finished


def _recall(run: Path) -> str:
    metrics = read_json(RunDirectory(run).metrics_file)
    return f"{metrics['split']} {recall_in_words(metrics)}"
