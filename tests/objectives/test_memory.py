"""Objectives with memory against their loop twins over many steps; what their gradients are; what they keep."""

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import reference
import torch
from torch import Tensor

from mmts.errors import InputError
from mmts.objectives import (
    NUCLR,
    DecoupledInfoNCE,
    FastCLIP,
    ISogCLR,
    Objective,
    Prior,
    SogCLR,
    TemperatureNet,
    TempNet,
)
from mmts.objectives.fastclip import GAMMA, TauGradient
from mmts.objectives.nuclr import ETA
from mmts.policies import Fixed, Learned, Scheduled, Shifted
from mmts.schedules import Constant, Cosine, Linear

MEDIA, SAMPLES, DIM, STEPS = 5, 9, 4, 12
OWNER = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 4])  # several captions a medium
SHIFT = torch.linspace(0.1, 0.5, SAMPLES, dtype=torch.float64)


def batch(step: int, B: int = 4, close: float = 0.5) -> dict[str, Any]:
    """A batch of a run: rows come again over the steps, media also within a batch."""
    generator = torch.Generator().manual_seed(step)
    index = torch.randperm(SAMPLES, generator=generator)[:B]
    x = torch.randn(B, DIM, generator=generator, dtype=torch.float64)
    y = 2 * x + 2 * close * torch.randn(B, DIM, generator=generator, dtype=torch.float64)
    positives = torch.rand(B, B, generator=generator) < 0.2
    positives[0] |= torch.tensor(step % 4 == 1)  # now and then a medium without a negative
    return {
        "x": x.requires_grad_(),
        "y": y.requires_grad_(),
        "progress": min(step / STEPS, 1.0),
        "index": index,
        "media_index": OWNER[index],
        "positives": positives,
    }


def run(objective: Objective, first: int = 0, last: int = STEPS) -> Iterator[tuple[dict[str, Any], Any, list[Tensor]]]:
    for step in range(first, last):
        inputs = batch(step)
        output = objective(**inputs)
        yield inputs, output, list(torch.autograd.grad(output.loss, (inputs["x"], inputs["y"]), retain_graph=True))


class Twin:
    """Both directions of 5.4 and 5.5 in loops."""

    def __init__(self, eps: float = 0.0) -> None:
        self.eps = eps
        self.media: reference.Memory = {}
        self.text: reference.Memory = {}

    def step(self, inputs: dict[str, Any], tau_media: list[float], tau_text: list[float], gamma: float) -> Tensor:
        s, P = reference.cosines(inputs["x"], inputs["y"]), inputs["positives"]
        s_T = [list(column) for column in zip(*s, strict=True)]
        media_rows, text_rows = inputs["media_index"].tolist(), inputs["index"].tolist()
        media, self.said_media = reference.contrast(self.media, media_rows, s, tau_media, P, gamma, self.eps)
        text, self.said_text = reference.contrast(self.text, text_rows, s_T, tau_text, P.T, gamma, self.eps)
        return media + text

    def mean(self, place: int) -> list[float]:
        """The mean over both directions, of each sample, of what `contrast` says in one place; nothing to say: 0."""
        said = zip(self.said_media, self.said_text, strict=True)
        return [((m[place] if m else 0.0) + (t[place] if t else 0.0)) / 2 for m, t in said]


def assert_same(output_loss: Tensor, gradients: list[Tensor], wanted: Tensor, inputs: dict[str, Any]) -> None:
    torch.testing.assert_close(output_loss, wanted, rtol=1e-10, atol=1e-12)
    slow = torch.autograd.grad(wanted, (inputs["x"], inputs["y"]))
    torch.testing.assert_close(gradients, list(slow), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("gamma", "eps"), [(0.8, 0.0), (1.0, 0.0), (Linear(1.0, 0.1), 0.0), (0.8, 0.02)])
def test_sogclr_equals_its_loop_twin_at_every_step_of_a_run(gamma: Any, eps: float) -> None:
    swing = Cosine(-0.08, 0.08, cycles=3)
    objective, twin = SogCLR(MEDIA, SAMPLES, Shifted(swing, SHIFT), gamma, eps).double(), Twin(eps)
    for inputs, output, gradients in run(objective):
        p = inputs["progress"]
        tau = [swing(p) + SHIFT[i].item() for i in inputs["index"].tolist()]
        wanted = twin.step(inputs, tau, tau, gamma if isinstance(gamma, float) else gamma(p))
        assert_same(output.loss, gradients, wanted, inputs)
        assert output.log["temperature"].tolist() == pytest.approx(tau)
        pull = twin.mean(2)
        assert output.log["weight"].tolist() == pytest.approx([each / (sum(pull) / len(pull)) for each in pull])


@pytest.mark.parametrize("candidates", ["both", "text", "media"])
def test_sogclr_with_a_prior_divides_the_exponentials_of_candidates(candidates: Any) -> None:
    prior = Prior(SHIFT, 0.7, candidates)
    objective = SogCLR(MEDIA, SAMPLES, 0.3, 0.8, prior=prior).double()
    memories: tuple[reference.Memory, reference.Memory] = ({}, {})
    for inputs, output, gradients in run(objective):
        s, P = reference.cosines(inputs["x"], inputs["y"]), inputs["positives"]
        bias = [-0.7 * math.log(SHIFT[i]) for i in inputs["index"].tolist()]
        rows = inputs["media_index"].tolist(), inputs["index"].tolist()
        wanted = reference.ZERO
        for k, (matrix, side) in enumerate(((s, "text"), ([list(c) for c in zip(*s, strict=True)], "media"))):
            of_candidates = bias if candidates in (side, "both") else None
            positives = P if k == 0 else P.T
            wanted = (
                wanted
                + reference.contrast(memories[k], rows[k], matrix, [0.3] * 4, positives, 0.8, bias=of_candidates)[0]
            )
        assert_same(output.loss, gradients, wanted, inputs)


def test_without_memory_sogclr_with_a_prior_has_the_gradient_of_decoupled_info_nce_with_it() -> None:
    prior = Prior(SHIFT, 0.7)
    inputs = batch(1)
    x, y = inputs["x"], inputs["y"]
    sogclr = SogCLR(MEDIA, SAMPLES, 0.3, 1.0, prior=prior).double()(**inputs)
    decoupled = DecoupledInfoNCE(Fixed(0.3), prior=prior)(**inputs)
    wanted = [2 * 0.3 * each for each in torch.autograd.grad(decoupled.loss, (x, y))]
    torch.testing.assert_close(list(torch.autograd.grad(sogclr.loss, (x, y))), wanted)


@pytest.mark.parametrize(
    ("low", "high", "eps"), [(0.05, 0.3, 0.0), (Linear(0.05, 0.15), Cosine(0.2, 0.3, cycles=2), 0.0), (0.05, 0.3, 0.02)]
)
def test_isogclr_equals_its_loop_twin_at_every_step_of_a_run(low: Any, high: Any, eps: float) -> None:
    rho, eta, beta = 0.5, 0.03, 0.5
    objective = ISogCLR(MEDIA, SAMPLES, rho, eta, beta, 0.8, low, high, start=0.25, eps=eps).double()
    twin = Twin(eps)
    tau_media, u_media = dict.fromkeys(range(MEDIA), 0.25), dict.fromkeys(range(MEDIA), 0.0)
    tau_text, u_text = dict.fromkeys(range(SAMPLES), 0.25), dict.fromkeys(range(SAMPLES), 0.0)
    for inputs, output, gradients in run(objective):
        bounds = tuple(each if isinstance(each, float) else each(inputs["progress"]) for each in (low, high))
        media, text = inputs["media_index"].tolist(), inputs["index"].tolist()
        before_media = [min(max(tau_media[k], bounds[0]), bounds[1]) for k in media]
        before_text = [min(max(tau_text[k], bounds[0]), bounds[1]) for k in text]
        wanted = twin.step(inputs, before_media, before_text, 0.8)
        assert_same(output.loss, gradients, wanted, inputs)
        means = [(m + t) / 2 for m, t in zip(before_media, before_text, strict=True)]
        assert output.log["temperature"].tolist() == pytest.approx(means)
        reference.isogclr_step(tau_media, u_media, media, twin.said_media, rho, eta, beta, *bounds)
        reference.isogclr_step(tau_text, u_text, text, twin.said_text, rho, eta, beta, *bounds)
        assert objective.tau_media.tolist() == pytest.approx(list(tau_media.values()), rel=1e-9)
        assert objective.tau_text.tolist() == pytest.approx(list(tau_text.values()), rel=1e-9)
        assert objective.u_media.tolist() == pytest.approx(list(u_media.values()), rel=1e-9)
        assert objective.u_text.tolist() == pytest.approx(list(u_text.values()), rel=1e-9)
    assert len(set(objective.tau_text.tolist())) > 3  # so the temperatures did part


@pytest.mark.parametrize(
    ("tau_gradient", "of_log_mean", "of_exponent"), [("half", 1, 1), ("printed", 2, 2), ("released", 1, 2)]
)
def test_fastclip_equals_its_loop_twin_and_its_temperature_gets_the_gradient_asked_for(
    tau_gradient: TauGradient, of_log_mean: int, of_exponent: int
) -> None:
    objective = FastCLIP(MEDIA, SAMPLES, start=0.3, rho=1.5, tau_gradient=tau_gradient).double()
    twin = Twin()
    log_tau = objective.temperature.log_value
    for inputs, output, gradients in run(objective):
        tau = log_tau.exp().item()
        wanted = twin.step(inputs, [tau] * 4, [tau] * 4, GAMMA(inputs["progress"]))
        log_mean, mean_exponent = (sum(twin.mean(place)) / 4 for place in (0, 1))
        assert_same(output.loss, gradients, wanted + of_log_mean * tau * (1.5 + log_mean), inputs)
        (slope,) = torch.autograd.grad(output.loss, log_tau)
        expected = of_log_mean * (1.5 + log_mean) - of_exponent * mean_exponent
        assert slope.item() == pytest.approx(tau * expected, rel=1e-9)
        with torch.no_grad():
            log_tau += 0.03  # another temperature in the next step


def test_tempnet_equals_its_loop_twin() -> None:
    torch.manual_seed(0)
    objective = TempNet(MEDIA, SAMPLES, DIM, num_prototypes=3, rho=1.5, low=0.1, high=0.5, dropout=0.0).double()
    nets, twin = (objective.media_net, objective.text_net), Twin()
    for inputs, output, gradients in run(objective):
        taus = [
            reference.tempnet_temperature(
                inputs[side].detach(),
                net.project.weight.detach(),
                net.project.bias.detach(),
                net.prototypes.detach(),
                net.log_scale.exp().item(),
                net.linear.weight.detach()[0],
                net.linear.bias.item(),
                0.1,
                0.5,
            )
            for side, net in zip("xy", nets, strict=True)
        ]
        wanted = twin.step(inputs, *taus, 0.8)
        for tau, said, net, side in zip(taus, (twin.said_media, twin.said_text), nets, "xy", strict=True):
            slack = [0.0 if each is None else each[0] + 1.5 - each[1] for each in said]
            wanted = wanted + sum(t * each for t, each in zip(tau, slack, strict=True)) / 4
            own = (net(inputs[side]) * torch.tensor(slack, dtype=torch.float64)).mean()
            parameters = list(net.parameters())
            fast = torch.autograd.grad(output.loss, parameters, retain_graph=True)
            torch.testing.assert_close(list(fast), list(torch.autograd.grad(own, parameters)))
        assert_same(output.loss, gradients, wanted, inputs)
        assert output.log["temperature"].tolist() == pytest.approx([(a + b) / 2 for a, b in zip(*taus, strict=True)])


def test_nuclr_equals_its_loop_twin_at_every_step_of_a_run() -> None:
    eta, ratio, theta = Cosine(0.0, 0.2, cycles=0.5), 0.5, 0.7
    objective = NUCLR(MEDIA, SAMPLES, Shifted(Constant(0.0), SHIFT), 0.8, eta, ratio, theta, start=-0.0625).double()
    memories: tuple[dict[int, float], dict[int, float]] = ({}, {})
    zeta = {"media": [-0.0625] * MEDIA, "text": [-0.0625] * SAMPLES}
    v: dict[str, dict[int, float]] = {"media": {}, "text": {}}
    for inputs, output, gradients in run(objective):
        s, P = reference.cosines(inputs["x"], inputs["y"]), inputs["positives"]
        rows = {"media": inputs["media_index"].tolist(), "text": inputs["index"].tolist()}
        tau = SHIFT[inputs["index"]].tolist()
        slopes, wanted = {}, torch.zeros((), dtype=torch.float64)
        for query, candidate, memory, rows_of_s, P_of_s in (
            ("media", "text", memories[0], s, P),
            ("text", "media", memories[1], list(zip(*s, strict=True)), P.T),
        ):
            of_candidates = [zeta[candidate][row] for row in rows[candidate]]
            xi = max(0.0, *zeta[candidate])
            loss, slopes[candidate] = reference.nuclr(
                memory, rows[query], rows_of_s, tau, P_of_s, 0.8, of_candidates, xi, SAMPLES
            )
            wanted = wanted + loss
        assert_same(output.loss, gradients, wanted, inputs)
        for side, step in (("media", ratio * eta(inputs["progress"])), ("text", eta(inputs["progress"]))):
            for row in set(rows[side]):
                new = [g for r, g in zip(rows[side], slopes[side], strict=True) if r == row and g is not None]
                if new:
                    g = reference.mean(new)
                    v[side][row] = (1 - theta) * v[side].get(row, g) + theta * g
                    zeta[side][row] -= step * v[side][row]
        assert objective.zeta_text.tolist() == pytest.approx(zeta["text"], rel=1e-9)
        assert objective.zeta_media.tolist() == pytest.approx(zeta["media"], rel=1e-9)
    assert max(zeta["text"]) > max(0.0, min(zeta["text"])) + 0.1  # xi has left 0, and the popularities have parted


def test_nuclrs_popularity_rises_for_a_candidate_that_all_queries_are_near() -> None:
    x = torch.eye(4) + 0.3
    y = torch.eye(4)
    y[2] = 1.0
    objective = NUCLR(4, 4, 0.2, eta=0.01, media_ratio=1.0, start=0.0)
    for _ in range(50):
        objective(x, y, progress=0.5, index=torch.arange(4))
    assert objective.zeta_text.argmax() == 2
    assert objective.zeta_text[2] > 0 > objective.zeta_text[0]
    fixed = NUCLR(4, 4, 0.2)  # the published rate is 0 at first
    fixed(x, y, progress=0.1, index=torch.arange(4))
    assert fixed.zeta_text.tolist() == pytest.approx([-0.05] * 4)
    assert [ETA(p) for p in (0.1, 1 / 6, 1.0)] == pytest.approx([0, 5e-6, 0], abs=1e-15)
    assert ETA(0.5) == pytest.approx(ETA(0.5 - 1e-9) / 10, rel=1e-6)


def test_prototypes_start_at_the_first_batch_of_training_and_only_there() -> None:
    objective = TempNet(MEDIA, SAMPLES, DIM, num_prototypes=3, prototypes="first_batch").double()
    random = objective.media_net.prototypes.detach().clone()
    objective.eval()(**batch(0))
    assert torch.equal(objective.media_net.prototypes, random)
    broken = batch(0)
    broken["x"].data[3, 0] = math.nan
    with pytest.raises(InputError, match=r"x\[3\]"):
        objective.train()(**broken)
    for step in (1, 2):
        objective(**batch(step))
    assert torch.equal(objective.media_net.prototypes, batch(1)["y"][:3])
    assert torch.equal(objective.text_net.prototypes, batch(1)["x"][:3])
    with pytest.raises(InputError, match="the first batch has 4 pairs for 5 prototypes to start at"):
        TempNet(MEDIA, SAMPLES, DIM, num_prototypes=5, prototypes="first_batch")(**batch(0))


def test_the_temperature_net_passes_gradcheck_over_all_its_parameters() -> None:
    torch.manual_seed(0)
    net = TemperatureNet(DIM, num_prototypes=3, low=0.01, high=0.5, dropout=0.0, scale=0.3).double()
    x = batch(0)["x"]

    def temperatures(*parameters: Tensor) -> Tensor:
        named = dict(zip(dict(net.named_parameters()), parameters, strict=True))
        result: Tensor = torch.func.functional_call(net, named, (x,))
        return result

    assert torch.autograd.gradcheck(temperatures, tuple(net.parameters()))
    assert torch.autograd.grad(net(x).sum(), x, allow_unused=True) == (None,)


def robust_value(inputs: dict[str, Any], tau: Tensor, before: tuple[Tensor, Tensor] | None, gamma: float) -> Tensor:
    """mean_i tau_i / gamma log S_i of both directions, a plain function of the embeddings: 5.5."""
    s = torch.nn.functional.normalize(inputs["x"]) @ torch.nn.functional.normalize(inputs["y"]).T
    own = torch.eye(len(s), dtype=torch.bool)
    total = torch.zeros((), dtype=torch.float64)
    for side, (similarity, P) in enumerate(((s, inputs["positives"]), (s.T, inputs["positives"].T))):
        d = ((similarity - similarity.diagonal()[:, None]) / tau[:, None]).masked_fill(own | P, -math.inf)
        kept = ~(own | P).all(dim=1)
        g = d[kept].logsumexp(dim=1).exp()
        S = g if before is None else (1 - gamma) * before[side][kept] + gamma * g
        total = total + (tau[kept] * S.log()).sum() / len(s) / (1.0 if before is None else gamma)
    return total


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_the_gradient_is_that_of_the_log_of_the_moving_sum(gamma: float) -> None:
    objective = SogCLR(MEDIA, SAMPLES, Shifted(Constant(0.0), SHIFT), gamma).double()
    for _ in run(objective, 0, 8):
        pass  # until every row has been seen
    assert objective.media_sum.seen.all()
    inputs = batch(20)
    media, text = inputs["media_index"], inputs["index"]
    before = objective.media_sum.log_sum[media].exp(), objective.text_sum.log_sum[text].exp()
    got = torch.autograd.grad(objective(**inputs).loss, (inputs["x"], inputs["y"]))
    wanted = torch.autograd.grad(robust_value(inputs, SHIFT[text], before, gamma), (inputs["x"], inputs["y"]))
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)

    def value(x: Tensor, y: Tensor) -> Tensor:
        return robust_value(inputs | {"x": x, "y": y}, SHIFT[text], before, gamma)

    assert torch.autograd.gradcheck(value, (inputs["x"], inputs["y"]))


@pytest.mark.parametrize("positives", [False, True])
def test_with_gamma_one_the_gradient_is_decoupled_info_nces_times_the_temperature(positives: bool) -> None:
    objective = SogCLR(MEDIA, SAMPLES, 0.2, gamma=1.0).double()
    for step in range(5):
        inputs = batch(step) | ({} if positives else {"positives": None})
        s = torch.nn.functional.normalize(inputs["x"]) @ torch.nn.functional.normalize(inputs["y"]).T
        P = batch(step)["positives"] if positives else torch.zeros(4, 4, dtype=torch.bool)
        left_out = torch.eye(4, dtype=torch.bool) | P
        decoupled = torch.zeros((), dtype=torch.float64)
        for z, out in ((s / 0.2, left_out), (s.T / 0.2, left_out.T)):
            rows = ~out.all(dim=1)
            decoupled = decoupled + (z.masked_fill(out, -math.inf).logsumexp(dim=1) - z.diagonal())[rows].sum() / 4
        got = torch.autograd.grad(objective(**inputs).loss, (inputs["x"], inputs["y"]))
        wanted = torch.autograd.grad(0.2 * decoupled, (inputs["x"], inputs["y"]))
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


def objectives() -> list[Objective]:
    torch.manual_seed(0)
    return [
        SogCLR(MEDIA, SAMPLES, Shifted(Constant(0.0), SHIFT)),
        ISogCLR(MEDIA, SAMPLES, low=0.05, high=0.3, start=0.1, rho=0.5),
        FastCLIP(MEDIA, SAMPLES),
        TempNet(MEDIA, SAMPLES, DIM, num_prototypes=3),
        NUCLR(MEDIA, SAMPLES, 0.2, eta=0.01),
        TempNet(MEDIA, SAMPLES, DIM, num_prototypes=3, prototypes="first_batch"),
    ]


@pytest.mark.parametrize("which", range(len(objectives())))
def test_a_run_goes_on_from_its_saved_state_as_if_never_stopped(which: int) -> None:
    whole, stopped, resumed = (objectives()[which] for _ in range(3))
    for each in (whole, stopped):
        torch.manual_seed(6)  # of the dropout
        for _ in run(each, 0, 5):
            pass
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file))
    torch.manual_seed(7)
    wanted = [(output.loss, *gradients) for _, output, gradients in run(whole, 5)]
    torch.manual_seed(7)
    got = [(output.loss, *gradients) for _, output, gradients in run(resumed, 5)]
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("which", range(len(objectives())))
def test_state_changes_in_training_only_and_only_in_the_rows_of_the_batch(which: int) -> None:
    objective = objectives()[which]
    for _ in run(objective, 0, 3):
        pass
    before = {name: each.clone() for name, each in objective.state_dict().items()}
    inputs = batch(4) | {"positives": None}
    objective.eval()
    first, second = objective(**inputs), objective(**inputs)
    assert torch.equal(first.loss, second.loss)
    torch.testing.assert_close(dict(objective.state_dict()), before, rtol=0, atol=0)
    objective.train()
    objective(**inputs)
    for name, each in objective.named_buffers():
        if name == "started":
            continue
        size, rows = (MEDIA, inputs["media_index"]) if "media" in name else (SAMPLES, inputs["index"])
        other = torch.ones(size, dtype=torch.bool).index_fill(0, rows, False)
        assert torch.equal(each[other], before[name][other])
        if "log_sum" in name:
            assert not torch.isclose(each[~other], before[name][~other]).any()


@pytest.mark.parametrize("which", range(len(objectives())))
def test_a_batch_without_negatives_has_no_pull_and_leaves_no_trace(which: int) -> None:
    objective = objectives()[which]
    for _ in run(objective, 0, 3):
        pass
    before = {name: each.clone() for name, each in objective.state_dict().items()}
    for B in (1, 4):
        inputs = batch(5, B) | {"positives": torch.ones(B, B, dtype=torch.bool)}
        output = objective(**inputs)
        gradients = torch.autograd.grad(output.loss, (inputs["x"], inputs["y"]))
        assert not any(each.any() for each in gradients)
        assert math.isfinite(output.loss.item())
        assert output.log["weight"].tolist() == [1.0] * B
    torch.testing.assert_close(dict(objective.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("which", range(5))
def test_the_order_of_the_batch_does_not_matter(which: int) -> None:
    one, other = objectives()[which].double(), objectives()[which].double()
    one.load_state_dict(other.state_dict())
    for each in (one, other):
        for module in each.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    for step in range(6):
        inputs = batch(step)
        order = torch.randperm(4, generator=torch.Generator().manual_seed(step))
        shuffled = {
            name: each if name == "progress" else each[order][:, order] if name == "positives" else each[order]
            for name, each in inputs.items()
        }
        torch.testing.assert_close(one(**inputs).loss, other(**shuffled).loss)
        torch.testing.assert_close(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("which", range(len(objectives())))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_embeddings_are_computed_in_float32_under_autocast_too(which: int, dtype: torch.dtype) -> None:
    narrow, wide = objectives()[which].eval(), objectives()[which].eval()
    inputs = {name: each.detach() if isinstance(each, Tensor) else each for name, each in batch(0).items()}
    inputs |= {"x": inputs["x"].to(dtype), "y": inputs["y"].to(dtype)}
    with torch.autocast("cpu", torch.bfloat16):
        loss = narrow(**inputs).loss
    assert loss.dtype == torch.float32 or loss.dtype == torch.float64
    wanted = wide(**inputs | {"x": inputs["x"].float(), "y": inputs["y"].float()}).loss
    torch.testing.assert_close(loss, wanted)


def test_neither_small_temperatures_nor_long_absences_of_hard_negatives_end_in_nan() -> None:
    # A row meets one very hard negative, then none for a hundred visits: exp(d - b) would underflow to 0 / 0.
    objective = ISogCLR(2, 2, low=0.005, high=0.005, start=0.005)
    index = torch.tensor([0, 1])
    x = torch.eye(2)
    objective(x, x.flip(0), progress=0.0, index=index)
    assert objective.media_sum.log_sum.tolist() == pytest.approx([200.0, 200.0])
    for _ in range(300):
        output = objective(x.requires_grad_(), torch.eye(2), progress=0.0, index=index)
        (gradient,) = torch.autograd.grad(output.loss, x)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(objective.u_media).all()
    assert gradient.abs().max() > 0.1  # forgotten: it pulls as at first sight


def far_pairs(gap: float, B: int = 8) -> Tensor:
    """Unit rows whose cosines with each other are 1 - gap."""
    s = torch.eye(B, dtype=torch.float64) * gap + (1 - gap)
    return torch.linalg.cholesky(s)


@pytest.mark.parametrize(("gap", "same"), [(0.2, True), (0.7, False)])
def test_a_released_eps_ends_the_pull_of_negatives_more_than_32_temperatures_away(gap: float, same: bool) -> None:
    index, norms = torch.arange(8), []
    for eps in (0.0, 1e-14):  # that of TempNet's SogCLR
        x = far_pairs(gap).requires_grad_()
        loss = SogCLR(8, 8, 0.01, eps=eps)(x, far_pairs(gap), progress=0.0, index=index).loss
        norms.append(torch.autograd.grad(loss, x)[0].norm().item())
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(norms[0], rel=1e-4) if same else norms[1] < 1e-14


@pytest.mark.parametrize(("gap", "same"), [(0.3, True), (1.2, False)])
def test_a_released_eps_turns_the_temperatures_of_tempnet_the_other_way(gap: float, same: bool) -> None:
    slopes = []
    for eps in (0.0, 1e-14):
        torch.manual_seed(0)
        objective = TempNet(8, 8, 8, rho=7.0, num_prototypes=3, eps=eps).double()
        x = far_pairs(gap) if gap <= 1 else 2 * torch.eye(8, dtype=torch.float64) - 0.25  # cosines below 0
        objective(x, x, progress=0.0, index=torch.arange(8)).loss.backward()
        slopes.append(objective.media_net.linear.bias.grad.item())
    assert slopes[0] > 0  # a step lowers the temperatures
    assert (slopes[1] > 0) is same


def test_temperatures_rise_where_a_row_has_few_hard_negatives_and_fall_where_all_are_alike() -> None:
    text = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.4, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    media = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0.3, -0.3], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    objective = ISogCLR(4, 4, rho=0.4, eta=0.003, low=0.01, high=0.3, start=0.1)
    for _ in range(20):
        objective(media, text, progress=0.0, index=torch.arange(4))
    assert objective.tau_media[0] > 0.1  # text 1 alone is near it
    assert objective.tau_media[2] < 0.1  # nothing is near it
    higher = ISogCLR(4, 4, rho=math.log(3), eta=0.01, low=0.01, high=0.3, start=0.1, gamma=1.0)
    for _ in range(60):
        higher(media, text, progress=0.0, index=torch.arange(4))
    assert (higher.tau_media < 0.1).all()  # no divergence of three weights exceeds log 3


def test_fastclips_temperature_moves_the_same_way_and_stays_in_bounds() -> None:
    inputs = batch(0, B=8)
    inputs |= {"positives": None}
    for rho, rises in ((0.05, True), (3.0, False)):
        objective = FastCLIP(MEDIA, SAMPLES, start=0.07, rho=rho, low=0.05, high=0.09)
        optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
        for _ in range(30):
            optimizer.zero_grad()
            objective(**inputs).loss.backward()
            optimizer.step()
            objective.after_step()
            tau = objective(**inputs).log["temperature"].item()
            assert 0.05 - 1e-6 < tau < 0.09 + 1e-6
        assert (tau > 0.07) is rises


def test_the_parameters_that_learn_at_a_rate_of_their_own() -> None:
    sogclr, isogclr, fastclip, tempnet, nuclr, _ = objectives()
    assert sogclr.learning_rates() == isogclr.learning_rates() == nuclr.learning_rates() == {}
    assert not [*sogclr.parameters(), *isogclr.parameters()]
    assert fastclip.learning_rates() == {"temperature.log_value": 2e-4}
    for objective in (fastclip, tempnet):
        assert list(objective.learning_rates()) == [name for name, _ in objective.named_parameters()]
    assert set(tempnet.learning_rates().values()) == {3e-5}
    assert FastCLIP(2, 2, learning_rate=None).learning_rates() == {}
    assert TempNet(2, 2, DIM, learning_rate=None).learning_rates() == {}
    assert [round(GAMMA(p), 6) for p in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.6, 0.2, 0.2]


def test_without_media_index_every_sample_is_a_medium_of_its_own() -> None:
    one, other = SogCLR(SAMPLES, SAMPLES, 0.1), SogCLR(SAMPLES, SAMPLES, Fixed(0.1))
    inputs = batch(0)
    inputs["media_index"] = None
    loss = one(**inputs).loss
    assert torch.equal(loss, other(**inputs | {"media_index": inputs["index"]}).loss)
    with pytest.raises(InputError, match="media_index is missing: 9 samples share 5 media"):
        SogCLR(MEDIA, SAMPLES, 0.1)(**inputs)


class PerPair(Fixed):
    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        return torch.full((len(index), len(index)), 0.1)


def test_what_cannot_be_right_is_an_error() -> None:
    for arguments, message in (
        ({"num_media": 0}, "num_media is 0"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"gamma": Linear(1.0, 1.5)}, "gamma is Linear"),
        ({"eps": -1e-9}, "eps is -1e-09; it must be finite and not negative"),
        ({"rho": 0.0}, "rho is 0"),
        ({"eta": float("nan")}, "eta is nan"),
        ({"beta": 1.5}, "beta is 1.5"),
        ({"low": 0.0}, "low is 0 and high 0.05 at progress 0"),
        ({"low": Linear(0.005, 0.06)}, "high 0.05 at progress 0.819"),
        ({"start": 0.06}, r"start is 0.06; it must lie in \[0.005, 0.05\]"),
    ):
        with pytest.raises(InputError, match=message):
            ISogCLR(**{"num_media": 2, "num_captions": 2} | arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Learned, whose log_value would never move"):
        SogCLR(2, 2, Learned())
    for arguments, message in (
        ({"eta": -0.1}, "eta is -0.1"),
        ({"theta": 0.0}, "theta is 0"),
        ({"media_ratio": -1.0}, "media_ratio is -1"),
        ({"start": math.inf}, "start is inf"),
        ({"num_captions": 1, "num_media": 1}, "num_captions is 1"),
        ({"temperature": Learned()}, "NUCLR: temperature is Learned"),
    ):
        with pytest.raises(InputError, match=message):
            NUCLR(**{"num_media": 2, "num_captions": 2, "temperature": 0.1} | arguments)  # type: ignore[arg-type]
    wrong = [{"width": 0}, {"num_prototypes": 0}, {"rho": -1.0}, {"low": 0.1}, {"dropout": 1.0}]
    for arguments in (*wrong, {"prototypes": "x"}, {"rate_decay": 1.1}, {"rate_decay": 0.9, "learning_rate": None}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            TempNet(**{"num_media": 2, "num_captions": 2, "width": 2} | arguments)  # type: ignore[arg-type]
    for arguments in ({"rho": 0.0}, {"learning_rate": 0.0}, {"start": 2.0}, {"tau_gradient": "other"}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            FastCLIP(2, 2, **arguments)  # type: ignore[arg-type]


def test_a_wrong_batch_is_an_error_that_names_the_row_and_leaves_the_memory_alone() -> None:
    inputs = batch(0)
    broken = inputs["x"].detach().clone()
    broken[2, 1] = math.nan
    for objective in objectives():
        objective(**inputs)  # TempNet's prototypes start
        before = {name: each.clone() for name, each in objective.state_dict().items()}
        for wrong, message in (
            ({"index": torch.tensor([0, 1, 2, 9])}, r"^index\[3\] is 9; it must lie in 0..8"),
            ({"media_index": torch.tensor([0, 5, 2, 1])}, r"media_index\[1\] is 5; it must lie in 0..4"),
            ({"index": torch.tensor([0])}, "index has 1 rows and x has 4"),
            ({"x": broken}, r"x\[2\] has a NaN"),
            ({"positives": torch.ones(3, 3, dtype=torch.bool)}, "positives is"),
            ({"y": inputs["y"][:, :2]}, r"y is \(4, 2\)"),
        ):
            with pytest.raises(InputError, match=message):
                objective(**inputs | wrong)
        torch.testing.assert_close(dict(objective.state_dict()), before, rtol=0, atol=0)
    with pytest.raises(InputError, match=r"^index\[1\] is 4; it must lie in 0..3"):  # each text has its own medium
        SogCLR(4, 4, 0.1)(**inputs | {"index": torch.tensor([0, 4, 2, 1]), "media_index": None})
    with pytest.raises(InputError, match="one per pair"):
        SogCLR(MEDIA, SAMPLES, PerPair(0.1))(**inputs)
    with pytest.raises(InputError, match="progress is"):
        SogCLR(MEDIA, SAMPLES, Scheduled(Constant(0.1)))(**inputs | {"progress": 1.5})
