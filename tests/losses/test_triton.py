"""The Triton kernels against the plain losses: in Triton's interpreter on the CPU, compiled where there is a GPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from loss_cases import embeddings, loss_and_gradients, some_positives, values
from packaging.version import Version
from torch import Tensor

from mmts.errors import InputError
from mmts.losses import decoupled_info_nce, info_nce, max_margin
from mmts.losses.fused import tiles
from mmts.losses.fused.info_nce import rows_in_tiles
from mmts.losses.fused.max_margin import max_margin_in_tiles
from mmts.losses.fused.tiles import (
    TRITON_FROM,
    KnownGradients,
    choose_form,
    faster_in_tiles,
    product_dtype,
    triton_takes,
)
from mmts.losses.fused.triton import blocks as triton_blocks
from mmts.losses.fused.triton.blocks import Blocks, Tile, side
from mmts.objectives import InfoNCE
from mmts.policies import Fixed

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"


def _has_triton() -> bool:
    return find_spec("triton") is not None and Version(version("triton")) >= Version("3.7")


needs_triton = pytest.mark.skipif(not _has_triton(), reason="Triton 3.7 is not installed")
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no GPU")
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered")  # the interpreter says so of log(0) = -inf

B, D = 33, 24  # ragged in tiles of 16 by 32 that are walked 16 wide, and in blocks of 32 rows
INFO_NCE: list[dict[str, Any]] = [
    {"anchor": "row"},
    {"anchor": "row", "positives": some_positives(B)},
    {"anchor": "row", "label_smoothing": 0.1},
    {"anchor": "candidate", "positives": some_positives(B), "decoupled": True},
    {"anchor": "candidate", "label_smoothing": 0.1},
    {"anchor": "media", "positives": some_positives(B)},
    {"anchor": "media", "label_smoothing": 0.1, "decoupled": True},
]


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    for by_dtype in (triton_blocks.TILES, triton_blocks.LOG_SUM_TILES):
        for dtype in by_dtype:
            monkeypatch.setitem(by_dtype, dtype, Tile(16, 32, 16, 4, 2))
    monkeypatch.setattr(triton_blocks, "BLOCK_BYTES", 32 * B * 4)


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter holds bfloat16 as integers and multiplies those: widen them first."""
    if HAS_GPU:
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    multiply = InterpreterBuilder.create_dot

    def widened(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = (
            self.create_fp_to_fp(each, tl.float32, None) if each.dtype.scalar == tl.bfloat16 else each
            for each in (a, b)
        )
        return multiply(self, *wide, *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", widened)


def leaves(B: int = B, D: int = D, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x, y (B, D) and a value a sample, (B,) float32, on the device, each a leaf that requires grad."""
    x, y = embeddings(B, D, dtype=dtype)
    return [each.detach().to(DEVICE).requires_grad_() for each in (x, y, values(B).float())]


def on_device(options: dict[str, Any]) -> dict[str, Any]:
    return {name: each.to(DEVICE) if isinstance(each, Tensor) else each for name, each in options.items()}


def triton_info_nce(
    x: Tensor, y: Tensor, tau: Tensor, queries: slice = slice(None), dtype: torch.dtype | None = None, **options: Any
) -> Tensor:
    settings = {"positives": None, "anchor": "row", "label_smoothing": 0.0, "decoupled": False, **options}
    pull = x.new_full((2, len(range(len(x))[queries])), 1 / (2 * len(x)), dtype=torch.float32)
    form = dtype or product_dtype(x, y)
    entropies, _, known = rows_in_tiles(form, x, y, tau, pull=pull, queries=queries, **settings)
    return known_loss((entropies * pull).sum(), known, x, y, tau)


def known_loss(loss: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
    result: Tensor = KnownGradients.apply(loss, gradients[: len(inputs)], ("the fused info_nce",), *inputs)  # type: ignore[no-untyped-call]
    return result


def plain_info_nce(*inputs: Tensor, decoupled: bool = False, **options: Any) -> Tensor:
    return (decoupled_info_nce if decoupled else info_nce)(*inputs, **options)


def margin_and_pull(
    x: Tensor, y: Tensor, margin: Tensor, queries: slice = slice(None), dtype: torch.dtype | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    settings = {"positives": None, "squared": False, **options}
    return max_margin_in_tiles(dtype or product_dtype(x, y), x, y, margin, queries=queries, **settings)


def triton_margin(*inputs: Tensor, **options: Any) -> Tensor:
    return margin_and_pull(*inputs, **options)[0]


LOSSES = [(triton_info_nce, plain_info_nce), (triton_margin, max_margin)]
Loss = Callable[..., Tensor]


def assert_near(ours: list[Tensor], twin: list[Tensor], allowed: float) -> None:
    for mine, wanted in zip(ours, twin, strict=True):
        assert mine.dtype == wanted.dtype or wanted.dtype == torch.float64
        assert (mine.double() - wanted.double()).norm() <= allowed * wanted.double().norm()


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("options", INFO_NCE)
def test_info_nce_equals_its_plain_twin_in_loss_and_gradient(options: dict[str, Any]) -> None:
    options, inputs = on_device(options), leaves()
    ours = loss_and_gradients(triton_info_nce(*inputs, **options), *inputs)
    assert_near(ours, loss_and_gradients(plain_info_nce(*inputs, fused=False, **options), *inputs), 1e-5)


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(
    ("ours", "plain", "options"),
    [(*LOSSES[0], options) for options in INFO_NCE] + [(*LOSSES[1], {"positives": some_positives(B)})],
)
def test_the_rows_of_some_queries_equal_those_of_the_plain_twin(
    ours: Loss, plain: Loss, options: dict[str, Any]
) -> None:
    options, inputs, queries = on_device(options), leaves(), slice(7, 19)  # neither begins nor ends with a tile
    found = loss_and_gradients(ours(*inputs, queries=queries, **options), *inputs)
    assert_near(found, loss_and_gradients(plain(*inputs, queries=queries, fused=False, **options), *inputs), 1e-5)


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("sign", [1.0, -1.0])  # all others far below the own pair, or far above
@pytest.mark.parametrize("decoupled", [False, True])
def test_logits_beyond_the_range_of_float32_go_as_in_the_plain_twin(decoupled: bool, sign: float) -> None:
    x = torch.nn.functional.normalize(embeddings(64, D)[0] * 0.2 + 1.0, dim=1)
    inputs = [each.detach().to(DEVICE).requires_grad_() for each in (x, x.roll(1, 0) * sign, torch.full((64,), 0.004))]
    exact_inputs = [each.detach().double().requires_grad_() for each in inputs]
    found = loss_and_gradients(triton_info_nce(*inputs, decoupled=decoupled), *inputs)
    assert_near(
        found, loss_and_gradients(plain_info_nce(*exact_inputs, decoupled=decoupled, fused=False), *exact_inputs), 1e-4
    )


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("positives", [None, some_positives(B)])
@pytest.mark.parametrize("squared", [False, True])
def test_max_margin_equals_its_plain_twin_in_loss_gradient_and_pull(squared: bool, positives: Tensor | None) -> None:
    options, inputs = on_device({"squared": squared, "positives": positives}), leaves()
    ours, pull = margin_and_pull(*inputs, **options)
    plain, wanted = max_margin.with_pull(*inputs, fused=False, **options)
    assert_near([pull, *loss_and_gradients(ours, *inputs)], [wanted, *loss_and_gradients(plain, *inputs)], 1e-5)
    assert not pull.requires_grad


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("has_copy_engine", [False, True])
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_tiles_read_by_pointers_and_by_the_copy_engine_are_the_same(
    ours: Loss, plain: Loss, has_copy_engine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_blocks, "has_copy_engine", lambda device: has_copy_engine)
    inputs = leaves(D=21)  # which is padded
    found = loss_and_gradients(ours(*inputs), *inputs)
    assert_near(found, loss_and_gradients(plain(*inputs, fused=False), *inputs), 1e-5)


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("B", "D"), [(1, 3), (5, 40), (64, 32)])
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_one_pair_less_than_a_tile_and_whole_tiles(ours: Loss, plain: Loss, B: int, D: int) -> None:
    inputs = leaves(B, D)
    found = loss_and_gradients(ours(*inputs), *inputs)
    assert_near(found, loss_and_gradients(plain(*inputs, fused=False), *inputs), 1e-5)


@needs_triton
@pytest.mark.usefixtures("small_tiles", "bfloat16_products")
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_bfloat16_loses_only_where_gradients_are_rounded(ours: Loss, plain: Loss) -> None:
    inputs = leaves(dtype=torch.bfloat16)
    exact_inputs = [each.detach().double().requires_grad_() for each in inputs]
    loss, of_x, of_y, of_value = loss_and_gradients(ours(*inputs), *inputs)
    exact = loss_and_gradients(plain(*exact_inputs, fused=False), *exact_inputs)
    assert_near([loss, of_value], [exact[0], exact[3]], 1e-5)  # the cosines are those of the embeddings, not rounded
    eps = torch.finfo(torch.bfloat16).eps
    assert_near([of_x, of_y], exact[1:3], eps if HAS_GPU else 2 * eps)  # the interpreter cuts off where a GPU rounds


@needs_triton
@pytest.mark.usefixtures("small_tiles")
def test_without_any_negative_loss_and_gradient_are_exactly_zero() -> None:
    everything = {"positives": torch.ones(9, 9, dtype=torch.bool)}
    for ours, size, options in (
        (triton_info_nce, 9, everything),
        (triton_info_nce, 9, {"decoupled": True, **everything}),
        (triton_info_nce, 1, {"label_smoothing": 0.1}),
        (triton_margin, 9, everything),
    ):
        inputs = leaves(size)
        for part in loss_and_gradients(ours(*inputs, **on_device(options)), *inputs):
            assert (part == 0).all()


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_vectors_of_zeros_and_of_extreme_length_go_as_in_the_plain_twin(ours: Loss, plain: Loss, scale: float) -> None:
    inputs = leaves(6)
    with torch.no_grad():
        inputs[0][2:4] *= scale
    exact_inputs = [each.detach().double().requires_grad_() for each in inputs]
    found = loss_and_gradients(ours(*inputs), *inputs)
    exact = loss_and_gradients(plain(*exact_inputs, fused=False), *exact_inputs)
    for mine, wanted in zip(found, exact, strict=True):
        bound = 1e-5 * wanted.abs().amax(-1, keepdim=True)  # a row's gradient goes as 1 over its length
        assert ((mine - wanted).abs() <= bound).all()


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_each_input_can_be_the_only_one_that_trains(ours: Loss, plain: Loss) -> None:
    inputs = leaves(9, 5)
    every = loss_and_gradients(ours(*inputs), *inputs)
    for which in range(3):
        alone = [each.detach().requires_grad_(i == which) for i, each in enumerate(inputs)]
        only = loss_and_gradients(-3.0 * ours(*alone), alone[which])
        torch.testing.assert_close(only, [-3.0 * every[0], -3.0 * every[1 + which]])
    with torch.no_grad():
        assert torch.equal(ours(*inputs), every[0])


@needs_triton
@pytest.mark.usefixtures("small_tiles")
def test_tensors_may_lie_in_memory_as_they_like() -> None:
    x, y, tau = leaves(9, 5)
    weights = torch.rand(9, 2, device=DEVICE).T  # (2, B), a column after the other, as the gradient of the rows then is
    inputs = x.T.contiguous().T, y, tau[0].expand(9)
    arguments = *inputs, some_positives(9).to(DEVICE).T, weights, "row", 0.0, False, slice(0, 9)
    found = (rows_in_tiles(form, *arguments) for form in (torch.float32, "tiles"))
    ours, twin = (
        loss_and_gradients(known_loss((rows * weights).sum(), known, *inputs), x, y, tau) for rows, _, known in found
    )
    assert_near(ours, twin, 1e-5)


@needs_triton
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_double_backward_is_refused_and_names_the_way_out(ours: Loss, plain: Loss) -> None:
    inputs = leaves(9, 5)
    name = plain.__name__.removeprefix("plain_")
    with pytest.raises(InputError, match=f"fused {name} has first derivatives only.*fused=False"):
        torch.autograd.grad(ours(*inputs), inputs[0], create_graph=True)


@needs_triton
@pytest.mark.parametrize("B", [1, 129, 1000])
def test_blocks_hold_every_row_once_in_whole_tiles_and_within_their_bytes(
    B: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_blocks, "BLOCK_BYTES", 300 * 1000 * 4)
    x = side(torch.ones(B, 2, device=DEVICE), torch.float32)
    blocks = Blocks(x, x, None)
    rows = list(blocks.with_slopes())
    assert [i for each in rows for i in range(B)[each]] == list(range(B))
    assert all(each.stop % blocks.tile.rows == 0 for each in rows[:-1])
    assert max(each.stop - each.start for each in rows) * B * 4 <= 300 * 1000 * 4


@pytest.mark.parametrize("name", ["info_nce", "decoupled_info_nce", "max_margin"])
def test_a_gpu_takes_triton_from_the_size_of_its_products_precision_on(name: str) -> None:
    for dtype, least in TRITON_FROM.items():
        assert faster_in_tiles(name, least, "cuda", dtype)
        assert not faster_in_tiles(name, least - 1, "cuda", dtype)
    assert not faster_in_tiles(name, 10**6, "cuda", None)  # no Triton, or a loss that it does not have
    assert TRITON_FROM[torch.bfloat16] < TRITON_FROM[torch.float32]


def test_a_cpu_takes_tiles_from_the_losses_own_size_on_whatever_the_precision() -> None:
    for name, least in tiles.TILES_FROM.items():
        for dtype in (None, torch.bfloat16):
            assert faster_in_tiles(name, least, "cpu", dtype)
            assert not faster_in_tiles(name, least - 1, "cpu", dtype)


def test_products_are_in_bfloat16_if_the_embeddings_or_the_run_are() -> None:
    x, y = torch.eye(2), torch.eye(2)
    assert product_dtype(x, y) == product_dtype(x.bfloat16(), y) == product_dtype(x.half(), y.half()) == torch.float32
    assert product_dtype(x.bfloat16(), y.bfloat16()) == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(x, y) == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert product_dtype(x, y) == torch.float32
    with torch.autocast("cpu", torch.float16):
        assert product_dtype(x, y) == torch.float32


def test_the_form_follows_what_is_asked_and_what_the_machine_can(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.eye(6), torch.eye(6)

    def form(fused: bool | None = None, plain_only: bool = False, kernels: bool = True) -> Any:
        return choose_form("info_nce", fused, x, y, x.new_tensor(0.1), {"relevance": plain_only}, kernels)

    assert [form(), form(True), form(False)] == ["plain", "tiles", "plain"]
    with pytest.raises(InputError, match="cannot do relevance"):
        form(True, plain_only=True)
    monkeypatch.setattr(tiles, "triton_takes", lambda x, y: True)
    assert [form(), form(True), form(True, kernels=False)] == ["plain", torch.float32, "tiles"]
    monkeypatch.setattr(tiles, "faster_in_tiles", lambda name, B, device, triton: triton == torch.bfloat16)
    assert form() == "plain"
    with torch.autocast("cpu", torch.bfloat16):
        assert form() == torch.bfloat16
        assert [form(plain_only=True), form(kernels=False), form(False)] == ["plain"] * 3


@pytest.fixture
def forms(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The forms in which the InfoNCE losses ask for tiles, as if on a GPU; the tiles of torch compute all of them."""
    asked: list[Any] = []

    def kernels(form: Any, *arguments: Any) -> Any:
        asked.append(form)
        return rows_in_tiles("tiles", *arguments)

    monkeypatch.setattr(tiles, "triton_takes", lambda x, y: True)
    monkeypatch.setattr("mmts.losses.softmax.rows_in_tiles", kernels)
    return asked


def test_a_loss_of_float32_embeddings_reaches_bfloat16_kernels_under_autocast(
    monkeypatch: pytest.MonkeyPatch, forms: list[Any]
) -> None:
    x, y = embeddings()
    objective = InfoNCE(Fixed(0.1))
    monkeypatch.setattr(tiles, "faster_in_tiles", lambda name, B, device, triton: triton == torch.bfloat16)
    objective(x, y, progress=0.0, index=torch.arange(6))
    assert not forms
    with torch.autocast("cpu", torch.bfloat16):
        objective(x, y, progress=0.0, index=torch.arange(6))
    assert forms == [torch.bfloat16]


def test_label_smoothing_with_positives_goes_to_the_tiles_of_torch(forms: list[Any]) -> None:
    x, y = embeddings()
    both = {"label_smoothing": 0.1, "positives": some_positives()}
    for options in ({"label_smoothing": 0.1}, {"positives": some_positives()}, both):
        ours, plain = (info_nce(x, y, 0.1, fused=fused, **options) for fused in (True, False))
        torch.testing.assert_close(ours, plain)
    assert forms == [torch.float32, torch.float32, "tiles"]


@needs_triton
@pytest.mark.usefixtures("small_tiles", "bfloat16_products")
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_float32_embeddings_in_bfloat16_kernels_get_gradients_in_float32(ours: Loss, plain: Loss) -> None:
    inputs = leaves()
    rounded = [inputs[0].bfloat16().float(), inputs[1].bfloat16().float(), inputs[2]]
    rounded = [each.detach().requires_grad_() for each in rounded]
    result = loss_and_gradients(ours(*inputs, dtype=torch.bfloat16), *inputs)
    wanted = loss_and_gradients(plain(*rounded, fused=False), *rounded)
    assert_near(result[:1], wanted[:1], 1e-5)
    eps = torch.finfo(torch.bfloat16).eps
    assert_near(result[1:], wanted[1:], eps if HAS_GPU else 2 * eps)


COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mmts.losses.fused.triton import kernels as triton_kernels
from mmts.losses.fused.triton.blocks import LOG_SUM_TILES, TILES

capability = int(sys.argv[1])
KERNELS = {"info_nce_log_sums": LOG_SUM_TILES, "info_nce_slopes": TILES, "max_margin_slopes": TILES}
FLAGS = dict(SCALE_XY=0, SCALE_YX=1, DECOUPLED=False, SQUARED=True, BY_TILES=capability >= 90)
FLAGS |= dict.fromkeys(("HAS_POSITIVES", "HAS_SLOPES", "OF_WEIGHTS", "SMOOTHED"), True)
NUMBERS = dict.fromkeys(("first", "last", "B", "D"), "i32") | {"on_each": "fp32"}
for dtype, name in ((dtype, {2: "bf16", 4: "fp32"}[dtype.itemsize]) for dtype in TILES):
    pointers = dict.fromkeys(("x", "y", "slopes"), name) | {"positives": "u8"}
    for kernel, tile in ((getattr(triton_kernels, each), tiles[dtype]) for each, tiles in KERNELS.items()):
        constants = FLAGS | dict(PRECISION="ieee", ROWS=tile.rows, COLUMNS=tile.columns, WIDTH=tile.width)
        cut = {}
        if FLAGS["BY_TILES"]:
            heights = {"x": tile.rows, "y": tile.columns}
            cut = {each: f"tensordesc<{name}[{height},{tile.width}]>" for each, height in heights.items()}
        names = [each.name for each in kernel.params]
        types = {n: cut.get(n) or NUMBERS.get(n) or "*" + pointers.get(n, "fp32") for n in names}
        types |= {n: "constexpr" for n in names if n in constants}
        fixed = {(i,): constants[n] for i, n in enumerate(names) if n in constants}
        aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n][0] in "*i"}
        made = triton.compile(
            ASTSource(kernel, types, fixed, aligned),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": tile.warps, "num_stages": tile.stages, "maxnreg": tile.registers},
        )
        print(name, made.metadata.shared, "mma" in made.asm["ptx"], len(made.asm["cubin"]) > 0)
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(("capability", "shared_memory"), [(80, 166_912), (89, 101_376), (90, 232_448)])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability: int, shared_memory: int) -> None:
    environment = {name: each for name, each in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, str(capability)]
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(told) == 6
    for dtype, shared, on_tensor_cores, done in map(str.split, told):
        assert int(shared) <= shared_memory
        assert on_tensor_cores == str(dtype == "bf16")
        assert done == "True"


@needs_gpu
@needs_triton
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_on_a_gpu_it_is_chosen_by_itself_and_equals_its_plain_twin(
    ours: Loss, plain: Loss, dtype: torch.dtype, allowed: float
) -> None:
    inputs = leaves(TRITON_FROM[dtype], 512, dtype)
    assert triton_takes(*inputs[:2])
    chosen, direct = (loss_and_gradients(each, *inputs) for each in (plain(*inputs), ours(*inputs)))
    assert_near(chosen, direct, 0.0)  # no atomics: the same bits each time
    inputs = leaves(4096, 512, dtype)
    direct, twin = (loss_and_gradients(each, *inputs) for each in (ours(*inputs), plain(*inputs, fused=False)))
    assert_near(direct[:1], twin[:1], 1e-5)
    assert_near(direct[1:], twin[1:], allowed)


@needs_gpu
@needs_triton
@pytest.mark.parametrize(("ours", "plain"), LOSSES)
def test_on_a_gpu_memory_stays_below_two_gigabytes_at_65536_pairs(ours: Loss, plain: Loss) -> None:
    inputs = [each.detach().requires_grad_() for each in leaves(65_536, 512, torch.bfloat16)]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ours(*inputs).backward()
    assert torch.cuda.max_memory_allocated() - before < 2e9
