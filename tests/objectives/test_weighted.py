"""MACL and TeMo as objectives: their loops, what they log, edge cases, and nothing kept between calls."""

import pytest
import reference
import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.losses import info_nce, reweighted_info_nce
from mmts.objectives import InfoNCE, ReweightedInfoNCE, TeMo
from mmts.policies import MACL, DySTreSS, Fixed, Learned, Shifted
from mmts.schedules import Constant

B = 6
INDEX = torch.tensor([5, 0, 1, 3, 2, 4])


def embeddings(seed: int = 0, B: int = B, D: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    y = x + torch.randn(B, D, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


def some_positives() -> Tensor:
    return torch.rand(B, B, generator=torch.Generator().manual_seed(1)) < 0.3


def assert_same(ours: Tensor, twin: Tensor, x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(ours, twin, rtol=1e-9, atol=1e-12)
    grads = (torch.autograd.grad(loss, (x, y), retain_graph=True) for loss in (ours, twin))
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("positives", [None, some_positives()])
def test_macl_is_the_published_loss(positives: Tensor | None) -> None:
    x, y = embeddings()
    output = ReweightedInfoNCE(MACL())(x, y, progress=0.3, index=INDEX, positives=positives)
    s = torch.stack([torch.stack(row) for row in reference.cosines(x, y)]).detach()
    tau = torch.tensor(reference.macl(s, 0.1, 0.5, 0.0), dtype=torch.float64)
    wanted = reference.reweighted_info_nce(x, y, tau, positives)
    assert_same(output.loss, wanted, x, y)
    assert output.log["temperature"].item() == pytest.approx(tau.item())


@pytest.mark.parametrize("policy", [Shifted(Constant(0.0), torch.linspace(0.05, 0.3, B)), DySTreSS()])
def test_the_row_weight_composes_with_any_policy(policy) -> None:  # type: ignore[no-untyped-def]
    x, y = embeddings()
    output = ReweightedInfoNCE(policy, anchor="media")(x, y, progress=0.3, index=INDEX)
    tau = output.log["temperature"].double()
    assert_same(output.loss, reference.reweighted_info_nce(x, y, tau, anchor="media"), x, y)


def test_a_learned_temperature_gets_its_gradient() -> None:
    x, y = embeddings()
    objective = ReweightedInfoNCE(Learned())
    objective(x, y, progress=0.0, index=INDEX).loss.backward()
    assert objective.temperature.log_value.grad != 0


def test_weights_are_finite_where_all_is_won_and_even_where_nothing_is_left() -> None:
    x = torch.eye(4)
    log = ReweightedInfoNCE(Fixed(0.002))(x, x, progress=0.0, index=torch.arange(4)).log
    assert log["weight"].tolist() == pytest.approx([1.0] * 4)
    log = ReweightedInfoNCE(MACL())(x[:1], x[:1], progress=0.0, index=torch.arange(1)).log
    assert log["weight"].tolist() == [1.0]


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("detach", [True, False])
def test_temo_equals_its_loop(p: float, detach: bool) -> None:
    x, y = embeddings(2)
    positives = some_positives()
    output = TeMo(0.05, 0.1, detach=detach)(x, y, progress=p, index=INDEX, positives=positives)
    assert_same(output.loss, reference.temo(x, y, p, 0.05, 0.1, positives, detach), x, y)
    assert not any(entry.requires_grad for entry in output.log.values())


def test_temo_starts_as_plain_info_nce_and_ends_as_a_policy_on_pairs() -> None:
    x, y = embeddings(3)
    rule = TeMo(0.05, 0.1, label_smoothing=0.1)
    start = rule(x, y, progress=0.0, index=INDEX).loss
    torch.testing.assert_close(start, info_nce(x, y, 0.05, label_smoothing=0.1))
    end = rule(x, y, progress=1.0, index=INDEX).loss
    pairs = InfoNCE(rule.temperature, label_smoothing=0.1)(x, y, progress=1.0, index=INDEX).loss
    torch.testing.assert_close(end, pairs)


def test_temo_with_the_gradient_through_its_temperature_passes_gradcheck() -> None:
    x, y = embeddings(4, B=3, D=3)
    rule = TeMo(0.1, 0.2, detach=False)
    assert torch.autograd.gradcheck(lambda x, y: rule(x, y, progress=0.6, index=torch.arange(3)).loss, (x, y))


@pytest.mark.parametrize("detach", [True, False])
def test_opposed_and_equal_embeddings_have_finite_gradients(detach: bool) -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    loss = TeMo(detach=detach)(x, torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), progress=0.5, index=torch.arange(2)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("objective", [ReweightedInfoNCE(MACL()), TeMo(), TeMo(detach=False)])
def test_both_keep_nothing_take_any_dtype_and_a_batch_of_one(objective) -> None:  # type: ignore[no-untyped-def]
    assert not objective.state_dict()
    x, y = embeddings(5)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        arguments = {"progress": 0.5, "index": INDEX, "media_index": INDEX, "relevance": torch.ones(B, B)}
        first, second = (objective(x.to(dtype), y.to(dtype), **arguments).loss for _ in range(2))
        assert first.dtype == torch.float32
        assert torch.isfinite(first)
        assert torch.equal(first, second)
    one = objective(x[:1], y[:1], progress=0.5, index=INDEX[:1])
    assert one.loss.item() == 0.0
    assert [g.abs().sum().item() for g in torch.autograd.grad(one.loss, (x, y))] == [0.0, 0.0]
    everything = objective(x, y, progress=0.5, index=INDEX, positives=torch.ones(B, B, dtype=torch.bool)).loss
    assert everything.item() == 0.0


def test_the_loss_and_the_objective_agree() -> None:
    x, y = embeddings(6)
    ours = ReweightedInfoNCE(Fixed(0.07))(x, y, progress=0.0, index=INDEX).loss
    assert torch.equal(ours, reweighted_info_nce(x, y, 0.07))


def test_what_cannot_be_right_is_an_error() -> None:
    x, y = embeddings(7)
    with pytest.raises(InputError, match="anchor is 'text'"):
        ReweightedInfoNCE(Fixed(0.1), anchor="text")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tau_min is 0"):
        TeMo(tau_min=0.0)
    with pytest.raises(InputError, match="label_smoothing is 2"):
        TeMo(label_smoothing=2.0)
    for objective in (TeMo(), TeMo(detach=False), ReweightedInfoNCE(MACL())):
        with pytest.raises(InputError, match=r"progress is 1\.5"):
            objective(x, y, progress=1.5, index=INDEX)
        with pytest.raises(InputError, match=r"index|similarity"):
            objective(x, y, progress=0.5, index=INDEX[:2])
