"""From a recipe's `objective` to the objective it describes."""

from typing import Any

from torch import Tensor

from mmts import objectives as o
from mmts import policies as p
from mmts import schedules
from mmts.concepts import ConceptDistribution, density_shift, neighbour_counts
from mmts.data.records import Split
from mmts.training import objective_sections as r
from mmts.training.recipe import Recipe
from mmts.training.section import Section


def build_schedule(section: r.ScheduleSection) -> schedules.Schedule:
    """Return the schedule a recipe describes."""
    if isinstance(section, r.ConstantSchedule):
        return schedules.Constant(section.value)
    if isinstance(section, r.LinearSchedule):
        return schedules.Linear(section.start, section.end)
    if isinstance(section, r.CosineSchedule):
        return schedules.Cosine(section.low, section.high, section.cycles, section.phase)
    if isinstance(section, r.WarmupSchedule):
        return schedules.Warmup(build_schedule(section.schedule), section.fraction, section.start)
    if isinstance(section, r.StepSchedule):
        return schedules.Step(section.values, section.boundaries)
    return schedules.Join(tuple(build_schedule(inner) for inner in section.schedules), section.boundaries)


def build_policy(rule: r.Rule, shift: Tensor | None) -> p.Policy:
    """Return the policy a recipe describes; a shifted one needs the `shift` (N,) of the training samples."""
    if isinstance(rule, r.FixedRule):
        return p.Fixed(rule.value)
    if isinstance(rule, r.LearnedRule):
        return p.Learned(rule.start, rule.low, rule.high)
    if isinstance(rule, r.ScheduledRule):
        return p.Scheduled(build_schedule(rule.schedule))
    if isinstance(rule, r.MACLRule):
        return p.MACL(rule.tau0, rule.alpha, rule.A0)
    if isinstance(rule, r.DySTreSSRule):
        return p.DySTreSS(rule.low, rule.high)
    if isinstance(rule, r.TeMoRule):
        return p.TeMoTemperature(rule.tau_min, rule.tau_alpha)
    assert shift is not None
    return p.Shifted(schedules.Cosine(-rule.alpha / 2, rule.alpha / 2, rule.cycles, rule.phase), shift)


def rule_of(objective: r.ObjectiveSection) -> tuple[str, r.Rule | None]:
    """Return what an objective calls its value, and the rule behind it; None where the objective is a rule itself."""
    if isinstance(objective, r.MaxMarginObjective | r.SMSObjective):
        return "margin", objective.margin
    return "temperature", getattr(objective, "temperature", None)


def shift_of(rule: r.Rule | None, distribution: ConceptDistribution, split: Split | None) -> Tensor | None:
    """Return the shift (N,) of the training samples where a rule has one, by concept sizes or by neighbours.

    Only a rule with `neighbours` needs the training `split`.
    """
    if not isinstance(rule, r.ShiftedRule):
        return None
    if rule.neighbours is None:
        return distribution.shift(rule.low, rule.high, rule.scale)
    assert split is not None
    return density_shift(neighbour_counts(split.captions, rule.neighbours), rule.low, rule.high, rule.scale)


def build_objective(recipe: Recipe, distribution: ConceptDistribution, split: Split) -> o.Objective:
    """Return the objective a recipe describes, for the samples of its training split."""
    section = recipe.objective
    rule = rule_of(section)[1]
    policy = None if rule is None else build_policy(rule, shift_of(rule, distribution, split))
    return _without_memory(section, policy) or _with_memory(section, policy, split, recipe.model.width)


def _without_memory(section: r.ObjectiveSection, policy: p.Policy | None) -> o.Objective | None:
    if isinstance(section, r.TeMoObjective):
        return o.TeMo(
            section.tau_min, section.tau_alpha, label_smoothing=section.label_smoothing, detach=section.detach
        )
    if policy is None:
        return None
    if isinstance(section, r.InfoNCEObjective):
        return o.InfoNCE(policy, **_options(section, "temperature"))
    if isinstance(section, r.ReweightedInfoNCEObjective):
        return o.ReweightedInfoNCE(policy, anchor=section.anchor)
    if isinstance(section, r.SigLIPObjective):
        return o.SigLIP(policy, bias=section.bias)
    if isinstance(section, r.MaxMarginObjective):
        return o.MaxMargin(policy, **_options(section, "margin"))
    if isinstance(section, r.SMSObjective):
        return o.SMS(policy, slack=section.slack, eps=section.eps)
    return None


def _with_memory(section: r.ObjectiveSection, policy: p.Policy | None, split: Split, width: int) -> o.Objective:
    sizes = (split.num_media, split.num_captions)
    if isinstance(section, r.SogCLRObjective):
        assert policy is not None
        return o.SogCLR(*sizes, policy, build_schedule(section.gamma))
    if isinstance(section, r.ISogCLRObjective):
        gamma, low, high = (build_schedule(each) for each in (section.gamma, section.low, section.high))
        return o.ISogCLR(*sizes, section.rho, section.eta, section.beta, gamma, low, high, section.start)
    if isinstance(section, r.FastCLIPObjective):
        return o.FastCLIP(*sizes, **_options(section))
    assert isinstance(section, r.TempNetObjective)
    return o.TempNet(*sizes, width, **_options(section, "gamma"), gamma=build_schedule(section.gamma))


def _options(section: Section, *built: str) -> dict[str, Any]:
    """Return a section's plain options, which the class it describes calls the same."""
    return dict(section.model_dump(exclude={"loss", *built}))
