"""Objectives: loss and policy joined; the published rule at every step of a run; what they log."""

import pytest
import reference
import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.objectives import InfoNCE, MaxMargin, Objective, ObjectiveOutput, Pairs, policy_values
from mmts.policies import Fixed, Learned, Policy, Shifted
from mmts.schedules import Constant, Cosine

STEPS = 40
COUNTS = [1.0, 500.0, 20.0, 20.0, 499.0, 3.0]
INDEX = torch.tensor([5, 0, 1, 3, 2, 4])


def embeddings(seed: int, B: int = 6, D: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    y = x + torch.randn(B, D, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


@pytest.mark.parametrize(
    ("objective_class", "twin", "alpha", "low", "high"),
    [(InfoNCE, reference.info_nce, 0.08, 0.05, 0.20), (MaxMargin, reference.max_margin, 0.2, 0.17, 0.30)],
)
def test_equals_the_published_rule_at_every_step_of_a_run(objective_class, twin, alpha, low, high) -> None:  # type: ignore[no-untyped-def]
    shift = torch.tensor(reference.shift(COUNTS, low, high), dtype=torch.float64)
    objective = objective_class(Shifted(Cosine(-alpha / 2, alpha / 2, cycles=5), shift))
    counts = [COUNTS[i] for i in INDEX]
    for step in range(STEPS + 1):
        x, y = embeddings(step)
        output = objective(x, y, progress=step / STEPS, index=INDEX)
        values = reference.mmts_values(step / STEPS, counts, 1, 500, alpha, 5, low, high)
        wanted = twin(x, y, torch.tensor(values, dtype=torch.float64))
        torch.testing.assert_close(output.loss, wanted, rtol=0, atol=1e-12)
        for ours, theirs in zip(
            torch.autograd.grad(output.loss, (x, y)), torch.autograd.grad(wanted, (x, y)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_in_float32_it_stays_within_what_float32_can_hold() -> None:
    # At tau = .01 logits reach 100, where neighbouring float32 numbers lie 8e-6 apart.
    shift = torch.tensor(reference.shift(COUNTS, 0.05, 0.20))
    objective = InfoNCE(Shifted(Cosine(-0.04, 0.04, cycles=5), shift))
    for step in range(STEPS + 1):
        x, y = (t.detach().float() for t in embeddings(step))
        values = reference.mmts_values(step / STEPS, [COUNTS[i] for i in INDEX], 1, 500, 0.08, 5, 0.05, 0.20)
        wanted = reference.info_nce(x, y, torch.tensor(values, dtype=torch.float64))
        loss = objective(x, y, progress=step / STEPS, index=INDEX).loss
        assert loss.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-5)


def test_info_nce_logs_temperature_and_weight() -> None:
    x, y = embeddings(0)
    shift = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    policy = Shifted(Constant(0.0), shift)
    log = InfoNCE(policy)(x, y, progress=0.0, index=INDEX).log
    torch.testing.assert_close(log["temperature"], shift[INDEX])
    assert log["weight"].mean() == pytest.approx(1.0)
    assert not any(entry.requires_grad for entry in InfoNCE(Learned())(x, y, progress=0.0, index=INDEX).log.values())


class PerPair(Policy):
    """A rule on pairs: looks at the similarities and returns (B, B)."""

    uses_similarity = True

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        assert similarity is not None
        assert not similarity.requires_grad
        return 0.1 + 0.05 * similarity.abs()


def test_a_rule_on_pairs_gets_the_detached_similarities() -> None:
    x, y = embeddings(1)
    output = InfoNCE(PerPair())(x, y, progress=0.0, index=INDEX)
    s = torch.stack([torch.stack(row) for row in reference.cosines(x, y)]).detach()
    torch.testing.assert_close(output.log["temperature"], 0.1 + 0.05 * s.abs())
    torch.testing.assert_close(output.loss, reference.info_nce(x, y, 0.1 + 0.05 * s.abs()))
    assert policy_values(PerPair(), x, y, Pairs(0.0, INDEX, slice(0, 6))).shape == (6, 6)


def test_options_reach_the_loss() -> None:
    x, y = embeddings(2)
    positives = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.3
    shift = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    policy = Shifted(Constant(0.0), shift)
    options = {"anchor": "media", "label_smoothing": 0.1, "scale_by_temperature": True}
    output = InfoNCE(policy, **options)(x, y, progress=0.5, index=INDEX, positives=positives)  # type: ignore[arg-type]
    torch.testing.assert_close(output.loss, reference.info_nce(x, y, shift[INDEX], positives, "media", 0.1, True))
    margin = MaxMargin(policy, negatives="hardest", squared=True)
    output = margin(x, y, progress=0.5, index=INDEX, positives=positives)
    torch.testing.assert_close(output.loss, reference.max_margin(x, y, shift[INDEX], positives, "hardest", True))
    assert torch.equal(output.log["margin"], shift[INDEX])


def test_a_learned_temperature_trains_is_clamped_and_saved_with_the_objective() -> None:
    objective = InfoNCE(Learned(start=0.02, low=0.01))
    optimizer = torch.optim.SGD(objective.parameters(), lr=10.0)
    x, _ = embeddings(3)
    for _ in range(3):  # perfect pairs: the colder the better
        optimizer.zero_grad()
        objective(x, x, progress=0.0, index=INDEX).loss.backward()
        with torch.no_grad():
            objective.temperature.log_value.grad += 1.0  # type: ignore[operator]
        optimizer.step()
        objective.after_step()
    assert objective(x, x, progress=0.0, index=INDEX).log["temperature"].item() == pytest.approx(0.01, rel=1e-6)
    assert list(objective.state_dict()) == ["temperature.log_value"]


def test_objectives_are_modules_with_one_call() -> None:
    x, y = embeddings(4)
    for objective in (InfoNCE(Fixed(0.07)), MaxMargin(Fixed(0.2))):
        assert isinstance(objective, Objective)
        output = objective(x, y, progress=1.0, index=INDEX, media_index=INDEX, positives=None)
        assert isinstance(output, ObjectiveOutput)
        assert output.loss.shape == ()
        objective.after_step()


def test_what_cannot_be_right_is_an_error() -> None:
    x, y = embeddings(5)
    with pytest.raises(InputError, match="anchor"):
        InfoNCE(Fixed(0.1), anchor="text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="label_smoothing"):
        InfoNCE(Fixed(0.1), label_smoothing=2.0)
    with pytest.raises(InputError, match="negatives"):
        MaxMargin(Fixed(0.1), negatives="few")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="index has 2 rows and x has 6"):
        InfoNCE(Fixed(0.1))(x, y, progress=0.0, index=torch.tensor([0, 1]))
