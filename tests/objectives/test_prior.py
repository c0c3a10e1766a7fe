"""Logit adjustment in the InfoNCE objectives: the formula, its options, its state, and its way from a recipe."""

import math
from pathlib import Path

import pytest
import reference
import torch
from tests_support import draw_shapes

from mmts.concepts import ConceptDistribution
from mmts.errors import InputError, RecipeError
from mmts.objectives import DecoupledInfoNCE, InfoNCE, MultiPositiveInfoNCE, Prior
from mmts.policies import Fixed
from mmts.recipe.components import RunFacts, build
from mmts.recipe.recipe import Recipe, load_recipe, parse_recipe
from mmts.recipe.tiny import tiny
from mmts.training.checkpoint import load_checkpoint
from mmts.training.run import train

CONCEPTS = ["cup"] * 5 + ["lamp"] * 2 + ["owl"]
SHARES = torch.tensor([5 / 8] * 5 + [2 / 8] * 2 + [1 / 8], dtype=torch.float64)
INDEX = torch.tensor([7, 0, 5, 1, 6])


def objective_of(**prior: object) -> dict[str, object]:
    return {"objective": {"prior": prior}, "train": {"epochs": 1}}


def facts() -> RunFacts:
    concepts = ConceptDistribution.from_labels(CONCEPTS)
    by_label = {"kind": ConceptDistribution.from_labels(["a"] * 6 + ["b"] * 2)}
    return RunFacts(concepts, 8, 8, 4, lambda k: concepts.counts, label_concepts=by_label.__getitem__)


@pytest.mark.parametrize("of", ["all", "negatives"])
@pytest.mark.parametrize("candidates", ["both", "text", "media"])
def test_is_the_formula_in_each_loss(candidates: str, of: str) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 3, dtype=torch.float64)
    positives = torch.eye(5).roll(1, 0) > 0
    prior = Prior(SHARES, 0.7, candidates, of)  # type: ignore[arg-type]
    bias = torch.zeros(2, 5, dtype=torch.float64)  # of texts, then of media
    for k, side in enumerate(("text", "media")):
        for j, row in enumerate(INDEX.tolist()):
            bias[k, j] = -0.7 * math.log(CONCEPTS.count(CONCEPTS[row]) / 8) if candidates in (side, "both") else 0.0
    losses = {InfoNCE: {}, DecoupledInfoNCE: {"decoupled": True}, MultiPositiveInfoNCE: {"multi_positive": True}}
    for objective, twin in losses.items():
        result = objective(Fixed(0.2), prior=prior)(x, y, progress=0.0, index=INDEX, positives=positives)
        wanted = reference.info_nce_of_targets(
            x, y, torch.tensor(0.2), positives, candidate_bias=bias, bias_positives=of == "all", **twin
        )
        torch.testing.assert_close(result.loss, wanted)


def test_cosines_that_fit_the_data_end_where_the_sign_says() -> None:
    # Two concepts of candidates, the frequent one drawn three times in four; a query that fits both equally.
    share = torch.tensor([0.75, 0.75, 0.75, 0.25])
    for strength, favored in ((1.0, "frequent"), (-1.0, "rare")):
        bias = Prior(share, strength)(torch.arange(4))[0]
        s = torch.zeros(4, requires_grad=True)
        for _ in range(200):  # each candidate is right as often as it is drawn
            loss = -(s + bias).log_softmax(0).mean()
            (gradient,) = torch.autograd.grad(loss, s)
            s = (s.detach() - 4 * gradient).requires_grad_()
        difference = (s[0] - s[3]).item()
        assert difference == pytest.approx(strength * math.log(3), abs=1e-3), favored


def test_a_recipe_has_the_shares_of_the_runs_concepts_or_of_a_label() -> None:
    by_concept = build(parse_recipe(objective_of()).objective, facts()).prior
    torch.testing.assert_close(by_concept.bias, -SHARES.log().float())
    by_label = build(parse_recipe(objective_of(by="kind", strength=-0.5, of="negatives")).objective, facts()).prior
    torch.testing.assert_close(by_label.bias, 0.5 * torch.tensor([0.75] * 6 + [0.25] * 2).log())
    assert (by_label.of, by_label.candidates) == ("negatives", "both")


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ({"candidates": "texts"}, "objective.prior.candidates is 'texts'; it must be one of both, text, media"),
        ({"stregth": 1}, "objective.prior: unknown key 'stregth'; did you mean 'strength'"),
        ({"strength": float("inf")}, "objective.prior.strength is inf; it must be a finite number"),
        ({"of": "none"}, "objective.prior.of is 'none'; it must be one of all, negatives"),
    ],
)
def test_what_cannot_be_right_is_an_error_when_the_recipe_is_read(prior: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(objective_of(**prior))


def test_a_prior_that_is_no_section_names_its_first_key() -> None:
    with pytest.raises(RecipeError, match=r"objective.prior is 0.5; it must be a section \{by: ...\}"):
        parse_recipe({"objective": {"prior": 0.5}, "train": {"epochs": 1}})
    assert parse_recipe({"objective": {"prior": None}, "train": {"epochs": 1}}).objective.prior is None  # type: ignore[attr-defined]


def test_wrong_shares_options_and_indices_are_errors() -> None:
    for share in (torch.tensor([0.5, 0.0]), torch.tensor([0.5, 1.5])):
        with pytest.raises(InputError, match=r"Prior: share\[1\] is .*; it must lie in \(0, 1\]"):
            Prior(share)
    for arguments, name in (((float("nan"),), "strength"), ((1.0, "texts"), "candidates"), ((1.0, "both", "x"), "of")):
        with pytest.raises(InputError, match=f"Prior: {name} is"):
            Prior(SHARES, *arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"index\[1\] is 8; it must lie in 0..7"):
        Prior(SHARES)(torch.tensor([0, 8]))


def shapes(folder: Path, prior: str) -> Recipe:
    if not (folder / "data").exists():
        draw_shapes(folder / "data")
    settings = ["train.steps=2", f"objective.prior={prior}"]
    return tiny(load_recipe("from-scratch", settings), settings).with_data(folder / "data")


def test_a_run_trains_with_a_prior_by_a_label_and_keeps_it(tmp_path: Path) -> None:
    recipe = shapes(tmp_path, "{by: shape, candidates: text}")
    train(recipe, tmp_path / "run")
    bias = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["objective"]["prior.bias"]
    assert bias.ndim == 1
    assert (bias > 0).all()


def test_shares_by_the_sizes_of_several_concepts_or_of_larger_data_are_shares_of_the_sum_of_sizes() -> None:
    several = ConceptDistribution.from_labels([["cup", "red"], ["cup"], ["red"]])
    for concepts, share in ((several, 0.5), (ConceptDistribution.from_counts([9, 1, 9]), 0.9)):
        run = RunFacts(concepts, 3, 3, 4, neighbour_counts=torch.ones)
        assert Prior.from_recipe(run).bias[0].item() == pytest.approx(-math.log(share))


def test_an_unknown_label_is_an_error_before_media_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmts.training.run.readable_splits", lambda *_: pytest.fail("media were read"))
    with pytest.raises(RecipeError, match="the data has no label 'shap'; did you mean 'shape'"):
        train(shapes(tmp_path, "{by: shap}"), tmp_path / "run")
