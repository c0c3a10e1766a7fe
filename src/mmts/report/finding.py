"""The finding in words, worked out from the figures: never more than they bear."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmts.errors import counted
from mmts.evaluation.compare import Gap
from mmts.evaluation.measures import coverage_in_words
from mmts.evaluation.results import Figure
from mmts.report.contents import Contents
from mmts.report.learning import number_of_validations
from mmts.report.wording import interval_in_words, isolated, listed, signed


@dataclass(frozen=True)
class Verdict:
    """One rule beside the first, by the leading measure of text queries. None stands for what cannot be known."""

    number: int
    figure: Figure
    difference: float
    spread: float | None  # the larger of both rules' standard deviations over seeds
    gap: Gap | None

    @property
    def outside_spread(self) -> bool | None:
        """Whether the difference is larger than the spread over seeds."""
        return None if self.spread is None else abs(self.difference) > self.spread

    @property
    def outside_interval(self) -> bool | None:
        """Whether the interval over queries leaves out 0."""
        return None if self.gap is None else self.gap.is_clear

    @property
    def is_level(self) -> bool:
        """Whether there is no difference as far as it is written out."""
        return float(f"{self.difference:.1f}") == 0

    @property
    def is_clear(self) -> bool:
        """Whether everything that can be known speaks for a difference, and something can."""
        known = [each for each in (self.outside_spread, self.outside_interval) if each is not None]
        return bool(known) and all(known)

    def in_short(self) -> str:
        """Give the difference, the spread and the interval."""
        parts = [f"{signed(self.difference)} points"]
        if self.spread is not None:
            parts.append(f"{'outside' if self.outside_spread else 'within'} the spread over seeds ({self.spread:.1f})")
        if self.gap is not None:
            parts.append(f"95 % interval {interval_in_words(self.gap)}")
        return ", ".join(parts)

    def in_words(self, first: str) -> str:
        """Say how far the rule is from the first, and whether that is more than chance."""
        where = f"{abs(self.difference):.1f} points {'above' if self.difference > 0 else 'below'} {first}"
        return where + self.certainty()

    def certainty(self) -> str:
        """Say whether the difference is more than chance: what follows the difference in a sentence."""
        text = ""
        if self.spread is not None:
            text = f", {'more than' if self.outside_spread else 'within'} the spread over seeds"
        if self.gap is not None:
            agrees = self.outside_spread in (None, self.gap.is_clear)
            text += f"{', though' if not agrees else ' and' if text else ','} with an interval over queries that "
            text += "leaves out 0" if self.gap.is_clear else "includes 0"
        return text


@dataclass(frozen=True)
class Finding:
    """The headline, the sentences under it, what it was measured on, and a verdict on every rule but the first."""

    headline: str
    sentences: tuple[str, ...]
    measured: str
    verdicts: tuple[Verdict, ...]


def find(contents: Contents) -> Finding:
    """Say which rule is best by the leading measure of text queries, and whether that can be told from the first."""
    verdicts = _verdicts(contents)
    first = contents.figure(0, contents.directions[0])
    if first is None:
        return Finding("These runs have no recall to compare", (), "", ())
    headline = _headline(contents, first, verdicts)
    best = max(verdicts, key=lambda verdict: verdict.difference) if verdicts else None
    sentences = [
        _best_sentence(contents, verdicts, best),
        _tail_sentence(contents, best),
        _other_direction(contents, best),
    ]
    return Finding(headline, tuple(each for each in sentences if each), _measured(contents), tuple(verdicts))


def _verdicts(contents: Contents) -> list[Verdict]:
    direction = contents.directions[0]
    first = contents.figure(0, direction)
    verdicts = []
    for number in range(1, len(contents.groups)):
        own = contents.figure(number, direction)
        if own is None or first is None:
            continue
        spreads = [each for each in (own.spread, first.spread) if each is not None]
        spread = max(spreads) if spreads else None
        gap = contents.gap(number, direction)
        verdicts.append(Verdict(number, own, own.mean - first.mean, spread, gap))
    return verdicts


def _headline(contents: Contents, first: Figure, verdicts: Sequence[Verdict]) -> str:
    name = _name(contents, 0)
    if not verdicts:
        outcome = _outcome(contents, first)
        return outcome[:1].upper() + outcome[1:]
    ahead = [verdict for verdict in verdicts if verdict.difference > 0 and verdict.is_clear]
    best = max(ahead or verdicts, key=lambda verdict: verdict.difference)
    if ahead:
        outcome = _outcome(contents, best.figure)
        return f"{_name(contents, best.number)} beats {name}: {outcome}, instead of {first.mean:.1f} %"
    if all(verdict.difference < 0 and verdict.is_clear for verdict in verdicts):
        return (
            f"{name} stays best: {_outcome(contents, first)}, "
            f"{best.figure.mean:.1f} % with {_name(contents, best.number)}"
        )
    if all(verdict.outside_spread is False for verdict in verdicts):
        return "No difference larger than the spread over seeds"
    if all(verdict.outside_interval is False for verdict in verdicts):
        return "No difference that this test set can tell from chance"
    if any(verdict.outside_interval is None and verdict.outside_spread is None for verdict in verdicts):
        return "One run of each rule: nothing here can tell a difference from chance"
    return f"No rule is clearly better than {name}"


def _best_sentence(contents: Contents, verdicts: Sequence[Verdict], best: Verdict | None) -> str:
    if best is None:
        return ""
    first, name, measure = _name(contents, 0), _name(contents, best.number), contents.measure.name
    if best.is_level:
        level = [verdict for verdict in verdicts if verdict.is_level]
        names = [first, *(_name(contents, verdict.number) for verdict in level)]
        others = ", ahead of the others" if len(level) < len(verdicts) else ""
        return f"{listed(names)} are level in {measure}{others}{best.certainty() if len(level) == 1 else ''}."
    if best.difference > 0:
        return f"{name} has the highest {measure}, {best.in_words(first)}."
    return f"{first} has the highest {measure}; {name} comes closest, {best.in_words(first)}."


def _measured(contents: Contents) -> str:
    metrics = contents.metrics
    number = f"{counted(metrics['num_captions'], 'caption')} of {counted(metrics['num_media'], contents.kind)}"
    start = {
        "train": f"Measured on {number} of the training data itself",
        "val": f"Measured on {number} of the val split{_choice(contents)}",
    }.get(metrics["split"], f"Measured on {number} that training did not see ({metrics['split']} split)")
    covered = coverage_in_words(metrics)
    end = f" This {covered}." if covered else ""
    runs = sorted({len(group.seeds) for group in contents.groups})
    of = "of each rule" if len(contents.groups) > 1 else "of one recipe"
    if runs == [1]:
        return f"{start}; one run {of}, so the spread over seeds is unknown.{end}"
    seeds = f"{runs[0]} seeds" if len(runs) == 1 else f"{runs[0]} to {runs[-1]} seeds"
    return f"{start}, with {seeds} {of}; ± is the sample standard deviation over seeds.{end}"


def _choice(contents: Contents) -> str:
    """Say what else the val split was used for."""
    looks = [number_of_validations(path) for group in contents.groups for path in group.paths]
    if max(looks) > 1:
        return ", which also chose the checkpoint" + ("" if min(looks) > 1 else " of some runs")
    return ", which chose no checkpoint: training looked at it only once, at its end" if min(looks) == 1 else ""


def _tail_sentence(contents: Contents, best: Verdict | None) -> str:
    direction = contents.directions[0]
    if best is None:
        figures = {part: contents.figure(0, direction, part) for part in ("head", "tail")}
        if figures["head"] is None or figures["tail"] is None:
            return ""
        return f"Captions of head concepts: {figures['head']} %; of tail concepts: {figures['tail']} %."
    gaps = {part: contents.gap(best.number, direction, part) for part in ("head", "tail")}
    known = {part: gap for part, gap in gaps.items() if gap is not None}
    said = [
        f"{signed(gap.mean)} points on {part} concepts (interval {interval_in_words(gap)})"
        for part, gap in known.items()
    ]
    return f"{_name(contents, best.number)} against {_name(contents, 0)}: {listed(said)}." if said else ""


def _other_direction(contents: Contents, best: Verdict | None) -> str:
    direction = contents.directions[1]
    numbers = [0] if best is None else [0, best.number]
    figures = [(_name(contents, number), contents.figure(number, direction)) for number in numbers]
    known = [f"{figure} %" + (f" ({name})" if best else "") for name, figure in figures if figure is not None]
    if not known:
        return ""
    return f"The other way round, {contents.measure.other_way.format(kind=contents.kind, figure=listed(known))}."


def _outcome(contents: Contents, figure: Figure) -> str:
    return contents.measure.outcome.format(kind=contents.kind, figure=f"{figure.mean:.1f}")


def _name(contents: Contents, number: int) -> str:
    return isolated(contents.names[number])
