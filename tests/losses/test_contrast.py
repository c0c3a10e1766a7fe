"""SogCLR's loss in tiles against its plain twin (which the objectives' tests hold against loops)."""

import math

import pytest
import torch
from loss_cases import embeddings, loss_and_gradients, some_positives, values
from torch import Tensor

from benchmarks.measure import peak_memory
from mmts.errors import InputError
from mmts.losses.contrast import Contrast, contrast
from mmts.losses.fused import tiles


def beyond(log_sums: Tensor) -> Tensor:
    """As a moving sum would: what was there before, and some of the new."""
    return torch.logaddexp(log_sums + math.log(0.3), torch.linspace(-3, 1, log_sums.shape[1]).to(log_sums))


def both(B: int, positives: Tensor | None, dtype: torch.dtype = torch.float64) -> list[tuple[Contrast, list[Tensor]]]:
    x, y = embeddings(B, dtype=dtype)
    tau = values(B).detach().to(torch.promote_types(dtype, torch.float32))
    options = {
        "log_added": torch.linspace(-4, 0, 2 * B).view(2, B),
        "lowered": torch.linspace(-0.1, 0.2, 2 * B).view(2, B),
        "candidate_bias": torch.linspace(2, 0, 2 * B).view(2, B),
        "log_received": torch.linspace(-1, -3, 2 * B).view(2, B),
        "positives": positives,
    }
    found = [contrast(x, y, (tau, tau[0]), beyond, fused=fused, **options) for fused in (True, False)]
    return [(each, loss_and_gradients(each.loss, x, y)) for each in found]


@pytest.mark.parametrize("B", [1, 3, 8, 11])  # one pair, less than a tile, whole tiles, a ragged edge
@pytest.mark.parametrize("some", [False, True])
def test_equals_its_plain_twin_in_all_it_tells(B: int, some: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 4)
    (fused, gradients), (plain, wanted) = both(B, some_positives(B) if some else None)
    torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(tuple(fused[1:]), tuple(plain[1:]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_other_dtypes(dtype: torch.dtype, near: float) -> None:
    (fused, gradients), (plain, wanted) = both(40, some_positives(40), dtype)
    assert fused.loss.dtype == plain.loss.dtype == torch.float32
    for found, each in zip(gradients, wanted, strict=True):
        assert found.dtype == each.dtype
        assert (found - each).abs().max() <= near * each.abs().max()


def test_the_smallest_temperatures_neither_over_nor_underflow() -> None:
    x, y = embeddings(12, dtype=torch.float32)
    for towards in (y, -y):  # all others far below the own pair, or far above
        found = [contrast(x, towards, (torch.tensor(0.002),) * 2, fused=fused) for fused in (True, False)]
        for each in found:
            torch.testing.assert_close(each.weight, torch.ones(2, 12), rtol=0, atol=1e-3)  # d is up to 1,000
        torch.testing.assert_close(found[0].log_sum, found[1].log_sum, rtol=1e-5, atol=1e-3)


def test_double_backward_is_refused() -> None:
    x, y = embeddings()
    found = contrast(x, y, (torch.tensor(0.1),) * 2, fused=True)
    with pytest.raises(InputError, match=r"fused contrast has first derivatives only.*fused=False"):
        torch.autograd.grad(found.loss, x, create_graph=True)


def test_large_batches_go_by_tiles_and_hold_no_matrix() -> None:
    B = 4096
    x = torch.randn(B, 8, requires_grad=True)

    def step() -> None:
        contrast(x, x.flip(0), (torch.tensor(0.1),) * 2).loss.backward()

    assert tiles.TILES_FROM["contrast"] <= B
    assert peak_memory(step) < 30 < B * B * 4 / 2**20  # MiB
