"""What `mmts sweep` does: tune every variant on val, run its best setting with other seeds, evaluate that on test.

Runs go side by side, one process and one thread each, here (joblib) or on a Ray cluster, and are stopped together.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from mmts.cluster.on_ray import STOPPED, connected, parse_part, run_tasks
from mmts.console import console, errors, progress_bar, quiet
from mmts.data.records import SPLITS
from mmts.errors import DataError, Diverged, InputError, Interrupted, MmtsError, RecipeError, RunError, counted, few
from mmts.evaluation.measures import needs_graded
from mmts.files import atomic_write, locked, read_json
from mmts.recipe.components import outside_names
from mmts.recipe.recipe import Recipe, save_recipe
from mmts.recipe.run_directory import RunDirectory, differences, trusting_code
from mmts.sweep.leaderboard import standings_table, write_leaderboard
from mmts.sweep.standings import Standings, find_divisions
from mmts.sweep.sweep_file import FAILED, Sweep, Trial, load_sweep
from mmts.training.log_line import recall_in_words
from mmts.training.run import train, versions
from mmts.training.signals import stop_requests
from mmts.training.splits import open_data, resolved

_RATE_WINDOW = 3600.0  # seconds: runs take minutes
_POLL = 0.2  # seconds between a worker's checks whether it has to stop
_Outcomes = Generator[tuple[Path, str | None]]  # finished runs, with the reason if the settings could not be trained
_TrainAll = Callable[[Mapping[Path, Recipe], str | None], _Outcomes]  # of recipes by folder, evaluated on a split


def run_sweep(
    path: Path,
    data: Path | None,
    out: Path,
    processes: int | None = None,
    settings: Sequence[str] = (),
    *,
    part: str | None = None,
    ray: str | None = None,
    collect: bool = False,
) -> Path | None:
    """Make every unfinished run of the sweep file at `path` under `out`; return the path of leaderboard.md.

    part: `I/N`, the I-th of N processes that see `out`: it makes a share of the trials, and once all are there a share
        of the runs on test; whoever finishes the last one writes the leaderboard, and the others return None.
    ray: the address of a Ray cluster (see `connected`) that makes the runs; its nodes must see the data and `out`.
    collect: make no run, and only write the leaderboard of finished ones.

    Runs in out/trials/VARIANT/NUMBER/seed-S are evaluated on val and never look at test; those in
    out/runs/VARIANT/seed-S are evaluated on test. A variant none of whose trials could be trained is left out, and
    reported by a RunError at the end. Raises Interrupted after Ctrl-C.
    """
    sweep = load_sweep(path, data, settings)
    trials, choose = sweep.trials(), sweep.file.choose
    recipes = [sweep.recipe(trial.variant, trial.setting, 0) for trial in trials]
    # Whatever a sweep cannot use is reported before any run.
    dataset = open_data(recipes[0].with_data(resolved(sweep.file.data or recipes[0].data.path)).data)
    if missing := [name for name in SPLITS if name not in dataset.split_names]:
        raise DataError(f"a sweep tunes on val and evaluates on test: {dataset.no_split(missing[0])}")
    if needs_graded(choose) and recipes[0].data.relevance != "graded":
        raise RecipeError(f"{sweep.source}: choose {choose} needs data.relevance graded; use R@1")
    if sweep.file.trials > 1 and any(recipe.data.val is not None for recipe in recipes):
        console.print("note: data.val chooses the checkpoint of each run, and the data's own val chooses the settings")
    divisions = find_divisions(dataset, sweep.file)
    own_code = {name for recipe in recipes for name in outside_names(recipe.objective, recipe.model.tower_names)}
    number, count = parse_part(part, ray)
    if ray is not None and processes is not None:
        raise InputError("--jobs counts runs on this machine; on Ray each run takes a core or a GPU of the cluster")
    share = slice(0, 0) if collect else slice(number - 1, None, count)
    train_all = _train_on_ray if ray else partial(_train_all, processes=processes or cpu_count())
    lock = out / (".lock" if count == 1 else f".lock-{number}-of-{count}")
    with locked(lock), trusting_code(own_code.__contains__), connected(ray) if ray else nullcontext():
        tuned = _make_runs(sweep, trials, "val", out, train_all, share) if sweep.file.trials > 1 else trials
        if tuned is None:
            return None
        by_variant = [[trial for trial in tuned if trial.variant == name] for name in sweep.file.variants]
        best = [max(tried, key=lambda trial: trial.on_val(choose)) for tried in by_variant]
        lost = [f"variant {trial.variant}: no trial could be trained: {trial.failed}" for trial in best if trial.failed]
        if best[0].failed:  # the others are compared with the first
            raise RunError(lost[0])
        chosen = [trial for trial in best if not trial.failed]
        for trial in chosen if sweep.file.trials > 1 else ():
            console.print(f"{trial.variant}: chose {trial}, with {choose} {trial.on_val(choose):.1f} on val")
        made = _make_runs(sweep, chosen, "test", out, train_all, share)
        if made is None:
            return None
        standings = Standings.read(made, dataset, divisions)
        console.print(standings_table(standings))
        with locked(out / ".leaderboard.lock", wait=True):  # two parts may finish at the same time
            written = write_leaderboard(out, sweep, dataset, divisions, tuned, made, standings)
    console.print(f"leaderboard: {', '.join(map(str, written))}")
    if lost:
        raise RunError("; ".join(lost))
    return written[0]


def _make_runs(
    sweep: Sweep, trials: Sequence[Trial], split: Literal["val", "test"], out: Path, train_all: _TrainAll, share: slice
) -> list[Trial] | None:
    """Make the unfinished runs of trials, one per seed, that are in a share of all of them.

    Return the trials with their runs, or None if runs outside the share are not finished, or still to come. Raises
    RunError if a run on test could not be trained, or if the share is empty and a run is not finished.
    """
    if split == "val":
        title, seeds = "tuning on val", sweep.file.seeds.tune
        folders = [out / "trials" / trial.variant / str(trial.number) for trial in trials]
    else:
        title, seeds = "evaluating on test", sweep.file.seeds.test
        folders = [out / "runs" / trial.variant for trial in trials]
    recipes: dict[Path, Recipe] = {}
    for seed in seeds:
        for trial, folder in zip(trials, folders, strict=True):
            recipe = sweep.recipe(trial.variant, trial.setting, seed)
            recipe = recipe.with_data(resolved(sweep.file.data or recipe.data.path))
            recipes[folder / f"seed-{seed}"] = recipe
    unfinished = {run: recipe for run, recipe in recipes.items() if not _is_finished(run, recipe)}
    count = len(recipes) - len(unfinished)
    left = {run: unfinished[run] for run in list(recipes)[share] if run in unfinished}
    console.print(f"{title}: {counted(len(recipes), 'run')}, {count} already finished")
    with (
        progress_bar(title, count + len(left), "runs", count, _RATE_WINDOW) as bar,
        closing(train_all(left, "val" if split == "val" else None)) as outcomes,
    ):
        for number, (run, failed) in enumerate(outcomes, count + 1):
            if failed is not None:
                save_recipe(recipes[run], RunDirectory(run).recipe_file, versions())  # may not be there yet
                with atomic_write(run / FAILED, "w") as file:
                    file.write(failed)
            name = run.relative_to(out)
            bar.advance()
            bar.describe("/".join(name.parts[1:]))
            if not errors.is_terminal:
                outcome = failed or f"{split} {recall_in_words(read_json(RunDirectory(run).metrics_file))}"
                console.print(f"{number}/{count + len(left)} {name}: {outcome}")
    if elsewhere := [run for run in unfinished if run not in left and not _is_finished(run, recipes[run])]:
        not_yet = counted(len(elsewhere), "run")
        if share == slice(0, 0):
            raise RunError(f"--collect: {not_yet} not finished: {few([str(run) for run in elsewhere])}")
        console.print(f"{title}: {not_yet} of other parts not finished; then run the same command again for every part")
        return None
    for run in recipes if split == "test" else ():
        if (reason := run / FAILED).exists():
            raise RunError(f"{run}: {reason.read_text(encoding='utf-8')}; remove the folder to try again")
    runs = [tuple(folder / f"seed-{seed}" for seed in seeds) for folder in folders]
    return [replace(trial, runs=places) for trial, places in zip(trials, runs, strict=True)]


def _is_finished(out: Path, recipe: Recipe) -> bool:
    """Whether a run is complete, or could not be trained; RunError if the folder holds a run of another recipe."""
    run, failed = RunDirectory(out), (out / FAILED).exists()
    if not (run.has_started or failed):
        return False
    if changed := differences(run.recipe(), recipe):
        key, (old, new) = next(iter(changed.items()))
        raise RunError(
            f"{out} holds a run of another recipe ({key} is {old!r} there, {new!r} now): the sweep, or what it "
            "chose, has changed; remove that folder, or choose another --out"
        )
    return failed or run.is_finished


# --- processes -------------------------------------------------------------------------------------------------------


def _train_all(recipes: Mapping[Path, Recipe], evaluate_on: str | None, processes: int) -> _Outcomes:
    """Make or resume runs by folder, and yield each finished one.

    Raises Interrupted after Ctrl-C or SIGTERM, when every run has written its checkpoint and no process is left. An
    error in one run stops the others in the same way.
    """
    with TemporaryDirectory(prefix="mmts-") as folder:
        stopping = Path(folder) / "stop"
        with stop_requests(stopping.touch) as stop, parallel_config("loky", inner_max_num_threads=1):
            calls = (
                delayed(_train_in_worker)(out, recipe, evaluate_on, stopping, os.getpid())
                for out, recipe in recipes.items()
                if not stopping.exists()
            )
            n_jobs = max(1, min(processes, len(recipes)))  # 1: in this process
            outcomes = Parallel(n_jobs, pre_dispatch="n_jobs", batch_size=1, return_as="generator_unordered")(calls)
            try:
                for out, outcome in outcomes:
                    if not isinstance(outcome, MmtsError):
                        yield out, outcome
                    elif not stop:
                        raise outcome
            except TerminatedWorkerError:
                if not stop:
                    why = "a run was killed (out of memory?); repeat the command, with fewer --jobs"
                    raise RunError(why) from None
            finally:
                stopping.touch()
                with suppress(TerminatedWorkerError):
                    list(outcomes)  # the others write their checkpoints
            if stop:
                raise Interrupted(STOPPED, stop[0])


def _train_in_worker(
    out: Path, recipe: Recipe, evaluate_on: str | None, stopping: Path, parent: int
) -> tuple[Path, str | MmtsError | None]:
    """Train until `stopping` is there; return an error, since joblib kills all processes if one is raised."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_POLL):
            if os.getppid() != parent:  # killed, and another process may resume its runs
                os._exit(1)
            if stopping.exists():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if os.getpid() != parent:
        threading.Thread(target=watch, daemon=True).start()
    try:
        return out, _train(out, recipe, evaluate_on)
    except MmtsError as error:
        return out, error
    finally:
        ended.set()


def _train(out: Path, recipe: Recipe, evaluate_on: str | None) -> str | None:
    """Train and evaluate silently; return why the settings could not be trained, or None."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # in every process: with more threads, sums round differently
    try:
        with quiet():
            train(recipe, out, resume=True, evaluate_on=evaluate_on)
    except Interrupted as error:
        raise Interrupted(STOPPED, error.signal_number) from None
    except (Diverged, InputError) as error:
        return str(error)
    except MmtsError as error:
        raise type(error)(f"{out}: {error}") from None
    finally:
        torch.set_num_threads(threads)
    return None


def _train_on_ray(recipes: Mapping[Path, Recipe], evaluate_on: str | None) -> _Outcomes:
    tasks = [(out.absolute(), recipe, evaluate_on) for out, recipe in recipes.items()]
    for at, outcome in run_tasks(_train_in_task, tasks):
        yield list(recipes)[at], outcome


def _train_in_task(out: Path, recipe: Recipe, evaluate_on: str | None) -> str | None:
    # The lock of an attempt on a node that is gone: this sweep's own lock keeps others out, and Ray has seen it end.
    RunDirectory(out).lock_file.unlink(missing_ok=True)
    return _train(out, recipe, evaluate_on)
