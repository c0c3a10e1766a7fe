"""Runs side by side that are not alike: other concepts, other test sets, what is no run, labels, few queries."""

import html
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_compare import judged_run

from mmts.console import console
from mmts.errors import DataError, RunError
from mmts.evaluation.compare import comparison_as_mapping, comparison_tables
from mmts.evaluation.figures import MediaLabel, extremes, figures_by_group, figures_by_label
from mmts.evaluation.results import Results, read_results
from mmts.files import read_json, write_json
from mmts.recipe.run_directory import RunDirectory
from mmts.report import write_report

RANKS = [1, 2, 1, 9, 1, 4, 2, 2], [1, 7, 1, 1]  # two captions for each of four media


def run_at(path: Path, epochs: int = 20, seed: int = 0, **more: Any) -> Path:
    return judged_run(path, [f"train.epochs={epochs}", f"train.seed={seed}"], *RANKS, **more)


def change_judgement(run: Path, **changes: Any) -> None:
    """Replace arrays of a run's judgement.npz, or keys of its description."""
    file = RunDirectory(run).judgement_file
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    meta = json.loads(str(arrays["meta"])) | {key: changes.pop(key) for key in [*changes] if key not in arrays}
    np.savez_compressed(file, **(arrays | changes | {"meta": np.array(json.dumps(meta))}))


def change_metrics(run: Path, **changes: Any) -> None:
    file = RunDirectory(run).metrics_file
    write_json(file, read_json(file) | changes)


def other_concepts(path: Path, **more: Any) -> Path:
    """Write a run whose concepts put the queries of the first two media into tail, those of the others into mid."""
    run = run_at(path, **more)
    text = np.array([2, 2, 2, 2, 1, 1, 1, 1], dtype=np.int8)
    change_judgement(run, text_groups=text, media_groups=text[::2])
    [judged] = read_results([run]).groups[0].judged
    change_metrics(run, groups=figures_by_group(judged.sides, judged.groups))
    return run


def printed(results: Results) -> str:
    with console.capture() as captured:
        for table in comparison_tables(results):
            console.print(table)
    return captured.get()


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    return [run_at(tmp_path / "a"), run_at(tmp_path / "b", epochs=21)]


# --- other concepts --------------------------------------------------------------------------------------------------


def test_head_mid_and_tail_of_all_runs_go_by_the_concepts_of_the_first(tmp_path: Path) -> None:
    a, b = run_at(tmp_path / "a"), other_concepts(tmp_path / "b", epochs=21)
    assert read_json(b / "metrics.json")["groups"]["head"] is None
    results = read_results([a, b])
    first, second = results.groups
    for part in ("head", "mid"):
        assert second.figure("text_to_image", "R@1", part) == first.figure("text_to_image", "R@1", part) is not None
    assert second.figure("text_to_image", "R@1", "tail") is None
    assert results.notes == (f"head, mid and tail go by the concepts of {a}, also for {b}",)
    assert {key[3] for key in read_results([a, b]).gaps} == {None, "head", "mid"}
    assert {key[3] for key in read_results([b, a]).gaps} == {None, "mid", "tail"}


def test_a_group_that_one_seed_lacks_has_no_figure(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "a0"), run_at(tmp_path / "a1", seed=1)]
    groups = read_json(runs[1] / "metrics.json")["groups"]
    change_metrics(runs[1], groups=groups | {"mid": None})
    [group] = read_results(runs).groups
    assert group.figure("text_to_image", "R@1", "mid") is None
    assert group.figure("text_to_image", "R@1") is not None


# --- other queries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "val"}, "split val, not test"),
        ({"relevance": "own"}, "relevance own, not text"),
        ({"kind": "video"}, "videos, not images"),
        ({"media_ids": ["0", "x", "y"]}, "3 media, 1 of them the same"),
        ({"media_ids": ["3", "2", "1", "0"]}, "the same media in another order"),
        ({"captions": ["other"] * 8}, "8 captions, 0 of them the same"),
    ],
)
def test_other_queries_are_refused_with_what_differs(pair: list[Path], changes: dict[str, Any], says: str) -> None:
    change_judgement(pair[1], **changes)
    with pytest.raises(RunError, match="not judged on the same queries") as error:
        read_results(pair)
    assert f"{pair[1]} ({says})" in str(error.value)
    assert f"{pair[0]} (test, 4 media, 8 captions)" in str(error.value)
    assert "mmts evaluate RUN --data PATH" in str(error.value)


def test_a_run_without_its_ranks_has_to_be_evaluated_again(pair: list[Path]) -> None:
    (pair[1] / "judgement.npz").unlink()
    for runs in (pair, pair[1:]):
        with pytest.raises(DataError, match=r"b/judgement\.npz; `mmts evaluate` on the run writes it"):
            read_results(runs)


def evaluated(run: Path, name: str = "other-test") -> Path:
    """Make the judgement of a run one of its evaluations, and return that file."""
    (run / "evaluations").mkdir()
    (run / "judgement.npz").rename(run / "evaluations" / f"{name}.npz")
    return (run / "metrics.json").rename(run / "evaluations" / f"{name}.json")


def test_judgements_on_other_data_are_compared_by_their_files(pair: list[Path], tmp_path: Path) -> None:
    for run in pair:
        change_metrics(run, data="/data/other", split="test")
    gaps = read_results(pair).gaps
    files = [evaluated(run) for run in pair]
    results = read_results(files)
    assert [group.name for group in results.groups] == ["a", "b"]
    assert [[run.run.path for run in group.runs] for group in results.groups] == [[pair[0]], [pair[1]]]
    assert results.gaps == gaps
    assert comparison_as_mapping(results)["groups"][0]["runs"] == [str(files[0])]
    page = html.unescape(write_report(files, tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "mmts evaluate again/a --data /data/other --split test\n" in page
    assert "mmts report again/a/evaluations/other-test.json again/b/evaluations/other-test.json " in page
    with pytest.raises(RunError, match=r"not judged on the same queries as .*a \(.*evaluations/NAME\.json"):
        read_results([run_at(tmp_path / "more" / "a"), judged_run(tmp_path / "c", ["train.epochs=9"], [1, 1], [1])])
    with pytest.raises(RunError, match=r"typo\.json does not exist"):
        read_results([files[0].with_name("typo.json")])
    with pytest.raises(RunError, match="a holds a recipe, but was never trained"):
        read_results([pair[0]])


# --- which runs ------------------------------------------------------------------------------------------------------


def test_one_run_under_several_names_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_at(tmp_path / "a")
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    results = read_results(["a", "./a/", run, "link"])
    [group] = results.groups
    assert [run.run.path for run in group.runs] == [Path("a")]
    assert str(group.figure("text_to_image", "R@1")) == "37.5"
    assert results.notes == (f"given twice and counted once: a; {run} is a; link is a",)


def test_equal_recipe_and_seed_are_not_two_seeds(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "a"), run_at(tmp_path / "b"), run_at(tmp_path / "c", seed=1)]
    results = read_results(runs)
    assert [[run.run.path for run in group.runs] for group in results.groups] == [[runs[0], runs[2]]]
    assert results.notes == (f"not another seed, so left out: {runs[1]} has the recipe and the seed of {runs[0]}",)


def test_the_last_checkpoint_is_a_rule_of_its_own_and_said(tmp_path: Path) -> None:
    runs = [run_at(tmp_path / "best"), run_at(tmp_path / "last")]
    for run in runs:
        change_metrics(run, checkpoint=run.name)
    results = read_results(runs)
    assert [group.name for group in results.groups] == ["best", "last"]
    assert results.notes == ("judged at the last checkpoint, not the best: last",)


def test_what_is_no_judged_run_is_passed_over_among_several(pair: list[Path]) -> None:
    runs = pair[0].parent
    (runs / "report.html").write_text("")
    (runs / "analysis").mkdir()
    (runs / "failed").mkdir()
    shutil.copy(pair[0] / "recipe.yaml", runs / "failed")
    (runs / "gone").symlink_to("nowhere")
    (runs / "sweep" / "runs" / "fixed").mkdir(parents=True)
    shutil.copytree(pair[0], runs / "sweep" / "runs" / "fixed" / "seed-0")
    shutil.copytree(pair[0], runs / "training")
    (runs / "training" / "metrics.json").unlink()
    (runs / "training" / "log.jsonl").write_text("")
    results = read_results(sorted(runs.iterdir()))
    assert [group.name for group in results.groups] == ["a", "b"]
    [note] = comparison_as_mapping(results)["notes"]
    for says in (
        "analysis is not a run directory (it has no recipe.yaml)",
        "failed holds a recipe, but was never trained",
        "gone is a link that leads nowhere, to nowhere",
        "report.html is a file, not a run directory; give the folder that `mmts train` wrote",
        "sweep is not a run directory, but holds 1, such as",
        "and 1 more",
    ):
        assert says in note
    with pytest.raises(RunError, match=r"none of the 2 paths is a judged run: .*analysis is not a run directory"):
        read_results([runs / "analysis", runs / "report.html"])
    with pytest.raises(RunError, match="typo does not exist"):
        read_results([*pair, runs / "typo"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a/metrics.json", "metrics.json is a file, not a run directory; give its folder, "),
        ("mine.npz", "mine.npz is a file, not a run directory; give the folder that `mmts train` wrote"),
        ("gone", "gone is a link that leads nowhere, to nowhere"),
        ("missing", "missing does not exist"),
        ("", "is not a run directory, but holds 2, such as"),
    ],
)
def test_one_path_that_is_no_run_directory_is_called_what_it_is(pair: list[Path], name: str, says: str) -> None:
    folder = pair[0].parent
    (folder / "mine.npz").write_bytes(b"")
    (folder / "gone").symlink_to("nowhere")
    for read in (lambda path: read_results([path]), lambda path: RunDirectory(path).recipe()):
        with pytest.raises(RunError) as error:
            read(folder / name)
        assert says in str(error.value)


# --- what one run lacks ----------------------------------------------------------------------------------------------


def test_folds_and_coverage_of_one_run_alone_are_shown_for_it(pair: list[Path]) -> None:
    figures = {"R@1": 61.5, "R@5": 71.5, "R@10": 81.5, "median_rank": 1.0}
    change_metrics(pair[1], folds={"num": 2, "text_to_image": figures, "image_to_text": figures})
    change_metrics(pair[1], coverage={"judged": 8, "annotated": 12, "published": None})
    for runs in (pair, pair[::-1]):
        text = printed(read_results(runs))
        assert text.count("61.5") == 2
        assert "2 folds: mean over 2 parts of 2 media, each judged by itself" in text
        assert "covers 8 of the 12 clips annotated" in text


def test_a_graded_run_beside_one_that_is_not_has_no_figure_there(tmp_path: Path) -> None:
    graded = run_at(tmp_path / "a", graded=[0.5] * 8)
    plain = run_at(tmp_path / "b", epochs=21)
    results = read_results([graded, plain])
    assert results.groups[1].figure("text_to_image", "mAP") is None
    assert {key[2] for key in results.gaps} == {"R@1", "R@5", "R@10"}
    assert "–" in printed(results)


def test_a_figure_that_is_not_a_number_is_none(pair: list[Path]) -> None:
    metrics = read_json(pair[1] / "metrics.json")
    metrics["text_to_image"]["R@1"] = float("nan")
    write_json(pair[1] / "metrics.json", metrics)
    assert read_results(pair).groups[1].figure("text_to_image", "R@1") is None


def test_queries_of_one_medium_have_no_interval(pair: list[Path]) -> None:
    """Drawing one medium again and again gives the same figure each time: not certainty."""
    text = np.array([2, 2, 0, 0, 0, 0, 0, 0], dtype=np.int8)
    for run in pair:
        change_judgement(run, text_groups=text, media_groups=text[::2])
    change_judgement(pair[1], text_ranks=np.ones(8, dtype=np.int64))
    results = read_results(pair)
    assert (1, "text_to_image", "R@1", "tail") not in results.gaps
    assert (1, "text_to_image", "R@1", "head") in results.gaps
    assert results.interval(1, "text_to_image", "R@1", "tail") is None
    assert "–" in printed(results)


def test_intervals_of_the_mean_over_seeds_are_in_json_and_titles_speak_of_seeds_only_where_there_are_some(
    pair: list[Path],
) -> None:
    assert "spread" not in printed(read_results(pair))
    results = read_results([*pair, run_at(pair[0].parent / "a-2", seed=1)])
    assert "mean ± spread over seeds" in printed(results)
    first = comparison_as_mapping(results)["groups"][0]
    assert first["intervals"]["head"]["text_to_image"]["R@5"] == results.interval(0, "text_to_image", "R@5", "head")
    assert set(first["intervals"]["all"]) == {"text_to_image", "image_to_text"}
    assert set(first["intervals"]["all"]["image_to_text"]) == {"R@1", "R@5", "R@10"}


def test_names_are_printed_as_they_are_and_cut_nowhere(tmp_path: Path) -> None:
    names = ["[bold]a[/x]", "b" * 120]
    runs = [run_at(tmp_path / str(at), epochs=20 + at) for at in range(2)]
    lines = printed(read_results(runs, names)).splitlines()
    text = "".join(line.split("  ")[1] if line.startswith("   ") else line for line in lines)
    assert "[bold]a[/x]" in text
    assert max(map(len, lines)) <= 100


# --- labels ----------------------------------------------------------------------------------------------------------


def with_label(run: Path, values: list[str | None], training: dict[str, int]) -> Path:
    change_judgement(run, labels={"type": {"values": values, "training": training}})
    [judged] = read_results([run]).groups[0].judged
    change_metrics(run, labels={"type": figures_by_label(judged.sides, judged.owner, judged.labels["type"])})
    return run


def test_a_label_divides_by_its_training_counts_and_tells_every_value(tmp_path: Path) -> None:
    run = with_label(run_at(tmp_path / "a"), ["cup", "cup", "vase", None], {"cup": 9, "lamp": 2, "vase": 1})
    [metrics] = read_results([run]).groups[0].metrics
    label = metrics["labels"]["type"]
    assert (label["num_classes"], label["num_unlabeled"]) == (3, 1)
    assert label["groups"]["head"]["num_queries"] == 4
    assert label["groups"]["head"]["text_to_image"]["R@1"] == 50.0
    assert label["groups"]["tail"]["num_media"] == 1
    assert label["groups"]["mid"] is None
    assert label["classes"]["vase"]["num_training"] == 1
    assert label["classes"]["vase"]["text_to_image"]["R@1"] == 50.0
    assert set(label["classes"]) == {"cup", "vase"}


def test_labels_of_one_run_divide_all(tmp_path: Path) -> None:
    plain = run_at(tmp_path / "a")
    labeled = with_label(run_at(tmp_path / "b", epochs=21), ["cup", "cup", "vase", "vase"], {"cup": 9, "vase": 1})
    for runs in ([plain, labeled], [labeled, plain]):
        results = read_results(runs)
        assert (1, "text_to_image", "R@5", "type head") in results.gaps
        for group in results.groups:
            assert str(group.figure("text_to_image", "R@1", "type head")) == "50.0"
            assert str(group.class_figure("type", "vase", "text_to_image", "R@1")) == "25.0"
        assert "R@5 by type, %" in printed(results)


def test_values_with_few_queries_are_not_listed_among_the_extremes() -> None:
    figures = {"a": 10.0, "b": 90.0, "c": 0.0, "d": 50.0}
    assert extremes(figures, {"a": 5, "b": 5, "c": 4, "d": 5}) == (["a"], ["b"])


def test_a_label_of_several_values_divides_by_the_rarest_and_tells_every_value(tmp_path: Path) -> None:
    judged = read_results([run_at(tmp_path / "a")]).groups[0].judged[0]
    training = [*[["cup", "dog"]] * 4, *["cup"] * 4, ["vase", "cup"], [], None]
    label = MediaLabel.of_media([["dog", "cup"], "cup", ["cup", "vase"], []], training)
    assert label.training == {"cup": 9, "dog": 4, "vase": 1}
    assert label.rarest == {"cup": 4, "dog": 4, "vase": 1}
    assert label.groups().tolist() == [1, 0, 2, -1]
    change_judgement(tmp_path / "a", labels={"type": json.loads(json.dumps(vars(label)))})
    stored = read_results([tmp_path / "a"]).labels["type"]
    assert stored == label
    figures = figures_by_label(judged.sides, judged.owner, stored)
    assert (figures["num_classes"], figures["num_unlabeled"]) == (3, 1)
    assert {value: of["num_media"] for value, of in figures["classes"].items()} == {"cup": 3, "dog": 1, "vase": 1}
    assert figures["groups"]["head"]["num_media"] == 1


def test_a_value_that_training_lacks_is_tail() -> None:
    assert torch.equal(MediaLabel(["x", "cup", None], {"cup": 1}).groups(), torch.tensor([2, 0, -1]))
