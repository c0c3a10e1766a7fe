"""Comparing runs: grouping by recipe, mean and spread by hand, paired intervals, and refusals."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tests_support import captioned_split

from mmts.errors import DataError, MmtsError, RunError
from mmts.evaluation.compare import comparison_tables
from mmts.evaluation.figures import summarize
from mmts.evaluation.judgement_file import Judged, save_judgement
from mmts.evaluation.rank import Side
from mmts.evaluation.results import read_results
from mmts.files import read_json, write_json
from mmts.recipe.recipe import load_recipe, save_recipe
from mmts.recipe.run_directory import RunDirectory


def judged_run(
    path: Path,
    settings: Sequence[str],
    text_ranks: Sequence[int],
    media_ranks: Sequence[int],
    graded: Sequence[float] | None = None,
    name: str | None = None,
) -> Path:
    """Write the files of a run that was judged with these ranks; two captions per medium.

    `graded` (captions,) is the average precision of text queries, the other graded scores are 1.
    """
    run = RunDirectory(path)
    path.mkdir(parents=True)
    recipe = load_recipe("catalogue", settings)
    save_recipe(recipe.model_copy(update={"name": name or recipe.name}), run.recipe_file, {})
    split = captioned_split([[f"a{i}", f"b{i}"] for i in range(len(media_ranks))])

    def side(direction: str, media: torch.Tensor, ranks: Sequence[int], precision: Sequence[float]) -> Side:
        top = torch.zeros(len(ranks), 1, dtype=torch.long)
        scores = torch.ones(len(ranks), 3, dtype=torch.float64)
        scores[:, 0] = torch.tensor(precision)
        return Side(direction, media, torch.tensor(ranks), top, top.bool(), None if graded is None else scores)

    sides = (
        side("text_to_image", split.owner, text_ranks, graded or [1.0] * len(text_ranks)),
        side("image_to_text", torch.arange(split.num_media), media_ranks, [1.0] * len(media_ranks)),
    )
    concepts = torch.arange(len(text_ranks)) % 2  # no tail
    groups = concepts, concepts[split.first]
    write_json(run.metrics_file, summarize(sides, split, groups))
    save_judgement(run.judgement_file, sides, split, Path(), "text", concepts, groups)
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    learned = ["objective.temperature.rule=learned"]
    return [
        judged_run(tmp_path / "a0", ["train.seed=0"], [1, 2, 1, 9], [1, 7]),
        judged_run(tmp_path / "a1", ["train.seed=1"], [1, 1, 1, 9], [1, 1]),
        judged_run(tmp_path / "b0", learned, [1, 1, 1, 1], [1, 1]),
    ]


def test_runs_that_differ_only_in_the_seed_make_one_group(runs: list[Path]) -> None:
    results = read_results(runs)
    assert [group.name for group in results.groups] == ["a", "b0"]
    assert [group.seeds for group in results.groups] == [(0, 1), (0,)]


def test_mean_and_spread_are_those_of_the_hand(runs: list[Path]) -> None:
    first, second = read_results(runs).groups
    figure = first.figure("text_to_image", "R@1")
    assert figure is not None
    assert figure.mean == pytest.approx((50 + 75) / 2)
    assert figure.spread == pytest.approx(np.std([50, 75], ddof=1))
    assert str(figure) == "62.5 ± 17.7"
    single = second.figure("text_to_image", "R@1")
    assert single is not None
    assert single.spread is None
    assert first.figure("text_to_image", "R@1", "tail") is None
    head = first.figure("text_to_image", "R@1", "head")
    assert head is not None
    assert head.mean == 100.0


def test_differences_are_paired_over_queries(runs: list[Path]) -> None:
    gaps = read_results(runs).gaps
    to_image = gaps[1, "text_to_image", "R@1", None]
    assert to_image.mean == pytest.approx(100 - 62.5)
    # Medium 0 gains .25, medium 1 gains .5: whatever is drawn, the mean lies between.
    assert (to_image.low, to_image.high) == (pytest.approx(25), pytest.approx(50))
    assert to_image.is_clear
    assert not gaps[1, "image_to_text", "R@10", None].is_clear
    assert gaps[1, "text_to_image", "R@1", "head"].mean == 0
    assert (1, "text_to_image", "R@1", "tail") not in gaps


def test_graded_measures_are_compared_where_all_runs_have_them(tmp_path: Path) -> None:
    ranks = [1, 2, 1, 9], [1, 7]
    runs = [
        judged_run(tmp_path / "a", [], *ranks, graded=[0.5, 0.5, 0.5, 0.5]),
        judged_run(tmp_path / "b", ["train.epochs=3"], *ranks, graded=[0.75, 0.5, 0.75, 0.5]),
    ]
    results = read_results(runs)
    gap = results.gaps[1, "text_to_image", "mAP", None]
    assert gap.mean == pytest.approx(12.5)
    assert results.gaps[1, "image_to_text", "nDCG", None].mean == 0
    console = Console(width=200, record=True)
    for table in comparison_tables(results):
        console.print(table)
    text = console.export_text()
    for expected in ("mAP", "nDCG", "62.5", "+12.5"):
        assert expected in text


def test_runs_judged_on_other_queries_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = judged_run(tmp_path / "c", ["train.epochs=3"], [1, 1, 1, 1, 1, 1], [1, 1, 1])
    with pytest.raises(RunError, match="not judged on the same queries"):
        read_results([*runs, other])


def names_of(paths: Sequence[Path]) -> list[str]:
    return [group.name for group in read_results(paths).groups]


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ([["fixed"], ["mm-ts"]], ["fixed", "mm-ts"]),
        ([["fixed-2"], ["mm-ts-2"]], ["fixed-2", "mm-ts-2"]),
        ([["a0", "a1"], ["b-seed0", "b-seed1"]], ["a", "b"]),
        ([["glass-s1", "glass-s2"]], ["glass"]),
        ([["fixed/seed-0", "fixed/seed-1"], ["mm-ts/seed-0"]], ["fixed", "mm-ts"]),
        ([["first", "second"], ["other"]], ["catalogue", "other"]),
        ([["x/run"], ["y/run"]], ["x/run", "y/run"]),
        ([["x/run/seed-0", "x/run/seed-1"], ["y/run/seed-0"], ["y/run-b"]], ["x/run", "y/run", "y/run-b"]),
    ],
)
def test_groups_have_the_names_of_their_folders(
    tmp_path: Path, rules: Sequence[Sequence[str]], names: Sequence[str]
) -> None:
    paths = [
        judged_run(tmp_path / folder, [f"train.seed={seed}", f"train.epochs={20 + rule}"], [1, 1], [1])
        for rule, folders in enumerate(rules)
        for seed, folder in enumerate(folders)
    ]
    assert names_of(paths) == names


def test_evaluations_of_one_run_are_told_apart_by_their_paths(runs: list[Path]) -> None:
    folder = runs[0] / "evaluations"
    folder.mkdir()
    for name, checkpoint in (("x", "best"), ("x.last", "last")):
        write_json(folder / f"{name}.json", read_json(runs[0] / "metrics.json") | {"checkpoint": checkpoint})
        (folder / f"{name}.npz").write_bytes((runs[0] / "judgement.npz").read_bytes())
    files = [folder / "x.json", folder / "x.last.json"]
    assert names_of(files) == [str(file) for file in files]


def test_names_may_be_given_one_for_each_rule(runs: list[Path]) -> None:
    assert [group.name for group in read_results(runs, ["A", "B"]).groups] == ["A", "B"]
    with pytest.raises(RunError, match="3 names are given for 2 groups of runs: a; b0; give one per group"):
        read_results(runs, ["A", "B", "C"])
    with pytest.raises(RunError, match="names must differ and not be empty"):
        read_results(runs, ["A", "A"])


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"split": "te', b"\xff\xfe"])
def test_damaged_metrics_are_named(runs: list[Path], content: bytes) -> None:
    (runs[1] / "metrics.json").write_bytes(content)
    with pytest.raises(MmtsError, match=r"metrics\.json is damaged"):
        read_results(runs)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_damaged_judgement_is_named(runs: list[Path], share: float) -> None:
    file = runs[1] / "judgement.npz"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(MmtsError, match=r"judgement\.npz is damaged"):
        read_results(runs)


def test_changed_bytes_in_a_judgement_are_named(runs: list[Path]) -> None:
    file = runs[1] / "judgement.npz"
    whole = file.read_bytes()
    for at in range(0, len(whole), 31):  # numpy, zipfile and zlib each have errors of their own
        file.write_bytes(whole[:at] + bytes(255 - byte for byte in whole[at : at + 3]) + whole[at + 3 :])
        with suppress(DataError):
            Judged.load(runs[1])


def printed(runs: Sequence[Path], width: int = 80) -> str:
    console = Console(width=width, record=True)
    for table in comparison_tables(read_results(runs)):
        console.print(table)
    return console.export_text()


def test_the_tables_show_the_numbers(runs: list[Path]) -> None:
    text = printed(runs, width=200)
    for expected in ("62.5 ± 17.7", "+37.5* (+25.0, +50.0)", "–"):
        assert expected in text


def named_runs(folder: Path, names: Sequence[str], graded: Sequence[float] | None = None) -> list[Path]:
    ranks = ([1, 2, 1, 9], [1, 7]), ([3, 3, 1, 1], [1, 7])
    return [
        judged_run(folder / name, [f"train.epochs={3 + at}"], *ranks[at], graded=graded, name=name)
        for at, name in enumerate(names)
    ]


def test_short_names_have_intervals_beside_the_differences(tmp_path: Path) -> None:
    text = printed(named_runs(tmp_path, ["fixed", "mm-ts"]))
    assert "+0.0  (-50.0, +50.0)" in text


@pytest.mark.parametrize("graded", [None, [0.5, 0.5, 0.5, 0.5]])
@pytest.mark.parametrize("names", [("ek100-avion-tiny", "ek100-mmts-tiny"), ("a" * 17, "b" * 17)])
def test_names_of_17_characters_stay_whole_in_80_columns(
    tmp_path: Path, names: tuple[str, str], graded: list[float] | None
) -> None:
    lines = printed(named_runs(tmp_path, names, graded)).splitlines()
    assert max(map(len, lines)) <= 80
    for name in names:
        assert sum(line.startswith(f"   {name} ") for line in lines) >= 4 + 2 * (name == names[1])
    assert any("(-50.0, +50.0)" in line for line in lines)


def test_coverage_and_folds_have_a_line_each(runs: list[Path]) -> None:
    for at, run in enumerate(runs):
        figures = {"R@1": 60.0 + 2 * at, "R@5": 71.5, "R@10": 81.5, "median_rank": 1.0}
        folds = {"num": 2, "text_to_image": figures, "image_to_text": figures}
        coverage = {"judged": 8, "annotated": 12, "published": 3350}
        metrics = read_json(RunDirectory(run).metrics_file)
        write_json(RunDirectory(run).metrics_file, metrics | {"folds": folds, "coverage": coverage})
    text = printed(runs, width=200)
    assert "covers 8 of the 12 clips annotated; papers judge on 3,350" in text
    assert "2 folds: mean over 2 parts of 1 media, each judged by itself" in text
    assert "text→image, 2 folds" in text
    assert text.count("61.0 ± 1.4") == 2
