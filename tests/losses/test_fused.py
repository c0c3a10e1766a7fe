"""The fused losses against their plain twins, over options, sizes and dtypes; what they hold in memory and refuse."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_cases import ANCHORS, embeddings, graded, loss_and_gradients, some_positives, values
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measure import peak_memory
from mmts.errors import InputError
from mmts.losses import decoupled_info_nce, info_nce, max_margin
from mmts.losses.contrast import contrast
from mmts.losses.fused import tiles

Loss = Callable[..., Tensor]
TILE = 4
SIZES = (1, 3, 8, 11)  # one pair, less than a tile, whole tiles, a ragged edge
INFO_NCE = [
    {"anchor": anchor, "label_smoothing": smoothing, "scale_by_temperature": scale}
    for anchor, smoothing, scale in itertools.product(ANCHORS, (0.0, 0.1), (False, True))
]
CASES: list[tuple[Loss, dict[str, Any]]] = [
    *((loss, options) for options in INFO_NCE for loss in (info_nce, decoupled_info_nce)),
    *((max_margin, {"squared": squared}) for squared in (False, True)),
]
FEW = [CASES[0], CASES[11], CASES[22], *CASES[-2:]]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", TILE)


def both_ways(loss: Loss, x: Tensor, y: Tensor, value: Tensor, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    fused, plain = (loss_and_gradients(loss(x, y, value, fused=f, **options), x, y, value) for f in (True, False))
    return fused, plain


@pytest.mark.parametrize("B", SIZES)
@pytest.mark.parametrize(("loss", "options"), CASES)
def test_equals_its_plain_twin_in_loss_and_gradient(loss: Loss, options: dict[str, Any], B: int) -> None:
    x, y = embeddings(B)
    for ndim, positives in itertools.product((0, 1), (None, some_positives(B))):
        fused, plain = both_ways(loss, x, y, values(B, ndim), positives=positives, **options)
        torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("loss", "options"), FEW)
def test_passes_gradcheck_over_embeddings_and_values(loss: Loss, options: dict[str, Any]) -> None:
    x, y = embeddings(5, 3, seed=1)
    positives = some_positives(5)
    inputs = (x, y, values(5))
    assert torch.autograd.gradcheck(lambda *a: loss(*a, positives=positives, fused=True, **options), inputs)


@pytest.mark.parametrize("low", [0.05, 0.01])
@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_in_float32_it_is_as_exact_as_its_plain_twin(loss: Loss, low: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 64)
    x, y = (each.detach() for each in embeddings(300, 64))
    value = low + 0.2 * torch.rand(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact_leaves = [each.requires_grad_() for each in (x, y, value)]
    exact = loss_and_gradients(loss(*exact_leaves, fused=False), *exact_leaves)
    single = [each.detach().float().requires_grad_() for each in exact_leaves]
    fused, plain = both_ways(loss, *single)
    for ours, twin, wanted in zip(fused, plain, exact, strict=True):
        # At a temperature of .01 rounding s alone moves a logit by 1e-5, in the plain version as well.
        allowed = max(1e-6, 2 * relative(twin, wanted))
        assert relative(ours, wanted) <= allowed


def relative(ours: Tensor, wanted: Tensor) -> float:
    return ((ours.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(("loss", "options"), FEW)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_differs_from_its_plain_twin_by_the_last_rounding(
    loss: Loss, options: dict[str, Any], dtype: torch.dtype
) -> None:
    x, y = embeddings(11, dtype=dtype)
    fused, plain = both_ways(loss, x, y, values(11), **options)
    assert [each.dtype for each in fused] == [each.dtype for each in plain]
    assert fused[0].dtype == torch.float32
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-6, atol=0)
    for ours, twin in zip(fused[1:], plain[1:], strict=True):
        torch.testing.assert_close(ours, twin, rtol=2 * torch.finfo(ours.dtype).eps, atol=1e-5)


@pytest.mark.parametrize(("loss", "options"), FEW)
def test_a_factor_behind_the_loss_reaches_the_gradients(loss: Loss, options: dict[str, Any]) -> None:
    x, y = embeddings(11)
    value = values(11)
    _, *once = loss_and_gradients(loss(x, y, value, fused=True, **options), x, y, value)
    _, *scaled = loss_and_gradients(-3.0 * loss(x, y, value, fused=True, **options), x, y, value)
    torch.testing.assert_close(scaled, [-3.0 * each for each in once])


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_each_input_can_be_the_only_one_that_trains(loss: Loss, which: int) -> None:
    leaves = [*embeddings(11), values(11)]
    every = loss_and_gradients(loss(*leaves, fused=True), *leaves)
    alone = [each.detach().requires_grad_(i == which) for i, each in enumerate(leaves)]
    only = loss_and_gradients(loss(*alone, fused=True), alone[which])
    torch.testing.assert_close(only, [every[0], every[1 + which]], rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(loss(*leaves, fused=True), every[0], rtol=0, atol=0)


@pytest.mark.parametrize(("loss", "options"), CASES)
def test_without_any_negative_loss_and_gradient_are_exactly_zero(loss: Loss, options: dict[str, Any]) -> None:
    for B, positives in ((1, None), (6, torch.ones(6, 6, dtype=torch.bool))):
        x, y = embeddings(B)
        value = values(B)
        for part in loss_and_gradients(loss(x, y, value, positives=positives, fused=True, **options), x, y, value):
            assert (part == 0).all()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_vectors_of_zeros_and_of_extreme_length_go_as_in_its_plain_twin(loss: Loss, scale: float) -> None:
    x, y = (each.detach() for each in embeddings(6, dtype=torch.float32))
    x[2:4] *= scale
    value = values().detach().float()
    for leaf in (x, y, value):
        leaf.requires_grad_()
    fused, plain = both_ways(loss, x, y, value)
    assert all(each.isfinite().all() for each in fused)
    for ours, twin in zip(fused, plain, strict=True):
        bound = 1e-5 * twin.abs().amax(-1, keepdim=True)  # a row's gradient goes as 1 over its length
        assert ((ours - twin).abs() <= bound).all()


def test_the_pull_on_each_pair_is_the_plain_twins() -> None:
    x, y = embeddings(11)
    for squared, positives in itertools.product((False, True), (None, some_positives(11))):
        ours, twin = (
            max_margin.with_pull(x, y, values(11), positives=positives, squared=squared, fused=fused)
            for fused in (True, False)
        )
        torch.testing.assert_close(ours, twin)
        assert not ours[1].requires_grad


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes; a view counts by what it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(each.numel() for each in tree_leaves(made) if isinstance(each, Tensor))])
        return made


@pytest.mark.parametrize(("loss", "options"), FEW)
def test_no_operation_makes_a_matrix_of_all_pairs(loss: Loss, options: dict[str, Any]) -> None:
    B, D = 24, 5
    x, y = embeddings(B, D)
    value, positives = values(B), some_positives(B)
    largest = {}
    for fused in (True, False):
        with Largest() as seen:
            loss(x, y, value, positives=positives, fused=fused, **options).backward()
        largest[fused] = seen.numel
    assert largest[True] <= max(B * D, TILE * TILE)
    assert largest[False] >= B * B


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak since a moment")
@pytest.mark.parametrize(("loss", "options"), FEW)
def test_memory_stays_below_one_matrix_of_all_pairs(
    loss: Loss, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 256)
    B, D = 1536, 8
    x, y = embeddings(B, D, dtype=torch.float32)
    value, positives = values(B).detach(), torch.rand(B, B) < 0.01
    matrix = B * B * 4 / 2**20

    def peak(fused: bool) -> float:
        return peak_memory(lambda: loss(x, y, value, positives=positives, fused=fused, **options).backward())

    peak(True)  # what libraries take once
    least = min(peak(True) for _ in range(3))  # the allocator's own pages only ever add to a peak
    assert least < 0.5 * matrix < 2.0 * matrix < peak(False)


@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_equals_its_plain_twin_at_the_true_size_of_a_tile(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    B = tiles.TILE + 7
    x, y = embeddings(B, 4)
    value = values(B)
    fused = loss_and_gradients(loss(x, y, value), x, y, value)  # chosen by itself
    plain = loss_and_gradients(loss(x, y, value, fused=False), x, y, value)
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-12)
    assert not torch.equal(fused[1], plain[1])


@pytest.mark.parametrize(("loss", "options"), FEW)
def test_what_waits_for_backward_is_a_few_rows_a_sample(loss: Loss, options: dict[str, Any]) -> None:
    B, D = 40, 5
    x, y = embeddings(B, D)
    saved: list[int] = []

    def pack(each: Tensor) -> Tensor:
        saved.append(each.numel())
        return each

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each):
        loss(x, y, values(B), fused=True, **options)
    assert sum(saved) <= B * (2 * D + 20)


@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_autocast_is_off_inside_forward_and_backward(loss: Loss) -> None:
    x, y = embeddings(11, dtype=torch.float32)
    outside = loss_and_gradients(loss(x, y, 0.1, fused=True), x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_and_gradients(loss(x, y, 0.1, fused=True), x, y)
    torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_double_backward_is_refused_and_names_the_way_out(loss: Loss) -> None:
    x, y = embeddings()
    with pytest.raises(InputError, match=f"fused {loss.__name__} has first derivatives only.*fused=False"):
        torch.autograd.grad(loss(x, y, 0.1, fused=True), x, create_graph=True)
    (gradient,) = torch.autograd.grad(loss(x, y, 0.1, fused=False), x, create_graph=True)
    assert gradient.requires_grad


def _contrast(x: Tensor, y: Tensor, tau: float, fused: bool | None) -> Tensor:
    return contrast(x, y, (torch.tensor(tau), torch.tensor(tau)), fused=fused).loss


@pytest.mark.parametrize("loss", [info_nce, max_margin, _contrast])
def test_other_ways_to_differentiate_work_plainly_and_are_refused_in_tiles(loss: Loss) -> None:
    x, y = (each.detach() for each in embeddings())

    def dual(fused: bool) -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(loss(x, forward_ad.make_dual(y, y), 0.1, fused=fused)).tangent  # type: ignore[no-any-return, no-untyped-call]

    name = loss.__name__.strip("_")
    ways = {
        "torch.func": lambda fused: torch.func.grad(lambda x: loss(x, y, 0.1, fused=fused))(x),
        "forward mode": dual,
    }
    for what, way in ways.items():
        assert way(False).isfinite().all()
        with pytest.raises(InputError, match=f"fused {name} has derivatives .* not in {what}; give fused=False"):
            way(True)


@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_tiles_refuse_other_derivatives_of_the_temperature_or_margin_too(loss: Loss) -> None:
    (x, y), value = (each.detach() for each in embeddings()), values().detach()

    def at(value: Tensor, fused: bool) -> Tensor:
        return loss(x, y, value, fused=fused)

    assert torch.func.grad(at)(value, fused=False).isfinite().all()
    with pytest.raises(InputError, match=r"not in torch\.func; give fused=False"):
        torch.func.grad(at)(value, fused=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(value, torch.ones_like(value))  # type: ignore[no-untyped-call]
        assert forward_ad.unpack_dual(at(dual, fused=False)).tangent.isfinite()  # type: ignore[no-untyped-call]
        with pytest.raises(InputError, match="not in forward mode; give fused=False"):
            at(dual, fused=True)


@pytest.mark.parametrize(
    ("loss", "value", "options", "message"),
    [
        (info_nce, values(ndim=2), {}, r"fused info_nce cannot do a \(B, B\) temperature"),
        (decoupled_info_nce, values(ndim=2), {}, r"fused decoupled_info_nce cannot do a \(B, B\) temperature"),
        (max_margin, values(ndim=2), {}, r"fused max_margin cannot do a \(B, B\) margin"),
        (max_margin, 0.1, {"negatives": "hardest"}, "cannot do negatives='hardest'"),
        (max_margin, 0.1, {"relevance": graded()}, "cannot do relevance"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name_and_left_to_the_plain_twin(
    loss: Loss, value: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = embeddings()
    with pytest.raises(InputError, match=message):
        loss(x, y, value, fused=True, **options)
    monkeypatch.setitem(tiles.TILES_FROM, loss.__name__, 1)
    torch.testing.assert_close(loss(x, y, value, **options), loss(x, y, value, fused=False, **options), rtol=0, atol=0)


@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_large_batches_go_in_tiles_by_themselves(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tiles.TILES_FROM, loss.__name__, 6)

    def in_tiles(B: int, **options: Any) -> bool:
        x, y = embeddings(B)
        with Largest() as seen:
            loss(x, y, 0.1, **options)
        return seen.numel < B * B

    # With D = 5 only from B = 6 on is a matrix of all pairs the larger.
    assert in_tiles(6)
    assert in_tiles(20)
    assert not in_tiles(20, fused=False)
    monkeypatch.setitem(tiles.TILES_FROM, loss.__name__, 21)
    assert not in_tiles(20)


@pytest.mark.parametrize("loss", [info_nce, max_margin])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positives": torch.zeros(2, 2, dtype=torch.bool)}, r"positives is \(2, 2\)"),
        ({"positives": torch.zeros(6, 6)}, "of bool"),
    ],
)
def test_inputs_are_checked_as_in_its_plain_twin(loss: Loss, options: dict[str, Any], message: str) -> None:
    x, y = embeddings()
    with pytest.raises(InputError, match=message):
        loss(x, y, 0.1, fused=True, **options)
    with pytest.raises(InputError, match=r"x\[0\] has a NaN"):
        loss(x * float("nan"), y, 0.1, fused=True)


@pytest.mark.parametrize("loss", [info_nce, max_margin])
def test_embeddings_whose_sum_overflows_are_finite_all_the_same(loss: Loss) -> None:
    x, y = embeddings(6, dtype=torch.float32)
    big = torch.full_like(x, 3e38)
    assert loss(big, y, 0.1, fused=True).isfinite()
    big[4, 1] = float("inf")
    with pytest.raises(InputError, match=r"x\[4\] has a NaN or an infinity"):
        loss(big, y, 0.1, fused=True)
