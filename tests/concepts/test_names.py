"""Readable names: words common in a concept and rare elsewhere."""

import pytest

from mmts.concepts.names import distinctive_words, words


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A Red-Brown T-Shirt!", ["a", "red-brown", "t-shirt"]),
        ("men's shoes, O\u2019Neill 'quoted' --", ["men", "shoes", "o'neill", "quoted"]),
        ("a/b\0c\nd", ["a", "b", "c", "d"]),
        ("हिन्दी أحذية Ünïcode", ["हिन्दी", "أحذية", "ünïcode"]),
        ("赤い靴 shoe 日", ["赤い", "い靴", "shoe", "日"]),
        ("❤\ufe0f dog👍", ["❤", "dog", "👍"]),
        ("... !", []),
        ("ﬁne １２", ["fine", "12"]),
    ],
)
def test_words(caption, expected):
    assert words(caption) == expected


def test_names_say_what_sets_a_concept_apart():
    captions = ["nike men shoes", "nike women shoes", "adidas men shoes", "men blue shirt", "women blue shirt"]
    names = distinctive_words(captions, [0, 0, 0, 1, 1], 2)
    assert names == ["shoes nike adidas", "blue shirt women"]


def test_stop_words_numbers_and_plurals_stay_out():
    captions = ["the dog of the dogs 2011", "the dogs and a dog 2011", "the cat 2011"]
    assert distinctive_words(captions, [0, 0, 1], 2) == ["dog", "cat"]


def test_a_concept_always_has_a_name():
    captions = ["of the 12", "!!!", "👍 👍", "   " + "…" * 50]
    names = distinctive_words(captions, [0, 1, 2, 3], 4)
    assert names[0]
    assert names[1] == "!!!"
    assert names[2] == "👍"
    assert len(names[3]) == 30


def test_ties_are_broken_by_the_alphabet_whatever_the_order():
    captions = ["zebra apple mango pear", "car"]
    expected = distinctive_words(captions, [0, 1], 2)
    assert expected[0] == "apple mango pear"
    assert distinctive_words(["pear mango zebra apple", "car"], [0, 1], 2) == expected


def test_rare_words_do_not_name_a_concept():
    captions = [f"watch model{i}" for i in range(20)] + ["shoe"] * 20
    assert distinctive_words(captions, [0] * 20 + [1] * 20, 2) == ["watch", "shoe"]


def test_single_concept():
    assert distinctive_words(["red shoe", "red hat"], [0, 0], 1) != [""]
