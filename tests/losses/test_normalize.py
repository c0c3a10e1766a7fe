"""Unit vectors: right over all magnitudes, zero vectors harmless."""

import pytest
import reference
import torch
from loss_cases import embeddings

from mmts.losses.normalize import compute_dtype, cosine_similarity, unit


def test_unit_and_cosines_equal_their_loop_twins() -> None:
    x, y = embeddings()
    torch.testing.assert_close(unit(x), torch.stack(reference.unit(x)), rtol=0, atol=1e-14)
    twin = torch.stack([torch.stack(row) for row in reference.cosines(x, y)])
    torch.testing.assert_close(cosine_similarity(x, y), twin, rtol=0, atol=1e-14)


def test_unit_passes_gradcheck() -> None:
    x, _ = embeddings(3, 4)
    assert torch.autograd.gradcheck(unit, x)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_unit_works_on_any_norm_in_float32(scale: float) -> None:
    x = torch.tensor([[3.0, -4.0]]) * scale
    torch.testing.assert_close(unit(x), torch.tensor([[0.6, -0.8]]))


def test_a_zero_vector_stays_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    result = unit(x)
    result.sum().backward()
    assert (result == 0).all()
    assert x.grad is not None
    assert (x.grad.abs() <= 1).all()


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        (torch.bfloat16, torch.float16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_losses_compute_in_float32_at_least(left: torch.dtype, right: torch.dtype, wanted: torch.dtype) -> None:
    x, y = torch.ones(2, 3, dtype=left), torch.ones(2, 3, dtype=right)
    assert compute_dtype(x, y) == cosine_similarity(x, y).dtype == wanted
