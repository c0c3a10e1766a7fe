"""The part of some queries: parts add up to the loss and its gradients, in each loss and option, plain and fused."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from loss_cases import ANCHORS, embeddings, graded, loss_and_gradients, some_positives, values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmts.errors import InputError
from mmts.losses import (
    cyclic_consistency,
    decoupled_info_nce,
    dual_temperature,
    hard_negative_info_nce,
    info_nce,
    max_margin,
    multi_positive_info_nce,
    no_temperature,
    reweighted_info_nce,
    rince,
    siglip,
    sms,
)
from mmts.losses.contrast import contrast
from mmts.losses.fused import tiles
from mmts.losses.queries import checked_queries, query_rows

Loss = Callable[..., Tensor]
B = 11
GRADED = graded(B)
CUTS = [(0, 4, 5, 11), (0, 1, 11)]


def _siglip(x: Tensor, y: Tensor, tau: Tensor, **options: Any) -> Tensor:
    return siglip(x, y, tau, -2.0, **options)


def _sms(x: Tensor, y: Tensor, margin: Tensor, **options: Any) -> Tensor:
    return sms(x, y, GRADED, margin, **options)


def _no_temperature(x: Tensor, y: Tensor, tau: Tensor, **options: Any) -> Tensor:
    return no_temperature(x, y, **options) + 0.0 * tau.sum()


def _cyclic_consistency(x: Tensor, y: Tensor, tau: Tensor, **options: Any) -> Tensor:
    return cyclic_consistency(x, y, **options) + 0.0 * tau.sum()


def _contrast(x: Tensor, y: Tensor, tau: Tensor, **options: Any) -> Tensor:
    return contrast(x, y, (tau.detach(), 2 * tau.detach()), **options).loss + 0.0 * tau.sum()


PLAIN: list[tuple[Loss, dict[str, Any]]] = [
    *((info_nce, {"anchor": anchor, "label_smoothing": 0.1, "positives": some_positives(B)}) for anchor in ANCHORS),
    (info_nce, {"scale_by_temperature": True}),
    (decoupled_info_nce, {"positives": some_positives(B)}),
    (multi_positive_info_nce, {"positives": some_positives(B)}),
    (max_margin, {"squared": True, "positives": some_positives(B)}),
    (max_margin, {"negatives": "hardest", "positives": some_positives(B)}),
    (max_margin, {"relevance": graded(B)}),
    (reweighted_info_nce, {"positives": some_positives(B)}),
    (dual_temperature, {"positives": some_positives(B)}),
    (hard_negative_info_nce, {"tau_plus": 0.1, "positives": some_positives(B)}),
    (rince, {"positives": some_positives(B)}),
    (_no_temperature, {"positives": some_positives(B)}),
    (_cyclic_consistency, {}),
    (_siglip, {"positives": some_positives(B)}),
    (_sms, {}),
    (_contrast, {"positives": some_positives(B)}),
]
FUSED: list[tuple[Loss, dict[str, Any]]] = [
    *((info_nce, {"anchor": anchor, "label_smoothing": 0.1, "positives": some_positives(B)}) for anchor in ANCHORS),
    (decoupled_info_nce, {"scale_by_temperature": True}),
    (max_margin, {"positives": some_positives(B)}),
    (max_margin, {"squared": True}),
    (_contrast, {"positives": some_positives(B)}),
]


class Largest(TorchDispatchMode):
    """Notes how many elements the largest floating-point tensor has that is made."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {each.untyped_storage().data_ptr() for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        result = function(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and each.is_floating_point() and each.untyped_storage().data_ptr() not in given:
                self.elements = max(self.elements, each.numel())
        return result


def summed(loss: Loss, inputs: tuple[Tensor, ...], cuts: tuple[int, ...], **options: Any) -> list[Tensor]:
    """The loss and its gradients, added up over the parts between the cuts."""
    parts = [slice(start, stop) for start, stop in pairwise(cuts)]
    found = [loss_and_gradients(loss(*inputs, queries=each, **options), *inputs) for each in parts]
    return [torch.stack(each).sum(dim=0) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize(("loss", "options"), PLAIN)
def test_parts_add_up_to_the_loss_and_its_gradients(loss: Loss, options: dict[str, Any], cuts: tuple[int, ...]) -> None:
    inputs = *embeddings(B), values(B)
    wanted = loss_and_gradients(loss(*inputs, **options), *inputs)
    torch.testing.assert_close(summed(loss, inputs, cuts, **options), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("queries", [slice(0, 4), slice(3, 4), slice(5, 11)])
@pytest.mark.parametrize(("loss", "options"), FUSED)
def test_a_part_in_tiles_equals_the_plain_one(
    loss: Loss, options: dict[str, Any], queries: slice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 3)
    inputs = *embeddings(B), values(B)
    fused, plain = (
        loss_and_gradients(loss(*inputs, queries=queries, fused=fused, **options), *inputs) for fused in (True, False)
    )
    torch.testing.assert_close(fused, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("queries", [None, slice(3, 7)])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("loss", "options"), [(loss, options) for loss, options in FUSED if "positives" in options])
def test_positives_may_be_sparse(
    loss: Loss, options: dict[str, Any], fused: bool, queries: slice | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 3)
    inputs = *embeddings(B), values(B)
    ways = (options["positives"], options["positives"].to_sparse())
    dense, sparse = (
        loss_and_gradients(loss(*inputs, **options | {"positives": each}, queries=queries, fused=fused), *inputs)
        for each in ways
    )
    torch.testing.assert_close(sparse, dense, rtol=0, atol=0)


def test_an_entry_false_of_a_sparse_tensor_is_no_positive() -> None:
    (x, y), some = embeddings(B), some_positives(B)
    places = torch.ones(B, B).nonzero().T
    every = torch.sparse_coo_tensor(places, some[places[0], places[1]], (B, B), check_invariants=True)
    assert info_nce(x, y, 0.1, positives=every) == info_nce(x, y, 0.1, positives=some)
    with pytest.raises(InputError, match=r"sparse_csr; it must be dense or torch\.sparse_coo"):
        info_nce(x, y, 0.1, positives=some.to_sparse_csr())


@pytest.mark.parametrize("loss", [info_nce, max_margin, reweighted_info_nce, _siglip, _sms])
def test_values_per_pair_may_be_those_of_the_queries_alone(loss: Loss) -> None:
    (x, y), pairs, queries = embeddings(B), values(B, 2), slice(2, 5)
    of_queries = torch.stack(query_rows(pairs, queries))
    assert of_queries.shape == (2, 3, B)
    ours, wanted = (loss(x, y, value, queries=queries).item() for value in (of_queries, pairs))
    assert ours == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(InputError, match="it must be"):
        loss(x, y, of_queries, queries=slice(2, 6))


@pytest.mark.parametrize("fused", [True, False])
def test_the_values_per_query_are_those_of_the_queries(fused: bool) -> None:
    (x, y), tau, queries = embeddings(B), values(B).detach(), slice(3, 9)
    whole, part = (max_margin.with_pull(x, y, tau, queries=each, fused=fused)[1] for each in (None, queries))
    torch.testing.assert_close(part, whole[queries])
    whole, part = (sms.with_pull(x, y, graded(B), tau, queries=each)[1] for each in (None, queries))
    torch.testing.assert_close(part, whole[queries])
    everything, some = (contrast(x, y, (tau, tau), queries=each, fused=fused) for each in (None, queries))
    for found, wanted in zip(some[1:-1], everything[1:-1], strict=True):  # `received` is of candidates, if asked for
        torch.testing.assert_close(found, wanted[:, queries])


@pytest.mark.parametrize("queries", [slice(3, 3), slice(0, 12), slice(0, 6, 2), slice(11, 12)])
def test_queries_outside_the_batch_are_refused(queries: slice) -> None:
    with pytest.raises(InputError, match="for a batch of 11 it must be slice"):
        checked_queries(queries, B)


@pytest.mark.parametrize(("loss", "options"), PLAIN)
def test_a_part_makes_no_matrix_of_all_pairs(loss: Loss, options: dict[str, Any]) -> None:
    inputs = *embeddings(B), values(B)
    sizes = []
    for queries in (slice(4, 5), None):
        with Largest() as largest:
            loss(*inputs, queries=queries, **options).backward()
        sizes.append(largest.elements)
    assert sizes[0] < B * B <= sizes[1]
