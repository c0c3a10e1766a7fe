"""Logit adjustment, weights of rows and a margin in the softmax, in each InfoNCE loss, plain and in tiles."""

import itertools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import reference
import torch
from loss_cases import ANCHORS, embeddings, loss_and_gradients, some_positives, values
from torch import Tensor

from mmts.errors import InputError
from mmts.losses import decoupled_info_nce, info_nce, multi_positive_info_nce
from mmts.losses.fused import tiles

Loss = Callable[..., Tensor]
LOSSES: dict[str, Loss] = {
    "plain": info_nce,
    "decoupled": decoupled_info_nce,
    "multi_positive": multi_positive_info_nce,
}


def prior(B: int = 6, seed: int = 0) -> Tensor:
    """A bias of each candidate, (2, B): minus the logarithms of two shares."""
    generator = torch.Generator().manual_seed(seed + 400)
    return -torch.rand(2, B, generator=generator, dtype=torch.float64).log()


def adjustments(B: int = 6) -> list[dict[str, Any]]:
    """Each adjustment alone, and all of them at once."""
    alone: list[dict[str, Any]] = [
        {"candidate_bias": prior(B)},
        {"candidate_bias": prior(B)[0], "bias_positives": False},
        {"weights": torch.linspace(0.0, 2.0, B, dtype=torch.float64)},
        {"margin": 2 * values(B, seed=1)},
    ]
    return [*alone, {**alone[0], **alone[2], **alone[3], "bias_positives": False}]


OPTIONS: list[dict[str, Any]] = [
    {"anchor": "row", "label_smoothing": 0.1, "positives": some_positives()},
    {"anchor": "candidate"},
    {"anchor": "media", "label_smoothing": 0.1, "positives": None},
]


@pytest.mark.parametrize("adjusted", adjustments())
@pytest.mark.parametrize("name", LOSSES)
def test_equals_its_loop_twin_in_loss_and_gradient(name: str, adjusted: dict[str, Any]) -> None:
    x, y = embeddings()
    for options, ndim in itertools.product(OPTIONS, (1, 2)):
        leaves = [x, y, values(ndim=ndim), *([adjusted["margin"]] if "margin" in adjusted else [])]
        fast = LOSSES[name](*leaves[:3], **options, **adjusted)
        slow = reference.info_nce_of_targets(
            *leaves[:3], **options, **adjusted, **({} if name == "plain" else {name: True})
        )
        torch.testing.assert_close(
            loss_and_gradients(fast, *leaves), loss_and_gradients(slow, *leaves), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("B", [1, 6, 9])
@pytest.mark.parametrize("loss", [info_nce, decoupled_info_nce])
def test_tiles_equal_the_plain_version(loss: Loss, B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "TILE", 4)
    x, y = embeddings(B)
    queries = [None, slice(B // 3, B // 3 + 1)]
    cases = itertools.product(adjustments(B), ANCHORS, ((0.0, some_positives(B)), (0.1, None)), queries)
    for adjusted, anchor, (smoothing, positives), part in cases:
        options = {"anchor": anchor, "label_smoothing": smoothing, "positives": positives, "queries": part, **adjusted}
        leaves = [x, y, values(B), *([adjusted["margin"]] if "margin" in adjusted else [])]
        fused, plain = (
            loss_and_gradients(loss(*leaves[:3], fused=f, scale_by_temperature=anchor == "row", **options), *leaves)
            for f in (True, False)
        )
        torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("adjusted", adjustments(4))
def test_passes_gradcheck(adjusted: dict[str, Any], fused: bool) -> None:
    x, y = embeddings(4, 3, seed=1)
    margin = adjusted.get("margin", values(4, seed=1))
    rest = {name: value for name, value in adjusted.items() if name != "margin"}
    for loss in (info_nce, decoupled_info_nce):

        def of(x: Tensor, y: Tensor, tau: Tensor, margin: Tensor, loss: Loss = loss) -> Tensor:
            return loss(x, y, tau, margin=margin, label_smoothing=0.1, fused=fused, **rest)

        assert torch.autograd.gradcheck(of, (x, y, values(4), margin))


@pytest.mark.parametrize("adjusted", adjustments())
@pytest.mark.parametrize("loss", LOSSES.values())
def test_parts_and_their_pulls_are_those_of_the_whole_batch(loss: Any, adjusted: dict[str, Any]) -> None:
    x, y = embeddings()
    for positives in (None, some_positives()):
        options = {"positives": positives, **adjusted}
        whole, pull = loss.with_pull(x, y, 0.1, **options)
        parts = [loss.with_pull(x, y, 0.1, queries=slice(*cut), **options) for cut in pairwise((0, 1, 4, 6))]
        torch.testing.assert_close(sum(part for part, _ in parts), whole)
        torch.testing.assert_close(torch.cat([pulls for _, pulls in parts]), pull)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("adjusted", adjustments())
@pytest.mark.parametrize("loss", [info_nce, decoupled_info_nce])
def test_the_pull_is_the_slope_in_the_cosine_of_the_pair(loss: Any, adjusted: dict[str, Any], fused: bool) -> None:
    # On unit vectors that are all at right angles, but for their partners, dL/ds_ii is dL/dm_i with the sign turned.
    x, y = embeddings()
    margin = adjusted.get("margin", values(seed=1))
    given = adjusted | {"margin": margin}
    value, pull = loss.with_pull(x, y, values().detach(), fused=fused, label_smoothing=0.1, **given)
    torch.testing.assert_close(torch.autograd.grad(value, margin)[0], pull)


def test_the_bias_and_its_rows_are_of_candidates() -> None:
    x, y = embeddings()
    s = torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(y).T / 0.1
    of_texts, of_media = prior()
    target = torch.arange(6)
    there = torch.nn.functional.cross_entropy(s + of_texts, target)
    back = torch.nn.functional.cross_entropy(s.T + of_media, target)
    torch.testing.assert_close(info_nce(x, y, 0.1, candidate_bias=prior()), (there + back) / 2)


def test_one_bias_for_all_changes_nothing_and_weights_of_two_double_the_loss() -> None:
    x, y = embeddings()
    plain = info_nce(x, y, 0.1)
    torch.testing.assert_close(info_nce(x, y, 0.1, candidate_bias=torch.full((6,), 3.0)), plain)
    torch.testing.assert_close(info_nce(x, y, 0.1, weights=torch.full((6,), 2.0)), 2 * plain)
    assert info_nce(x, y, 0.1, margin=0.1) > plain


@pytest.mark.parametrize(
    ("adjusted", "message"),
    [
        ({"candidate_bias": torch.zeros(5)}, r"candidate_bias is \(5,\); it must be \(6,\) or \(2, 6\)"),
        ({"candidate_bias": torch.tensor([0.0] * 5 + [float("inf")])}, r"candidate_bias\[5\] is inf; .* finite"),
        ({"weights": torch.zeros(2, 6)}, r"weights is \(2, 6\); it must be \(6,\)"),
        ({"weights": torch.tensor([1.0] * 5 + [-1.0])}, r"weights\[5\] is -1.0; it must be finite and not negative"),
        ({"margin": -0.1}, "margin is -0.1.*; it must be finite and not negative"),
        ({"margin": torch.zeros(6, 6)}, r"margin is \(6, 6\), one per pair; info_nce needs one per sample"),
    ],
)
def test_what_cannot_be_right_is_an_error(adjusted: dict[str, Any], message: str) -> None:
    x, y = embeddings()
    with pytest.raises(InputError, match=message):
        info_nce(x, y, 0.1, **adjusted)
