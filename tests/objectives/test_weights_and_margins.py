"""Weights of rows by effective numbers, and margins in the softmax, LDAM's among them."""

import pytest
import reference
import torch

from mmts.concepts import ConceptDistribution
from mmts.errors import InputError, RecipeError
from mmts.objectives import InfoNCE, MaxMargin, RowWeights
from mmts.policies import LDAM, Fixed, Learned, Shifted
from mmts.recipe.components import RunFacts, build
from mmts.recipe.recipe import parse_recipe
from mmts.schedules import Cosine

COUNTS = torch.tensor([7, 7, 7, 2, 2, 1])
INDEX = torch.tensor([5, 0, 3, 1])


def sides() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    x, y = torch.randn(2, 4, 3, dtype=torch.float64)
    return x, y


def objective(**options: object) -> object:
    concepts = ConceptDistribution.from_labels(["cup"] * 7 + ["lamp"] * 2 + ["owl"])
    kinds = ConceptDistribution.from_labels(["a"] * 9 + ["b"])
    facts = RunFacts(concepts, 10, 10, 3, lambda k: concepts.counts, label_concepts={"kind": kinds}.__getitem__)
    return build(parse_recipe({"objective": options, "train": {"epochs": 1}}).objective, facts)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9999, 1 - 1e-9])
def test_weights_equal_their_twin_and_are_1_before_the_start(beta: float) -> None:
    weights = RowWeights(COUNTS, beta, start=0.5)
    wanted = torch.tensor(reference.effective_number_weights([float(n) for n in COUNTS], beta))
    torch.testing.assert_close(weights(0.5, torch.arange(6)), wanted, rtol=1e-5, atol=0)
    assert wanted.mean().item() == pytest.approx(1.0)
    assert weights(0.49, INDEX) is None


def test_weights_reach_the_loss_and_the_logged_pull_from_the_start_on() -> None:
    x, y = sides()
    weights = RowWeights(COUNTS, 0.9, start=0.5)
    plain, weighted = InfoNCE(Fixed(0.2)), InfoNCE(Fixed(0.2), weights=weights)
    before, after = (weighted(x, y, progress=p, index=INDEX) for p in (0.4, 0.5))
    unweighted = plain(x, y, progress=0.4, index=INDEX)
    assert before.loss == unweighted.loss
    w = weights.weight[INDEX]
    wanted = reference.info_nce_of_targets(x, y, torch.tensor(0.2), weights=w.double())
    torch.testing.assert_close(after.loss, wanted)
    pull = unweighted.log["weight"] * w
    torch.testing.assert_close(after.log["weight"], pull / pull.mean())
    assert list(weighted.state_dict()) == ["weights.weight"]


def test_ldam_equals_its_twin_and_is_a_margin_of_both_losses() -> None:
    policy = LDAM(COUNTS, 0.3)
    wanted = torch.tensor(reference.ldam([float(n) for n in COUNTS], 0.3))
    torch.testing.assert_close(policy(0.0, torch.arange(6)), wanted)
    x, y = sides()
    margin = policy(0.0, INDEX).double()
    softmax = InfoNCE(Fixed(0.2), margin=policy)(x, y, progress=0.0, index=INDEX)
    torch.testing.assert_close(softmax.loss, reference.info_nce_of_targets(x, y, torch.tensor(0.2), margin=margin))
    assert torch.equal(softmax.log["margin"], policy(0.0, INDEX))
    hinges = MaxMargin(policy)(x, y, progress=0.0, index=INDEX)
    torch.testing.assert_close(hinges.loss, reference.max_margin(x, y, margin))


def test_a_margin_of_one_direction_is_the_published_ldam_loss() -> None:
    # Cao et al.: cross-entropy of s (cos - m at the target), s = 1/tau; here over texts and over media.
    x, y = sides()
    cos = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T
    margin = 0.5 * (1.0 / COUNTS[INDEX].double()) ** 0.25
    target = torch.arange(4)
    logits = 30 * (cos - torch.diag(margin)), 30 * (cos.T - torch.diag(margin))
    wanted = sum(torch.nn.functional.cross_entropy(z, target) for z in logits) / 2
    result = InfoNCE(Fixed(1 / 30), margin=LDAM(COUNTS))(x, y, progress=0.0, index=INDEX)
    torch.testing.assert_close(result.loss, wanted, rtol=1e-6, atol=0)


def test_any_policy_is_a_margin_and_a_learned_one_trains() -> None:
    x, y = sides()
    shifted = Shifted(Cosine(-0.02, 0.02, 1), torch.linspace(0.1, 0.3, 6))
    result = InfoNCE(Fixed(0.2), margin=shifted)(x, y, progress=0.5, index=INDEX)
    torch.testing.assert_close(
        result.loss, reference.info_nce_of_targets(x, y, torch.tensor(0.2), margin=shifted(0.5, INDEX))
    )
    learned = InfoNCE(Fixed(0.2), margin=Learned(0.3))
    learned(x, y, progress=0.0, index=INDEX).loss.backward()
    assert learned.margin.log_value.grad > 0  # type: ignore[union-attr, operator]
    assert set(learned.values(0.0, INDEX)) == {"temperature", "margin"}


def test_recipes_have_them_and_take_concepts_or_a_label() -> None:
    made = objective(margin={"rule": "ldam", "high": 0.4}, weights={"by": "kind", "beta": 0.0, "start": 0})
    assert made.margin(0.0, torch.tensor([9])).item() == pytest.approx(0.4)  # type: ignore[attr-defined]
    assert made.weights.weight.tolist() == [1.0] * 10  # type: ignore[attr-defined]
    weight = objective(weights={}).weights.weight  # type: ignore[attr-defined]
    assert weight[9] == pytest.approx(7 * weight[0].item(), rel=1e-3)
    assert objective(margin=0.1).margin(0.0, INDEX).item() == 0.1  # type: ignore[attr-defined]
    assert objective(margin={"rule": "fixed"}).margin(0.0, INDEX).item() == 0.2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": {"rule": "dystress"}}, r"objective: a batch of two pairs fails: margin is \(2, 2\), one per pair"),
        ({"temperature": {"rule": "temo"}, "scale_by_temperature": True}, "per pair; scale_by_temperature needs one"),
        ({"loss": "sogclr", "temperature": {"rule": "temo"}}, "one per pair; an objective with memory needs one"),
        ({"loss": "nuclr", "temperature": {"rule": "temo"}}, "one per pair; NUCLR needs one per sample"),
        ({"loss": "rince", "q": 1, "temperature": 0.01}, "q is 1 and a temperature is 0.01"),
        ({"margin": {"rule": "ldma"}}, "objective.margin.rule is 'ldma'; did you mean 'ldam'"),
        ({"margin": -0.1}, "objective.margin is -0.1; it must be greater than 0"),
        ({"weights": {"beta": 1}}, "objective.weights.beta is 1; it must be less than 1"),
        ({"weights": {"begin": 1}}, "objective.weights: unknown key 'begin'"),
        ({"temperature": {"rule": "shifted", "scale": "power"}}, "exponent is None and scale is 'power'"),
        ({"temperature": {"rule": "shifted", "exponent": 0.5}}, "with which it must be left out"),
    ],
)
def test_what_cannot_be_right_is_an_error_when_the_recipe_is_read(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({"objective": options, "train": {"epochs": 1}})


def test_wrong_numbers_are_errors() -> None:
    for kind in (RowWeights, LDAM):
        with pytest.raises(InputError, match=rf"{kind.__name__}: counts\[1\] is 0; it must be .*positive"):
            kind(torch.tensor([1, 0]))
        with pytest.raises(InputError, match=rf"{kind.__name__}: counts is \(2, 2\)"):
            kind(torch.ones(2, 2))
    with pytest.raises(InputError, match=r"start is 1\.5"):
        RowWeights(COUNTS, start=1.5)
    with pytest.raises(InputError, match="beta is 1"):
        RowWeights(COUNTS, beta=1.0)
    with pytest.raises(InputError, match="high is 0"):
        LDAM(COUNTS, high=0.0)
