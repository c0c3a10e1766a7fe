"""A recipe's `objective`: schedules, the rules a temperature or margin comes from, and the losses that take them.

Each section names its options as the class it describes does; docs/method.md has the formulas.
"""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from mmts.schedules import Cosine
from mmts.training.section import Section, choice

# --- schedules -------------------------------------------------------------------------------------------------------


class ConstantSchedule(Section):
    """The same value throughout."""

    kind: Literal["constant"] = "constant"
    value: float
    """The value."""


class LinearSchedule(Section):
    """A straight line from `start` to `end`."""

    kind: Literal["linear"] = "linear"
    start: float
    """Value at the start of training."""
    end: float
    """Value at its end."""


class CosineSchedule(Section):
    """`cycles` whole swings between `high` (first) and `low`."""

    kind: Literal["cosine"] = "cosine"
    low: float
    """Lowest value."""
    high: float
    """Highest value, where training starts."""
    cycles: float = Field(1.0, ge=0)
    """Whole swings over training."""
    phase: float = 0.0
    """Where in its swing it starts, in cycles: .5 starts at `low`."""


class WarmupSchedule(Section):
    """From `start` up to `schedule` over the first `fraction` of training."""

    kind: Literal["warmup"] = "warmup"
    schedule: "ScheduleSection"
    """What follows."""
    fraction: float = Field(gt=0, lt=1)
    """Share of training that the rise takes."""
    start: float = 0.0
    """Value it rises from."""


class JoinSchedule(Section):
    """Several schedules one after the other; `boundaries` are shares of training."""

    kind: Literal["join"] = "join"
    schedules: tuple["ScheduleSection", ...]
    """One after the other, each over its own stretch."""
    boundaries: tuple[float, ...]
    """Shares of training at which the next begins; one fewer than schedules."""


class StepSchedule(Section):
    """`values` one after the other, each up to its boundary."""

    kind: Literal["step"] = "step"
    values: tuple[float, ...]
    """One after the other."""
    boundaries: tuple[float, ...]
    """Shares of training at which the next begins; one fewer than values."""


ScheduleSection = Annotated[
    ConstantSchedule | LinearSchedule | CosineSchedule | WarmupSchedule | JoinSchedule | StepSchedule,
    Field(discriminator="kind"),
    choice("kind"),
]
NumberOrSchedule = Annotated[ScheduleSection, choice("kind", number_is="constant")]
"""A plain number is a constant schedule."""


# --- rules: where a temperature or margin comes from -----------------------------------------------------------------


class FixedRule(Section):
    """One value for all samples throughout."""

    rule: Literal["fixed"] = "fixed"
    value: float = Field(0.07, gt=0)
    """The value."""


class LearnedRule(Section):
    """CLIP's: a trained value, kept within [low, high] (arXiv 2103.00020)."""

    rule: Literal["learned"] = "learned"
    start: float = Field(0.07, gt=0)
    """Where it starts."""
    low: float = Field(0.01, gt=0)
    """Lower bound."""
    high: float = Field(1.0, gt=0)
    """Upper bound."""


class ScheduledRule(Section):
    """One value for all samples that follows a schedule (TS: a cosine, arXiv 2303.13664)."""

    rule: Literal["scheduled"] = "scheduled"
    schedule: ScheduleSection
    """What the value follows."""


class ShiftedRule(Section):
    """MM-TS: a cosine swing plus a shift by the size of the sample's concept (arXiv 2603.08202).

    With `neighbours` the shift goes by the density around the sample's caption in place of its concept's size.
    """

    rule: Literal["shifted"] = "shifted"
    alpha: float = Field(0.08, ge=0)
    """Height of the swing from trough to crest; half of it must stay below the smallest shift."""
    cycles: float = Field(5.0, ge=0)
    """Whole swings over training."""
    phase: float = 0.0
    """Where in its swing it starts, in cycles."""
    low: float = Field(0.05, gt=0)
    """Shift of the smallest concepts; above `high` the rule is reversed."""
    high: float = Field(0.20, gt=0)
    """Shift of the largest concepts."""
    scale: Literal["linear", "log", "rank"] = "linear"
    """How sizes map to the range from low to high."""
    neighbours: int | None = Field(None, ge=1)
    """Go by the density around each caption, in which half of the captions have so many others, in place of its
    concept's size."""

    @model_validator(mode="after")
    def _stays_positive(self) -> "ShiftedRule":
        lowest = Cosine(-self.alpha / 2, self.alpha / 2, self.cycles, self.phase).minimum
        if lowest + min(self.low, self.high) <= 0:
            raise ValueError(
                f"the swing falls to {lowest:g} and the smallest shift is {min(self.low, self.high):g}; their sum must "
                "be positive, so alpha/2 must stay below low: lower alpha or raise low"
            )
        return self


class ShiftedMarginRule(ShiftedRule):
    """MM-TS for margins: the same rule, started from the published margins."""

    alpha: float = Field(0.2, ge=0)
    """Height of the swing from trough to crest; half of it must stay below the smallest shift."""
    low: float = Field(0.17, gt=0)
    """Shift of the smallest concepts; above `high` the rule is reversed."""
    high: float = Field(0.30, gt=0)
    """Shift of the largest concepts."""


class FixedMarginRule(FixedRule):
    """One margin for all samples throughout."""

    value: float = Field(0.2, gt=0)
    """The value."""


class MACLRule(Section):
    """One value a batch, by how well its pairs are aligned already (MACL, arXiv 2207.07874)."""

    rule: Literal["macl"] = "macl"
    tau0: float = Field(0.1, gt=0)
    """Temperature of a batch whose mean positive cosine is `A0`."""
    alpha: float = 0.5
    """How fast it grows with that cosine."""
    A0: float = 0.0
    """The cosine it is measured from."""


class DySTreSSRule(Section):
    """One value a pair, `low` at similarity 0 and `high` at 1 and -1 (DySTreSS, arXiv 2308.01140)."""

    rule: Literal["dystress"] = "dystress"
    low: float = Field(0.1, gt=0)
    """At similarity 0."""
    high: float = Field(0.2, gt=0)
    """At similarity 1 and -1."""


class TeMoRule(Section):
    """One value a pair, growing with the root of its similarity (TeMo, arXiv 2609.07540)."""

    rule: Literal["temo"] = "temo"
    tau_min: float = Field(0.01, gt=0)
    """At similarity -1."""
    tau_alpha: float = 0.04
    """What is added to it at similarity 1."""


class SMSMarginRule(FixedRule):
    """SMS's published scale of the relevance gap."""

    value: float = Field(0.6, gt=0)
    """The value."""


SampleRule = Annotated[
    FixedRule | ScheduledRule | ShiftedRule,
    Field(discriminator="rule"),
    choice("rule", number_is="fixed"),
]
"""Temperatures with nothing to train, one for all or one a sample."""
TemperatureRule = Annotated[
    FixedRule | LearnedRule | ScheduledRule | ShiftedRule | MACLRule | DySTreSSRule | TeMoRule,
    Field(discriminator="rule"),
    choice("rule", number_is="fixed"),
]
MarginRule = Annotated[
    FixedMarginRule | LearnedRule | ScheduledRule | ShiftedMarginRule,
    Field(discriminator="rule"),
    choice("rule", number_is="fixed"),
]
SMSRule = Annotated[
    SMSMarginRule | LearnedRule | ScheduledRule | ShiftedMarginRule,
    Field(discriminator="rule"),
    choice("rule", number_is="fixed"),
]
Rule = TemperatureRule | MarginRule | SMSRule


# --- losses ----------------------------------------------------------------------------------------------------------


class InfoNCEObjective(Section):
    """InfoNCE with a temperature rule (arXiv 1807.03748)."""

    loss: Literal["info_nce"] = "info_nce"
    temperature: TemperatureRule = FixedRule()
    """Where the temperature comes from."""
    anchor: Literal["row", "candidate", "media"] = "row"
    """Whose temperature divides a logit: the query's (`row`), the candidate's, or in both directions the medium's."""
    label_smoothing: float = Field(0.0, ge=0, le=1)
    """Share of the target spread over all candidates."""
    scale_by_temperature: bool = False
    """Multiply each row by its temperature, which undoes its weight on the gradient."""
    decoupled: bool = False
    """Leave the positive out of the denominator."""
    multi_positive: bool = False
    """Other positives are targets, not left out."""


class ReweightedInfoNCEObjective(Section):
    """MACL: InfoNCE with rows weighted so that easy ones pull as hard (arXiv 2207.07874)."""

    loss: Literal["reweighted_info_nce"] = "reweighted_info_nce"
    temperature: TemperatureRule = MACLRule()
    """Where the temperature comes from."""
    anchor: Literal["row", "candidate", "media"] = "row"
    """Whose temperature divides a logit, as for `info_nce`."""


class TeMoObjective(Section):
    """TeMo: from one temperature to one a pair over training (arXiv 2609.07540)."""

    loss: Literal["temo"] = "temo"
    tau_min: float = Field(0.01, gt=0)
    """Temperature at the start, and of a pair of similarity -1."""
    tau_alpha: float = 0.04
    """What is added to it for a pair of similarity 1."""
    label_smoothing: float = Field(0.0, ge=0, le=1)
    """Share of the target spread over all candidates."""
    detach: bool = True
    """No gradient through the temperatures."""


class SigLIPObjective(Section):
    """SigLIP: sigmoid loss with a temperature rule and a learned bias (arXiv 2303.15343)."""

    loss: Literal["siglip"] = "siglip"
    temperature: TemperatureRule = LearnedRule(start=0.1)
    """Where the temperature comes from."""
    bias: float = -10.0
    """Where the learned bias starts."""


class MaxMarginObjective(Section):
    """Max-margin with a margin rule (arXiv 1412.2306)."""

    loss: Literal["max_margin"] = "max_margin"
    margin: MarginRule = FixedMarginRule()
    """Where the margin comes from."""
    negatives: Literal["all", "hardest"] = "all"
    """All of them, or the hardest of each row."""
    squared: bool = False
    """Square each hinge."""
    relevance_scaled: bool = False
    """Multiply the margin by 1 - relevance; needs graded relevance."""


class SMSObjective(Section):
    """SMS: the gap in relevance times a margin is the gap in similarity (code: xqwang14/SMS-Loss)."""

    loss: Literal["sms"] = "sms"
    margin: SMSRule = SMSMarginRule()
    """Where the scale of the relevance gap comes from."""
    slack: float = Field(0.1, ge=0)
    """How far pairs of equal relevance may lie apart."""
    eps: float = Field(1.1 / 240, ge=0)
    """Gap below which relevance counts as equal."""


class SogCLRObjective(Section):
    """SogCLR: all the data's negatives by a moving sum a sample, a temperature rule (arXiv 2202.12387)."""

    loss: Literal["sogclr"] = "sogclr"
    temperature: SampleRule = FixedRule()
    """Where the temperature comes from."""
    gamma: NumberOrSchedule = ConstantSchedule(value=0.8)
    """Share of the new batch in the moving sum; 1 forgets the past."""


class ISogCLRObjective(Section):
    """iSogCLR: SogCLR with a temperature of its own for every medium and text (arXiv 2305.11965)."""

    loss: Literal["isogclr"] = "isogclr"
    rho: float = Field(8.0, gt=0)
    """Radius of the robust loss; keep it below log(batch_size - 1), above which every temperature ends at `low`."""
    eta: float = Field(0.03, gt=0)
    """Step of the temperatures."""
    beta: float = Field(0.5, gt=0, le=1)
    """Share of the new gradient in their moving mean."""
    gamma: NumberOrSchedule = ConstantSchedule(value=0.8)
    """Share of the new batch in the moving sum."""
    low: NumberOrSchedule = ConstantSchedule(value=0.005)
    """Lower bound of the temperatures."""
    high: NumberOrSchedule = ConstantSchedule(value=0.05)
    """Upper bound of the temperatures."""
    start: float = Field(0.01, gt=0)
    """Where they start."""


class FastCLIPObjective(Section):
    """FastCLIP v3: SogCLR with one learned temperature and gamma falling from 1 to .2 (arXiv 2407.01445)."""

    loss: Literal["fastclip"] = "fastclip"
    start: float = Field(0.07, gt=0)
    """Where the temperature starts."""
    rho: float = Field(6.5, gt=0)
    """Radius of the robust loss."""
    low: float = Field(0.01, gt=0)
    """Lower bound of the temperature."""
    high: float = Field(1.0, gt=0)
    """Upper bound of the temperature."""
    learning_rate: float | None = Field(2e-4, gt=0)
    """The temperature's own; `null` takes the run's."""


class TempNetObjective(Section):
    """TempNet: a small network gives every sample its temperature (arXiv 2404.04575)."""

    loss: Literal["tempnet"] = "tempnet"
    num_prototypes: int = Field(256, ge=2)
    """Prototypes that an embedding is compared with."""
    rho: float = Field(7.0, gt=0)
    """Radius of the robust loss."""
    gamma: NumberOrSchedule = ConstantSchedule(value=0.8)
    """Share of the new batch in the moving sum."""
    low: float = Field(0.005, gt=0)
    """Lower bound of the temperatures."""
    high: float = Field(0.05, gt=0)
    """Upper bound of the temperatures."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout on the network's hidden layer."""
    learning_rate: float | None = Field(3e-5, gt=0)
    """The networks' own; `null` takes the run's."""


ObjectiveSection = Annotated[
    InfoNCEObjective
    | ReweightedInfoNCEObjective
    | TeMoObjective
    | SigLIPObjective
    | MaxMarginObjective
    | SMSObjective
    | SogCLRObjective
    | ISogCLRObjective
    | FastCLIPObjective
    | TempNetObjective,
    Field(discriminator="loss"),
    choice("loss"),
]


def learns(section: Section) -> bool:
    """Return whether an objective has parameters of its own that the optimizer trains.

    >>> learns(InfoNCEObjective()), learns(InfoNCEObjective(temperature=LearnedRule()))
    (False, True)
    """
    rule = getattr(section, "temperature", None) or getattr(section, "margin", None)
    return isinstance(section, SigLIPObjective | TempNetObjective) or isinstance(rule, LearnedRule)


def described() -> dict[str, dict[str, str]]:
    """Return every rule and every loss that a recipe can name, with a line about each and its source.

    >>> described()["rules for a temperature"]["learned"]
    "CLIP's: a trained value, kept within [low, high] (arXiv 2103.00020)."
    """
    groups = {
        "losses": ("loss", ObjectiveSection),
        "rules for a temperature": ("rule", TemperatureRule),
        "rules for a margin": ("rule", MarginRule),
    }
    return {
        title: {
            section.model_fields[tag].default: str(section.__doc__).splitlines()[0]
            for section in get_args(get_args(union)[0])
        }
        for title, (tag, union) in groups.items()
    }
