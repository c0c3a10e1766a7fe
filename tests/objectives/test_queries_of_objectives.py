"""The parts of some queries: their sum has the loss and gradients of the whole batch, their logs its log and memory."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmts import objectives as o
from mmts import policies as p
from mmts.losses.fused import tiles
from mmts.objectives import Objective, ObjectiveOutput, Pairs, policy_values
from mmts.schedules import Cosine

N, B, D = 12, 9, 4
SHIFTED = p.Shifted(Cosine(-0.04, 0.04, 5), torch.linspace(0.05, 0.2, N))
SHARE = torch.linspace(0.05, 0.9, N)
COUNTS = torch.arange(1, N + 1) ** 2
CASES: dict[str, Callable[[], Objective]] = {
    "shifted": lambda: o.InfoNCE(SHIFTED),
    "learned": lambda: o.InfoNCE(p.Learned(), label_smoothing=0.1),
    "scaled": lambda: o.InfoNCE(SHIFTED, scale_by_temperature=True),
    "prior": lambda: o.InfoNCE(SHIFTED, label_smoothing=0.1, prior=o.Prior(SHARE, 0.5, "text")),
    "weights": lambda: o.InfoNCE(p.Learned(), weights=o.RowWeights(COUNTS, 0.9, start=0.2)),
    "softmax_margin": lambda: o.InfoNCE(SHIFTED, margin=p.LDAM(COUNTS)),
    "learned_margin": lambda: o.DecoupledInfoNCE(p.MACL(), margin=p.Learned(), weights=o.RowWeights(COUNTS, start=0.9)),
    "margin_of_pairs": lambda: o.MultiPositiveInfoNCE(p.DySTreSS(), margin=p.MACL(), prior=o.Prior(SHARE)),
    "ldam": lambda: o.MaxMargin(p.LDAM(COUNTS, 0.3)),
    "decoupled_prior": lambda: o.DecoupledInfoNCE(p.Learned(), prior=o.Prior(SHARE, of="negatives")),
    "decoupled": lambda: o.DecoupledInfoNCE(SHIFTED),
    "multi_positive": lambda: o.MultiPositiveInfoNCE(p.Fixed(0.1)),
    "pairs": lambda: o.InfoNCE(p.DySTreSS()),
    "margin": lambda: o.MaxMargin(SHIFTED),
    "pair_margin": lambda: o.MaxMargin(p.TeMoTemperature()),
    "graded_margin": lambda: o.MaxMargin(p.Fixed(0.2), relevance_scaled=True),
    "sms": lambda: o.SMS(p.Fixed(0.6)),
    "siglip": lambda: o.SigLIP(p.DySTreSS()),
    "macl": lambda: o.ReweightedInfoNCE(p.MACL()),
    "reweighted": lambda: o.ReweightedInfoNCE(SHIFTED),
    "dual_temperature": lambda: o.DualTemperature(p.Learned()),
    "no_temperature": lambda: o.NoTemperature(label_smoothing=0.1),
    "hard_negatives": lambda: o.HardNegativeInfoNCE(SHIFTED, tau_plus=0.1),
    "hard_negative_pairs": lambda: o.HardNegativeInfoNCE(p.DySTreSS(), tau_plus=0.1),
    "rince": lambda: o.RINCE(SHIFTED),
    "cyclip": lambda: o.CyCLIP(SHIFTED, in_modal=0.5),
    "temo": lambda: o.TeMo(0.05, 0.1),
    "temo_with_gradient": lambda: o.TeMo(0.05, 0.1, detach=False),
    "sogclr_prior": lambda: o.SogCLR(N, N, SHIFTED, prior=o.Prior(SHARE, 0.5, "media")),
    "sogclr": lambda: o.SogCLR(N, N, SHIFTED),
    "isogclr": lambda: o.ISogCLR(N, N, start=0.05),
    "fastclip": lambda: o.FastCLIP(N, N),
    "tempnet": lambda: o.TempNet(N, N, D, num_prototypes=8, dropout=0.0),
    "nuclr": lambda: o.NUCLR(N, N, SHIFTED, eta=0.01, media_ratio=0.5),
    "tempnet_started": lambda: o.TempNet(N, N, D, num_prototypes=8, dropout=0.0, prototypes="first_batch"),
}
PARTS = [slice(0, 2), slice(2, 3), slice(3, B)]


def batch(seed: int) -> dict[str, Any]:
    """A batch whose first two pairs share a medium, with other positives and graded relevance."""
    torch.manual_seed(seed)
    index = torch.randperm(N)[:B]
    media = index.clone()
    media[0] = media[1]
    common = torch.randn(B, D, dtype=torch.float64)
    x, y = (common + 0.5 * torch.randn(B, D, dtype=torch.float64) for _ in "xy")
    return {
        "x": x.requires_grad_(),
        "y": y.requires_grad_(),
        "progress": 0.3,
        "index": index,
        "media_index": media,
        "positives": media[:, None] == media,
        "relevance": torch.rand(B, B, dtype=torch.float64),
    }


def pairs_of(inputs: dict[str, Any], queries: slice) -> Pairs:
    return Pairs(queries=queries, **{name: value for name, value in inputs.items() if name not in "xy"})


def in_parts(objective: Objective, inputs: dict[str, Any]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The sum of the parts' losses, and what each process logs once it knows the values of all queries."""
    parts = [objective.compute_part(inputs["x"], inputs["y"], pairs_of(inputs, queries)) for queries in PARTS]
    before, logs = [buffer.clone() for buffer in objective.buffers()], []
    for queries, (_, log) in zip(PARTS, parts, strict=True):
        sums = {name: sum(part.log[name] for part in parts) for name in log if name.startswith("_sum_")}
        per_query = [name for name, value in log.items() if value.shape == (queries.stop - queries.start,)]
        gathered = {name: torch.cat([part.log[name] for part in parts]) for name in per_query} | sums
        for buffer, value in zip(objective.buffers(), before, strict=True):
            buffer.copy_(value)  # each process does it, from where it was
        logs.append(objective.finish(pairs_of(inputs, queries), log | gathered))
    return torch.stack([part.loss for part in parts]).sum(), logs


def gradients(loss: Tensor, objective: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    found = torch.autograd.grad(loss, [inputs["x"], inputs["y"], *objective.parameters()])
    return list(found)


@pytest.mark.parametrize("in_tiles", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_parts_have_the_loss_gradients_log_and_memory_of_the_whole_batch(
    case: str, in_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 4)
    for loss in tiles.TILES_FROM:
        monkeypatch.setitem(tiles.TILES_FROM, loss, 1 if in_tiles else 1000)
    torch.manual_seed(0)
    whole = CASES[case]().double()
    apart = copy.deepcopy(whole)
    for seed in range(3):
        inputs = batch(seed)
        wanted = whole(**inputs)
        loss, logs = in_parts(apart, inputs)
        torch.testing.assert_close(loss, wanted.loss, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            gradients(loss, apart, inputs), gradients(wanted.loss, whole, inputs), rtol=1e-8, atol=1e-10
        )
        for queries, log in zip(PARTS, logs, strict=True):
            assert log.keys() == wanted.log.keys()
            for name, value in wanted.log.items():
                torch.testing.assert_close(log[name], value[queries] if value.ndim == 2 else value)
        torch.testing.assert_close(dict(apart.state_dict()), dict(whole.state_dict()), rtol=1e-8, atol=1e-10)


def test_every_objective_of_the_package_splits_queries() -> None:
    assert len(o.OBJECTIVES) > 8
    assert all(objective.splits_queries for objective in o.OBJECTIVES.values())


class Whole(Objective):
    """An objective that ignores the queries."""

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        assert pairs.positives is None or not pairs.positives.is_sparse
        return ObjectiveOutput((x * y).sum(), {"temperature": (x * y).sum(dim=1), "weight": torch.arange(1.0, B + 1)})


def test_an_objective_that_ignores_the_queries_gets_a_part_of_its_loss_and_logs_the_whole_batch() -> None:
    inputs = batch(0)
    inputs["positives"] = inputs["positives"].to_sparse()
    objective = Whole()
    wanted = objective(**inputs)
    loss, logs = in_parts(objective, inputs)
    torch.testing.assert_close(loss, wanted.loss)
    for log in logs:
        torch.testing.assert_close(log, wanted.log)
    assert wanted.log["weight"].mean() == 1


class Remembering(Whole):
    """An objective that logs and remembers the same number."""

    def compute(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        return ObjectiveOutput(x.sum(), {"temperature": x.sum(dim=1), "_hidden": y.sum(dim=1)})

    def remember(self, pairs: Pairs, gathered: Any) -> None:
        self.seen = gathered


def test_names_with_an_underscore_are_remembered_in_training_and_not_logged() -> None:
    objective, inputs = Remembering(), batch(0)
    assert list(objective(**inputs).log) == ["temperature"]
    torch.testing.assert_close(objective.seen["_hidden"], inputs["y"].detach().sum(dim=1))
    assert not any(value.requires_grad for value in objective.seen.values())
    del objective.seen
    objective.eval()(**inputs)
    assert not hasattr(objective, "seen")


def test_a_rule_gets_the_similarities_that_it_needs() -> None:
    inputs = batch(0)
    x, y = inputs["x"], inputs["y"]
    shapes: list[tuple[int, ...]] = []

    class OfPairs(p.MACL):
        def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
            assert similarity is not None
            shapes.append(tuple(similarity.shape))
            return super().forward(progress, index, similarity)

    class OfQueries(p.DySTreSS):
        def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
            assert similarity is not None
            shapes.append(tuple(similarity.shape))
            return super().forward(progress, index, similarity) * (1 + progress)

    class OfBatch(OfPairs):
        similarity_of = "batch"

    for rule in (OfPairs(), OfBatch()):
        part, whole = (policy_values(rule, x, y, pairs_of(inputs, queries)) for queries in (PARTS[0], slice(0, B)))
        torch.testing.assert_close(part, whole)
    part, whole = (policy_values(OfQueries(), x, y, pairs_of(inputs, queries)) for queries in (PARTS[0], slice(0, B)))
    torch.testing.assert_close(part, torch.stack([whole[PARTS[0]], whole[:, PARTS[0]].T]))
    assert shapes == [(B,), (B,), (B, B), (B, B), (2, 2, B), (B, B)]


def test_one_temperature_for_all_pairs_in_low_precision_is_that_of_the_whole_batch() -> None:
    inputs = batch(0)
    x, y = inputs["x"].bfloat16(), inputs["y"].bfloat16()
    part, whole = (policy_values(p.MACL(), x, y, pairs_of(inputs, queries)) for queries in (PARTS[0], slice(0, B)))
    torch.testing.assert_close(part, whole, rtol=1e-6, atol=0)
