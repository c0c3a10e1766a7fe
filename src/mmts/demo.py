"""`mmts demo`: three temperature rules on the OpenMoji pictures, from drawing them to a page about the result."""

from pathlib import Path

from mmts.analysis import analyze_path
from mmts.compare import compare_runs, comparison_tables
from mmts.console import console
from mmts.data.openmoji import prepare_openmoji
from mmts.report import write_report
from mmts.training.recipe import load_recipe
from mmts.training.run import train

# Each rule's settings were chosen on val among as many others (docs/reproduction.md).
RULES = {
    "fixed": ["objective.temperature.rule=fixed", "objective.temperature.value=0.07"],
    "learned": ["objective.temperature.rule=learned"],
    "mm-ts": ["objective.temperature.rule=shifted"],
}


def run_demo(out: Path, seeds: int) -> None:
    """Draw, look at the long tail, train every rule with every seed, compare, and write `out`/index.html.

    Runs already finished under `out` are kept; an interrupted one goes on where it stopped.
    """
    data = prepare_openmoji()
    console.rule("the data")
    analyze_path(data, out / "data", split="train", label=None, num_concepts="auto", encoder="minilm", seed=0)
    runs = []
    for rule, settings in RULES.items():
        for seed in range(seeds):
            console.rule(f"{rule}, seed {seed}")
            recipe = load_recipe("demo", [*settings, f"name={rule}", f"train.seed={seed}"]).with_data(data)
            runs.append(out / f"{rule}-seed{seed}")
            train(recipe, runs[-1], resume=runs[-1].exists())
    console.rule("compared")
    for table in comparison_tables(compare_runs(runs)):
        console.print(table)
    page = write_report(runs, out / "index.html", title="Three temperature rules on the OpenMoji pictures")
    console.print(f"\nreport: {page}")
