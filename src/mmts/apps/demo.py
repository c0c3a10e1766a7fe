"""`mmts demo`: compares three temperature rules on the OpenMoji pictures, from drawing them to a page of results."""

from pathlib import Path

from mmts.apps.analysis import analyze_path
from mmts.console import console
from mmts.data.formats.openmoji import prepare_openmoji
from mmts.evaluation.compare import comparison_tables
from mmts.evaluation.results import read_results
from mmts.recipe.recipe import load_recipe
from mmts.report import write_report
from mmts.training.run import train

# The best of five settings on val for each rule; docs/reproduction.md lists all of them, and the command.
RULES = {
    "fixed": "{rule: fixed, value: 0.07}",
    "learned": "{rule: learned, start: 0.07}",
    "mm-ts": "{rule: shifted, alpha: 0.04, low: 0.05, high: 0.10, scale: log}",
}


def run_demo(out: Path, seeds: int) -> None:
    """Draw the pictures, analyze their long tail, train the rules or resume them, and write `out`/index.html."""
    data = prepare_openmoji()
    console.rule("data")
    analyze_path(data, out / "data", split="train")
    runs = []
    for rule, temperature in RULES.items():
        for seed in range(seeds):
            console.rule(f"{rule}, seed {seed}")
            settings = [f"name={rule}", f"objective.temperature={temperature}", f"train.seed={seed}"]
            runs.append(out / f"{rule}-seed{seed}")
            train(load_recipe("demo", settings).with_data(data), runs[-1], resume=True)
    console.rule("comparison")
    for table in comparison_tables(read_results(runs)):
        console.print(table)
    page = write_report(runs, out / "index.html", title="Three temperature rules on the OpenMoji pictures")
    console.print(f"\nreport: {page}")
