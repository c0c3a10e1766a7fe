"""`data.sampling` in a recipe: what it refuses early, when it applies, and what it says that it does."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmts.concepts import ConceptDistribution
from mmts.data.records import Medium, Split
from mmts.errors import DataError, RecipeError
from mmts.recipe.recipe import Recipe, load_recipe
from mmts.recipe.sections import Sampling, Train
from mmts.training import run as runs
from mmts.training.inputs import build_plan
from mmts.training.run import train
from mmts.training.sampling import sampled_epochs

SIZES = {"cup": 60, "lamp": 25, "pot": 15}
KINDS = [kind for kind, size in SIZES.items() for _ in range(size)]
# By color the first 90 media are one concept, and the other 10 another.
MEDIA = [Medium(str(i), Path(f"{i}.png"), (f"a {kind}",), labels={"kind": kind, "color": "red" if i < 90 else "blue"})
         for i, kind in enumerate(KINDS)]  # fmt: skip
TRAIN = Split("train", MEDIA)
CONCEPTS = ConceptDistribution.from_labels(KINDS)


def recipe(*settings: str) -> Recipe:
    return load_recipe("catalogue", ["train.epochs=5", "train.batch_size=100", *settings])


@pytest.mark.parametrize(
    ("sampling", "seen"),
    [
        ("{power: 0}", [33, 33, 33]),
        ("{cap: 15}", [33, 33, 33]),
        ("{cap: 30}", [43, 36, 21]),
        ("{power: .5}", [46, 30, 23]),
        ("{repeat: .6}", [47, 30, 23]),  # weights 1, sqrt(.6 / .25) and 2
        ("{by: color, power: 0}", [33, 14, 53]),
        ("{cabs: {filter: 0}}", [60, 25, 15]),
    ],
)
def test_an_epoch_shows_pairs_as_the_recipe_says(sampling: str, seen: list[int]) -> None:
    (batch,) = build_plan(recipe(f"data.sampling={sampling}"), TRAIN, CONCEPTS).batches(0)
    assert np.bincount(CONCEPTS.labels[batch.index]).tolist() == pytest.approx(seen, abs=1)


def test_batches_by_cabs_hold_concepts_alike_as_far_as_there_are_pairs() -> None:
    # A super-batch of 50 has about 30, 12 and 8 pairs of them, and a batch of 10 takes 3 or 4 of each.
    plan = build_plan(recipe("data.sampling={cabs: {}}", "train.batch_size=10"), TRAIN, CONCEPTS)
    for batch in plan.batches(0):
        assert sorted(np.bincount(CONCEPTS.labels[batch.index]).tolist()) == [3, 3, 4]


def test_of_several_concepts_the_rarest_decides_and_cabs_takes_all() -> None:
    both = [Medium(medium.id, medium.path, medium.captions, labels={"things": [kind, "thing"]})
            for kind, medium in zip(KINDS, MEDIA, strict=True)]  # fmt: skip
    plan = build_plan(recipe("data.sampling={by: things, power: 0, cabs: {}}", "train.batch_size=10"),
                      Split("train", both), CONCEPTS)  # fmt: skip
    assert plan.sampling is not None
    assert plan.sampling.weights[[0, 60, 99]] == pytest.approx([1 / 60, 1 / 25, 1 / 15])
    cabs = plan.sampling.cabs
    assert cabs is not None
    assert cabs.offsets.tolist() == list(range(0, 202, 2))
    assert len(set(cabs.ids.tolist())) == 4


def test_what_it_does_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    build_plan(recipe("data.sampling={power: 0}"), TRAIN, CONCEPTS)
    build_plan(recipe("data.sampling={by: color, repeat: .9, start: .6}"), TRAIN, CONCEPTS)
    build_plan(recipe("data.sampling={power: 0}", "train.epochs=0"), TRAIN, CONCEPTS)
    build_plan(recipe("data.sampling.cabs={filter: .5, most: 9}", "train.batch_size=12"), TRAIN, CONCEPTS)
    assert capsys.readouterr().out.splitlines() == [
        "sampling by concept, power 0: the tail's share of an epoch goes from 15 % to 33 %",
        "sampling by color, repeat 0.9, in epochs 4 to 5: the tail's share of an epoch goes from 10 % to 25 %",
        "sampling by concept, CABS with filter 0.5: the tail's share of an epoch goes from 14.6 % to 28.1 %",
    ]


@pytest.mark.parametrize(
    ("section", "length", "expected"),
    [
        ({}, {"epochs": 5}, range(5)),
        ({"start": 0.8}, {"epochs": 5}, range(4, 5)),
        ({"start": 0.79}, {"epochs": 5}, range(4, 5)),
        ({"end": 0.8}, {"epochs": 5}, range(4)),
        ({"start": 0.3, "end": 0.6}, {"steps": 100}, range(2, 4)),  # epochs begin at 0, .15, ... .9
        ({}, {"steps": 0}, range(0)),
    ],
)
def test_the_epochs_that_begin_within_the_progress(section: dict, length: dict, expected: range) -> None:
    assert sampled_epochs(Sampling(**section), Train(**length), num_batches=15) == expected


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ("{repeat: .1, power: 0}", "repeat takes the place of power and cap; leave them out"),
        ("{repeat: .1, cap: 5}", "repeat takes the place of power and cap; leave them out"),
        ("{start: .5, end: .5}", r"start 0\.5 must be below end 0\.5"),
        ("{cap: 0}", "data.sampling.cap is 0; it must be at least 1"),
        ("{cabs: {filter: 1}}", "data.sampling.cabs.filter is 1; it must be less than 1"),
        ("{repeat: 0}", "data.sampling.repeat is 0; it must be greater than 0"),
        ("{pwr: 0}", "unknown key 'pwr'; did you mean 'power'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(sampling: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(f"data.sampling={sampling}")


def test_what_the_data_do_not_have_is_an_error_before_any_model_is_made(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "build_model", lambda *_: pytest.fail("too late"))
    with pytest.raises(RecipeError, match=r"data\.sampling\.by: the data has no label 'shap'; did you mean 'shape'"):
        train(recipe("data.sampling.by=shap"), tmp_path / "run", data=shapes)
    with pytest.raises(RecipeError, match=r"begin at progress 0\.9 or later and before 1, and none does"):
        train(recipe("data.sampling.start=.9"), tmp_path / "run", data=shapes)
    with pytest.raises(RecipeError, match=r"data\.sampling\.cabs: filter 0\.8 chooses a batch of 35 among 175 pairs"):
        train(recipe("data.sampling.cabs={}"), tmp_path / "run", data=shapes)
    lines = (shapes / "captions.jsonl").read_text().replace('"labels": {"shape": "bar"}', '"labels": {}', 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(shapes / "images")
    (tmp_path / "data" / "captions.jsonl").write_text(lines)
    with pytest.raises(DataError, match=r"medium '1' has no label 'shape', which data\.sampling\.by asks for"):
        train(recipe("data.sampling.by=shape"), tmp_path / "run", data=tmp_path / "data")


def test_with_captions_of_other_media_a_pairs_own_caption_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pools:
        num_media = 100

        def pool(self, above: float, labels: list[int] | None) -> None:
            assert labels == CONCEPTS.labels.tolist()  # of the run, whatever pairs are drawn by

    monkeypatch.setattr(TRAIN, "graded", Pools())
    plan = build_plan(recipe("data.captions=same-concept", "data.sampling={by: color, power: 0}"), TRAIN, CONCEPTS)
    assert torch.bincount((plan.batches(0)[0].index >= 90).long()).tolist() == [50, 50]
