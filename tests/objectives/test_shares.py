"""Objectives asked for shares of a batch: loss, gradients, log and what they remember are those of the whole batch."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmts import objectives as o
from mmts import policies as p
from mmts.losses import info_nce, max_margin
from mmts.losses.contrast import contrast
from mmts.losses.fused import tiles
from mmts.objectives import Objective, ObjectiveOutput
from mmts.objectives.base import Share, policy_values
from mmts.schedules import Cosine

N, B, D = 12, 9, 4
SHIFTED = p.Shifted(Cosine(-0.04, 0.04, 5), torch.linspace(0.05, 0.2, N))
CASES: dict[str, Callable[[], Objective]] = {
    "shifted": lambda: o.InfoNCE(SHIFTED),
    "learned": lambda: o.InfoNCE(p.Learned(), label_smoothing=0.1),
    "scaled": lambda: o.InfoNCE(SHIFTED, scale_by_temperature=True),
    "multi_positive": lambda: o.InfoNCE(p.Fixed(0.1), multi_positive=True),
    "pairs": lambda: o.InfoNCE(p.DySTreSS()),
    "margin": lambda: o.MaxMargin(SHIFTED),
    "pair_margin": lambda: o.MaxMargin(p.TeMoTemperature()),
    "graded_margin": lambda: o.MaxMargin(p.Fixed(0.2), relevance_scaled=True),
    "sms": lambda: o.SMS(p.Fixed(0.6)),
    "siglip": lambda: o.SigLIP(p.DySTreSS()),
    "macl": lambda: o.ReweightedInfoNCE(p.MACL()),
    "reweighted": lambda: o.ReweightedInfoNCE(SHIFTED),
    "temo": lambda: o.TeMo(0.05, 0.1),
    "temo_with_gradient": lambda: o.TeMo(0.05, 0.1, detach=False),
    "sogclr": lambda: o.SogCLR(N, N, SHIFTED),
    "isogclr": lambda: o.ISogCLR(N, N, start=0.05),
    "fastclip": lambda: o.FastCLIP(N, N),
    "tempnet": lambda: o.TempNet(N, N, D, num_prototypes=8, dropout=0.0),
}
SHARES = [slice(0, 2), slice(2, 3), slice(3, B)]


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


def in_shares(objective: Objective, inputs: dict[str, Any]) -> tuple[Tensor, list[ObjectiveOutput]]:
    """The sum of the shares' losses, and the outputs after what was to wait for all queries has happened."""
    outputs, waiting = [], []
    for rows in SHARES:
        found: list[tuple[Callable[..., None], tuple[Tensor, ...]]] = []
        outputs.append(objective(**inputs, share=Share(rows, lambda update, *own, to=found: to.append((update, own)))))
        waiting.append(found)
    for of_shares in zip(*waiting, strict=True):
        parts = zip(*(own for _, own in of_shares), strict=True)
        values = [torch.cat([each.detach() for each in several]) for several in parts]
        before = [each.clone() for each in objective.buffers()]
        for update, _ in of_shares:  # each process does it, from where it stood
            for buffer, kept in zip(objective.buffers(), before, strict=True):
                buffer.copy_(kept)
            update(*values)
    return torch.stack([each.loss for each in outputs]).sum(), outputs


def gradients(loss: Tensor, objective: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    found = torch.autograd.grad(loss, [inputs["x"], inputs["y"], *objective.parameters()])
    return list(found)


@pytest.mark.parametrize("in_tiles", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_shares_have_the_loss_gradients_log_and_memory_of_the_whole_batch(
    case: str, in_tiles: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", 4)
    for loss in (info_nce, max_margin, contrast):
        monkeypatch.setitem(loss.__globals__, "FUSED_FROM", 1 if in_tiles else 1000)
    torch.manual_seed(0)
    whole = CASES[case]().double()
    apart = copy.deepcopy(whole)
    for seed in range(3):
        inputs = batch(seed)
        wanted = whole(**inputs)
        loss, outputs = in_shares(apart, inputs)
        torch.testing.assert_close(loss, wanted.loss, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            gradients(loss, apart, inputs), gradients(wanted.loss, whole, inputs), rtol=1e-8, atol=1e-10
        )
        for rows, output in zip(SHARES, outputs, strict=True):
            for name, value in wanted.log.items():
                pairs = value.ndim == 2  # of a value a pair the log has these queries'
                torch.testing.assert_close(output.log[name], value[rows] if pairs else value)
        torch.testing.assert_close(dict(apart.state_dict()), dict(whole.state_dict()), rtol=1e-8, atol=1e-10)


def test_every_objective_that_is_shipped_takes_a_share() -> None:
    shipped = [each for each in vars(o).values() if isinstance(each, type) and issubclass(each, Objective)]
    assert len(shipped) > 8
    assert all(each.takes_share for each in shipped)


def test_one_that_knows_no_share_is_known_by_its_signature() -> None:
    class Own(Objective):
        def forward(self, x: Tensor, y: Tensor, **told: Any) -> ObjectiveOutput:  # type: ignore[override]
            return ObjectiveOutput((x * y).sum(), {})

    assert not Own.takes_share


def test_a_rule_on_own_pairs_or_on_each_pair_is_not_given_the_whole_matrix() -> None:
    inputs = batch(0)
    seen: list[int] = []

    class Looking(p.MACL):
        looks_at_own_pairs_only = True

        def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
            assert similarity is not None
            seen.append(similarity.untyped_storage().nbytes() // similarity.itemsize)
            return super().forward(progress, index, similarity)

    x, y, index = inputs["x"], inputs["y"], inputs["index"]
    some = policy_values(Looking(), x, y, 0.3, index, SHARES[0])
    torch.testing.assert_close(some, policy_values(Looking(), x, y, 0.3, index))
    assert seen[0] == B
    assert policy_values(p.DySTreSS(), x, y, 0.3, index, SHARES[0]).shape == (2, 2, B)


def test_a_rule_that_changes_one_of_ours_is_asked_itself() -> None:
    class Warming(p.DySTreSS):
        def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
            return super().forward(progress, index, similarity) * (1 + progress)

    class Spread(p.MACL):
        def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
            assert similarity is not None
            return super().forward(progress, index, similarity) + similarity.std()

    inputs = batch(0)
    x, y, index = inputs["x"], inputs["y"], inputs["index"]
    for rule in (Warming(), Spread()):
        of_rows = policy_values(rule, x, y, 0.5, index, SHARES[0])
        torch.testing.assert_close(of_rows, policy_values(rule, x, y, 0.5, index))


def test_one_temperature_for_all_pairs_in_low_precision_is_that_of_the_whole_batch() -> None:
    inputs = batch(0)
    x, y = inputs["x"].bfloat16(), inputs["y"].bfloat16()
    of_rows, whole = (policy_values(p.MACL(), x, y, 0.5, inputs["index"], each) for each in (SHARES[0], None))
    torch.testing.assert_close(of_rows, whole, rtol=1e-6, atol=0)
