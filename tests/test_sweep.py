"""A sweep: equal budgets, settings chosen on val without a look at test, resumed exactly, in one process or in two."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests_support import draw_shapes

from mmts.errors import DataError, Interrupted, RecipeError, RunError
from mmts.evaluation.run import evaluate
from mmts.recipe.run_directory import RunDirectory
from mmts.sweep import run_sweep
from mmts.sweep.sweep_file import load_sweep
from mmts.training import run as runs
from mmts.training.run import train

SWEEP: dict[str, Any] = {
    "recipe": "catalogue",
    "trials": 2,
    "seeds": {"tune": [100], "test": [0, 1]},
    "set": {
        "model.image": {
            "tower": "small-resnet", "frozen": False, "size": 16, "options": {"channels": 8, "depth": 1},
        },
        "model.text": {"tower": "small-transformer", "frozen": False, "options": {"width": 16, "depth": 1, "heads": 2}},
        "model.width": 16,
        "concepts": {"encoder": "tfidf", "num_concepts": 4},
        "train.epochs": 2,
        "train.batch_size": 24,
    },
    "rules": {
        "fixed": {"grid": {"objective.temperature.value": [0.02, 0.1]}},
        "mm-ts": {
            "set": {"objective.temperature.rule": "shifted"},
            "random": {
                "objective.temperature.alpha": {"low": 0.001, "high": 0.09, "log": True},
                "objective.temperature.scale": ["linear", "log", "rank"],
            },
        },
    },
}  # fmt: skip


def written(folder: Path, **changes: Any) -> Path:
    """Write the sweep file with some of its keys changed."""
    path = folder / "rules.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("data") / "shapes", 60)


@pytest.fixture(scope="module")
def finished(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sweep's folder."""
    folder = tmp_path_factory.mktemp("finished")
    run_sweep(written(folder), shapes, folder / "out", 1)
    return folder / "out"


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "leaderboard.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def row(out: Path, direction: str, part: str, rule: str = "fixed", seed: str = "0") -> dict[str, str]:
    """Return a line of the table of what was judged on test."""
    asked = {"rule": rule, "stage": "test", "seed": seed, "direction": direction, "part": part}
    return next(each for each in rows(out) if asked.items() <= each.items())


# --- whole sweeps ----------------------------------------------------------------------------------------------------


def test_every_rule_is_tuned_on_val_and_judged_on_test_with_fresh_seeds(finished: Path) -> None:
    splits = {
        str(each.parent.relative_to(finished)): json.loads(each.read_text())["split"]
        for each in finished.rglob("metrics.json")
    }
    assert splits == {
        **{f"trials/{rule}/{number}/seed-100": "val" for rule in ("fixed", "mm-ts") for number in (0, 1)},
        **{f"runs/{rule}/seed-{seed}": "test" for rule in ("fixed", "mm-ts") for seed in (0, 1)},
    }
    table = rows(finished)
    assert {(each["stage"], each["split"]) for each in table} == {("trial", "val"), ("test", "test")}
    metrics = json.loads((finished / "runs" / "fixed" / "seed-1" / "metrics.json").read_text())
    found = row(finished, "text_to_image", "mid", seed="1")["R@5"]
    assert float(found) == pytest.approx(metrics["groups"]["mid"]["text_to_image"]["R@5"], abs=1e-3)
    page = (finished / "leaderboard.md").read_text()
    assert "2 trials with seed 100" in page
    assert "Differences are to fixed" in page
    assert (finished / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_the_chosen_setting_is_the_best_on_val(finished: Path) -> None:
    reached: dict[tuple[str, int], float] = {}
    for each in (finished / "trials").rglob("metrics.json"):
        metrics = json.loads(each.read_text())
        rule, number = each.parts[-4], int(each.parts[-3])
        reached[rule, number] = (metrics["text_to_image"]["R@1"] + metrics["image_to_text"]["R@1"]) / 2
    for rule in ("fixed", "mm-ts"):
        best = max((0, 1), key=lambda number: (reached[rule, number], -number))
        assert {each["trial"] for each in rows(finished) if each["rule"] == rule and each["chosen"] == "1"} == {
            str(best)
        }
        trial = RunDirectory(finished / "trials" / rule / str(best) / "seed-100").recipe()
        final = RunDirectory(finished / "runs" / rule / "seed-0").recipe()
        assert final.objective == trial.objective
        assert final.train.seed == 0


def test_a_finished_sweep_trains_nothing_and_writes_the_same_table(
    finished: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "leaderboard.csv").read_text()
    monkeypatch.setattr("mmts.sweep.processes.train", pytest.fail)
    run_sweep(written(tmp_path), shapes, finished, 1)
    assert (finished / "leaderboard.csv").read_text() == before
    assert "4 runs, 4 of them finished already" in capsys.readouterr().out


def test_another_setting_is_not_taken_for_a_finished_one(finished: Path, shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"trials/fixed/0/seed-100 holds a run of another recipe \(train.epochs is 2"):
        run_sweep(written(tmp_path), shapes, finished, 1, ["train.epochs=3"])


def test_tuning_never_reads_test(shapes: Path, tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "shapes", 60)
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    pictures = {data / line["image"]: (data / line["image"]).read_bytes() for line in lines if line["split"] == "test"}
    for picture in pictures:
        picture.write_bytes(b"nothing that can be decoded")
    rules = {"fixed": SWEEP["rules"]["fixed"]}
    with pytest.raises(DataError, match="runs/fixed/seed-0"):
        run_sweep(written(tmp_path, rules=rules), data, tmp_path / "out", 1)
    assert len(list((tmp_path / "out" / "trials").rglob("metrics.json"))) == 2
    for picture, content in pictures.items():
        picture.write_bytes(content)
    run_sweep(written(tmp_path, rules=rules), data, tmp_path / "out", 1)
    assert {each["stage"] for each in rows(tmp_path / "out")} == {"trial", "test"}


def test_a_trial_judged_on_test_since_is_refused(shapes: Path, tmp_path: Path) -> None:
    file = written(tmp_path, seeds={"test": [0]}, rules={"fixed": SWEEP["rules"]["fixed"]})
    run_sweep(file, shapes, tmp_path / "out", 1)
    evaluate(tmp_path / "out" / "trials" / "fixed" / "0" / "seed-100")
    with pytest.raises(RunError, match="judged on test since"):
        run_sweep(file, shapes, tmp_path / "out", 1)


def test_a_stopped_sweep_goes_on_to_the_same_end(
    finished: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = runs.training_batches
    begun = []

    def interrupting(*arguments: Any) -> Any:
        original = batches(*arguments)
        begun.append(1)

        def of_epoch(epoch: int, first: int) -> Any:
            if len(begun) in (2, 6) and epoch == 1:  # in the second trial, then in the second run on test
                os.kill(os.getpid(), signal.SIGINT)
            yield from original(epoch, first)

        return of_epoch

    monkeypatch.setattr(runs, "training_batches", interrupting)
    for _ in range(2):
        with pytest.raises(Interrupted, match="the same command goes on"):
            run_sweep(written(tmp_path), shapes, tmp_path / "out", 1)
        begun.append(1)
    monkeypatch.undo()
    run_sweep(written(tmp_path), shapes, tmp_path / "out", 1)
    assert (tmp_path / "out" / "leaderboard.csv").read_text() == (finished / "leaderboard.csv").read_text()


def test_a_trial_that_comes_to_nothing_is_a_trial_lost(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {"fixed": {"grid": {"train.learning_rate": [1e30, 1e-3]}}}
    file = written(tmp_path, rules=rules, seeds={"test": [0]})
    run_sweep(file, shapes, tmp_path / "out", 1)
    assert "failed: the embedding of medium '0'" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert {each["trial"] for each in rows(tmp_path / "out")} == {"1"}
    monkeypatch.setattr("mmts.sweep.processes.train", pytest.fail)  # it is not tried again
    run_sweep(file, shapes, tmp_path / "out", 1)
    monkeypatch.undo()
    rules["fixed"]["grid"]["train.learning_rate"] = [1e30, 1e29]
    with pytest.raises(RunError, match="no trial of rule fixed could be trained"):
        run_sweep(written(tmp_path, rules=rules), shapes, tmp_path / "other", 1)


def test_a_rule_that_comes_to_nothing_does_not_keep_the_others_from_the_table(shapes: Path, tmp_path: Path) -> None:
    rules = {"fixed": {}, "wild": {"grid": {"train.learning_rate": [1e30, 1e29]}}, "slow": {"set": {"train.epochs": 1}}}
    grid = {"grid": {"objective.temperature.value": [0.05, 0.1]}}
    rules |= {name: rules[name] | grid for name in ("fixed", "slow")}
    with pytest.raises(RunError, match=r"no trial of rule wild could be trained: .*embedding"):
        run_sweep(written(tmp_path, rules=rules, seeds={"test": [0]}), shapes, tmp_path / "out", 1)
    assert {each["rule"] for each in rows(tmp_path / "out") if each["stage"] == "test"} == {"fixed", "slow"}


@pytest.mark.slow
def test_two_processes_make_the_same_table_as_one(finished: Path, shapes: Path, tmp_path: Path) -> None:
    run_sweep(written(tmp_path), shapes, tmp_path / "out", 2)
    assert (tmp_path / "out" / "leaderboard.csv").read_text() == (finished / "leaderboard.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stop_leaves_no_process_behind(shapes: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mmts.cli", "sweep", str(written(tmp_path)), "--data", str(shapes)]
    command += ["--out", str(out), "--jobs", "2", "--set", "train.epochs=3000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(list(out.rglob("last.pt"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        workers = [each for each in descendants(process.pid) if "spawn_main" in command_of(each)]
        assert len(workers) == 2
        process.send_signal(number)
        said = process.communicate()[1]
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert said == "mmts: stopped; the same command goes on where it was\n"
    while any("spawn_main" in command_of(each) for each in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    return [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()  # empty where it has ended and nobody has looked
    except OSError:
        return ""


def test_the_documented_sweeps_are_right(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    example = tmp_path / "rules.yaml"
    example.write_text((root / "docs" / "sweeps.md").read_text().split("```yaml\n")[1].split("```")[0])
    assert len(load_sweep(example).trials()) == 9
    for file in (root / "benchmarks").rglob("*.yaml"):
        sweep = load_sweep(file)
        assert len(sweep.trials()) == len(sweep.file.rules) * sweep.file.trials


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trails": 3}, r"unknown key 'trails'; did you mean 'trials'\?"),
        ({"seeds": {"tests": [1]}}, "seeds: unknown key 'tests'; did you mean 'test'"),
        ({"seeds": {"test": [100, 0]}}, "fresh seeds, and 100"),
        ({"seeds": {"test": [0, 0]}}, "a seed stands twice in test"),
        ({"rules": {"fixed": {"girds": {}}}}, "rules.fixed: unknown key 'girds'"),
        ({"rules": {"../fixed": {}}}, "names a folder"),
        ({"rules": {}}, "rules"),
        ({"trials": 3}, "rule fixed has 2 settings and trials is 3: every rule must get the same number"),
        ({"rules": {"fixed": {}}}, "rule fixed has 1 setting and trials is 2"),
        ({"rules": {"a": {"grid": {"train.seed": [1]}, "random": {"x": [1]}}}}, "one of `grid` and `random`"),
        ({"rules": {"a": {"random": {"train.warmup": {"low": 1, "high": 0}}}}}, "low < high must hold"),
        ({"rules": {"a": {"random": {"train.warmup": {"low": 0, "high": 1, "log": True}}}}}, "0 < low < high"),
        ({"rules": {"a": {"random": {"train.warmup": {"high": 1}}}}}, "give both low and high"),
        ({"rules": {"a": {"random": {"train.epochs": [1]}}}}, "rule a has fewer than 2 settings to draw"),
        ({"rules": {"a": {"random": {"train.epoch": [1, 2]}}}}, r"rule a .*did you mean 'epochs'\?"),
        ({"rules": {"a": {"grid": {"train.warmup": [0, 2]}}}}, r"rule a \(train.warmup=2\): recipe catalogue: train.w"),
        ({"recipe": "catalog"}, "did you mean 'catalogue'"),
        ({"choose": "mrr"}, "choose"),
    ],
)
def test_what_is_wrong_in_a_sweep_file_is_named(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(RecipeError, match=says) as error:
        load_sweep(path).trials()
    assert str(path) in str(error.value)


def test_data_without_val_and_measures_that_it_has_not_are_refused(shapes: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(shapes / "images")
    (data / "captions.jsonl").write_text((shapes / "captions.jsonl").read_text().replace('"val"', '"train"'))
    with pytest.raises(DataError, match=r"a sweep tunes on val .*nothing is in split 'val'"):
        run_sweep(written(tmp_path), data, tmp_path / "out", 1)
    with pytest.raises(RecipeError, match="choose mAP needs"):
        run_sweep(written(tmp_path, choose="mAP"), shapes, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_draws_keep_to_their_ranges_and_do_not_depend_on_other_rules(tmp_path: Path) -> None:
    rule = {"random": {"train.warmup": {"low": 0.001, "high": 0.5, "log": True}, "train.precision": ["fp32", "bf16"]}}
    few = load_sweep(written(tmp_path, trials=4, rules={"a": rule})).trials()
    many = load_sweep(written(tmp_path, trials=50, rules={"b": rule, "a": rule})).trials()
    assert [each for each in many if each.rule == "a"][:4] == few
    values = [each.setting["train.warmup"] for each in many]
    assert 0.001 <= min(values) < 0.01 < max(values) <= 0.5
    assert {each.setting["train.precision"] for each in many} == {"fp32", "bf16"}
    assert [each.setting for each in many[:50]] != [each.setting for each in many[50:]]


def test_settings_that_no_recipe_allows_are_drawn_again(tmp_path: Path) -> None:
    rule = SWEEP["rules"]["mm-ts"] | {
        "random": {
            "objective.temperature.alpha": {"low": 0.01, "high": 0.2},
            "objective.temperature.low": {"low": 0.01, "high": 0.1},
        }
    }
    for trial in load_sweep(written(tmp_path, trials=20, rules={"a": rule})).trials():
        alpha, low = trial.setting.values()
        assert alpha / 2 < low


def test_a_large_grid_is_sampled_and_more_trials_keep_those_of_before(tmp_path: Path) -> None:
    grid = {"train.epochs": [1, 2, 3], "train.batch_size": [8, 16, 32, 64]}
    few, many, all_of_it = (
        load_sweep(written(tmp_path, trials=trials, rules={"a": {"grid": grid}})).trials() for trials in (3, 7, 12)
    )
    assert set(map(str, few)) < set(map(str, many)) < set(map(str, all_of_it))
    assert all(each in all_of_it for each in few)  # the same numbers too
    assert [each.number for each in all_of_it] == list(range(12))
    assert str(all_of_it[1]) == "train.epochs=1, train.batch_size=16"


def test_settings_for_all_runs_come_from_the_file_and_the_command_line(tmp_path: Path) -> None:
    sweep = load_sweep(written(tmp_path), settings=["train.epochs=7", "model.head={kind: none}"])
    recipe = sweep.recipe("mm-ts", sweep.trials()[-1].setting, 5)
    assert (recipe.train.epochs, recipe.model.head.kind, recipe.model.width) == (7, "none", 16)
    assert (recipe.name, recipe.train.seed, recipe.train.trackers) == ("mm-ts", 5, ())
    with pytest.raises(RecipeError, match="--set takes KEY=VALUE"):
        load_sweep(written(tmp_path), settings=["train.epochs"])


# --- figures ---------------------------------------------------------------------------------------------------------


def test_recall_averaged_over_concepts_is_that_of_loops(finished: Path) -> None:
    import numpy as np

    with np.load(finished / "runs" / "fixed" / "seed-0" / "judgement.npz") as stored:
        concepts, ranks, owner = (stored[name].tolist() for name in ("text_concepts", "text_ranks", "owner"))
        media_ranks = stored["media_ranks"].tolist()
    of_media = [next(c for c, o in zip(concepts, owner, strict=True) if o == at) for at in range(len(media_ranks))]
    for direction, these, own in (("text_to_image", ranks, concepts), ("image_to_text", media_ranks, of_media)):
        by_concept: dict[int, list[bool]] = {}
        for rank, concept in zip(these, own, strict=True):
            by_concept.setdefault(concept, []).append(rank <= 5)
        expected = sum(100 * sum(hits) / len(hits) for hits in by_concept.values()) / len(by_concept)
        assert float(row(finished, direction, "average")["R@5"]) == pytest.approx(expected, abs=1e-3)


def test_queries_are_divided_by_labels_too(shapes: Path, tmp_path: Path) -> None:
    import numpy as np

    changes = {"trials": 1, "labels": ["shape"], "rules": {"only": {}}, "seeds": {"test": [0]}}
    run_sweep(written(tmp_path, **changes), shapes, tmp_path / "out", 1)
    assert not (tmp_path / "out" / "trials").exists()  # there is nothing to choose
    assert "nothing was chosen" in (tmp_path / "out" / "leaderboard.md").read_text()
    run = tmp_path / "out" / "runs" / "only" / "seed-0"
    shape_of = {each["id"]: each["labels"]["shape"] for each in map(json.loads, (shapes / "captions.jsonl").open())}
    with np.load(run / "judgement.npz") as stored:
        meta, ranks = json.loads(str(stored["meta"])), stored["media_ranks"].tolist()
    by_shape: dict[str, list[float]] = {}
    for name, rank in zip(meta["media_ids"], ranks, strict=True):
        by_shape.setdefault(shape_of[name], []).append(sum(rank <= k for k in (1, 5, 10)) / 3)
    expected = sum(100 * sum(each) / len(each) for each in by_shape.values()) / len(by_shape)
    found = row(tmp_path / "out", "image_to_text", "shape average", rule="only")
    assert float(found["mean recall"]) == pytest.approx(expected, abs=1e-3)


def test_a_label_that_is_not_there_is_refused_before_anything_runs(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"labels: the data has no label 'shap'.*shape"):
        run_sweep(written(tmp_path, labels=["shap"]), shapes, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()


def test_training_judged_on_val_says_so_in_its_metrics(shapes: Path, tmp_path: Path) -> None:
    sweep = load_sweep(written(tmp_path))
    metrics = train(sweep.recipe("fixed", {}, 0).with_data(shapes), tmp_path / "run", evaluate_on="val")
    assert metrics["split"] == "val"
    with pytest.raises(DataError, match="nothing is in split 'dev2'"):
        train(sweep.recipe("fixed", {}, 0).with_data(shapes), tmp_path / "other", evaluate_on="dev2")
