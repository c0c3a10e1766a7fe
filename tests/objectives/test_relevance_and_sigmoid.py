"""SMS, SigLIP, and the newer options of InfoNCE and MaxMargin: what reaches the loss, is logged, trained and saved."""

from copy import deepcopy

import pytest
import reference
import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.objectives import SMS, DecoupledInfoNCE, InfoNCE, MaxMargin, MultiPositiveInfoNCE, Objective, SigLIP
from mmts.policies import Fixed, Learned, Scheduled, Shifted
from mmts.schedules import Constant, Cosine

COUNTS = [1.0, 500.0, 20.0, 20.0, 499.0, 3.0]
INDEX = torch.tensor([5, 0, 1, 3, 2, 4])
POSITIVES = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)) < 0.3
RELEVANCE = (torch.randint(0, 5, (6, 6), generator=torch.Generator().manual_seed(1)).double() / 4).fill_diagonal_(1.0)


def embeddings(seed: int, B: int = 6, D: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    y = x + torch.randn(B, D, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


@pytest.mark.parametrize("step", [0, 3, 10])
def test_sms_with_an_mmts_margin(step: int) -> None:
    alpha, low, high = 0.2, 0.5, 0.7
    shift = torch.tensor(reference.shift(COUNTS, low, high), dtype=torch.float64)
    objective = SMS(Shifted(Cosine(-alpha / 2, alpha / 2, cycles=5), shift))
    x, y = embeddings(step)
    output = objective(x, y, progress=step / 40, index=INDEX, relevance=RELEVANCE, positives=POSITIVES)
    margins = reference.mmts_values(step / 40, [COUNTS[i] for i in INDEX], 1, 500, alpha, 5, low, high)
    wanted = reference.sms(x, y, RELEVANCE, torch.tensor(margins, dtype=torch.float64))
    torch.testing.assert_close(output.loss, wanted, rtol=0, atol=1e-12)
    assert output.log["margin"].tolist() == pytest.approx(margins)


def test_sms_on_a_schedule_and_its_widths() -> None:
    x, y = embeddings(0)
    objective = SMS(Scheduled(Cosine(0.2, 0.6, cycles=1)), slack=0.2, eps=0.3)
    for progress, margin in ((0.0, 0.6), (0.25, 0.4), (0.5, 0.2)):
        output = objective(x, y, progress=progress, index=INDEX, relevance=RELEVANCE)
        wanted = reference.sms(x, y, RELEVANCE, torch.tensor(margin, dtype=torch.float64), 0.2, 0.3)
        torch.testing.assert_close(output.loss, wanted)
        assert output.log["margin"].item() == pytest.approx(margin)


def test_max_margin_scaled_by_relevance() -> None:
    x, y = embeddings(1)
    shift = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    objective = MaxMargin(Shifted(Constant(0.0), shift), relevance_scaled=True)
    output = objective(x, y, progress=0.0, index=INDEX, relevance=RELEVANCE, positives=POSITIVES)
    wanted = reference.relevance_margin(x, y, shift[INDEX], RELEVANCE, POSITIVES)
    torch.testing.assert_close(output.loss, wanted)
    assert torch.equal(output.log["margin"], shift[INDEX])


@pytest.mark.parametrize("objective", [SMS(Fixed(0.6)), MaxMargin(Fixed(0.2), relevance_scaled=True)])
def test_without_relevance_they_say_what_is_missing(objective: Objective) -> None:
    x, y = embeddings(2)
    with pytest.raises(InputError, match=r"needs relevance \(B, B\), how relevant each medium is to each text"):
        objective(x, y, progress=0.0, index=INDEX)


@pytest.mark.parametrize("objective", [InfoNCE(Fixed(0.07)), MaxMargin(Fixed(0.2)), SigLIP(Fixed(0.1))])
def test_the_others_do_not_look_at_relevance(objective: Objective) -> None:
    x, y = embeddings(3)
    there = objective(x, y, progress=0.0, index=INDEX, relevance=RELEVANCE).loss
    assert torch.equal(there, objective(x, y, progress=0.0, index=INDEX).loss)


@pytest.mark.parametrize(
    ("objective", "target"), [(DecoupledInfoNCE, "decoupled"), (MultiPositiveInfoNCE, "multi_positive")]
)
def test_the_relatives_of_info_nce_have_its_options(objective: type[InfoNCE], target: str) -> None:
    x, y = embeddings(4)
    options = {"anchor": "media", "label_smoothing": 0.1, "scale_by_temperature": True}
    output = objective(Fixed(0.1), **options)(x, y, progress=0.0, index=INDEX, positives=POSITIVES)  # type: ignore[arg-type]
    tau = torch.tensor(0.1, dtype=torch.float64)
    wanted = reference.info_nce_of_targets(x, y, tau, POSITIVES, **options, **{target: True})  # type: ignore[arg-type]
    torch.testing.assert_close(output.loss, wanted)


def test_siglip_takes_a_policy_and_logs() -> None:
    x, y = embeddings(5)
    shift = torch.linspace(0.1, 0.6, 6, dtype=torch.float64)
    objective = SigLIP(Shifted(Constant(0.0), shift), bias=-3.0)
    output = objective(x, y, progress=0.0, index=INDEX, positives=POSITIVES)
    wanted = reference.siglip(x, y, shift[INDEX], torch.tensor(-3.0), POSITIVES)
    torch.testing.assert_close(output.loss, wanted)
    assert sorted(output.log) == ["bias", "temperature", "weight"]
    assert not any(entry.requires_grad for entry in output.log.values())
    assert output.log["bias"].item() == -3.0


def test_siglips_bias_and_temperature_train_and_continue_identically_from_a_checkpoint() -> None:
    def trained(objective: SigLIP, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
        losses = []
        for step in steps:
            x, y = embeddings(step)
            optimizer.zero_grad()
            output = objective(x, y, progress=0.0, index=INDEX)
            output.loss.backward()
            optimizer.step()
            objective.after_step()
            losses.append(output.loss.item())
        return losses

    first = SigLIP(Learned(start=0.1))
    optimizer = torch.optim.Adam(first.parameters(), lr=0.1)
    trained(first, optimizer, range(3))
    assert sorted(first.state_dict()) == ["bias", "temperature.log_value"]
    assert first.bias.item() != -10.0
    second = SigLIP(Learned(start=0.1))
    second.load_state_dict(first.state_dict())
    resumed = torch.optim.Adam(second.parameters(), lr=0.1)
    resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    assert trained(first, optimizer, range(3, 6)) == trained(second, resumed, range(3, 6))


def test_what_is_logged_does_not_change_with_the_next_step() -> None:
    objective = SigLIP(Fixed(0.1))
    x, y = embeddings(6)
    log = objective(x, y, progress=0.0, index=INDEX).log
    with torch.no_grad():
        objective.bias.fill_(5.0)
    assert log["bias"].item() == -10.0


def test_what_cannot_be_right_is_an_error() -> None:
    with pytest.raises(InputError, match="slack is -1"):
        SMS(Fixed(0.6), slack=-1.0)
    with pytest.raises(InputError, match="eps is inf"):
        SMS(Fixed(0.6), eps=float("inf"))
    with pytest.raises(InputError, match="bias is nan"):
        SigLIP(Fixed(0.1), bias=float("nan"))
    x, y = embeddings(7)
    with pytest.raises(InputError, match=r"relevance\[0, 0\] is 2.0"):
        SMS(Fixed(0.6))(x, y, progress=0.0, index=INDEX, relevance=2 * torch.eye(6))
