"""The parts of the report: the finding in words, the SVG, the choice of queries, the curves."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fake_runs import FIXED, LEARNED, SHIFTED, draw_pictures, recipe, write_run

from mmts.concepts import ConceptDistribution
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.results import Figure, Gap
from mmts.recipe.recipe import parse_recipe
from mmts.recipe.run_directory import RunDirectory
from mmts.report.charts import SERIES, drawing, inline_svg
from mmts.report.contents import Contents, Verdict, _headline, find, read_contents
from mmts.report.curves import loss_line, recall_line, rule_in_words, value_curve
from mmts.report.gallery import choose_queries, make_gallery
from mmts.report.tail import LongTail
from mmts.report.wording import in_title, interval_in_words, isolated, listed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def contents(folder: Path) -> Contents:
    captions = draw_pictures(folder / "data", 40)
    rules = (("fixed", FIXED), ("learned", LEARNED), ("mm-ts", SHIFTED))
    return read_contents(
        [write_run(folder / f"{name}{seed}", recipe(name, rule, seed), folder / "data", captions)
         for name, rule in rules for seed in (0, 1)]
    )  # fmt: skip


def verdict(difference: float, spread: float | None, gap: Gap | None, number: int = 1) -> Verdict:
    return Verdict(number, Figure(50.0 + difference, spread), difference, spread, gap)


def test_wording() -> None:
    assert interval_in_words(Gap(0.5, -0.31, 1.26)) == "−0.3 to +1.3"
    assert in_title("text_to_image") == "Text to image"
    assert isolated("shoe") == "shoe"
    assert len(isolated("\u05e0\u05e2\u05dc")) == 5
    assert [listed(words) for words in (["a"], ["a", "b", "c"])] == ["a", "a, b and c"]


CLEAR, CLEAR_LOSS, UNCLEAR = Gap(2.0, 0.5, 3.5), Gap(-2.0, -3.5, -0.5), Gap(0.3, -1.0, 1.6)


@pytest.mark.parametrize(
    ("verdicts", "headline"),
    [
        ([verdict(2.0, 0.4, CLEAR)], "learned beats fixed: the right image comes first for 52.0 % of the captions"),
        ([verdict(2.0, None, CLEAR)], "learned beats fixed"),
        ([verdict(2.0, 0.4, None)], "learned beats fixed"),
        ([verdict(-2.0, 0.4, CLEAR_LOSS)], "fixed stays best"),
        ([verdict(0.3, 0.4, UNCLEAR)], "No difference is larger than the spread over seeds"),
        ([verdict(2.0, 2.5, CLEAR)], "No difference is larger than the spread over seeds"),
        ([verdict(1.0, 0.4, UNCLEAR)], "No difference that this test set can tell from chance"),
        ([verdict(5.0, None, None)], "One run of each rule: nothing here can tell a difference from chance"),
        ([verdict(0.3, 0.4, UNCLEAR), verdict(-2.0, 0.4, CLEAR_LOSS, 2)], "No rule is clearly better than fixed"),
        ([verdict(2.5, 3.0, CLEAR), verdict(2.0, 0.4, CLEAR, 2)], "mm-ts beats fixed"),
    ],
)
def test_the_headline_claims_only_what_seeds_and_queries_support(
    contents: Contents, verdicts: list[Verdict], headline: str
) -> None:
    assert _headline(contents, Figure(50.0, 0.4), verdicts).startswith(headline)


def test_the_finding_compares_with_the_larger_spread(contents: Contents) -> None:
    for verdict in find(contents).verdicts:
        own, first = (contents.groups[rule].figure("text_to_image", "R@1") for rule in (verdict.number, 0))
        assert own is not None
        assert first is not None
        assert verdict.spread == max(own.spread or 0, first.spread or 0)
        assert verdict.difference == pytest.approx(own.mean - first.mean)
        assert verdict.gap is not None
        assert verdict.gap.mean == pytest.approx(verdict.difference)  # the same hits, once by run and once by query


def test_differences_by_part_are_those_of_the_figures(contents: Contents) -> None:
    for (number, direction, measure, part), gap in contents.gaps.items():
        own, first = (contents.groups[rule].figure(direction, measure, part) for rule in (number, 0))
        assert own is not None
        assert first is not None
        assert gap.mean == pytest.approx(own.mean - first.mean)
        assert gap.low <= gap.mean <= gap.high


SEVERAL = [["a", "b"], ["b"], ["b"], ["b", "c"], ["c", "d"], ["c"], ["e"], ["e", "a"]]


@pytest.mark.parametrize("several", [False, True])
def test_curves_are_the_published_rule(contents: Contents, several: bool) -> None:
    distribution = ConceptDistribution.from_labels(SEVERAL, "mean") if several else contents.distributions[2]
    lines, is_logged = value_curve(contents.groups[2], distribution)
    assert not is_logged
    assert distribution is not None
    shift, groups = distribution.shift(0.05, 0.20), distribution.groups()
    assert [line.name for line in lines] == ["head", "mid", "tail"]
    for line in lines:
        own = shift[groups == line.number]
        least, mean, most = own.min().item(), own.mean().item(), own.max().item()
        for at, swing in ((0, 0.04), (20, -0.04), (200, 0.04)):  # five cycles in 200 steps
            expected = pytest.approx((least + swing, mean + swing, most + swing), abs=1e-6)
            assert (line.low[at], line.mean[at], line.high[at]) == expected
    fixed, _ = value_curve(contents.groups[0], contents.distributions[0])
    assert [line.name for line in fixed] == ["all samples"]


def test_a_learned_value_is_read_from_the_log(contents: Contents) -> None:
    lines, is_logged = value_curve(contents.groups[1], contents.distributions[1])
    assert is_logged
    assert [line.name for line in lines] == ["all samples"]
    assert lines[0].mean[0] == pytest.approx(0.07)
    assert lines[0].mean[-1] < 0.03


def test_logged_groups_are_read_from_the_batches_that_contain_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", recipe("learned", LEARNED), tmp_path, ["a shoe"] * 4)
    value = {"min": 0.1, "mean": 0.2, "max": 0.3}
    lines = [
        {"step": 0, "progress": 0.0, "temperature": value, "groups": {"head": {"temperature": 0.1, "weight": 1.0}}},
        {"step": 1, "progress": 0.5, "temperature": value, "groups": {"tail": {"temperature": 0.3}}},
        {"step": 2, "progress": 0.9, "temperature": value, "groups": {"head": {"temperature": 0.15}}},
    ]
    RunDirectory(run).log_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    read = read_contents([run])
    curves, _ = value_curve(read.groups[0], read.distributions[0])
    assert [(line.name, line.x, line.mean) for line in curves] == [
        ("head", [0.0, 0.9], [0.1, 0.15]),
        ("tail", [0.5], [0.3]),
    ]


def test_of_a_step_that_is_logged_again_the_later_line_counts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", recipe("fixed"), tmp_path, ["a shoe"] * 4)
    lines = [
        {"progress": at, "loss": loss, "val": {"text_to_image": {"R@1": recall}}}
        for at, loss, recall in ((0.5, 9.0, 10.0), (0.5, 3.0, 20.0), (0.51, 5.0, 25.0), (1.0, 1.0, 30.0))
    ]
    RunDirectory(run).log_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    group = read_contents([run]).groups[0]
    recall, loss = recall_line(0, group, "text_to_image"), loss_line(0, group)
    assert recall is not None
    assert loss is not None
    assert (recall.x, recall.mean) == ([0.5, 0.51, 1.0], [20.0, 25.0, 30.0])
    assert (loss.x, loss.mean) == ([0.51, 0.99], [4.0, 1.0])  # fiftieths of training


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"rule": "fixed", "value": 0.1}, "temperature 0.1 throughout"),
        ({"rule": "learned"}, "temperature learned, started at 0.07, kept within 0.01 to 1"),
        (
            {"rule": "scheduled", "schedule": {"kind": "linear", "start": 1, "end": 2}},
            "temperature the same for all samples, following a linear schedule",
        ),
        (
            {"rule": "shifted", "alpha": 0, "scale": "log"},
            "temperature of 0.05 to 0.2 by concept size (log), without a swing",
        ),
    ],
)
def test_rules_in_words(rule: dict[str, object], words: str) -> None:
    assert rule_in_words(recipe("x", rule)) == words


def test_what_an_objective_adds_in_words() -> None:
    objective = {
        "temperature": 0.1,
        "margin": {"rule": "ldam"},
        "prior": {"of": "negatives"},
        "weights": {"by": "kind"},
    }
    assert rule_in_words(parse_recipe({"objective": objective, "train": {"epochs": 1}})) == (
        "temperature 0.1 throughout, margin of 0.5 for the smallest concepts, falling with the fourth root of a "
        "concept's size, prior by concept, of strength 1 (candidates both, of negatives), weights by kind "
        "(beta 0.9999) from progress 0.8"
    )


def judged(ranks: list[int], groups: list[int], captions: list[str] | None = None) -> Judged:
    arrays = {
        f"{side}_{what}": np.array(v)
        for side in ("text", "media")
        for what, v in (("ranks", ranks), ("groups", groups))
    }
    return Judged(Path("run"), arrays, {"captions": captions or [f"caption {at}" for at in range(len(ranks))]})


def choose(*runs: Judged, side: str = "text") -> list[int]:
    return choose_queries(runs, side, runs[0].meta["captions"])


def test_queries_come_evenly_from_all_groups_right_and_wrong() -> None:
    ranks = [1 if at % 4 else 7 for at in range(120)]
    groups = [at // 40 for at in range(120)]
    chosen = choose(judged(ranks, groups))
    assert len(set(chosen)) == 12
    assert [groups[row] for row in chosen] == [0] * 4 + [1] * 4 + [2] * 4
    assert sum(ranks[row] == 1 for row in chosen) == 6
    assert chosen == choose(judged(ranks, groups)) == choose(judged(ranks, groups), side="media")


def test_queries_favor_neither_run() -> None:
    first, second = [1, 1, 9, 9] * 10, [1, 9, 1, 9] * 10
    one, other = judged(first, [0] * 40), judged(second, [0] * 40)
    assert choose(one, other) == choose(other, one)


def test_few_queries_and_repeated_captions() -> None:
    assert len(choose(judged([1, 5, 2], [0, 0, 2]))) == 3
    assert len(choose(judged([1] * 30, [0] * 30, ["a shoe"] * 30))) == 1


def test_the_gallery_shows_what_the_judgement_says(contents: Contents) -> None:
    gallery = make_gallery(contents, [0, 2])
    run = contents.groups[2].runs[0].judged
    for side, queries in (("text", gallery["texts"]), ("media", gallery["media"])):
        for query in queries:
            row = run.meta["captions"].index(query["text"])  # one caption per image
            answer = query["answers"][1]
            assert [hit["is_right"] for hit in answer["hits"]] == run.arrays[f"{side}_top_relevant"][row][:5].tolist()
            top = [run.meta["captions"][at] for at in run.arrays[f"{side}_top"][row][:5]]
            assert [hit["text"] for hit in answer["hits"]] == top
            assert answer["rank"] == run.arrays[f"{side}_ranks"][row]
            assert query["concept"] == int(run.arrays["text_concepts"][row])
            pictures = [hit["source"] for hit in answer["hits"]] if side == "text" else [query["source"]]
            assert all(picture.startswith("data:image/") for picture in pictures)
            captions = [query] if side == "text" else answer["hits"]
            assert all(caption["source"] is None for caption in captions)


@pytest.mark.parametrize(("sizes", "median"), [((9, 4, 1), 4), ((9, 4, 3, 1), 3.5), ((4000, 2000), 3000)])
def test_a_long_tail_in_numbers(sizes: tuple[int, ...], median: float) -> None:
    labels = [name for name, size in enumerate(sizes) for _ in range(size)]
    tail = LongTail(ConceptDistribution.from_labels(labels[::-1]))
    assert (tail.sizes, tail.names) == (sizes, tuple(map(str, range(len(sizes)))))
    assert tail.median == median
    assert tail.top_tenth_share == sizes[0] / sum(sizes)
    assert sum(group.samples for group in tail.groups.values()) == sum(sizes)


def test_a_long_tail_of_several_concepts_per_sample() -> None:
    tail = LongTail(ConceptDistribution.from_labels([["cup", "dog"], "cup", ["cup"], []]))
    assert (tail.names, tail.sizes) == (("cup", "dog", "no concept"), (3, 1, 1))
    assert (tail.num_samples, tail.top_tenth_share) == (4, 0.5)  # two have no rarer concept than cup
    assert [group.samples for group in tail.groups.values()] == [2, 2, 0]


def test_a_long_tail_of_many_concepts_is_one_shape_per_group() -> None:
    tail = LongTail(ConceptDistribution.from_labels(at for at in range(300) for _ in range(1 + 300 // (at + 1))))
    root = ElementTree.fromstring(str(tail.chart("tail", 1056)))
    assert sum("var(--group-" in element.get("style", "") for element in root.iter()) == 3
    assert len(list(root.iter("title"))) == 300


def test_svg_keeps_text_escapes_it_and_adds_tooltips() -> None:
    with drawing(200, 100) as axes:
        axes.plot([1, 2, 3], [3, 1, 2], marker="o", color=SERIES[1], gid="hover-a")
        axes.set_title("<script> $x_y$ & co")
        svg = inline_svg(axes, "one", "a <chart>", {"hover-a": ["<1>", "2", "3"]})
    root = ElementTree.fromstring(str(svg))
    assert "<script> $x_y$ & co" in [text.text for text in root.iter("text")]
    assert [title.text for title in root.iter("title")] == ["<1>", "2", "3"]
    assert root.attrib["aria-label"] == "a <chart>"
    assert "var(--series-1)" in svg
    assert all(element.attrib["id"].startswith("one-") for element in root.iter() if "id" in element.attrib)


def test_svg_needs_a_tooltip_for_every_marker() -> None:
    with drawing(200, 100) as axes:
        axes.plot([1, 2, 3], [3, 1, 2], marker="o", gid="a")
        with pytest.raises(ValueError, match="zip"):
            inline_svg(axes, "one", "a chart", {"a": ["1", "2"]})
