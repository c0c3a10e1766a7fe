"""The slow, obvious twin of every formula in docs/method.md: loops over samples in float64, without vector operations.

The number beside each function is its formula's number in docs/method.md. A twin takes plain numbers, or float64
tensors whose entries it reads one by one, so that autograd through the twin gives the reference gradient. Put a new
twin into the section of its number.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

Numbers = Sequence[float]
ZERO = torch.zeros((), dtype=torch.float64)


# 1. Schedules ---------------------------------------------------------------------------------------------------------


def linear(p: float, start: float, end: float) -> float:  # 1.3
    return start + (end - start) * p


def cosine(p: float, low: float, high: float, cycles: float, phase: float = 0.0) -> float:  # 1.4
    middle, half = (low + high) / 2, (high - low) / 2
    return middle + half * math.cos(2 * math.pi * (cycles * p + phase))


def step(p: float, values: Numbers, boundaries: Numbers) -> float:  # 1.7
    for value, boundary in zip(values, boundaries, strict=False):
        if p < boundary:
            return value
    return values[-1]


# 2. Concepts ----------------------------------------------------------------------------------------------------------


def shift(counts: Numbers, low: float, high: float, scale: str = "linear", q: float = 1.0) -> list[float]:  # 2.1 to 2.3, 2.6  # noqa: E501  # fmt: skip
    sizes = sorted(set(counts))
    if len(sizes) == 1:
        return [(low + high) / 2 for _ in counts]

    def position(n: float) -> float:
        if scale == "linear":
            return (n - sizes[0]) / (sizes[-1] - sizes[0])
        if scale == "log":
            return (math.log(n) - math.log(sizes[0])) / (math.log(sizes[-1]) - math.log(sizes[0]))
        if scale == "power":
            return (n**q - sizes[0] ** q) / (sizes[-1] ** q - sizes[0] ** q)
        return sizes.index(n) / (len(sizes) - 1)

    return [low + (high - low) * position(n) for n in counts]


def concept_groups(sizes: Sequence[int]) -> list[int]:  # 2.4
    total = sum(sizes)
    groups = []
    for size in sizes:
        in_larger = sum(other for other in sizes if other > size)
        groups.append(0 if 3 * in_larger < total else 1 if 3 * in_larger < 2 * total else 2)
    return groups


def neighbour_counts(rows: Sequence[Numbers], k: int) -> list[int]:  # 2.5
    N = len(rows)
    s = [[sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) for j in range(N)] for i in range(N)]
    radius = median([sorted((s[i][j] for j in range(N) if j != i), reverse=True)[k - 1] for i in range(N)])
    return [sum(1 for j in range(N) if j == i or s[i][j] >= radius - 1e-6) for i in range(N)]


def distant_rows(  # 2.7
    rows: Sequence[Numbers], weights: Numbers, K: int, tries: int, uniform: Iterator[float]
) -> list[int]:
    """The chosen rows; `uniform` gives the random numbers in [0, 1), one for each row drawn."""

    def square(i: int, c: int) -> float:
        return sum((a - b) ** 2 for a, b in zip(rows[i], rows[c], strict=True))

    def draw(shares: Numbers) -> int:
        left = next(uniform) * sum(shares)
        for i, share in enumerate(shares):
            left -= share
            if left < 0:
                return i
        raise AssertionError

    chosen = [draw(weights)]
    for _ in range(K - 1):
        D = [min(square(i, c) for c in chosen) for i in range(len(rows))]
        drawn = [draw([w * d for w, d in zip(weights, D, strict=True)]) for _ in range(tries)]
        costs = [sum(w * min(D[i], square(i, c)) for i, w in enumerate(weights)) for c in drawn]
        chosen.append(drawn[costs.index(min(costs))])
    return chosen


def group_of_size(n: int, of_samples: Sequence[int]) -> int:  # 2.4, of samples whose concept has these sizes
    larger = sum(1 for other in of_samples if other > n)
    return 0 if 3 * larger < len(of_samples) else 1 if 3 * larger < 2 * len(of_samples) else 2


def size_of_several(sizes: Sequence[int], of: str) -> int:  # 2.8
    if of == "mean":
        return math.floor(sum(sizes) / len(sizes) + 0.5)
    return min(sizes) if of == "rarest" else max(sizes)


def padded(text: str) -> str:  # 2.9
    for mark in ',.;:?!`()[]{}"“”':
        text = text.replace(mark, f" {mark} ")
    return " " + " ".join(text.lower().split()) + " "


def entries_in(caption: str, entries: Sequence[str]) -> set[str]:  # 2.9
    known = [padded(entry) for entry in entries]
    return {entry.strip() for entry in known if entry.strip() and entry in padded(caption)}


# 3. Values: temperatures and margins ----------------------------------------------------------------------------------


def mmts_values(p: float, counts: Numbers, n_min: float, n_max: float, alpha: float, cycles: float, low: float, high: float) -> list[float]:  # 3.3  # noqa: E501  # fmt: skip
    swing = (alpha / 2) * math.cos(2 * math.pi * cycles * p)
    return [swing + low + (high - low) * (n - n_min) / (n_max - n_min) for n in counts]


def macl(s: Tensor, tau0: float, alpha: float, A0: float) -> float:  # 3.5
    alignment = sum(s[i, i].item() for i in range(len(s))) / len(s)
    return tau0 * (1 + alpha * (alignment - A0))


def dystress(s: float, low: float, high: float) -> float:  # 3.6
    return low + (high - low) / 2 * (1 + math.cos(math.pi * (1 + s)))


def temo_temperature(s: float, tau_min: float, tau_alpha: float) -> float:  # 3.7
    return tau_min + tau_alpha * math.sqrt((s + 1) / 2)


def ldam(counts: Numbers, high: float) -> list[float]:  # 3.8
    C = high * min(counts) ** 0.25
    return [C / n**0.25 for n in counts]


# 4. Losses ------------------------------------------------------------------------------------------------------------
# Each loss has two directions. From x to y, query i is medium i and its candidates are the texts; from y to x, query i
# is text i and its candidates are the media. In both, candidate i is the positive of query i.

DIRECTIONS = ("x to y", "y to x")


def unit(x: Tensor) -> list[Tensor]:  # 4.1
    rows = []
    for row in x.double():
        length = sum((entry * entry for entry in row), start=ZERO)
        rows.append(row / length.sqrt() if length > 0 else row)
    return rows


def cosines(x: Tensor, y: Tensor) -> list[list[Tensor]]:  # 4.2
    return [
        [sum((a * b for a, b in zip(row, column, strict=True)), start=ZERO) for column in unit(y)] for row in unit(x)
    ]


def pair_of(direction: str, i: int, j: int) -> tuple[int, int]:
    """The medium and the text of query i and candidate j."""
    return (i, j) if direction == "x to y" else (j, i)


def negatives_of(direction: str, i: int, B: int, positives: Tensor | None) -> list[int]:  # 4.5
    """The candidates of query i without its positive and without the extra positives."""
    return [j for j in range(B) if j != i and (positives is None or not positives[pair_of(direction, i, j)])]


def pair_value(value: Tensor, owner: int, medium: int, text: int) -> Tensor:
    """The temperature or margin of a pair: the one number for all, that of sample `owner`, or entry (medium, text)."""
    if value.ndim == 0:
        return value
    return value[owner] if value.ndim == 1 else value[medium, text]


def logit(s: list[list[Tensor]], temperature: Tensor, anchor: str, direction: str, i: int, j: int) -> Tensor:  # 4.4
    medium, text = pair_of(direction, i, j)
    owner = {"row": i, "candidate": j, "media": medium}[anchor]
    return s[medium][text] / pair_value(temperature, owner, medium, text)


def log_sum_exp(logits: Sequence[Tensor]) -> Tensor:
    return torch.log(sum((torch.exp(z) for z in logits), start=ZERO))


def info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    positives: Tensor | None = None,
    anchor: str = "row",
    label_smoothing: float = 0.0,
    scale_by_temperature: bool = False,
) -> Tensor:  # 4.3 to 4.7
    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            remaining = [i, *negatives_of(direction, i, B, positives)]
            logits = {j: logit(s, temperature, anchor, direction, i, j) for j in remaining}
            log_sum = log_sum_exp(list(logits.values()))
            loss = (1 - label_smoothing) * (log_sum - logits[i])
            for z in logits.values():
                loss = loss + label_smoothing / len(logits) * (log_sum - z)
            if scale_by_temperature:
                loss = loss * pair_value(temperature, i, i, i)
            total = total + loss
    return total / (2 * B)


def info_nce_of_targets(
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    positives: Tensor | None = None,
    anchor: str = "row",
    label_smoothing: float = 0.0,
    scale_by_temperature: bool = False,
    decoupled: bool = False,
    multi_positive: bool = False,
    margin: Tensor = ZERO,
    candidate_bias: Tensor | None = None,
    bias_positives: bool = True,
    weights: Tensor | None = None,
) -> Tensor:  # 4.3 to 4.7 with the targets of 4.12, the denominator of 4.11, and 4.20 to 4.22
    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            negatives = negatives_of(direction, i, B, positives)
            targets = [j for j in range(B) if j not in negatives] if multi_positive else [i]
            logits = {j: logit(s, temperature, anchor, direction, i, j) for j in [*targets, *negatives]}
            logits[i] = logits[i] - pair_value(margin, i, i, i) / pair_value(temperature, i, i, i)
            if candidate_bias is not None:
                bias = candidate_bias if candidate_bias.ndim == 1 else candidate_bias[DIRECTIONS.index(direction)]
                for j in logits if bias_positives else negatives:
                    logits[j] = logits[j] + bias[j]
            denominator = negatives if decoupled else [*targets, *negatives]
            if not denominator:
                continue
            log_sum = log_sum_exp([logits[j] for j in denominator])
            loss = ZERO
            for j in targets:
                loss = loss + (1 - label_smoothing) / len(targets) * (log_sum - logits[j])
            for z in logits.values():
                loss = loss + label_smoothing / len(logits) * (log_sum - z)
            if scale_by_temperature:
                loss = loss * pair_value(temperature, i, i, i)
            if weights is not None:
                loss = loss * weights[i]
            total = total + loss
    return total / (2 * B)


def effective_number_weights(counts: Numbers, beta: float) -> list[float]:  # 4.21
    v = [(1 - beta) / (1 - beta**n) for n in counts]
    return [of_sample / mean(v) for of_sample in v]


def reweighted_info_nce(
    x: Tensor, y: Tensor, temperature: Tensor, positives: Tensor | None = None, anchor: str = "row"
) -> Tensor:  # 4.16
    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            negatives = negatives_of(direction, i, B, positives)
            logits = {j: logit(s, temperature, anchor, direction, i, j) for j in [i, *negatives]}
            P = torch.exp(logits[i]) / sum(torch.exp(z) for z in logits.values())
            V = 1.0 / (1.0 - P.item()) if negatives else 1.0
            total = total - V * torch.log(P)
    return total / (2 * B)


def siglip(x: Tensor, y: Tensor, temperature: Tensor, bias: Tensor, positives: Tensor | None = None) -> Tensor:  # 4.15
    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            z = logit(s, temperature, "row", direction, i, i) + bias
            total = total - torch.log(torch.sigmoid(z))
            for j in negatives_of(direction, i, B, positives):
                z = logit(s, temperature, "row", direction, i, j) + bias
                total = total - torch.log(torch.sigmoid(-z))
    return total / (2 * B)


def max_margin(
    x: Tensor,
    y: Tensor,
    margin: Tensor,
    positives: Tensor | None = None,
    negatives: str = "all",
    squared: bool = False,
    relevance: Tensor | None = None,
) -> Tensor:  # 4.8 to 4.10, and 4.13 if relevance is given
    s, B = cosines(x, y), len(x)
    means = []
    for direction in DIRECTIONS:
        terms = []
        for i in range(B):
            hinges = []
            for j in negatives_of(direction, i, B, positives):
                medium, text = pair_of(direction, i, j)
                m = pair_value(margin, i, medium, text)
                if relevance is not None:
                    m = m * (1 - relevance[medium, text])
                gap = m - s[i][i] + s[medium][text]
                hinge = gap if gap > 0 else 0 * gap
                hinges.append(hinge**2 if squared else hinge)
            if hinges and negatives == "hardest":
                hinges = [max(hinges, key=Tensor.item)]
            terms += hinges
        means.append(sum(terms, start=ZERO) / len(terms) if terms else ZERO)
    return (means[0] + means[1]) / 2


def relevance_margin(
    x: Tensor, y: Tensor, margin: Tensor, relevance: Tensor, positives: Tensor | None = None
) -> Tensor:  # 4.13
    return max_margin(x, y, margin, positives, relevance=relevance)


def sms_hinges(
    s: Sequence[Sequence[Tensor]] | Tensor, relevance: Tensor, margin: Tensor, slack: float, eps: float
) -> list[list[Tensor]]:  # 4.14
    """Per sample, the hinges of its comparisons in both directions."""
    B = len(s)
    hinges: list[list[Tensor]] = [[] for _ in range(B)]
    for direction in DIRECTIONS:
        for i in range(B):
            for j in negatives_of(direction, i, B, positives=None):
                medium, text = pair_of(direction, i, j)
                gap = relevance[i, i] - relevance[medium, text]
                z = pair_value(margin, i, medium, text) * gap - (s[i][i] - s[medium][text])
                if gap > eps:
                    hinges[i].append(torch.relu(z))
                elif gap < -eps:
                    hinges[i].append(torch.relu(-z))
                else:
                    hinges[i].append(torch.relu(abs(z) - slack))
    return hinges


def sms(
    x: Tensor, y: Tensor, relevance: Tensor, margin: Tensor, slack: float = 0.1, eps: float = 1.1 / 240
) -> Tensor:  # 4.14
    B = len(x)
    hinges = sms_hinges(cosines(x, y), relevance, margin, slack, eps)
    total = sum((hinge for row in hinges for hinge in row), start=ZERO)
    return total / (2 * B * (B - 1)) if B > 1 else total


def dual_temperature(
    x: Tensor, y: Tensor, temperature: Tensor, ratio: float, positives: Tensor | None = None, anchor: str = "row"
) -> Tensor:  # 4.23
    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            negatives = negatives_of(direction, i, B, positives)
            if not negatives:
                continue
            logits = {j: logit(s, temperature, anchor, direction, i, j) for j in [i, *negatives]}
            P = torch.exp(logits[i]) / sum(torch.exp(z) for z in logits.values())
            P_wide = torch.exp(logits[i] / ratio) / sum(torch.exp(z / ratio) for z in logits.values())
            total = total - (1 - P_wide.item()) / (1 - P.item()) * torch.log(P)
    return total / (2 * B)


def no_temperature(
    x: Tensor, y: Tensor, eps: float, positives: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:  # 4.24
    def bounded(cosine: Tensor) -> Tensor:
        if abs(cosine) <= 1 - eps:
            return torch.log((1 + cosine) / (1 - cosine))
        return 0 * cosine + math.copysign(math.log((2 - eps) / eps), cosine.item())

    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            logits = {}
            for j in [i, *negatives_of(direction, i, B, positives)]:
                medium, text = pair_of(direction, i, j)
                logits[j] = bounded(s[medium][text])
            log_sum = log_sum_exp(list(logits.values()))
            total = total + (1 - label_smoothing) * (log_sum - logits[i])
            for z in logits.values():
                total = total + label_smoothing / len(logits) * (log_sum - z)
    return total / (2 * B)


def hard_negative_info_nce(
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    beta: float,
    alpha: float = 1.0,
    tau_plus: float = 0.0,
    positives: Tensor | None = None,
    anchor: str = "row",
) -> Tensor:  # 4.25
    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            negatives = negatives_of(direction, i, B, positives)
            if not negatives:
                continue
            logits = {j: logit(s, temperature, anchor, direction, i, j) for j in [i, *negatives]}
            n, hardness = len(negatives), sum((torch.exp(beta * logits[j]) for j in negatives), start=ZERO)
            N = sum((n * torch.exp(beta * logits[j]) / hardness * torch.exp(logits[j]) for j in negatives), start=ZERO)
            if tau_plus > 0:
                N = (N - tau_plus * n * torch.exp(logits[i])) / (1 - tau_plus)
                least = n * torch.exp(-1 / pair_value(temperature, i, i, i))
                N = max(N, least, key=Tensor.item)
            total = total - logits[i] + torch.log(alpha * torch.exp(logits[i]) + N)
    return total / (2 * B)


def rince(
    x: Tensor,
    y: Tensor,
    temperature: Tensor,
    q: float,
    lam: float,
    positives: Tensor | None = None,
    anchor: str = "row",
    scale_by_temperature: bool = False,
) -> Tensor:  # 4.26
    s, B = cosines(x, y), len(x)
    total = ZERO
    for direction in DIRECTIONS:
        for i in range(B):
            remaining = [i, *negatives_of(direction, i, B, positives)]
            exponentials = {j: torch.exp(logit(s, temperature, anchor, direction, i, j)) for j in remaining}
            loss = -(exponentials[i] ** q) / q + (lam * sum(exponentials.values())) ** q / q
            total = total + (loss * pair_value(temperature, i, i, i) if scale_by_temperature else loss)
    return total / (2 * B)


def cyclic_consistency(x: Tensor, y: Tensor, in_modal: float, cross_modal: float) -> Tensor:  # 4.27
    xy, xx, yy, B = cosines(x, y), cosines(x, x), cosines(y, y), len(x)
    total = ZERO
    for i in range(B):
        for j in range(B):
            total = total + in_modal * (xx[i][j] - yy[i][j]) ** 2 + cross_modal * (xy[i][j] - xy[j][i]) ** 2
    return total / B


# 5. Objectives --------------------------------------------------------------------------------------------------------


def temo(
    x: Tensor,
    y: Tensor,
    p: float,
    tau_min: float,
    tau_alpha: float,
    positives: Tensor | None = None,
    detach: bool = True,
) -> Tensor:  # 5.3
    s = torch.stack([torch.stack(row) for row in cosines(x, y)])
    s = s.detach() if detach else s
    tau = torch.stack([torch.stack([tau_min + tau_alpha * ((cosine + 1) / 2) ** 0.5 for cosine in row]) for row in s])
    fixed = info_nce(x, y, torch.tensor(tau_min, dtype=torch.float64), positives)
    return (1 - p) ** 2 * fixed + p**2 * info_nce(x, y, tau, positives)


# Per row of state: b, the running maximum of 0 and every d seen, and S exp(-b), as the papers keep them.
Memory = dict[int, tuple[float, float]]
# Per query: log(S / |N| + eps), the sum of w d, and the sum of w; None for a query without a negative.
Statistics = list[tuple[float, float, float] | None]


def contrast(
    memory: Memory,
    rows: Sequence[int],
    s: Sequence[Sequence[Tensor]],
    tau: Numbers,
    positives: Tensor,
    gamma: float,
    eps: float = 0.0,
    bias: Numbers | None = None,
) -> tuple[Tensor, Statistics]:  # 5.4, 5.5, with 4.20
    """Return the loss of one direction and its queries' statistics; update `memory`, where query i has row rows[i]."""
    total, B = ZERO, len(rows)
    statistics: Statistics = []
    updates: dict[int, list[tuple[float, float]]] = {}
    for i in range(B):
        negatives = negatives_of("x to y", i, B, positives)
        if not negatives:
            statistics.append(None)
            continue
        d = {j: (s[i][j] - s[i][i]).item() / tau[i] for j in negatives}
        b_before, S_before = memory.get(rows[i], (0.0, None))
        shifted = {j: d[j] + (0.0 if bias is None else bias[j]) for j in negatives}
        b = max(b_before, *shifted.values())
        g = sum(math.exp(shifted[j] - b) for j in negatives)
        S = g if S_before is None else (1 - gamma) * S_before * math.exp(b_before - b) + gamma * g
        divisor = S + len(negatives) * eps * math.exp(-b)
        w = {j: math.exp(shifted[j] - b) / divisor for j in negatives}
        for j in negatives:
            total = total + w[j] * (s[i][j] - s[i][i]) / B
        log_mean = math.log(divisor / len(negatives)) + b
        statistics.append((log_mean, sum(w[j] * d[j] for j in negatives), sum(w.values())))
        updates.setdefault(rows[i], []).append((b, S))
    for row, results in updates.items():  # a row that occurs several times in the batch keeps the mean
        b = max(b for b, _ in results)
        memory[row] = (b, mean([S * math.exp(b_of_S - b) for b_of_S, S in results]))
    return total, statistics


def nuclr(
    memory: dict[int, float],
    rows: Sequence[int],
    s: Sequence[Sequence[Tensor]],
    tau: Numbers,
    positives: Tensor,
    gamma: float,
    zeta: Numbers,
    xi: float,
    N: int,
) -> tuple[Tensor, list[float | None]]:  # 5.11
    """Return the loss of one direction, and 1 - N mean_i p_ij of each candidate; `memory` holds S by row."""
    total, B = ZERO, len(rows)
    shares: list[list[float]] = [[] for _ in range(B)]
    updates: dict[int, list[float]] = {}
    for i in range(B):
        negatives = negatives_of("x to y", i, B, positives)
        if not negatives:
            continue
        e = {j: math.exp(((s[i][j] - s[i][i]).item() - zeta[j]) / tau[i]) for j in (i, *negatives)}
        g = sum(e[j] for j in negatives)
        S = g if rows[i] not in memory else (1 - gamma) * memory[rows[i]] + gamma * g
        updates.setdefault(rows[i], []).append(S)
        for j in negatives:
            w = e[j] / (S + len(negatives) / (N - 1) * math.exp(-xi / tau[i]))
            total = total + w * (s[i][j] - s[i][i]) / B
        everything = (N - 1) * S / len(negatives) + e[i]  # of all N candidates
        for j in (i, *negatives):
            shares[j].append(e[j] / everything)
    memory.update({row: mean(results) for row, results in updates.items()})
    return total, [1 - N * mean(p) if p else None for p in shares]


def isogclr_step(
    tau: dict[int, float],
    u: dict[int, float],
    rows: Sequence[int],
    statistics: Statistics,
    rho: float,
    eta: float,
    beta: float,
    low: float,
    high: float,
) -> None:  # 5.6
    """Update `tau` and `u` of the rows of a batch."""
    for row in set(rows):
        slopes = []
        for query_row, query in zip(rows, statistics, strict=True):
            if query_row == row and query is not None:
                log_mean, mean_exponent, _ = query
                slopes.append(min(max(log_mean + rho - mean_exponent, -5.0), 5.0))
        if slopes:
            u[row] = (1 - beta) * u[row] + beta * mean(slopes)
            tau[row] = min(max(min(max(tau[row], low), high) - eta * u[row], low), high)


def tempnet_temperature(
    x: Tensor, W: Tensor, bias: Tensor, prototypes: Tensor, scale: float, a: Tensor, a0: float, low: float, high: float
) -> list[float]:  # 5.8, without dropout
    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    taus = []
    for row in unit(x):
        h = [sigmoid(sum(float(w * e) for w, e in zip(W[k], row, strict=True)) + float(bias[k])) for k in range(len(W))]
        q = [sum(float(c) * e for c, e in zip(prototype, h, strict=True)) for prototype in unit(prototypes)]
        exponentials = [math.exp((q_m - max(q)) / scale) for q_m in q]
        M, z = len(q), a0
        for m in range(M):
            z += float(a[m]) * (exponentials[m] / sum(exponentials) - 1 / M) * sigmoid(q[m])
        taus.append(low + (high - low) * sigmoid(z))
    return taus


def sms_activity(s: Tensor, relevance: Tensor, margin: Tensor, slack: float, eps: float) -> list[int]:  # 5.9
    """Per sample, the number of its comparisons in both directions that cost something."""
    return [sum(1 for hinge in row if hinge > 0) for row in sms_hinges(s, relevance, margin, slack, eps)]


# 6. Metrics -----------------------------------------------------------------------------------------------------------


def ranked(scores: Numbers, relevance: Numbers) -> list[float]:  # 6.1
    order = sorted(range(len(scores)), key=lambda c: (-scores[c], relevance[c]))
    return [relevance[c] for c in order]


def rank(scores: Numbers, relevant: Sequence[bool]) -> int:  # 6.2
    best = max(score for score, is_relevant in zip(scores, relevant, strict=True) if is_relevant)
    return 1 + sum(1 for score, is_relevant in zip(scores, relevant, strict=True) if not is_relevant and score >= best)


def median(numbers: Numbers) -> float:  # 6.4
    ordered, middle = sorted(numbers), len(numbers) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def average_precision(scores: Numbers, relevance: Numbers) -> float:  # 6.5
    """The lowest value over all orders of candidates with equal scores: try every grade of a tie at every position."""

    @cache
    def lowest(position: int, gained: float, tie: tuple[float, ...]) -> float:
        if not tie:
            return 0.0
        sums = []
        for grade in set(tie):
            rest = list(tie)
            rest.remove(grade)
            precision = (gained + grade) / position if grade == 1 else 0.0
            sums.append(precision + lowest(position + 1, gained + grade, tuple(rest)))
        return min(sums)

    total, position, gained = 0.0, 1, 0.0
    for score in sorted(set(scores), reverse=True):
        tie = tuple(sorted(grade for other, grade in zip(scores, relevance, strict=True) if other == score))
        total += lowest(position, gained, tie)
        position, gained = position + len(tie), gained + sum(tie)
    return total / sum(grade == 1 for grade in relevance)


def ndcg(scores: Numbers, relevance: Numbers) -> float:  # 6.7
    k = sum(1 for grade in relevance if grade > 0)
    gain = sum(grade / math.log2(r + 1) for r, grade in enumerate(ranked(scores, relevance)[:k], start=1))
    ideal = sum(grade / math.log2(r + 1) for r, grade in enumerate(sorted(relevance, reverse=True)[:k], start=1))
    return gain / ideal


def relevance(first: Sequence[set[int]], second: Sequence[set[int]]) -> float:  # 6.9
    """How much two clips have in common; each has one set of classes per kind (verbs, nouns)."""
    shares = []
    for classes, others in zip(first, second, strict=True):
        common = sum(1 for number in classes if number in others)
        shares.append(common / (len(classes) + len(others) - common))
    return mean(shares)


def mean(numbers: Numbers) -> float:  # 6.11
    return sum(numbers) / len(numbers)


def class_embedding(prompts: Sequence[Numbers]) -> list[float]:  # 6.12
    """From the embeddings of one class's prompts, of any norm."""
    total = [0.0] * len(prompts[0])
    for prompt in prompts:
        norm = math.sqrt(sum(e * e for e in prompt))
        for d, e in enumerate(prompt):
            total[d] += e / norm / len(prompts)
    norm = math.sqrt(sum(e * e for e in total))
    return [e / norm for e in total]


def is_among_best(scores: Numbers, true: int, k: int) -> bool:  # 6.13
    return sum(1 for c, score in enumerate(scores) if c != true and score >= scores[true]) < k


def mean_per_class(values: Numbers, classes: Sequence[int]) -> float:  # 6.14
    means = []
    for number in set(classes):
        means.append(mean([value for value, c in zip(values, classes, strict=True) if c == number]))
    return mean(means)


# 7. Intervals ---------------------------------------------------------------------------------------------------------


def bootstrap_means(values: Numbers, clusters: Sequence[int], draws: Sequence[Sequence[int]]) -> list[float]:  # 7.1
    """The mean of each resample; a draw lists clusters by their position among the sorted cluster ids."""
    ids = sorted(set(clusters))
    means = []
    for draw in draws:
        means.append(mean([v for k in draw for v, c in zip(values, clusters, strict=True) if c == ids[k]]))
    return means


def seeded_difference(  # 7.3
    first: Sequence[Numbers],
    second: Sequence[Numbers],
    clusters: Sequence[int],
    cluster_draw: Sequence[int],
    first_draw: Sequence[int],
    second_draw: Sequence[int],
) -> float:
    """Mean of second minus mean of first in one resample that draws clusters, seeds of first and seeds of second."""
    means = []
    for rows, seeds in ((first, first_draw), (second, second_draw)):
        means.append(mean([bootstrap_means(rows[seed], clusters, [cluster_draw])[0] for seed in seeds]))
    return means[1] - means[0]


def largest_concept_gain(first: Sequence[Numbers], second: Sequence[Numbers], concepts: Sequence[int]) -> float:  # 7.5
    """The largest gain of second over first in any concept's mean; both have one row per run, one column per query."""
    gains = []
    for concept in sorted(set(concepts)):
        queries = [q for q in range(len(concepts)) if concepts[q] == concept]
        before = [mean([run[q] for run in first]) for q in queries]
        after = [mean([run[q] for run in second]) for q in queries]
        gains.append(mean(after) - mean(before))
    return max(gains)


def per_class_bootstrap_means(  # 7.6
    values: Numbers, classes: Sequence[int], draws: Sequence[Sequence[int]]
) -> list[float]:
    """The mean per class of each resample; a draw lists queries by their position."""
    means = []
    for draw in draws:
        weights = [1 / sum(1 for c in classes if c == classes[q]) for q in draw]
        means.append(sum(w * values[q] for w, q in zip(weights, draw, strict=True)) / sum(weights))
    return means


def mismatch_scores(  # 7.7
    x: Sequence[Numbers], y: Sequence[Numbers], owner: Sequence[int], captions: Sequence[str]
) -> list[float]:
    def dot(a: Numbers, b: Numbers) -> float:
        return sum(p * q for p, q in zip(a, b, strict=True))

    def mean(rows: Sequence[Numbers]) -> list[float]:
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    def ten_best(values: Numbers) -> float:
        best = sorted(values)[-10:]
        return sum(best) / len(best)

    media, texts = range(len(x)), range(len(y))
    carried = [{captions[n] for n in texts if owner[n] == i} for i in media]
    expected = []
    for i in media:
        near = sorted((j for j in media if j != i), key=lambda j: dot(x[i], x[j]))[-10:]
        expected.append(mean([mean([y[n] for n in texts if owner[n] == j]) for j in near]))
    margins = []
    for n in texts:
        i = owner[n]
        of_medium = ten_best([dot(expected[i], y[m]) for m in texts if captions[m] not in carried[i]])
        of_text = ten_best([dot(expected[j], y[n]) for j in media if captions[n] not in carried[j]])
        margins.append(dot(expected[i], y[n]) - (of_medium + of_text) / 2)
    center = statistics.median_low(margins)
    spread = statistics.median_low([abs(a - center) for a in margins])
    return [0.6745 * (center - a) / spread for a in margins]


# 8. Averages of weights -----------------------------------------------------------------------------------------------


def ema_decay(decay: float, t: int) -> float:  # 8.2
    return min(decay, (1 + t) / (10 + t))


def moving_average(values: Numbers, decay: float) -> float:  # 8.1
    """The average of a weight after the last of its values; the first is that before any step."""
    average = values[0]
    for t, value in enumerate(values[1:]):
        share = ema_decay(decay, t)
        average = share * average + (1 - share) * value
    return average


def interpolated(start: float, tuned: float, share: float) -> float:  # 8.3
    return (1 - share) * start + share * tuned


def lora(
    weight: Sequence[Numbers], a: Sequence[Numbers], b: Sequence[Numbers], scale: float
) -> list[list[float]]:  # 8.4
    """The weight of a layer that LoRA adapts, W + scale B A."""
    return [
        [w + scale * sum(b[i][k] * a[k][j] for k in range(len(a))) for j, w in enumerate(row)]
        for i, row in enumerate(weight)
    ]


def residual(features: Numbers, change: Numbers) -> list[float]:  # 8.5
    size = math.sqrt(sum(f * f for f in features) / len(features))
    return [f + size * g for f, g in zip(features, change, strict=True)]


# 9. Which pairs are seen ----------------------------------------------------------------------------------------------


def size_weight(n: int, power: float, cap: int | None) -> float:  # 9.1
    kept = 1.0 if cap is None or n <= cap else cap / n
    return kept * n**power / n


def systematic_counts(weights: Numbers, u: float) -> list[int]:  # 9.1
    counts, before = [], 0.0
    for weight in weights:
        after = before + weight * len(weights) / sum(weights)
        counts.append(sum(before <= k + 1 - u < after for k in range(-1, len(weights))))
        before = after
    return counts


def repeat_factor(share: float, threshold: float) -> float:  # 9.2
    return math.sqrt(threshold / share) if share < threshold else 1.0


def cabs(sets: Sequence[Sequence[int]], batch_size: int, most: float = math.inf) -> list[int]:  # 9.3
    concepts = {c for each in sets for c in each}
    available = {c: sum(c in each for each in sets) for c in concepts}
    target = max(1, min(batch_size / len(concepts), most))
    taken = dict.fromkeys(concepts, 0)
    chosen: list[int] = []

    def gain(i: int) -> float:
        if any(taken[c] >= most for c in sets[i]):
            return -math.inf
        gains = [(target - taken[c]) / target + 1 / available[c] if taken[c] < target else -0.5 for c in sets[i]]
        return sum(gains) / len(gains)

    while len(chosen) < batch_size:
        best = max((i for i in range(len(sets)) if i not in chosen), key=gain)  # the first of several
        chosen.append(best)
        for c in sets[best]:
            taken[c] += 1
    return sorted(chosen)
