from collections.abc import Sequence

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from mmts.data.graded import Graded

Classes = tuple[set[int], set[int]]
VERBS, NOUNS = 3, 5


def graded(clips: Sequence[Classes], owner: Sequence[int]) -> Graded:
    """Texts t0, t1, ... that belong to the clips of these positions; a clip is its verbs and its nouns."""

    def indicators(sets: Sequence[set[int]], count: int) -> csr_matrix:
        return csr_matrix(np.array([[float(each in row) for each in range(count)] for row in sets]))

    kinds = indicators([verbs for verbs, _ in clips], VERBS), indicators([nouns for _, nouns in clips], NOUNS)
    return Graded(tuple(f"t{at}" for at in range(len(owner))), torch.tensor(owner, dtype=torch.int64), kinds)


CLIPS: list[Classes] = [({0}, {0, 1}), ({0}, {1}), ({1}, {0, 1}), ({2}, {4}), ({0}, {0, 1})]
some_clips = st.lists(
    st.tuples(
        st.sets(st.integers(0, VERBS - 1), min_size=1, max_size=2),
        st.sets(st.integers(0, NOUNS - 1), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@st.composite
def clips_and_owners(draw: st.DrawFn) -> tuple[list[Classes], list[int]]:
    clips = draw(some_clips)
    return clips, draw(st.lists(st.integers(0, len(clips) - 1), min_size=1, max_size=5))


@given(clips_and_owners())
def test_relevance_equals_its_definition(drawn: tuple[list[Classes], list[int]]):
    clips, owner = drawn
    expected = [[reference.relevance(clip, clips[at]) for at in owner] for clip in clips]
    torch.testing.assert_close(
        graded(clips, owner).relevance(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15
    )


def test_relevance_by_hand():
    relevance = graded(CLIPS, [0, 3]).relevance()
    # The same verb and one of two nouns: (1 + 1/2) / 2. Another verb and the same two nouns: 1/2.
    assert relevance[:, 0].tolist() == [1.0, 0.75, 0.5, 0.0, 1.0]
    assert relevance[:, 1].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert relevance.dtype == torch.float64


def test_relevance_of_more_clips_than_are_compared_at_once():
    clips = [({at % VERBS}, {at % NOUNS, (at // 7) % NOUNS}) for at in range(300)]
    relevance = graded(clips, [299, 255, 256]).relevance()
    assert relevance.shape == (300, 3)
    for at in (0, 255, 256, 299):
        expected = [reference.relevance(clips[at], clips[of]) for of in (299, 255, 256)]
        assert relevance[at].tolist() == pytest.approx(expected, abs=1e-15)


@given(clips_and_owners(), st.sampled_from([0.0, 0.1, 0.5, 0.75]), st.booleans())
def test_pool_holds_the_named_media_that_are_relevant_enough(
    drawn: tuple[list[Classes], list[int]], above: float, labelled: bool
):
    clips, owner = drawn
    labels = [min(nouns) for _, nouns in clips] if labelled else None
    pool = graded(clips, owner).pool(above, labels)
    for at, clip in enumerate(clips):
        key = pool.key[at]
        lent = pool.positions[pool.starts[key] : pool.starts[key + 1]].tolist()
        expected = [
            other
            for other in owner
            if reference.relevance(clip, clips[other]) > above and (labels is None or labels[at] == labels[other])
        ]
        if expected:
            assert lent == expected
        else:  # nobody's caption fits: its own, or that of a clip with the very same classes
            assert len(lent) == 1
            assert clips[lent[0]] == clip


def test_draw_reaches_every_caption_of_the_pool_and_no_other():
    pool = graded(CLIPS, [0, 1, 3]).pool(above=0.6)
    media = np.array([0, 0, 0, 3, 3])
    assert pool.draw(media, np.array([0.0, 0.49, 0.51, 0.0, np.nextafter(1, 0)])).tolist() == [0, 0, 1, 3, 3]


def test_pool_of_one_label_keeps_captions_within_it():
    texts = graded(CLIPS, [0, 1, 2])
    first = np.zeros(1, dtype=np.int64)
    everything = {int(texts.pool(0.1).draw(first, np.array([u]))[0]) for u in (0.0, 0.4, 0.9)}
    assert everything == {0, 1, 2}
    within = {int(texts.pool(0.1, ["a", "b", "a", "a", "a"]).draw(first, np.array([u]))[0]) for u in (0.0, 0.4, 0.9)}
    assert within == {0, 2}


def test_without_drops_only_texts_that_nothing_left_fully_fits():
    texts = graded(CLIPS, [0, 1, 3])
    left = texts.without([0, 3])  # clip 4 has the classes of clip 0; nothing has those of clip 3
    assert left.captions == ("t0", "t1")
    assert left.owner.tolist() == [2, 0]  # of the clips 1, 2 and 4
    torch.testing.assert_close(left.relevance(), texts.relevance()[[1, 2, 4]][:, :2], rtol=0, atol=0)


@given(clips_and_owners(), st.data())
def test_without_keeps_the_relevance_of_what_is_left(drawn: tuple[list[Classes], list[int]], data: st.DataObject):
    clips, owner = drawn
    dropped = data.draw(st.sets(st.integers(0, len(clips) - 1), max_size=len(clips) - 1))
    texts = graded(clips, owner)
    left = texts.without(np.array(sorted(dropped), dtype=np.int64))
    kept = [at for at in range(len(clips)) if at not in dropped]
    fits = [at for at, of in enumerate(owner) if any(clips[other] == clips[of] for other in kept)]
    assert left.captions == tuple(f"t{at}" for at in fits)
    assert [clips[kept[at]] for at in left.owner.tolist()] == [clips[owner[at]] for at in fits]
    torch.testing.assert_close(left.relevance(), texts.relevance()[kept][:, fits], rtol=0, atol=0)
