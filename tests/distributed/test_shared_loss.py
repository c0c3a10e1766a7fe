"""The loss that several processes share, by itself: what fails on one fails on all, and what gradients it has."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from distributed.together import together
from torch import Tensor, distributed, nn

from mmts.distributed.processes import process_index
from mmts.distributed.shared_loss import shared_loss
from mmts.errors import InputError
from mmts.losses import max_margin
from mmts.objectives import Objective, ObjectiveOutput, Pairs

SIZES = [3, 5]


def as_one_of_two(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run in a process that has joined the other; return what it gives, or what it raised."""
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    try:
        return function(*arguments)
    except InputError as error:
        return str(error)


def embeddings(B: int = 8, D: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, B, D, generator=generator, dtype=torch.float64)
    return x.to(dtype).requires_grad_(), (x + 0.5 * y).to(dtype).requires_grad_()


def own(*several: Tensor, sizes: list[int] = SIZES) -> list[Tensor]:
    start = sum(sizes[: process_index()])
    return [each.detach()[start : start + sizes[process_index()]].requires_grad_() for each in several]


BATCH: dict[str, Any] = {"progress": 0.0, "index": torch.arange(8)}
MANY = BATCH | {"index": torch.arange(256)}


class Margins(Objective):
    splits_queries = True

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        return ObjectiveOutput(max_margin(x, y, 0.5, queries=pairs.queries), {})


class Failing(Margins):
    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        if pairs.queries.start:
            raise InputError("temperature[4] is nan")
        return super().compute(x, y, pairs)


def fail_on_one() -> Tensor:
    return shared_loss(Failing(), *own(*embeddings()), SIZES, **BATCH).loss


def test_where_one_process_fails_all_raise_what_it_did() -> None:
    assert together(2, as_one_of_two, fail_on_one) == ["temperature[4] is nan"] * 2


class Reaching(Margins):
    """Trains `bias` by the loss of the second process's queries alone."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.unused = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        output = super().compute(x, y, pairs)
        return ObjectiveOutput(output.loss + self.bias**2, {}) if pairs.queries.start else output


def train_what_one_reaches() -> list[Any]:
    objective = Reaching()
    output = shared_loss(objective, *own(*embeddings()), SIZES, **BATCH)
    output.loss.backward()
    return [output.loss.item(), objective.bias.grad, objective.unused.grad]


def test_a_parameter_that_one_process_reaches_has_its_gradient_on_all() -> None:
    wanted = Margins()(*embeddings(), **BATCH).loss.item() + 4.0
    for loss, gradient, none in together(2, as_one_of_two, train_what_one_reaches):
        assert loss == pytest.approx(wanted, rel=1e-12)
        assert (gradient, none) == (torch.tensor(4.0), None)


def scaled_gradients() -> Tensor:
    x, y = own(*embeddings(256, 32, torch.float16), sizes=[100, 156])
    (shared_loss(Margins(), x, y, [100, 156], **MANY).loss * 2**14).backward()
    assert x.grad is not None
    return x.grad / 2


def test_half_precision_is_scaled_up_before_it_is_rounded() -> None:
    x, y = (each.detach().requires_grad_() for each in embeddings(256, 32, torch.float16))
    (Margins()(x, y, **MANY).loss * 2**14).backward()
    assert x.grad is not None
    found = torch.cat(together(2, as_one_of_two, scaled_gradients))
    assert found.dtype == torch.float16
    assert (found - x.grad).norm() <= 2e-3 * x.grad.norm()


class Weighted(Margins):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        return ObjectiveOutput(super().compute(x, y, pairs).loss * self.weight, {})


def without_gradients() -> list[float]:
    inputs, objective, losses = own(*embeddings()), Weighted(), []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            loss = shared_loss(objective, *inputs, SIZES, **BATCH).loss
            assert not loss.requires_grad
            losses.append(loss.item())
    return losses


def test_the_loss_alone_needs_no_gradients() -> None:
    wanted = Margins()(*embeddings(), **BATCH).loss.item()
    for found in together(2, as_one_of_two, without_gradients):
        assert found == pytest.approx([wanted, wanted], rel=1e-12)


def differentiate_twice() -> None:
    x, y = own(*embeddings())
    torch.autograd.grad(shared_loss(Margins(), x, y, SIZES, **BATCH).loss, x, create_graph=True)


def test_second_derivatives_are_refused() -> None:
    for said in together(2, as_one_of_two, differentiate_twice):
        assert "several processes has first derivatives only" in said


def have_nothing() -> Tensor:
    return shared_loss(Margins(), *own(*embeddings(), sizes=[8, 0]), [8, 0], **BATCH).loss


def test_a_process_without_a_pair_is_named_on_all() -> None:
    for said in together(2, as_one_of_two, have_nothing):
        assert said.startswith("process 1 has no pair of the batch")
