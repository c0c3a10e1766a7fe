"""MMTSLoss: the published rule at every step, its defaults, and errors for what cannot be right."""

import pytest
import reference
import torch
from torch import Tensor

import mmts.drop_in
from mmts import MMTSLoss
from mmts.errors import InputError

STEPS = 40
COUNTS = torch.tensor([1, 500, 20, 20, 499, 3])


def embeddings(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    y = x + torch.randn(6, 8, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


@pytest.mark.parametrize(
    ("kind", "twin", "alpha", "low", "high"),
    [("info_nce", reference.info_nce, 0.08, 0.05, 0.20), ("max_margin", reference.max_margin, 0.2, 0.17, 0.30)],
)
def test_the_defaults_are_the_published_rule_at_every_step(kind, twin, alpha, low, high) -> None:  # type: ignore[no-untyped-def]
    loss = MMTSLoss(kind, total_steps=STEPS, count_range=(1, 500))
    for step in range(STEPS + 1):
        x, y = embeddings(step)
        values = reference.mmts_values(step / STEPS, COUNTS.tolist(), 1, 500, alpha, 5, low, high)
        ours, wanted = loss(x, y, step=step, counts=COUNTS), twin(x, y, torch.tensor(values, dtype=torch.float64))
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
        for mine, theirs in zip(torch.autograd.grad(ours, (x, y)), torch.autograd.grad(wanted, (x, y)), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_takes_its_settings_and_positives() -> None:
    loss = MMTSLoss("info_nce", 100, alpha=0.065, cycles=3, low=0.0425, high=0.0675, count_range=(1, 500))
    values = reference.mmts_values(0.5, COUNTS.tolist(), 1, 500, 0.065, 3, 0.0425, 0.0675)
    torch.testing.assert_close(loss.values(step=50, counts=COUNTS), torch.tensor(values, dtype=torch.float64))
    x, y = embeddings(0)
    everything = torch.ones(6, 6, dtype=torch.bool)
    assert loss(x, y, step=50.5, counts=COUNTS.float(), positives=everything).item() == 0


def test_label_smoothing_is_that_of_info_nce() -> None:
    x, y = embeddings(0)
    loss = MMTSLoss("info_nce", total_steps=STEPS, count_range=(1, 500), label_smoothing=0.1)
    wanted = reference.info_nce(x, y, loss.values(step=7, counts=COUNTS), label_smoothing=0.1)
    torch.testing.assert_close(loss(x, y, step=7, counts=COUNTS), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["info_nce", "max_margin"])
def test_low_above_high_is_the_reverse_rule(kind) -> None:  # type: ignore[no-untyped-def]
    loss = MMTSLoss(kind, 100, alpha=0.06, low=0.2, high=0.05, count_range=(1, 500))
    for step in (0, 13, 50):
        values = reference.mmts_values(step / 100, COUNTS.tolist(), 1, 500, 0.06, 5, 0.2, 0.05)
        torch.testing.assert_close(loss.values(step=step, counts=COUNTS), torch.tensor(values, dtype=torch.float64))
    assert loss.values(step=0, counts=COUNTS).argmax() == COUNTS.argmin()
    assert torch.isfinite(loss(*embeddings(0), step=0, counts=COUNTS))


def test_equal_concept_sizes_sit_in_the_middle() -> None:
    loss = MMTSLoss("info_nce", total_steps=10, alpha=0.0, low=0.1, high=0.3, count_range=(7, 7))
    assert loss.values(step=3, counts=torch.tensor([7, 7])).tolist() == pytest.approx([0.2, 0.2])


def test_one_sample_costs_nothing_and_float32_embeddings_give_float32() -> None:
    loss = MMTSLoss("max_margin", total_steps=10, count_range=(1, 500))
    x = torch.randn(1, 4)
    result = loss(x, x, step=0, counts=COUNTS[:1])
    assert result.item() == 0
    assert result.dtype == torch.float32


def test_the_package_resolves_this_name_and_no_other() -> None:
    assert mmts.MMTSLoss is mmts.drop_in.MMTSLoss
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = mmts.Nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "triplet"}, "kind is 'triplet'; it must be one of info_nce, max_margin"),
        ({"total_steps": None}, "total_steps is None"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"count_range": None}, "count_range is None; give"),
        ({"count_range": (5, 1)}, "n_min <= n_max"),
        ({"count_range": (0, 1)}, "0 < n_min"),
        ({"alpha": -0.1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"low": float("nan")}, "low nan and high 0.2 must be finite"),
        ({"high": float("inf")}, "low 0.05 and high inf must be finite"),
        ({"alpha": 0.2, "low": 0.3, "high": 0.05}, "alpha/2 must stay below high: lower alpha or raise high"),
        ({"alpha": 0.2, "low": 0.05}, "swing falls to -0.1 and the smallest shift is 0.05"),
        ({"alpha": 0.1, "low": 0.05}, "alpha/2 must stay below low"),
        ({"cycles": -1}, "cycles"),
        ({"label_smoothing": 1.5}, r"label_smoothing is 1.5; it must lie in \[0, 1\]"),
        ({"kind": "max_margin", "label_smoothing": 0.1}, "max_margin takes no label_smoothing"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MMTSLoss(**{"total_steps": 100, "count_range": (1, 500)} | arguments)


@pytest.mark.parametrize(
    ("step", "counts", "message"),
    [
        (-1, COUNTS, r"step is -1; it must lie in \[0, 40\]"),
        (41, COUNTS, "step is 41"),
        (float("nan"), COUNTS, "step is nan"),
        (0, COUNTS + 1, r"counts\[1\] is 501; it must lie in count_range \[1, 500\]"),
        (0, COUNTS - 1, r"counts\[0\] is 0"),
        (0, torch.tensor([1.0, float("nan")]), r"counts\[1\] is nan"),
        (0, torch.tensor(5), r"counts is \(\)"),
        (0, COUNTS[:3], "counts has 3 rows and x has 6"),
    ],
)
def test_a_step_or_count_outside_its_range_is_an_error(step, counts, message: str) -> None:  # type: ignore[no-untyped-def]
    loss = MMTSLoss("info_nce", total_steps=STEPS, count_range=(1, 500))
    x, y = embeddings(0)
    with pytest.raises(InputError, match=message):
        loss(x, y, step=step, counts=counts)
