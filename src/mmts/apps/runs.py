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
    """What the files of a run say about it.

    Figures are in percent, the mean of both directions of R@1 (with graded relevance, of mAP); what is unknown is None.

    path: the run directory. state: one of STATES; a run failed if its training diverged. progress: share of the steps
    that are logged, in [0, 1]. val: of the best checkpoint so far. test, tail: of all queries of metrics.json, and of
    those of tail concepts. seconds_left: until the last step. note: why a run failed, what is damaged, and the like.
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
    """Return the run directories below a folder, or the folder itself if it is one; links are not followed.

    Raises RunError if there is no such folder.
    """
    if not folder.is_dir():
        why = "is a file; give a folder" if folder.exists() else why_missing(folder)
        raise RunError(f"{folder} {why}")
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
    state = _trained(run, _chosen_by(run.path, run.recipe_file.stat().st_mtime_ns))
    metrics = read_json(run.metrics_file) if run.metrics_file.exists() else None
    if metrics is not None:
        measure = shown_measures(metrics)[0]
        state = replace(state, test=measured(metrics, measure), tail=measured(metrics, f"tail {measure}"))
    if metrics is not None and "stopped_at" not in metrics:
        return replace(state, state="finished", seconds_left=None)
    if holder is not None:
        who, is_here = holder
        written = [file.stat().st_mtime for file in (run.log_file, run.lock_file) if file.exists()]
        silent = time.time() - max(written, default=0.0)
        if is_here or silent < _SILENT:
            return replace(state, state="running", note="" if is_here else who)
        return replace(state, seconds_left=None, note=f"{who} holds it, and last wrote {_duration(silent)} ago")
    state = replace(state, seconds_left=None)
    if (reason := run.path / FAILED).exists():
        return replace(state, state="failed", note=reason.read_text(encoding="utf-8", errors="replace"))
    if run.diverged_file.exists():
        problem = read_json(run.diverged_file)
        return replace(state, state="failed", note=f"step {problem['step']}: {problem['what']}")
    if metrics is not None:
        return replace(state, note="evaluated as it was when it stopped")
    return replace(state, note="all steps are taken; --resume evaluates it" if state.progress == 1 else "")


def _trained(run: RunDirectory, best: str) -> RunState:
    """Return what the log says: progress, val and, by the time when its last line was written, the time left."""
    last, val, score, broken = None, None, -1.0, 0
    lines = run.log_file.read_bytes().splitlines() if run.log_file.exists() else []
    for number, text in enumerate(lines, start=1):
        if b'"val"' not in text and number < len(lines) - 1:  # most lines of a long log
            continue
        try:
            line = json.loads(text)
        except ValueError:
            broken = broken or number
            continue
        last = line
        if (found := measured(line.get("val") or {}, best)) is not None and found >= score:
            score, val = found, line["val"]
    if broken and broken < len(lines):  # a crash cuts only the last line short
        raise RunError(f"{run.log_file}, line {broken}, is not JSON")
    shown = None if val is None else measured(val, shown_measures(val)[0])
    if last is None or not last["progress"]:
        return RunState(run.path, progress=None if last is None else 0.0, val=shown)
    done, total = last["step"] + 1, round(last["step"] / last["progress"])
    seconds_left = None
    with suppress(FileNotFoundError):
        first, written = read_json(run.clock_file), run.log_file.stat().st_mtime
        if done > first and (taken := written - run.clock_file.stat().st_mtime) > 0:
            seconds_left = max(0.0, (total - done) * taken / (done - first) - (time.time() - written))
    return RunState(run.path, progress=done / total, val=shown, seconds_left=seconds_left)


@lru_cache(maxsize=1024)
def _chosen_by(path: Path, written: int) -> str:
    """Return the measure by which a run chooses its best checkpoint; a recipe `written` anew is read again."""
    return str(RunDirectory(path).content()["train"].get("best", "R@1"))


def as_mapping(state: RunState) -> dict[str, Any]:
    """Return a row for JSON."""
    return vars(state) | {"path": str(state.path)}


def runs_table(states: Sequence[RunState], folder: Path) -> Table:
    """Draw the runs, those that run first, with the notes about them below."""
    title = f"{counted(len(states), 'run')} below {folder}; R@1 (or mAP), mean of both directions, percent"
    table = figure_table(title, "run", "state", "done", "val", "test", "tail", "time left")
    table.columns[1].justify = "left"
    states = sorted(states, key=lambda state: (STATES.index(state.state), state.path))
    names = {state.path: str(state.path.relative_to(folder)) for state in states}
    names = {path: folder.name or str(path) if name == "." else name for path, name in names.items()}
    for state in states:
        done = "" if state.progress is None else f"{100 * state.progress:.0f} %"
        figures = ["" if value is None else in_tenths(value) for value in (state.val, state.test, state.tail)]
        left = "" if state.seconds_left is None else _duration(state.seconds_left)
        table.add_row(names[state.path], state.state, done, *figures, left)
    table.caption = "\n".join(f"{names[state.path]}: {state.note}" for state in states if state.note) or None
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
    """Say where a run is, how its tail compares with the recipe's last run on these data, and how to look at it.

    The last run is looked for beside this one: a finished one, with the same recipe name, data path and queries.
    """
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
    """Return the newest other run in the same folder of the same recipe on the same queries."""
    content = run.content()
    files = {file: file.stat().st_mtime for file in run.path.absolute().parent.glob("*/metrics.json")}
    for file in sorted(files, key=lambda file: -files[file]):
        other = RunDirectory(run.path.parent / file.parent.name)
        with suppress(Exception):  # a damaged run is none to compare with
            scores, alike = read_json(file), ("split", "num_media", "num_captions")
            if file.samefile(run.metrics_file) or "stopped_at" in scores:
                continue
            recipe = other.content()
            if (
                all(scores[key] == metrics[key] for key in alike)
                and recipe["name"] == content["name"]
                and recipe["data"]["path"] == content["data"]["path"]
            ):
                return other
    return None
