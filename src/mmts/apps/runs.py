"""`mmts runs`: a table of the runs below a folder, told from their files alone; and how `mmts train` ends."""

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from mmts.console import console, figure_table
from mmts.errors import MmtsError, RunError, counted, first_line
from mmts.evaluation.measures import arrow, directions_of, in_tenths, measured, shown_measures
from mmts.files import held_by, read_json, why_missing
from mmts.recipe.run_directory import RunDirectory
from mmts.report.wording import signed
from mmts.sweep.sweep_file import FAILED

STATES = ("running", "failed", "damaged", "interrupted", "finished")
"""In the order of the table."""
_SILENT = 3600.0  # seconds without a written line after which a run on another machine counts as interrupted
_EVERY = 2.0  # seconds between two looks


@dataclass(frozen=True)
class RunState:
    """What the files of a run say about it; None for what is unknown.

    val (of the best checkpoint so far), test and tail (of metrics.json) are in percent, the mean of both directions of
    R@1, or with graded relevance of mAP. progress is the share of the steps that are logged, in [0, 1].
    """

    path: Path
    state: str = "interrupted"
    progress: float | None = None
    val: float | None = None
    test: float | None = None
    tail: float | None = None
    seconds_left: float | None = None
    note: str = ""


def find_runs(folder: Path) -> list[Path]:
    """Return the run directories below a folder, or the folder itself if it is one; links are not followed."""
    if not folder.is_dir():
        raise RunError(f"{folder} {'is a file; give a folder' if folder.exists() else why_missing(folder)}")
    found = []
    for place, folders, files in os.walk(folder):
        # A recipe alone may be one that somebody wrote.
        if "log.jsonl" in files or ("recipe.yaml" in files and {".lock", "metrics.json", FAILED} & {*files}):
            found.append(Path(place))
            folders.clear()
    return sorted(found)


def state_of(path: Path) -> RunState:
    """Return the state of the run in a folder. Whatever is wrong with its files, this raises nothing."""
    try:
        return _state(RunDirectory(path))
    except Exception as error:  # a file that somebody damaged may hold anything
        is_ours = isinstance(error, MmtsError | OSError)
        note = first_line(error) if is_ours else f"a file lacks something ({type(error).__name__}: {first_line(error)})"
        return RunState(path, "damaged", note=note)


def _state(run: RunDirectory) -> RunState:
    holder = held_by(run.lock_file)  # first: a run that ends now has written its metrics by the time they are read
    trained = _trained(run, _chosen_by(run.path, run.recipe_file.stat().st_mtime_ns))
    state, note = "interrupted", "all steps are taken; --resume evaluates it" if trained.progress == 1 else ""
    if run.metrics_file.exists():
        metrics = read_json(run.metrics_file)
        measure = shown_measures(metrics)[0]
        trained = replace(trained, test=measured(metrics, measure), tail=measured(metrics, f"tail {measure}"))
        if "stopped_at" not in metrics:
            return replace(trained, state="finished", seconds_left=None)
        note = "evaluated as it was when it stopped"
    if holder is not None:
        who, is_here = holder
        written = [file.stat().st_mtime for file in (run.log_file, run.lock_file) if file.exists()]
        silent = time.time() - max(written, default=0.0)
        if is_here or silent < _SILENT:
            return replace(trained, state="running", note="" if is_here else who)
        note = f"{who} holds it, and last wrote {_duration(silent)} ago"
    elif (reason := run.path / FAILED).exists():
        state, note = "failed", reason.read_text(encoding="utf-8", errors="replace")
    elif run.diverged_file.exists():
        problem = read_json(run.diverged_file)
        state, note = "failed", f"step {problem['step']}: {problem['what']}"
    return replace(trained, state=state, note=note, seconds_left=None)


def _trained(run: RunDirectory, best: str) -> RunState:
    """Return what the log says: progress, val and, by the time when its last line was written, the time left."""
    texts, lines = run.log_file.read_bytes().splitlines() if run.log_file.exists() else [], []
    for number, text in enumerate(texts, start=1):
        if b'"val"' not in text and number < len(texts) - 1:  # most lines of a long log
            continue
        try:
            lines.append(json.loads(text))
        except ValueError:
            if number < len(texts):  # a crash cuts only the last line short
                raise RunError(f"{run.log_file}, line {number}, is not JSON") from None
    vals = [line["val"] for line in reversed(lines) if measured(line.get("val") or {}, best) is not None]
    val = max(vals, key=lambda figures: measured(figures, best) or 0.0, default=None)
    shown = None if val is None else measured(val, shown_measures(val)[0])
    if not lines or not lines[-1]["progress"]:
        return RunState(run.path, progress=0.0 if lines else None, val=shown)
    step, progress, seconds_left = lines[-1]["step"], lines[-1]["progress"], None
    done, total = step + 1, round(step / progress)
    with suppress(FileNotFoundError):
        first, written = read_json(run.clock_file), run.log_file.stat().st_mtime
        if done > first and (taken := written - run.clock_file.stat().st_mtime) > 0:
            seconds_left = max(0.0, (total - done) * taken / (done - first) - (time.time() - written))
    return RunState(run.path, progress=done / total, val=shown, seconds_left=seconds_left)


@lru_cache(maxsize=1024)
def _chosen_by(path: Path, written: int) -> str:
    """Return the measure by which a run chooses its best checkpoint; a recipe `written` anew is read again."""
    return str(RunDirectory(path).content()["train"].get("best", "R@1"))


def runs_table(states: Sequence[RunState], folder: Path) -> Table:
    """Draw the runs, those that run first, with the notes about them below."""
    title = f"{counted(len(states), 'run')} below {folder}; R@1 (or mAP), mean of both directions, percent"
    table = figure_table(title, "run", "state", "done", "val", "test", "tail", "time left")
    table.columns[1].justify = "left"
    notes = []
    for state in sorted(states, key=lambda state: (STATES.index(state.state), state.path)):
        name = str(state.path.relative_to(folder)) if state.path != folder else folder.name or str(folder)
        done = "" if state.progress is None else f"{100 * state.progress:.0f} %"
        figures = ["" if value is None else in_tenths(value) for value in (state.val, state.test, state.tail)]
        left = "" if state.seconds_left is None else _duration(state.seconds_left)
        table.add_row(name, state.state, done, *figures, left)
        notes += [f"{name}: {state.note}"] if state.note else []
    table.caption = "\n".join(notes) or None
    return table


def watch(folder: Path) -> None:
    """Redraw the table every two seconds until Ctrl-C. Raises RunError without a terminal."""
    if not console.is_terminal:
        raise RunError("--watch redraws the table on a terminal, and this is none; leave it out")
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(runs_table([state_of(path) for path in find_runs(folder)], folder), refresh=True)
            time.sleep(_EVERY)


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def closing_lines(path: Path) -> list[str]:
    """Say where a run is, how its tail compares with the recipe's last run beside it, and how to look at it."""
    run = RunDirectory(path)
    metrics = read_json(run.metrics_file)
    measure = shown_measures(metrics)[0]
    tail, before = measured(metrics, f"tail {measure}"), _run_before(run, metrics)
    if tail is None:  # the direction that has no such query has no scores
        sides = {side: (metrics["groups"]["tail"] or {}).get(side) for side in directions_of(metrics)}
        known = [f"tail {measure} {arrow(side)} {in_tenths(own[measure])} %" for side, own in sides.items() if own]
        words = f"{''.join(known) or 'no tail concept has a query'} in {metrics['split']}"
        words += "; the other direction has no query of the tail" if known else ""
    else:
        words = f"tail {measure} {in_tenths(tail)} %, the mean of both directions"
        if before is not None:
            last = measured(read_json(before.metrics_file), f"tail {measure}") or 0.0
            words += f"; {signed(tail - last)} points to {before.path}, this recipe's last run on these data"
            words += " (noise? `mmts compare`)"
    paths = [str(other.path) for other in (before, run) if other is not None]
    return [f"run: {path}", f"rare things: {words}", f"to look at it: {shlex.join(['mmts', 'report', *paths])}"]


def _run_before(run: RunDirectory, metrics: Mapping[str, Any]) -> RunDirectory | None:
    """Return the newest other finished run in the same folder of the same recipe name, data path and queries."""
    content = run.content()
    files = run.path.absolute().parent.glob("*/metrics.json")
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        other = RunDirectory(run.path.parent / file.parent.name)
        with suppress(Exception):  # a damaged run is none to compare with
            scores, recipe = read_json(file), other.content()
            if file.samefile(run.metrics_file) or "stopped_at" in scores:
                continue
            is_alike = all(scores[key] == metrics[key] for key in ("split", "num_media", "num_captions"))
            is_alike &= recipe["name"] == content["name"] and recipe["data"]["path"] == content["data"]["path"]
            if is_alike:
                return other
    return None
