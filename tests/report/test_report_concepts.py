"""Recall by concept size and the concepts that gained and lost, against loops and made-up judgements."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from fake_runs import FIXED, SHIFTED, recipe, write_run
from test_report_page import text_of

from mmts.recipe.run_directory import RunDirectory
from mmts.report import write_report
from mmts.report.by_concept import Queries, find_changes, find_queries, largest_by_chance, lines_by_size, size_bins
from mmts.report.contents import Contents, read_contents

SIZES = [max(1, round(400 / (at + 1) ** 1.25)) for at in range(40)]  # of write_run's concepts


def change(run: Path, **arrays: Sequence[int]) -> None:
    """Replace arrays of a run's judgement."""
    file = RunDirectory(run).judgement_file
    with np.load(file) as stored:
        kept = {name: stored[name] for name in stored.files}
    np.savez_compressed(file, **kept | {name: np.array(values) for name, values in arrays.items()})


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two rules judged on 84 captions: 40 of concept 0, 30 of concept 1, 9 of 2, 1 of 3, and 4 of none.

    The second finds 20 more of concept 0 and 15 fewer of concept 1.
    """
    captions = [f"caption {at}" for at in range(84)]
    concepts = [0] * 40 + [1] * 30 + [2] * 9 + [3] + [-1] * 4
    paths = [
        write_run(tmp_path / name, recipe(name, rule), tmp_path, captions)
        for name, rule in (("a", FIXED), ("b", SHIFTED))
    ]
    change(paths[0], text_concepts=concepts, text_ranks=[1] * 10 + [2] * 30 + [1] * 30 + [2] * 14)
    change(paths[1], text_concepts=concepts, text_ranks=[1] * 30 + [2] * 10 + [1] * 15 + [2] * 29)
    return paths


def text_queries(contents: Contents) -> Queries:
    queries = find_queries(contents, "text")
    assert isinstance(queries, Queries)
    return queries


def test_recall_by_size_is_the_share_of_hits_in_each_bin(runs: list[Path]) -> None:
    contents = read_contents(runs)
    queries = text_queries(contents)
    assert queries.num_unknown == 4
    lines, places = lines_by_size(contents, queries)
    assert [place.split(", ")[-1] for place in places] == ["40 queries", "40 queries"]  # concepts 3, 2 and 1; 0
    assert places[1] == "concepts of 400 training samples, 40 queries"
    assert [line.mean for line in lines] == [[75.0, 25.0], [37.5, 75.0]]
    assert lines[0].x[0] == pytest.approx((SIZES[1] ** 30 * SIZES[2] ** 9 * SIZES[3]) ** (1 / 40))
    for line in lines:
        assert all(low < mean < high for low, mean, high in zip(line.low, line.mean, line.high, strict=True))


def test_a_bin_has_whole_sizes_and_enough_queries() -> None:
    sizes = torch.tensor([5] * 100 + [6] * 3 + [7] * 200 + [8] * 20 + [9] * 9)
    bins = size_bins(sizes)
    assert [len(rows) for rows in bins] == [100, 232]  # 8 and 9 are too few by themselves
    assert [sorted(set(sizes[rows].tolist())) for rows in bins] == [[5], [6, 7, 8, 9]]
    assert len(size_bins(torch.ones(10))) == 1


def test_gains_and_losses_by_concept(runs: list[Path]) -> None:
    contents = read_contents(runs)
    changes = find_changes(contents, text_queries(contents), 1)
    assert changes["least"] == 5  # hardly any concept has 10
    assert [(change["size"], change["num_queries"], change["gap"].mean) for change in changes["concepts"]] == [
        (SIZES[0], 40, 50.0),
        (SIZES[2], 9, 0.0),
        (SIZES[1], 30, -50.0),
    ]
    assert changes["concepts"][0]["gap"].is_clear
    assert (changes["concepts"][0]["first"], changes["concepts"][0]["other"]) == (25.0, 75.0)
    assert 0 < changes["by_chance"] < 25


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_largest_gain_by_chance_equals_the_slow_twin(num_seeds: int) -> None:
    generator = torch.Generator().manual_seed(3)
    first, own = torch.randint(2, (2, num_seeds, 30), generator=generator).double()
    concepts, clusters = torch.randint(4, (30,), generator=generator), torch.arange(30) // 3
    same, largest = torch.Generator().manual_seed(0), []
    signs = torch.randint(2, (500, 10), generator=same)
    same.manual_seed(0)
    for draw in range(500):
        runs = torch.cat([first, own])[torch.randperm(6, generator=same)] if num_seeds == 3 else torch.cat([first, own])
        one, other = runs[:num_seeds].clone(), runs[num_seeds:].clone()
        if num_seeds == 1:
            turned = signs[draw][clusters] == 0
            one[:, turned], other[:, turned] = own[:, turned], first[:, turned]
        largest.append(reference.largest_concept_gain(one.tolist(), other.tolist(), concepts.tolist()))
    assert largest_by_chance(first, own, concepts, clusters) == pytest.approx(float(np.median(largest)))


def test_enough_seeds_include_their_effect_on_a_whole_concept() -> None:
    # Each run is good or bad at a concept as a whole, whatever its rule.
    is_good = torch.randint(2, (8, 20), generator=torch.Generator().manual_seed(0)).double()
    runs = is_good.repeat_interleave(100, dim=1)
    concepts, clusters = torch.arange(20).repeat_interleave(100), torch.arange(2000)
    dealt = largest_by_chance(runs[:4], runs[4:], concepts, clusters)
    assert dealt > 2 * largest_by_chance(runs[:2], runs[2:4], concepts, clusters)


def test_the_page_says_how_much_chance_explains(runs: list[Path]) -> None:
    text = text_of(write_report(runs, runs[0].parent / "report.html").read_text(encoding="utf-8"))
    assert "3 concepts with at least 5 text queries can be compared. The interval leaves out 0 for 2 of them" in text
    assert "the largest gain among these concepts would still be about" in text
    assert "8 queries (in both directions together) without a concept known from training are left out." in text
    gained, lost = text[text.index("Gained most") :].split("Lost most")
    assert "red, circle, thing 0 400 training samples 40 25 75 +50.0" in gained
    assert "training samples 30" not in gained  # it lost
    assert "blue, square, thing 1 168 training samples 30 100 50 −50.0" in lost
    assert "thing 2 101 training samples" not in gained + lost  # no change


def test_a_judgement_of_other_concepts_is_left_out(runs: list[Path]) -> None:
    change(runs[0], text_concepts=[40] * 84)
    assert "with another concepts.npz" in str(find_queries(read_contents(runs), "text"))
    change(runs[0], text_concepts=[-1] * 84)
    text = text_of(write_report(runs, runs[0].parent / "report.html").read_text(encoding="utf-8"))
    assert "Text to image and Image to text are left out: no query belongs to a concept of the training data." in text
    assert "gained and lost most are left out: no query belongs" in text
