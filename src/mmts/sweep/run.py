"""What `mmts sweep` does: tune every rule on val, run the best setting of each with fresh seeds, judge on test."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmts.console import console, errors, progress_bar
from mmts.data.records import SPLITS, Dataset
from mmts.errors import DataError, RecipeError, RunError, counted
from mmts.evaluation.measures import needs_graded
from mmts.files import atomic_write, locked, read_json
from mmts.recipe.components import outside_names
from mmts.recipe.recipe import Recipe, save_recipe
from mmts.recipe.run_directory import RunDirectory, differences, trusting_code
from mmts.sweep.divisions import label_concepts
from mmts.sweep.leaderboard import make_leaderboard, standings_table, write_leaderboard
from mmts.sweep.processes import Job, Outcome, run_jobs
from mmts.sweep.sweep_file import Sweep, Trial, load_sweep
from mmts.sweep.trials import Finals, Tuned, best_of
from mmts.training.log_line import recall_in_words
from mmts.training.run import versions
from mmts.training.splits import open_data, resolved

_FAILED = "failed.txt"
_RATE_WINDOW = 3600.0  # seconds: runs take minutes


def run_sweep(
    path: Path, data: Path | None, out: Path, processes: int | None = None, settings: Sequence[str] = ()
) -> Path:
    """Make every run of the sweep file at `path` that is not finished under `out`; return leaderboard.md's path.

    out/trials/RULE/NUMBER/seed-S are judged on val, and never look at test; out/runs/RULE/seed-S are judged on test.
    A rule of which no trial could be trained is left out, and a RunError at the end says so; without the first rule
    there is nothing to compare with. Raises RecipeError, DataError or RunError for what the user can put right, and
    Interrupted after Ctrl-C.
    """
    sweep = load_sweep(path, data, settings)
    trials = sweep.trials()
    dataset = _data_of(sweep, trials)
    of_labels = label_concepts(dataset, sweep.file.labels)  # early: a label may not be there
    plan = _Plan(sweep, dataset, out, processes or _cores())
    with locked(out / ".lock"), trusting_code(_outside_names(sweep, trials).__contains__):
        tuned = plan.tune(trials)
        best = best_of(tuned, sweep.file.choose)
        chosen = [each for each in best if each.failed is None]
        lost = [f"no trial of rule {each.trial.rule} could be trained: {each.failed}" for each in best if each.failed]
        if best[0].failed is not None:
            raise RunError(lost[0])
        for each in chosen if sweep.file.trials > 1 else ():
            console.print(f"{each.trial.rule}: {each.trial} chosen, {each.figure(sweep.file.choose):.1f} on val")
        board = make_leaderboard(sweep, dataset, of_labels, tuned, plan.judge(chosen))
        console.print(standings_table(board.standings))
        written = write_leaderboard(out, board)
    console.print(f"leaderboard: {', '.join(map(str, written))}")
    if lost:
        raise RunError("; ".join(lost))
    return written[0]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outside_names(sweep: Sweep, trials: Sequence[Trial]) -> frozenset[str]:
    """Return the classes outside mmts that the sweep itself names, which its runs may then name."""
    recipes = (sweep.recipe(trial.rule, trial.setting, 0) for trial in trials)
    return frozenset(name for recipe in recipes for name in outside_names(recipe.objective, recipe.model.tower_names))


def _data_of(sweep: Sweep, trials: Sequence[Trial]) -> Dataset:
    """Read the data once, to refuse early what a sweep cannot be made on."""
    recipe = sweep.recipe(trials[0].rule, trials[0].setting, 0)
    dataset = open_data(recipe.with_data(resolved(sweep.file.data or recipe.data.path)).data)
    missing = [name for name in SPLITS if name not in dataset.split_names]
    if missing:
        raise DataError(f"a sweep tunes on val and judges on test: {dataset.no_split(missing[0])}")
    if needs_graded(sweep.file.choose) and recipe.data.relevance != "graded":
        raise RecipeError(f"{sweep.source}: choose {sweep.file.choose} needs data.relevance graded; take R@1")
    return dataset


@dataclass(frozen=True)
class _Plan:
    """The runs of a sweep and where they lie."""

    sweep: Sweep
    dataset: Dataset
    out: Path
    processes: int

    def tune(self, trials: Sequence[Trial]) -> list[Tuned]:
        """Make the trials' runs; return them with their figures on val. Where each rule has one, there are none."""
        if self.sweep.file.trials == 1:
            return [Tuned(trial, (), None) for trial in trials]
        seeds = self.sweep.file.seeds.tune
        folders = {
            (trial.rule, trial.number, seed): self.out / "trials" / trial.rule / str(trial.number) / f"seed-{seed}"
            for trial in trials
            for seed in seeds
        }
        jobs = [
            Job(self._recipe(trial, seed), folders[trial.rule, trial.number, seed], "val")
            for seed in seeds
            for trial in trials
        ]
        self._make("tuning on val", jobs)
        tuned = []
        for trial in trials:
            runs = [folders[trial.rule, trial.number, seed] for seed in seeds]
            failed = next((_text(run / _FAILED) for run in runs if (run / _FAILED).exists()), None)
            tuned.append(Tuned(trial, tuple(runs), None if failed else tuple(map(_metrics_on_val, runs)), failed))
        return tuned

    def judge(self, chosen: Sequence[Tuned]) -> list[Finals]:
        """Make the chosen settings' runs with fresh seeds; raises RunError where one comes to nothing."""
        finals = []
        jobs = []
        for best in chosen:
            folder = self.out / "runs" / best.trial.rule
            runs = {seed: folder / f"seed-{seed}" for seed in self.sweep.file.seeds.test}
            jobs += [Job(self._recipe(best.trial, seed), run) for seed, run in runs.items()]
            finals.append(Finals(best, tuple(runs.values())))
        self._make("judging on test", sorted(jobs, key=lambda job: job.recipe.train.seed))
        for job in jobs:
            if (job.out / _FAILED).exists():
                raise RunError(f"{job.out}: {_text(job.out / _FAILED)}; remove the folder to try again")
        return finals

    def _recipe(self, trial: Trial, seed: int) -> Recipe:
        recipe = self.sweep.recipe(trial.rule, trial.setting, seed)
        return recipe.with_data(resolved(self.sweep.file.data or recipe.data.path)).with_whole_paths()

    def _make(self, title: str, jobs: Sequence[Job]) -> None:
        """Make the runs that are not finished, under one bar."""
        left = [job for job in jobs if not _is_finished(job)]
        console.print(f"{title}: {counted(len(jobs), 'run')}, {len(jobs) - len(left)} of them finished already")
        with progress_bar(title, len(jobs), "runs", len(jobs) - len(left), _RATE_WINDOW) as bar:
            count = len(jobs) - len(left)

            def done(job: Job, outcome: Outcome) -> None:
                nonlocal count
                count += 1
                if outcome.failed is not None:
                    save_recipe(job.recipe, RunDirectory(job.out).recipe_file, versions())  # a start may leave nothing
                    with atomic_write(job.out / _FAILED, "w") as file:
                        file.write(outcome.failed)
                name = job.out.relative_to(self.out)
                bar.advance()
                bar.describe("/".join(name.parts[1:]))
                if not errors.is_terminal:
                    console.print(f"{count}/{len(jobs)} {name}: {outcome.failed or _in_words(job.out)}")

            if left:
                run_jobs(left, min(self.processes, len(left)), done)


def _is_finished(job: Job) -> bool:
    """Whether a run is complete, or came to nothing; RunError where the folder holds a run of another recipe."""
    run, failed = RunDirectory(job.out), (job.out / _FAILED).exists()
    if not (run.has_started or failed):
        return False
    changed = differences(run.recipe(), job.recipe)
    if changed:
        key, (old, new) = next(iter(changed.items()))
        raise RunError(
            f"{job.out} holds a run of another recipe ({key} is {old!r} there, {new!r} now): the sweep, or what it "
            "chose, has changed; remove that folder, or choose another --out"
        )
    return failed or run.is_finished


def _metrics_on_val(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = read_json(RunDirectory(run).metrics_file)
    if metrics["split"] != "val":  # somebody called `mmts evaluate` on it
        raise RunError(
            f"{run} was tuned on val and has been judged on {metrics['split']} since; remove it to tune again"
        )
    return metrics


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _in_words(run: Path) -> str:
    metrics = read_json(RunDirectory(run).metrics_file)
    return f"{metrics['split']} {recall_in_words(metrics)}"
