"""Policies that do not look at the batch: fixed, scheduled, shifted by the sample's concept, learned."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmts.concepts.density import Scale, density_shift
from mmts.errors import InputError
from mmts.options import AtLeastOne, NotNegative, Positive, check_table, check_value, checked
from mmts.policies.base import Policy, from_pair, rows_of, scalar
from mmts.schedules import Cosine, Schedule, check_progress


class Fixed(Policy):
    """One value for all samples throughout (docs/method.md, 3.1).

    value: finite and positive.

    >>> Fixed(0.07)(0.5, torch.tensor([3, 4])).item()
    0.07
    """

    words = "{value:g} throughout"

    @checked
    def __init__(self, value: Positive = 0.07) -> None:
        super().__init__()
        self.value = float(value)

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the value, shape ()."""
        check_progress(progress)
        return scalar(self.value, index)


class Scheduled(Policy):
    """One value for all samples that follows a schedule (docs/method.md, 3.2; TS: a cosine, arXiv 2303.13664).

    schedule: what the value follows; InputError if its minimum over [0, 1] is not positive.

    >>> from mmts.schedules import Cosine
    >>> Scheduled(Cosine(0.01, 0.1, cycles=5))(0.0, torch.tensor([0])).item()
    0.1
    """

    words = "the same for all samples, following a {schedule[kind]} schedule"

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        check_value("Scheduled: schedule.minimum", schedule.minimum, Positive)
        self.schedule = schedule

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the schedule's value at `progress`, shape ()."""
        return scalar(self.schedule(progress), index)


class Shifted(Policy):
    """MM-TS: a schedule that all samples share plus each sample's own shift (docs/method.md, 3.3).

    value_i = schedule(p) + shift[i];  with Cosine(-alpha/2, alpha/2, cycles) and ConceptDistribution.shift(low, high)
    this is the published rule.

    `shift` is (N,), one row per sample, floating point, added to the schedule in float64. InputError if it is not
    finite, if schedule.minimum + the smallest shift is not positive, or if an index is not in 0..N-1. In a recipe the
    schedule is the cosine swing, and the size of a sample's concept sets its shift:

    alpha: height of the swing from trough to crest; half of it must stay below the smallest shift.
    cycles: whole swings over training.
    phase: where in its swing it starts, in cycles.
    low: shift of the smallest concepts; above `high` the rule is reversed.
    high: shift of the largest concepts.
    scale: how sizes map to the range from low to high.
    exponent: q of the scale `power`, which maps n^q linearly; not 0.
    neighbours: k; the density around each caption (2.5) sets the shift instead of the size of its concept.

    Source: arXiv 2603.08202.

    >>> policy = Shifted(Cosine(-0.04, 0.04, cycles=5), torch.tensor([0.05, 0.20]))
    >>> policy(0.1, torch.tensor([0, 1]))
    tensor([0.0100, 0.1600], dtype=torch.float64)
    """

    shift: Tensor

    def __init__(self, schedule: Schedule, shift: Tensor) -> None:
        super().__init__()
        check_table("Shifted: shift", shift, float)
        if not shift.is_floating_point():
            raise InputError(f"Shifted: shift is {shift.dtype}; it must be floating point")
        smallest = float(shift.min())
        # In the table's own dtype too: a shift of .1 in float32 is slightly above .1.
        lowest = min(schedule.minimum + smallest, float(shift.min() + schedule.minimum))
        if not lowest > 0:
            raise InputError(
                f"Shifted: schedule.minimum {schedule.minimum:g} + smallest shift {smallest:g} = {lowest:g} must be "
                "positive; where the schedule is Cosine(-alpha/2, alpha/2), alpha/2 must stay below low: lower alpha "
                "or raise low"
            )
        self.schedule = schedule
        self.register_buffer("shift", shift.detach().clone())

    @classmethod
    def from_recipe(
        cls,
        run: Any,
        alpha: NotNegative = 0.08,
        cycles: NotNegative = 5.0,
        phase: float = 0.0,
        low: Positive = 0.05,
        high: Positive = 0.20,
        scale: Scale = "linear",
        exponent: float | None = None,
        neighbours: AtLeastOne | None = None,
    ) -> "Shifted":
        """Return the published rule for a run's training samples."""
        if neighbours is None:
            shift = run.concepts.shift(low, high, scale, exponent)
        else:
            shift = density_shift(run.neighbour_counts(neighbours), low, high, scale, exponent)
        return cls(Cosine(-alpha / 2, alpha / 2, cycles, phase), shift)

    @staticmethod
    def in_words(options: Mapping[str, Any]) -> str:
        """Say what these options of a recipe do."""
        alpha, cycles, neighbours = options["alpha"], options["cycles"], options["neighbours"]
        swing = f"plus a cosine swing of {alpha:g} over {cycles:g} cycles" if alpha else "without a swing"
        by = "concept size" if neighbours is None else f"density of {neighbours} neighbours"
        scale = f"{options['scale']} {options['exponent']:g}" if options["exponent"] else options["scale"]
        return f"of {options['low']:g} to {options['high']:g} by {by} ({scale}), {swing}"

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return schedule(progress) + shift[index], shape (B,), float64 where the device has it."""
        shift = rows_of(self.shift, index)
        # Swing and shift nearly cancel at the bottom: a sum in float32 has errors in its 6th digit.
        return (shift if shift.device.type == "mps" else shift.double()) + self.schedule(progress)


class LDAM(Policy):
    """LDAM: the rarer a sample's concept, the wider its margin (docs/method.md, 3.8; arXiv 1906.07413).

        value_i = C / n_i^(1/4),   C = high n_min^(1/4)

    high: value of the smallest concepts, the released code's max_m.

    `counts` is (N,), n_i of each sample's concept. InputError naming the row of one that is not finite and positive, or
    for an index outside 0..N-1.
    Source: Cao et al., arXiv 1906.07413, section 3.2.

    >>> LDAM(torch.tensor([1, 16, 81]))(0.0, torch.tensor([0, 1, 2]))
    tensor([0.5000, 0.2500, 0.1667])
    """

    words = "of {high:g} for the smallest concepts, falling with the fourth root of a concept's size"
    margin: Tensor

    @checked
    def __init__(self, counts: Tensor, high: Positive = 0.5) -> None:
        super().__init__()
        check_table("LDAM: counts", counts, Positive)
        n = counts.double()
        self.register_buffer("margin", (high * (n.min() / n) ** 0.25).float())

    @classmethod
    def from_recipe(cls, run: Any, high: Positive = 0.5) -> "LDAM":
        """Return the rule for a run's training samples."""
        return cls(run.concepts.counts, high)

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the value of each sample, shape (B,)."""
        check_progress(progress)
        return rows_of(self.margin, index)


class Learned(Policy):
    """One learned value for all samples: CLIP's temperature (docs/method.md, 3.4).

    value = exp(log_value), a parameter of shape () that `after_step` clamps to [ln(low), ln(high)]. It has no weight
    decay, which would pull the value towards 1. InputError unless 0 < low <= start <= high.

    start: where it starts; `pretrained` is the temperature of the pair that `model.start` names, 1 / its logit scale.
    low: lower bound.
    high: upper bound.

    Source: Radford et al., arXiv 2103.00020, section 2.5 (started at .07, its inverse kept below 100).

    >>> round(Learned()(0.0, torch.tensor([0])).item(), 6)
    0.07
    """

    def __init__(self, start: Positive = 0.07, low: Positive = 0.01, high: Positive = 1.0) -> None:
        super().__init__()
        if not 0 < low <= start <= high < math.inf:
            raise InputError(
                f"Learned: needs 0 < low <= start <= high, got low {low:g}, start {start:g}, high {high:g}"
            )
        self.low, self.high = low, high
        self.log_value = nn.Parameter(torch.tensor(math.log(start)))

    @classmethod
    def from_recipe(
        cls,
        run: Any,
        start: Positive | Literal["pretrained"] = 0.07,
        low: Positive = 0.01,
        high: Positive = 1.0,
    ) -> "Learned":
        """Return the rule, started where the run's pretrained pair ended if `start` says so."""
        if start != "pretrained":
            return cls(start, low, high)
        own = from_pair("start", run.pair_temperature, "temperature", run)
        if own is None:  # known once the pair is open
            return cls(low, low, high)
        if not low <= own <= high:
            side = "low" if own < low else "high"
            raise InputError(
                f"Learned: start is pretrained, and the pair's own temperature is {own:g} (a logit scale of "
                f"{1 / own:g}), outside low {low:g} to high {high:g}; set {side} so that it lies inside"
            )
        return cls(own, low, high)

    @staticmethod
    def in_words(options: Mapping[str, Any]) -> str:
        """Say what these options of a recipe do."""
        start = options["start"]
        where = "the pretrained pair's own" if start == "pretrained" else f"{start:g}"
        return f"learned, started at {where}, kept within {options['low']:g} to {options['high']:g}"

    def forward(self, progress: float, index: Tensor, similarity: Tensor | None = None) -> Tensor:
        """Return the value, shape (), with gradient."""
        check_progress(progress)
        return self.log_value.exp()

    @torch.no_grad()
    def after_step(self) -> None:
        """Clamp the value to [low, high], in place."""
        self.log_value.clamp_(math.log(self.low), math.log(self.high))
