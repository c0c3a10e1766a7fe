"""Every objective logs its temperature or margin and how strongly it pulls on each sample's own pair."""

import inspect
from typing import Any

import pytest
import reference
import torch
from losses.loss_cases import embeddings, graded, some_positives, values
from torch import Tensor

from mmts import objectives
from mmts.losses import decoupled_info_nce, info_nce, max_margin, multi_positive_info_nce, sms
from mmts.objectives import Objective
from mmts.policies import MACL, Fixed, Learned, Shifted
from mmts.schedules import Constant

B, D = 6, 5
INDEX = torch.tensor([5, 0, 1, 3, 2, 4])
HALVES = (slice(0, 2), slice(2, B))
SHIFTED = Shifted(Constant(0.0), torch.linspace(0.1, 0.6, B))
BUILT: dict[str, Objective] = {
    "InfoNCE": objectives.InfoNCE(SHIFTED),
    "DecoupledInfoNCE": objectives.DecoupledInfoNCE(SHIFTED),
    "MultiPositiveInfoNCE": objectives.MultiPositiveInfoNCE(SHIFTED),
    "MaxMargin": objectives.MaxMargin(SHIFTED),
    "SMS": objectives.SMS(SHIFTED),
    "SigLIP": objectives.SigLIP(Learned()),
    "ReweightedInfoNCE": objectives.ReweightedInfoNCE(MACL()),
    "DualTemperature": objectives.DualTemperature(SHIFTED),
    "NoTemperature": objectives.NoTemperature(),
    "HardNegativeInfoNCE": objectives.HardNegativeInfoNCE(SHIFTED),
    "RINCE": objectives.RINCE(SHIFTED),
    "CyCLIP": objectives.CyCLIP(SHIFTED),
    "TeMo": objectives.TeMo(),
    "SogCLR": objectives.SogCLR(B, B, SHIFTED),
    "ISogCLR": objectives.ISogCLR(B, B),
    "FastCLIP": objectives.FastCLIP(B, B),
    "TempNet": objectives.TempNet(B, B, D),
    "NUCLR": objectives.NUCLR(B, B, SHIFTED),
}


def test_all_objectives_are_looked_at() -> None:
    classes = {
        each.__name__ for each in vars(objectives).values() if inspect.isclass(each) and issubclass(each, Objective)
    }
    assert classes - {"Objective"} == set(BUILT)


@pytest.mark.parametrize("name", sorted(BUILT))
@pytest.mark.parametrize("size", [1, B])
def test_each_logs_its_value_and_a_weight_of_mean_1(name: str, size: int) -> None:
    x, y = embeddings(size, D, dtype=torch.float32)
    logged = None if name == "NoTemperature" else BUILT[name].value_name
    log = BUILT[name](x, y, progress=0.4, index=INDEX[:size], relevance=graded(size)).log
    assert [value for value in ("temperature", "margin") if value in log] == ([logged] if logged else [])
    assert log["weight"].shape == (size,)
    assert log["weight"].mean().item() == pytest.approx(1.0, rel=1e-5)
    assert (log["weight"] >= 0).all()
    assert not any(entry.requires_grad for entry in log.values())


def cosines(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([torch.stack(row) for row in reference.cosines(x, y)]).detach()


def pull(twin: str, *arguments: object, monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[Tensor, Tensor]:
    """Return a twin's loss and -dL/ds_ii, through a matrix of similarities that is a leaf."""
    x, y = embeddings(B, D)
    s = cosines(x, y).requires_grad_()
    with monkeypatch.context() as patched:
        patched.setattr(reference, "cosines", lambda *_: [list(row) for row in s])
        loss = getattr(reference, twin)(x, y, *arguments, **options)
    (gradient,) = torch.autograd.grad(loss, s)
    return loss.detach(), -gradient.diagonal()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("positives", [None, some_positives(B)])
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (info_nce, {}),
        (info_nce, {"anchor": "media"}),
        (info_nce, {"label_smoothing": 0.2, "anchor": "candidate"}),
        (info_nce, {"scale_by_temperature": True}),
        (decoupled_info_nce, {"label_smoothing": 0.2}),
        (multi_positive_info_nce, {"label_smoothing": 0.2}),
    ],
)
def test_the_pull_of_info_nce_and_its_relatives_is_the_gradient_of_the_pairs_similarity(
    fused: bool, positives: Tensor | None, loss: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"fused": fused}
    if fused and loss is multi_positive_info_nce and positives is not None:
        pytest.skip("the fused multi_positive_info_nce cannot do positives")
    x, y = embeddings(B, D)
    tau = values(B).detach()
    name = loss.__name__.removesuffix("info_nce").strip("_")
    target = {name: True} if name else {}
    result = loss.with_pull(x, y, tau, positives=positives, **form, **options)
    wanted = pull("info_nce_of_targets", tau, positives, monkeypatch=monkeypatch, **options, **target)
    torch.testing.assert_close((result[0].detach(), result[1]), wanted)
    parts = [loss.with_pull(x, y, tau, positives=positives, queries=half, **form, **options)[1] for half in HALVES]
    torch.testing.assert_close(torch.cat(parts), wanted[1])


def test_info_nces_pull_at_one_temperature_per_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = embeddings(B, D)
    tau = values(B, 2).detach()
    wanted = pull("info_nce", tau, monkeypatch=monkeypatch)[1]
    torch.testing.assert_close(info_nce.with_pull(x, y, tau)[1], wanted)


@pytest.mark.parametrize(
    ("objective", "twin", "arguments"),
    [
        (objectives.SigLIP(SHIFTED, bias=-3.0), "siglip", (torch.tensor(-3.0),)),
        (objectives.ReweightedInfoNCE(SHIFTED), "reweighted_info_nce", ()),
        (objectives.ReweightedInfoNCE(SHIFTED, anchor="media"), "reweighted_info_nce", ()),
        (objectives.DualTemperature(SHIFTED, ratio=3.0), "dual_temperature", (3.0,)),
        (objectives.HardNegativeInfoNCE(SHIFTED, alpha=0.7), "hard_negative_info_nce", (0.5, 0.7, 0.0)),
        (objectives.HardNegativeInfoNCE(SHIFTED, tau_plus=0.1), "hard_negative_info_nce", (0.5, 1.0, 0.1)),
        (objectives.RINCE(SHIFTED, q=0.6, lam=0.1), "rince", (0.6, 0.1)),
    ],
)
@pytest.mark.parametrize("positives", [None, some_positives(B)])
def test_the_weight_of_other_losses_is_their_pull(
    objective: Objective,
    twin: str,
    arguments: tuple[object, ...],
    positives: Tensor | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = embeddings(B, D)
    log = objective(x, y, progress=0.0, index=INDEX, positives=positives).log
    wanted = pull(twin, SHIFTED.shift[INDEX].double(), *arguments, positives, monkeypatch=monkeypatch)[1]
    torch.testing.assert_close(log["weight"], wanted / wanted.mean())


@pytest.mark.parametrize("eps", [1e-6, 0.2])  # .2: two positive pairs are beyond it
def test_the_weight_of_no_temperature_is_its_pull(eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = embeddings(B, D)
    log = objectives.NoTemperature(eps=eps, label_smoothing=0.1)(x, y, progress=0.0, index=INDEX).log
    wanted = pull("no_temperature", eps, None, 0.1, monkeypatch=monkeypatch)[1]
    torch.testing.assert_close(log["weight"], wanted / wanted.mean())


def test_the_terms_of_cyclip_pull_on_no_positive_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = embeddings(B, D)
    assert pull("cyclic_consistency", 0.25, 0.25, monkeypatch=monkeypatch)[1].abs().max() == 0
    logs = [make(SHIFTED)(x, y, progress=0.0, index=INDEX).log for make in (objectives.CyCLIP, objectives.InfoNCE)]
    torch.testing.assert_close(logs[0], logs[1])


def test_the_weight_of_temo_is_its_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = embeddings(B, D)
    log = objectives.TeMo(0.05, 0.1)(x, y, progress=0.4, index=INDEX).log
    wanted = pull("temo", 0.4, 0.05, 0.1, monkeypatch=monkeypatch)[1]
    torch.testing.assert_close(log["weight"], wanted / wanted.mean())


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("negatives", ["all", "hardest"])
@pytest.mark.parametrize("positives", [None, some_positives(B)])
@pytest.mark.parametrize("ndim", [0, 1, 2])
def test_max_margins_pull_is_the_gradient_of_the_own_similarity(
    squared: bool, negatives: str, positives: Tensor | None, ndim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = embeddings(B, D)
    margin = values(B, ndim).detach()
    loss, got = max_margin.with_pull(x, y, margin, positives=positives, negatives=negatives, squared=squared)  # type: ignore[arg-type]
    wanted_loss, wanted = pull("max_margin", margin, positives, negatives, squared, monkeypatch=monkeypatch)
    torch.testing.assert_close((loss.detach(), got), (wanted_loss, wanted))
    assert got.max() > got.min()
    if ndim == 1:  # what a policy can give, through the objective
        policy = Shifted(Constant(0.0), margin)
        objective = objectives.MaxMargin(policy, negatives=negatives, squared=squared)  # type: ignore[arg-type]
        log = objective(x, y, progress=0.0, index=torch.arange(B), positives=positives).log
        torch.testing.assert_close(log["weight"], wanted / wanted.mean())


def test_max_margins_pull_where_relevance_scales_the_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = embeddings(B, D)
    margin = 3 * values(B).detach()
    _, got = max_margin.with_pull(x, y, margin, relevance=graded(B))
    _, wanted = pull("relevance_margin", margin, graded(B), monkeypatch=monkeypatch)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize(("slack", "eps"), [(0.1, 1.1 / 240), (0.3, 0.3)])
def test_sms_counts_the_comparisons_that_cost_something(ndim: int, slack: float, eps: float) -> None:
    x, y = embeddings(B, D)
    margin = 3 * values(B, ndim).detach()
    _, got = sms.with_pull(x, y, graded(B), margin, slack=slack, eps=eps)
    assert got.tolist() == reference.sms_activity(cosines(x, y), graded(B), margin, slack, eps)


def test_where_only_the_own_pair_is_relevant_the_count_of_sms_is_its_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = embeddings(B, D)
    relevance = torch.eye(B, dtype=torch.float64)
    _, got = sms.with_pull(x, y, relevance, 0.6)
    _, wanted = pull("sms", relevance, torch.tensor(0.6).double(), monkeypatch=monkeypatch)
    torch.testing.assert_close(got / (2 * B * (B - 1)), wanted)


@pytest.mark.parametrize("objective", [objectives.MaxMargin(Fixed(0.2)), objectives.SMS(Fixed(0.6))])
def test_where_no_hinge_is_above_zero_every_weight_is_1(objective: Objective) -> None:
    x = torch.eye(B)
    output = objective(x, x, progress=0.0, index=INDEX, relevance=torch.eye(B))
    assert (output.loss.item(), output.log["weight"].tolist()) == (0.0, [1.0] * B)
