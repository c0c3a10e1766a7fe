"""Fixed, learned and MM-TS temperatures on one data set, each tuned as hard as the others.

    python -m benchmarks.temperature_rules catalogue --data FOLDER --out runs/rules

Every rule gets the same number of settings, tried with one seed and compared on val (mean of both directions' R@1 at
the best epoch, which is also what keeps the best checkpoint); the best setting runs with three fresh seeds and is
judged on test. Finished runs are kept, so the command can be interrupted and called again.
"""

import argparse
import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

from mmts.compare import compare_runs, comparison_tables
from mmts.console import console
from mmts.training.run_directory import RunDirectory

TEMPERATURE = "objective.temperature"
SETTINGS: dict[str, list[str]] = {
    "fixed": [f"{{rule: fixed, value: {value}}}" for value in (0.03, 0.05, 0.07, 0.1, 0.15)],
    "learned": [f"{{rule: learned, start: {value}}}" for value in (0.03, 0.05, 0.07, 0.1, 0.15)],
    "mm-ts": [
        "{rule: shifted, alpha: 0.08, low: 0.05, high: 0.20}",  # as published
        "{rule: shifted, alpha: 0.04, low: 0.05, high: 0.10}",
        "{rule: shifted, alpha: 0.02, low: 0.05, high: 0.09}",
        "{rule: shifted, alpha: 0.0, low: 0.05, high: 0.09}",  # the shift alone
        "{rule: shifted, alpha: 0.04, low: 0.05, high: 0.10, scale: log}",
    ],
}
TUNING_SEED, TEST_SEEDS = 100, (0, 1, 2)


def train(arguments: argparse.Namespace, name: str, rule: str, setting: str, seed: int) -> Path:
    """Train one run in a process of its own, on one thread; a finished one is kept."""
    out: Path = arguments.out / name
    settings = [f"name={rule}", f"{TEMPERATURE}={setting}", f"train.seed={seed}", "train.trackers=[]", *arguments.set]
    command = [sys.executable, "-m", "mmts.cli", "train", arguments.recipe, "--data", arguments.data, "--out", str(out)]
    command += [part for each in settings for part in ("--set", each)] + (["--resume"] if out.exists() else [])
    if not (out / "metrics.json").exists():
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return out


def best_on_val(run: Path) -> float:
    """Return the mean of both directions' R@1 on val at the best epoch."""
    lines = [line["val"] for line in RunDirectory(run).log_lines() if "val" in line]
    return max(sum(figures["R@1"] for figures in val.values()) / len(val) for val in lines)


def main() -> None:
    """Tune on val, then judge on test with fresh seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/rules"))
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="as of `mmts train`, for all runs"
    )
    arguments = parser.parse_args()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        tuned = {
            rule: [
                pool.submit(train, arguments, f"tune-{rule}-{at}", rule, setting, TUNING_SEED)
                for at, setting in enumerate(settings)
            ]
            for rule, settings in SETTINGS.items()
        }
        final = []
        for rule, settings in SETTINGS.items():
            scores = [best_on_val(future.result()) for future in tuned[rule]]
            for setting, score in zip(settings, scores, strict=True):
                console.print(f"{rule:<8} val R@1 {score:5.1f}  {setting}", markup=False)
            chosen = settings[scores.index(max(scores))]
            console.print(f"{rule:<8} chosen: {chosen}", markup=False)
            final += [pool.submit(train, arguments, f"{rule}-seed{seed}", rule, chosen, seed) for seed in TEST_SEEDS]
        for table in comparison_tables(compare_runs([future.result() for future in final])):
            console.print(table)


if __name__ == "__main__":
    main()
