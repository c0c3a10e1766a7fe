"""Slow, obvious twins of every formula in docs/method.md: loops over samples in float64, no vector operation.

Each takes plain numbers or float64 tensors whose entries it reads one by one, so autograd through a twin gives the
reference gradient. The number beside each name is the formula's in docs/method.md. Append yours at the end.
"""

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

Numbers = Sequence[float]


# 1. Schedules ---------------------------------------------------------------------------------------------------------


def linear(p: float, start: float, end: float) -> float:  # 1.3
    return start + (end - start) * p


def cosine(p: float, low: float, high: float, cycles: float, phase: float = 0.0) -> float:  # 1.4
    middle, half = (low + high) / 2, (high - low) / 2
    return middle + half * math.cos(2 * math.pi * (cycles * p + phase))


# 2. Concepts ----------------------------------------------------------------------------------------------------------


def shift(counts: Numbers, low: float, high: float, scale: str = "linear") -> list[float]:  # 2.1 to 2.3
    sizes = sorted(set(counts))
    if len(sizes) == 1:
        return [(low + high) / 2 for _ in counts]

    def position(n: float) -> float:
        if scale == "linear":
            return (n - sizes[0]) / (sizes[-1] - sizes[0])
        if scale == "log":
            return (math.log(n) - math.log(sizes[0])) / (math.log(sizes[-1]) - math.log(sizes[0]))
        return sizes.index(n) / (len(sizes) - 1)

    return [low + (high - low) * position(n) for n in counts]


def concept_groups(sizes: Sequence[int]) -> list[int]:  # 2.4
    total = sum(sizes)
    groups = []
    for size in sizes:
        before = sum(other for other in sizes if other > size)
        groups.append(0 if 3 * before < total else 1 if 3 * before < 2 * total else 2)
    return groups


# 3. Values ------------------------------------------------------------------------------------------------------------


def mmts_values(p: float, counts: Numbers, n_min: float, n_max: float, alpha: float, cycles: float, low: float, high: float) -> list[float]:  # 3.3  # noqa: E501  # fmt: skip
    swing = (alpha / 2) * math.cos(2 * math.pi * cycles * p)
    return [swing + low + (high - low) * (n - n_min) / (n_max - n_min) for n in counts]


# 4. Losses ------------------------------------------------------------------------------------------------------------


def unit(x: Tensor) -> list[Tensor]:  # 4.1
    rows = []
    for row in x.double():
        length = sum((entry * entry for entry in row), start=torch.zeros((), dtype=torch.float64))
        rows.append(row / length.sqrt() if length > 0 else row)
    return rows


def cosines(x: Tensor, y: Tensor) -> list[list[Tensor]]:  # 4.2
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in unit(y)] for row in unit(x)]  # type: ignore[misc]


def pair_value(value: Tensor, owner: int, medium: int, text: int) -> Tensor:
    """The value of a logit or hinge: everybody's, the owner's, or the pair's own."""
    if value.ndim == 0:
        return value
    return value[owner] if value.ndim == 1 else value[medium, text]


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
    total = torch.zeros((), dtype=torch.float64)
    for direction in ("x to y", "y to x"):
        for i in range(B):
            logits = {}
            for j in range(B):
                medium, text = (i, j) if direction == "x to y" else (j, i)
                if j != i and positives is not None and positives[medium, text]:
                    continue
                owner = {"row": i, "candidate": j, "media": medium}[anchor]
                logits[j] = s[medium][text] / pair_value(temperature, owner, medium, text)
            log_sum = torch.log(sum(torch.exp(logit) for logit in logits.values()))  # type: ignore[arg-type]
            loss = (1 - label_smoothing) * (log_sum - logits[i])
            for logit in logits.values():
                loss = loss + label_smoothing / len(logits) * (log_sum - logit)
            if scale_by_temperature:
                loss = loss * pair_value(temperature, i, i, i)
            total = total + loss
    return total / (2 * B)


def max_margin(
    x: Tensor,
    y: Tensor,
    margin: Tensor,
    positives: Tensor | None = None,
    negatives: str = "all",
    squared: bool = False,
) -> Tensor:  # 4.8 to 4.10
    s, B = cosines(x, y), len(x)
    zero = torch.zeros((), dtype=torch.float64)
    means = []
    for direction in ("x to y", "y to x"):
        terms = []
        for i in range(B):
            hinges = []
            for j in range(B):
                medium, text = (i, j) if direction == "x to y" else (j, i)
                if j == i or (positives is not None and positives[medium, text]):
                    continue
                hinge = pair_value(margin, i, medium, text) - s[i][i] + s[medium][text]
                hinge = hinge if hinge > 0 else zero * hinge
                hinges.append(hinge**2 if squared else hinge)
            if negatives == "hardest":
                terms += [max(hinges, key=Tensor.item)] if hinges else []
            else:
                terms += hinges
        means.append(sum(terms, start=zero) / len(terms) if terms else zero)
    return (means[0] + means[1]) / 2


# 6. Metrics -----------------------------------------------------------------------------------------------------------


def ranked(scores: Numbers, relevance: Numbers) -> list[float]:  # 6.1
    order = sorted(range(len(scores)), key=lambda c: (-scores[c], relevance[c]))
    return [relevance[c] for c in order]


def rank(scores: Numbers, relevant: Sequence[bool]) -> int:  # 6.2
    best = max(score for score, right in zip(scores, relevant, strict=True) if right)
    return 1 + sum(1 for score, right in zip(scores, relevant, strict=True) if not right and score >= best)


def median(numbers: Numbers) -> float:  # 6.4
    ordered, middle = sorted(numbers), len(numbers) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def average_precision(scores: Numbers, relevance: Numbers) -> float:  # 6.5
    """The lowest that any order of equal scores gives: at every position each grade of the tie is tried."""

    @cache
    def lowest(position: int, gained: float, waiting: tuple[float, ...]) -> float:
        if not waiting:
            return 0.0
        sums = []
        for grade in set(waiting):
            left = list(waiting)
            left.remove(grade)
            precision = (gained + grade) / position if grade == 1 else 0.0
            sums.append(precision + lowest(position + 1, gained + grade, tuple(left)))
        return min(sums)

    total, position, gained = 0.0, 1, 0.0
    for score in sorted(set(scores), reverse=True):
        tie = tuple(sorted(grade for each, grade in zip(scores, relevance, strict=True) if each == score))
        total += lowest(position, gained, tie)
        position, gained = position + len(tie), gained + sum(tie)
    return total / sum(grade == 1 for grade in relevance)


def ndcg(scores: Numbers, relevance: Numbers) -> float:  # 6.7
    k = sum(1 for grade in relevance if grade > 0)
    gain = sum(grade / math.log2(r + 1) for r, grade in enumerate(ranked(scores, relevance)[:k], start=1))
    ideal = sum(grade / math.log2(r + 1) for r, grade in enumerate(sorted(relevance, reverse=True)[:k], start=1))
    return gain / ideal


def mean(numbers: Numbers) -> float:  # 6.11
    return sum(numbers) / len(numbers)


# 7. Bootstrap ---------------------------------------------------------------------------------------------------------


def bootstrap_means(values: Numbers, clusters: Sequence[int], draws: Sequence[Sequence[int]]) -> list[float]:  # 7.1
    """The mean of each resample, given which clusters (numbered in rising order of their id) it drew."""
    ids = sorted(set(clusters))
    means = []
    for draw in draws:
        members = [v for k in draw for v, c in zip(values, clusters, strict=True) if c == ids[k]]
        means.append(sum(members) / len(members))
    return means


def seeded_difference(  # 7.3
    first: Sequence[Numbers],
    second: Sequence[Numbers],
    clusters: Sequence[int],
    drawn: Sequence[int],
    of_first: Sequence[int],
    of_second: Sequence[int],
) -> float:
    """The difference of one resample, given which clusters, seeds of first and seeds of second it drew."""
    own, other = (
        [bootstrap_means(rows[at], clusters, [drawn])[0] for at in seeds]
        for rows, seeds in ((first, of_first), (second, of_second))
    )
    return sum(other) / len(other) - sum(own) / len(own)


# 6.9 Graded relevance -------------------------------------------------------------------------------------------------


def relevance(ours: Sequence[set[int]], theirs: Sequence[set[int]]) -> float:  # 6.9
    """How much two clips have in common: one set of classes for each kind, verbs and nouns."""
    shares = []
    for mine, other in zip(ours, theirs, strict=True):
        common = sum(1 for each in mine if each in other)
        shares.append(common / (len(mine) + len(other) - common))
    return sum(shares) / len(shares)


# 4.11 to 4.15 Targets and denominator apart, graded relevance, the sigmoid loss ---------------------------------------


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
) -> Tensor:  # 4.3 to 4.7, 4.11, 4.12
    s, B = cosines(x, y), len(x)
    total = torch.zeros((), dtype=torch.float64)
    for direction in ("x to y", "y to x"):
        for i in range(B):
            logits, targets = {}, [i]
            for j in range(B):
                medium, text = (i, j) if direction == "x to y" else (j, i)
                if j != i and positives is not None and positives[medium, text]:
                    if not multi_positive:
                        continue
                    targets.append(j)
                owner = {"row": i, "candidate": j, "media": medium}[anchor]
                logits[j] = s[medium][text] / pair_value(temperature, owner, medium, text)
            below = [torch.exp(logit) for j, logit in logits.items() if not (decoupled and j in targets)]
            if not below:
                continue
            log_sum = torch.log(sum(below))  # type: ignore[arg-type]
            loss = torch.zeros((), dtype=torch.float64)
            for j in targets:
                loss = loss + (1 - label_smoothing) / len(targets) * (log_sum - logits[j])
            for logit in logits.values():
                loss = loss + label_smoothing / len(logits) * (log_sum - logit)
            if scale_by_temperature:
                loss = loss * pair_value(temperature, i, i, i)
            total = total + loss
    return total / (2 * B)


def relevance_margin(
    x: Tensor, y: Tensor, margin: Tensor, relevance: Tensor, positives: Tensor | None = None
) -> Tensor:  # 4.13
    s, B = cosines(x, y), len(x)
    zero = torch.zeros((), dtype=torch.float64)
    means = []
    for direction in ("x to y", "y to x"):
        terms = []
        for i in range(B):
            for j in range(B):
                medium, text = (i, j) if direction == "x to y" else (j, i)
                if j == i or (positives is not None and positives[medium, text]):
                    continue
                wanted = pair_value(margin, i, medium, text) * (1 - relevance[medium, text])
                terms.append(torch.relu(wanted - s[i][i] + s[medium][text]))
        means.append(sum(terms, start=zero) / len(terms) if terms else zero)
    return (means[0] + means[1]) / 2


def sms(
    x: Tensor, y: Tensor, relevance: Tensor, margin: Tensor, slack: float = 0.1, eps: float = 1.1 / 240
) -> Tensor:  # 4.14
    s, B = cosines(x, y), len(x)
    total = torch.zeros((), dtype=torch.float64)
    for direction in ("x to y", "y to x"):
        for i in range(B):
            for j in range(B):
                if j == i:
                    continue
                medium, text = (i, j) if direction == "x to y" else (j, i)
                gap = relevance[i, i] - relevance[medium, text]
                z = pair_value(margin, i, medium, text) * gap - (s[i][i] - s[medium][text])
                if gap > eps:
                    total = total + torch.relu(z)
                elif gap < -eps:
                    total = total + torch.relu(-z)
                else:
                    total = total + torch.relu(abs(z) - slack)
    return total / (2 * B * (B - 1)) if B > 1 else total


def siglip(x: Tensor, y: Tensor, temperature: Tensor, bias: Tensor, positives: Tensor | None = None) -> Tensor:  # 4.15
    s, B = cosines(x, y), len(x)
    total = torch.zeros((), dtype=torch.float64)
    for direction in ("x to y", "y to x"):
        for i in range(B):
            for j in range(B):
                medium, text = (i, j) if direction == "x to y" else (j, i)
                if j != i and positives is not None and positives[medium, text]:
                    continue
                logit = s[medium][text] / pair_value(temperature, i, medium, text) + bias
                total = total - torch.log(torch.sigmoid(logit if j == i else -logit))
    return total / (2 * B)


# 1.7, 2.5, 3.5 to 3.7, 4.16, 5.3 Steps, neighbours, rules that look at the batch --------------------------------------


def step(p: float, values: Numbers, boundaries: Numbers) -> float:  # 1.7
    for value, boundary in zip(values, boundaries, strict=False):
        if p < boundary:
            return value
    return values[-1]


def neighbour_counts(rows: Sequence[Numbers], k: int) -> list[int]:  # 2.5
    N = len(rows)
    s = [[sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) for j in range(N)] for i in range(N)]
    radius = median([sorted((s[i][j] for j in range(N) if j != i), reverse=True)[k - 1] for i in range(N)])
    return [sum(1 for j in range(N) if j == i or s[i][j] >= radius - 1e-6) for i in range(N)]


def macl(s: Tensor, tau0: float, alpha: float, A0: float) -> float:  # 3.5
    alignment = sum(s[i, i].item() for i in range(len(s))) / len(s)
    return tau0 * (1 + alpha * (alignment - A0))


def dystress(s: float, low: float, high: float) -> float:  # 3.6
    return low + (high - low) / 2 * (1 + math.cos(math.pi * (1 + s)))


def temo_temperature(s: float, tau_min: float, tau_alpha: float) -> float:  # 3.7
    return tau_min + tau_alpha * math.sqrt((s + 1) / 2)


def reweighted_info_nce(
    x: Tensor, y: Tensor, temperature: Tensor, positives: Tensor | None = None, anchor: str = "row"
) -> Tensor:  # 4.16
    s, B = cosines(x, y), len(x)
    total = torch.zeros((), dtype=torch.float64)
    for direction in ("x to y", "y to x"):
        for i in range(B):
            logits = {}
            for j in range(B):
                medium, text = (i, j) if direction == "x to y" else (j, i)
                if j != i and positives is not None and positives[medium, text]:
                    continue
                owner = {"row": i, "candidate": j, "media": medium}[anchor]
                logits[j] = s[medium][text] / pair_value(temperature, owner, medium, text)
            P = torch.exp(logits[i]) / sum(torch.exp(logit) for logit in logits.values())
            V = 1.0 if len(logits) == 1 else 1.0 / (1.0 - P.item())
            total = total - V * torch.log(P)
    return total / (2 * B)


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
    tau = torch.stack([torch.stack([tau_min + tau_alpha * ((e + 1) / 2) ** 0.5 for e in row]) for row in s])
    first = info_nce(x, y, torch.tensor(tau_min, dtype=torch.float64), positives)
    return (1 - p) ** 2 * first + p**2 * info_nce(x, y, tau, positives)


# 5.4 to 5.8 Objectives with memory ------------------------------------------------------------------------------------

Memory = dict[int, tuple[float, float]]  # row of state -> b, the running maximum of 0 and d, and S exp(-b)


def contrast(
    memory: Memory, rows: Sequence[int], s: Sequence[Sequence[Tensor]], tau: Numbers, positives: Tensor, gamma: float
) -> tuple[Tensor, list[tuple[float, float, float] | None]]:  # 5.4, 5.5; with b beside S as in the papers
    """One direction's loss, and of each query log(S / |N|), sum w d and sum w; the memory moves on."""
    total, said, found = torch.zeros((), dtype=torch.float64), [], {}  # type: ignore[var-annotated]
    B = len(rows)
    for i in range(B):
        negatives = [j for j in range(B) if j != i and not positives[i, j]]
        if not negatives:
            said.append(None)
            continue
        d = {j: (s[i][j] - s[i][i]).item() / tau[i] for j in negatives}
        b_old, S_old = memory.get(rows[i], (0.0, None))
        b = max(b_old, *d.values())
        g = sum(math.exp(d[j] - b) for j in negatives)
        S = g if S_old is None else (1 - gamma) * S_old * math.exp(b_old - b) + gamma * g
        w = {j: math.exp(d[j] - b) / S for j in negatives}
        for j in negatives:
            total = total + w[j] * (s[i][j] - s[i][i]) / B
        said.append((math.log(S / len(negatives)) + b, sum(w[j] * d[j] for j in negatives), sum(w.values())))
        found.setdefault(rows[i], []).append((b, S))
    for row, each in found.items():
        b = max(b for b, _ in each)
        memory[row] = (b, sum(S * math.exp(b_one - b) for b_one, S in each) / len(each))
    return total, said


def isogclr_step(
    tau: dict[int, float],
    u: dict[int, float],
    rows: Sequence[int],
    said: Sequence[tuple[float, float, float] | None],
    rho: float,
    eta: float,
    beta: float,
    low: float,
    high: float,
) -> None:  # 5.6
    for row in set(rows):
        slopes = []
        for each, one in zip(rows, said, strict=True):
            if each == row and one is not None:
                log_mean, mean_exponent, _ = one
                slopes.append(min(max(log_mean + rho - mean_exponent, -5.0), 5.0))
        if slopes:
            u[row] = (1 - beta) * u[row] + beta * sum(slopes) / len(slopes)
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
        top = max(q)
        exponentials = [math.exp((each - top) / scale) for each in q]
        M, out = len(q), a0
        for m in range(M):
            out += float(a[m]) * (exponentials[m] / sum(exponentials) - 1 / M) * sigmoid(q[m])
        taus.append(low + (high - low) * sigmoid(out))
    return taus


def sms_activity(s: Tensor, relevance: Tensor, margin: Tensor, slack: float, eps: float) -> list[int]:  # 5.9
    counts = [0] * len(s)
    for direction in ("x to y", "y to x"):
        for i in range(len(s)):
            for j in range(len(s)):
                medium, text = (i, j) if direction == "x to y" else (j, i)
                gap = relevance[i, i] - relevance[medium, text]
                z = pair_value(margin, i, medium, text) * gap - (s[i, i] - s[medium, text])
                costs = z > 0 if gap > eps else z < 0 if gap < -eps else abs(z) > slack
                if j != i and costs:
                    counts[i] += 1
    return counts


# 7.5 The largest gain by chance ---------------------------------------------------------------------------------------


def largest_concept_gain(first: Sequence[Numbers], own: Sequence[Numbers], concepts: Sequence[int]) -> float:  # 7.5
    """The largest gain of own over first in any concept's mean; both a row a run, a column a query."""
    gains = []
    for concept in sorted(set(concepts)):
        queries = [q for q in range(len(concepts)) if concepts[q] == concept]
        before = [mean([run[q] for run in first]) for q in queries]
        after = [mean([run[q] for run in own]) for q in queries]
        gains.append(mean(after) - mean(before))
    return max(gains)
