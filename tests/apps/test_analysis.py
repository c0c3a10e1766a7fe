"""`mmts analyze`: the numbers against hand counts, the table and the picture."""

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len

from mmts.apps.analysis import GROUP_COLORS, analyze, draw_long_tail, gini, print_analysis
from mmts.concepts import ConceptDistribution
from mmts.console import console
from mmts.errors import InputError

LABELS = ["cup"] * 6 + ["lamp"] * 2 + ["hat"]
CAPTIONS = ["a cup", "a cup", "a cup", "red cup", "blue cup", "my cup", "a lamp", "a lamp", "a hat"]


def test_numbers_by_hand():
    analysis = analyze(CAPTIONS, ConceptDistribution.from_labels(LABELS), empty_captions=2)
    assert (analysis["samples"], analysis["distinct_captions"], analysis["duplicates"], analysis["empty_captions"]) == (
        9,
        6,
        3,
        2,
    )
    assert (analysis["concepts"], analysis["median_size"]) == (3, 2)
    assert analysis["largest"] == [("cup", 6), ("lamp", 2), ("hat", 1)]
    assert analysis["smallest"] == [("hat", 1), ("lamp", 2), ("cup", 6)]
    assert analysis["top_tenth_share"] == pytest.approx(6 / 9)
    assert analysis["groups"]["head"] == (1, 6, 6, 6)
    assert analysis["groups"]["mid"] == (0, 0, 0, 0)  # 6 of 9 samples are in larger concepts: two thirds, so tail
    assert analysis["groups"]["tail"] == (2, 3, 2, 1)
    json.dumps(analysis)


def test_top_tenth_is_rounded_up():
    labels = [i for i in range(11) for _ in range(20 - i)]
    analysis = analyze([str(label) for label in labels], ConceptDistribution.from_labels(labels))
    assert analysis["top_tenth_share"] == pytest.approx((20 + 19) / len(labels))
    assert [size for _, size in analysis["largest"]] == [20, 19, 18, 17, 16]
    assert [size for _, size in analysis["smallest"]] == [10, 11, 12, 13, 14]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_gini_is_the_mean_difference_of_all_pairs(sizes):
    slow = sum(abs(a - b) for a in sizes for b in sizes) / (2 * len(sizes) * sum(sizes))
    assert gini(torch.tensor(sizes)) == pytest.approx(slow, abs=1e-9)


def test_several_concepts_per_sample_are_counted(capsys):
    analysis = analyze(CAPTIONS[:3], ConceptDistribution.from_labels([["cup", "red"], ["cup"], []]))
    assert (analysis["concepts_per_sample"], analysis["no_concept"]) == (1, 1)
    print_analysis(analysis)
    assert re.search(r"concepts per sample +1\.00 +1 sample without one", capsys.readouterr().out)
    print_analysis(analyze(CAPTIONS, ConceptDistribution.from_labels(LABELS)))
    assert "per sample" not in capsys.readouterr().out


def test_other_captions_are_refused():
    with pytest.raises(InputError, match="8 captions, but 9 samples"):
        analyze(CAPTIONS[1:], ConceptDistribution.from_labels(LABELS))


def test_table_shows_every_number_and_any_name(capsys):
    names = ["[bold]cup[/bold]", "lamp\x1b[31m", "\ud800"]
    labels = [names[{"cup": 0, "lamp": 1, "hat": 2}[label]] for label in LABELS]
    print_analysis(analyze(CAPTIONS, ConceptDistribution.from_labels(labels), empty_captions=4))
    shown = capsys.readouterr().out
    repeats = "33.3% of the samples repeat a caption"
    for text in ("samples", repeats, "6 down to 1 samples, median 2", "66.7%", "[bold]cup"):
        assert text in shown
    assert "\x1b[31m" not in shown


@pytest.mark.parametrize("width", [60, 80, 200])
def test_long_names_leave_room_for_the_numbers(width, capsys, monkeypatch):
    monkeypatch.setattr(console, "_width", width)
    labels = ["a-very-long-name-" * 9] * 1234 + ["\u8fde\u8863" * 40] * 3 + ["\U0001f469\u200d\U0001f467"] * 2
    print_analysis(analyze([""] * len(labels), ConceptDistribution.from_labels(labels)))
    said = capsys.readouterr().out
    row = next(line for line in said.splitlines() if line.lstrip().startswith("a-very"))
    assert row.split()[1:] == ["1,234", "\U0001f469\u200d\U0001f467", "2"]
    assert all(cell_len(line) <= width for line in said.splitlines())


@pytest.mark.parametrize(
    ("labels", "concepts", "head"),
    [(["a"] * 5 + ["b"] * 5, "each with 5 samples", "5"), (["a"], "each with 1 sample", "1")],
)
def test_equal_sizes_are_printed_once(labels, concepts, head, capsys):
    print_analysis(analyze([""] * len(labels), ConceptDistribution.from_labels(labels)))
    said = capsys.readouterr().out
    assert concepts in said
    assert re.search(rf"head .* 100.0% +{head} *\n", said)


def colors(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        found = {color for _, color in image.convert("RGB").getcolors(1 << 24)}
    return [name for name in GROUP_COLORS if tuple(bytes.fromhex(name[1:])) in found]


def test_picture_has_the_three_groups(tmp_path):
    labels = [f"label {i}" for i in range(30) for _ in range(1 + 300 // (i + 1))]
    draw_long_tail(ConceptDistribution.from_labels(labels), tmp_path / "new" / "tail.png", title="some $data")
    assert colors(tmp_path / "new" / "tail.png") == list(GROUP_COLORS)


@pytest.mark.parametrize("labels", [["only one"], ["a", "b"], ["$x_", "日本", "\ud800", "\0", "👍"] * 3, range(100)])
def test_picture_of_odd_data(tmp_path, labels, recwarn):
    draw_long_tail(ConceptDistribution.from_labels(labels), tmp_path / "tail.png")
    assert colors(tmp_path / "tail.png")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
