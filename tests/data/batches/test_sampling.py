"""Which pairs an epoch shows: weights by the size of a concept, draws with low variance, and the plans of them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests_support import captioned_split
from torch import Tensor

from mmts.data.batches.epoch_plan import EpochPlan, Positions, stream_order
from mmts.data.batches.loader import FeatureRows, Pixels, make_loader
from mmts.data.batches.sampling import (
    ConceptAware,
    Sampling,
    choose_diverse,
    copy_numbers,
    draw_counts,
    repeat_factors,
    repeated,
    size_weights,
)
from mmts.data.graded import CaptionPool
from mmts.data.media.image import Augmentation
from mmts.data.records import Medium
from mmts.errors import InputError

SIZES = np.array([60, 30, 9, 1])
LABELS = np.repeat(np.arange(4), SIZES)
COUNTS = SIZES[LABELS]
weights_of_media = st.lists(st.sampled_from([0.01, 0.3, 1.0, 2.0, 17.0]), min_size=1, max_size=60)


def plan_of(weights: npt.ArrayLike, owner: Tensor | None = None, batch_size: int = 10, **options) -> EpochPlan:
    weights = np.asarray(weights, dtype=np.float64)
    owner = torch.arange(len(weights)) if owner is None else owner
    sampling = Sampling(weights, options.pop("applies", lambda epoch, num_batches: True), options.pop("cabs", None))
    return EpochPlan(owner, int(owner.max()) + 1, batch_size, seed=0, sampling=sampling, **options)


def shown(batches: list[Positions], what: str = "index") -> Tensor:
    return torch.cat([getattr(batch, what) for batch in batches])


# --- the maths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "cap"), [(1, None), (0.5, None), (0, None), (1, 20), (0.5, 9)])
def test_weights_by_size_equal_their_twin(power: float, cap: int | None) -> None:
    expected = [reference.size_weight(int(n), power, cap) for n in COUNTS]
    np.testing.assert_allclose(size_weights(COUNTS, power, cap), expected, rtol=1e-12)


def test_repeat_factors_equal_their_twin() -> None:
    expected = [reference.repeat_factor(n / 100, 0.25) for n in COUNTS]
    np.testing.assert_allclose(repeat_factors(COUNTS, 0.25), expected, rtol=1e-12)
    assert expected[0] == expected[60] == 1
    assert expected[-1] == 5


@given(weights_of_media, st.integers(0, 5))
def test_every_medium_comes_about_as_often_as_expected(weights: list[float], seed: int) -> None:
    w = np.array(weights)
    counts, expected = draw_counts(w, np.random.default_rng(seed)), w / w.sum() * len(w)
    assert counts.sum() == len(w)
    assert (np.abs(counts - expected) < 1 + 1e-9).all()
    for one in set(weights):  # the share of a weight, such as that of a concept, hardly varies either
        assert abs(counts[w == one].sum() - expected[w == one].sum()) < 1 + 1e-9


def test_draws_equal_their_twin() -> None:
    w = np.array([3.0, 0.5, 1.0, 2.5, 0.5, 1.5])  # equal weights are exchanged at random: compare what they sum to
    rng = np.random.default_rng(4)
    counts = draw_counts(w, np.random.default_rng(4))
    order = rng.permutation(6)
    order = sorted(order.tolist(), key=lambda at: w[at])
    assert counts[order].tolist() == reference.systematic_counts(w[order].tolist(), rng.random())


def test_over_many_epochs_the_mean_is_exactly_what_is_expected() -> None:
    w = size_weights(COUNTS, power=0.5)
    rng = np.random.default_rng(0)
    mean = np.mean([draw_counts(w, rng) for _ in range(4000)], axis=0)
    expected = w / w.sum() * 100
    # A count is one of two neighbors, so its variance is that of a coin.
    spread = np.sqrt((expected % 1) * (1 - expected % 1) / 4000)
    assert (np.abs(mean - expected) < 4.5 * spread + 1e-9).all()


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_copies_are_an_equal_part_of_the_epoch_apart(counts: list[int], random) -> None:
    order = list(range(len(counts)))
    random.shuffle(order)
    result = repeated(np.array(order), np.array(counts)).tolist()
    assert [result.count(medium) for medium in range(len(counts))] == counts
    once = [medium for medium in result if counts[medium] == 1]
    assert once == [medium for medium in order if counts[medium] == 1]


def test_no_batch_holds_many_copies_of_one_medium() -> None:
    counts = np.ones(96, dtype=np.int64)
    counts[5] = 4
    places = np.flatnonzero(repeated(np.random.default_rng(0).permutation(96), counts) == 5)
    assert np.diff(places).tolist() == pytest.approx([24, 24, 24], abs=2)


sets_of_concepts = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4, unique=True), min_size=1, max_size=40)


def table(sets: list[list[int]]) -> npt.NDArray[np.int64]:
    longest = max(map(len, sets))
    return np.array([each + [-1] * (longest - len(each)) for each in sets])


@given(sets_of_concepts, st.integers(1, 40), st.sampled_from([None, 1, 3]))
def test_cabs_equals_its_twin(sets: list[list[int]], batch_size: int, most: int | None) -> None:
    batch_size = min(batch_size, len(sets))
    chosen = choose_diverse(table(sets), batch_size, most)
    assert chosen.tolist() == reference.cabs(sets, batch_size, most or np.inf)


def test_cabs_with_one_concept_per_pair_takes_of_each_what_is_there_up_to_its_share() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [60, 30, 9, 1]))
    chosen = choose_diverse(labels[:, None], 40)
    seen = np.bincount(labels[chosen])
    assert seen[2:].tolist() == [9, 1]
    assert min(seen[:2]) >= 10
    # With a limit the others fill the batch only once all are full.
    assert np.bincount(labels[choose_diverse(labels[:, None], 25, most=8)]).tolist() == [8, 8, 8, 1]
    assert np.bincount(labels[choose_diverse(labels[:, None], 20, most=2)])[3] == 1


# --- the plan --------------------------------------------------------------------------------------------------------


def test_power_0_shows_every_concept_alike() -> None:
    plan = plan_of(size_weights(COUNTS, power=0), batch_size=100)
    for epoch in range(5):
        assert np.bincount(LABELS[shown(plan.batches(epoch))]).tolist() == [25, 25, 25, 25]


def test_a_cap_shows_a_concept_as_if_it_had_so_many() -> None:
    plan = plan_of(size_weights(COUNTS, cap=10), batch_size=100)
    expected = np.array([10, 10, 9, 1]) / 30 * 100
    assert (np.abs(np.bincount(LABELS[shown(plan.batches(0))]) - expected) < 1).all()


@pytest.mark.parametrize("in_shards", [False, True])
def test_power_1_and_epochs_without_sampling_are_as_the_data_are(in_shards: bool) -> None:
    owner = torch.from_numpy(np.repeat(np.arange(50), 2))
    order = (lambda epoch, *part: stream_order([20, 30], 0, epoch, 8, *part)) if in_shards else None
    even = plan_of(size_weights(COUNTS, power=1), owner, order=order)
    late = plan_of(size_weights(COUNTS, power=0), owner, order=order, applies=lambda epoch, num_batches: epoch > 2)
    plain = EpochPlan(owner, 50, 10, seed=0, order=order)
    for plan in (even, late):
        for sampled, batch in zip(plan.batches(2), plain.batches(2), strict=True):
            assert torch.equal(sampled.media, batch.media)
            assert torch.equal(sampled.index, batch.index)
    assert not torch.equal(shown(late.batches(3)), shown(plain.batches(3)))


def test_an_epoch_keeps_its_length_and_depends_on_seed_and_epoch_alone() -> None:
    plan, again = plan_of(size_weights(COUNTS, power=0), batch_size=30), plan_of(size_weights(COUNTS, 0), batch_size=30)
    assert [len(batch.index) for batch in plan.batches(0)] == [30] * 3
    plan.batches(1)
    assert torch.equal(shown(plan.batches(7)), shown(again.batches(7)))
    assert not torch.equal(shown(plan.batches(7)), shown(plan.batches(8)))


def test_a_caption_is_drawn_by_its_weight_and_a_medium_by_the_mean() -> None:
    owner, weights = torch.tensor([0, 0, 1, 2]), [1.0, 3.0, 1.0, 3.0]
    plan = plan_of(weights, owner, batch_size=3)
    drawn = np.bincount(torch.cat([shown(plan.batches(epoch)) for epoch in range(2000)]), minlength=4) / 2000
    # Media come 1, .5 and 1.5 times in an epoch of 3; the captions of medium 0 share its one place as 1 to 3.
    np.testing.assert_allclose(drawn, [0.25, 0.75, 0.5, 1.5], atol=0.05)


def test_media_in_shards_keep_nearly_their_order() -> None:
    order = stream_order([50, 50], 0, 0, buffer=1)
    media = shown(
        plan_of(size_weights(COUNTS, power=0.5), order=lambda epoch, start, stop: order[start:stop]).batches(0), "media"
    ).numpy()
    once = [at for at in media.tolist() if (media == at).sum() == 1]
    assert len(once) > 20
    assert once == [at for at in order.tolist() if at in once]


def test_a_caption_of_another_medium_is_drawn_as_without_sampling() -> None:
    pool = CaptionPool(key=np.zeros(100, dtype=np.int64), starts=np.array([0, 2]), positions=np.array([3, 70]))
    plan = plan_of(size_weights(COUNTS, power=0), pool=pool, batch_size=100)
    (batch,) = plan.batches(0)
    assert np.bincount(LABELS[batch.index]).tolist() == [25, 25, 25, 25]
    assert set(batch.text.tolist()) == {3, 70}
    assert 30 < (batch.text == 3).sum() < 70


@pytest.mark.parametrize("power", [1, 0])
def test_batches_by_cabs_are_chosen_from_super_batches_of_what_is_drawn(power: float) -> None:
    owner, weights = torch.from_numpy(np.repeat(np.arange(50), 2)), size_weights(COUNTS, power)
    candidates = plan_of(weights, owner, batch_size=50)
    plan = plan_of(weights, owner, batch_size=10, cabs=ConceptAware(0.6, np.arange(101), LABELS))
    # Five batches of 10 come from five super-batches of 25, in three passes: of epoch 1, the passes 3, 4 and 5.
    drawn = torch.cat([shown(candidates.batches(at)) for at in (3, 4, 5)])
    batches = plan.batches(1)
    assert len(batches) == 5
    for at, batch in enumerate(batches):
        pairs = drawn[25 * at : 25 * at + 25]
        assert torch.equal(batch.index, pairs[reference.cabs([[each] for each in LABELS[pairs].tolist()], 10)])
        assert torch.equal(batch.media, owner[batch.index])


def test_cabs_with_several_concepts_per_pair() -> None:
    sets = [sorted({at % 7, at % 3}) for at in range(60)]
    offsets, ids = np.cumsum([0, *map(len, sets)]), np.concatenate(sets)
    plan = plan_of(np.ones(60), batch_size=6, cabs=ConceptAware(0.5, offsets, ids))
    drawn = torch.cat([shown(EpochPlan(torch.arange(60), 60, 60, seed=0).batches(at)) for at in (0, 1)])
    first, second = plan.batches(0)[:2]
    for batch, pairs in ((first, drawn[:12]), (second, drawn[12:24])):
        assert torch.equal(batch.index, pairs[reference.cabs([sets[at] for at in pairs.tolist()], 6)])


def test_a_super_batch_of_more_than_the_media_is_refused() -> None:
    plan = plan_of(np.ones(40), cabs=ConceptAware(0.8, np.arange(41), np.zeros(40, dtype=np.int64)))
    with pytest.raises(InputError, match=r"filter 0\.8 chooses a batch of 10 among 50 pairs, and there are 40 media"):
        plan.batches(0)


# --- loading ---------------------------------------------------------------------------------------------------------


def test_processes_and_a_resumed_epoch_see_the_same_sampled_batches() -> None:
    split = captioned_split([[f"{i}"] for i in range(100)], "train")
    plan, rows = plan_of(size_weights(COUNTS, power=0)), FeatureRows(np.arange(100, dtype=np.float32)[:, None])
    whole = list(make_loader(split, plan, rows, rows, epoch=1))
    parts = [list(make_loader(split, plan, rows, rows, 1, first_batch=4, process=(k, 2))) for k in range(2)]
    assert len(whole) == 10
    for at, batch in enumerate(whole[4:]):
        assert torch.equal(torch.cat([part[at].media for part in parts]), batch.media)
        assert all(torch.equal(part[at].index, batch.index) for part in parts)
        assert torch.equal(batch.media[:, 0].long(), batch.media_index)


@pytest.mark.parametrize("workers", [0, 2])
def test_copies_of_an_image_are_changed_differently(tmp_path: Path, workers: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "0.png")
    split = captioned_split([["a"], ["b"], ["c"], ["d"]], "train")
    split.media = tuple(Medium(medium.id, tmp_path / "0.png", medium.captions) for medium in split.media)
    images = Pixels(split.media, 8, augmentation=Augmentation(), seed=3)
    plan, text = plan_of([1.0, 1e-9, 1e-9, 1e-9], batch_size=2), FeatureRows(np.zeros((4, 1), np.float32))
    batches = list(make_loader(split, plan, images, text, epoch=0, workers=workers))
    assert shown(plan.batches(0), "media").tolist() == [0, 0, 0, 0]
    pixels = torch.cat([batch.media for batch in batches])
    assert len(torch.unique(pixels, dim=0)) == 4
    assert torch.equal(pixels[0], images([0], 0)[0])
    (resumed,) = make_loader(split, plan, images, text, epoch=0, first_batch=1, workers=workers)
    assert torch.equal(resumed.media, pixels[2:])


def test_copies_are_numbered_in_the_order_of_the_epoch() -> None:
    media = np.random.default_rng(0).integers(0, 5, 40)
    assert copy_numbers(media).tolist() == [media[:at].tolist().count(medium) for at, medium in enumerate(media)]
