"""The contents of the page: the judged runs grouped into rules, and the finding about them in words.

The finding is derived from the figures, and never claims more than they support.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmts.concepts import ConceptDistribution
from mmts.errors import DataError, InputError
from mmts.evaluation.measures import shown_measures
from mmts.evaluation.results import Figure, Gap, Results, read_results
from mmts.report.wording import clean, interval_in_words, isolated, listed, signed


@dataclass(frozen=True)
class Contents(Results):
    """The runs of each rule in the order given, the baseline first; `gaps` are differences to the baseline.

    distributions: each rule's concepts, from its first run; None if concepts.npz is missing or damaged.
    """

    distributions: tuple[ConceptDistribution | None, ...]

    @property
    def kind(self) -> str:
        """The kind of media: `image` or `video`."""
        return self.directions[0].removeprefix("text_to_")

    @property
    def metrics(self) -> dict[str, Any]:
        """The first run's metrics.json."""
        return self.groups[0].metrics[0]

    @property
    def measure(self) -> str:
        """The measure that the page leads with: R@1, or mAP if relevance is graded."""
        return shown_measures(self.metrics)[0]

    def gap(self, number: int, direction: str, part: str | None = None) -> Gap | None:
        """Return a rule's difference to the baseline in the leading measure; None if it is unknown."""
        return self.gaps.get((number, direction, self.measure, part))


def read_contents(paths: Sequence[Path], names: Sequence[str] | None = None) -> Contents:
    """Read runs as `read_results` does, and give the groups names that fit on the page."""
    results = read_results(paths, names)
    shown = [clean(group.name, 60) for group in results.groups]
    if len({*shown}) < len(shown):  # names that differ only beyond the cut
        shown = [f"{number}: {name}" for number, name in enumerate(shown, start=1)]
    groups = tuple(replace(group, name=name) for group, name in zip(results.groups, shown, strict=True))
    distributions = tuple(_distribution(group.runs[0].run.concepts_file) for group in groups)
    return Contents(groups, results.labels, results.notes, distributions)


def _distribution(file: Path) -> ConceptDistribution | None:
    try:
        return ConceptDistribution.load(file) if file.exists() else None
    except (DataError, InputError):
        return None


@dataclass(frozen=True)
class Verdict:
    """One rule against the baseline, by the leading measure of text queries; an unknown field is None.

    spread: the larger of the two rules' standard deviations over seeds.
    """

    number: int
    figure: Figure
    difference: float
    spread: float | None
    gap: Gap | None

    @property
    def outside_spread(self) -> bool | None:
        """Whether the difference is larger than the spread over seeds."""
        return None if self.spread is None else abs(self.difference) > self.spread

    @property
    def is_clear(self) -> bool:
        """Whether the spread and the interval, or the one of them that is known, support a difference."""
        return {self.outside_spread, self.gap and self.gap.is_clear} - {None} == {True}

    def certainty(self) -> str:
        """Return the end of a sentence that names the difference: whether chance alone would explain it."""
        text, joint = "", ","
        if self.spread is not None:
            text, joint = f", {'more than' if self.outside_spread else 'within'} the spread over seeds", " and"
        if self.gap is not None:
            joint = joint if self.outside_spread in (None, self.gap.is_clear) else ", though"
            ends = "leaves out 0" if self.gap.is_clear else "includes 0"
            text += f"{joint} with an interval over queries that {ends}"
        return text


@dataclass(frozen=True)
class Finding:
    """The headline, the sentences under it, and the verdicts on all rules but the first, the best rule first."""

    headline: str
    sentences: tuple[str, ...]
    verdicts: tuple[Verdict, ...]


def find(contents: Contents) -> Finding:
    """Say which rule is best by the leading measure of text queries, and whether it clearly differs from the first."""
    direction = contents.directions[0]
    first = contents.groups[0].figure(direction, contents.measure)
    if first is None:
        return Finding("These runs have no recall to compare", (), ())
    verdicts = []
    for number in range(1, len(contents.groups)):
        if (figure := contents.groups[number].figure(direction, contents.measure)) is not None:
            spread = max((spread for spread in (figure.spread, first.spread) if spread is not None), default=None)
            gap = contents.gap(number, direction)
            verdicts.append(Verdict(number, figure, figure.mean - first.mean, spread, gap))
    verdicts.sort(key=lambda verdict: -verdict.difference)
    best = verdicts[0] if verdicts else None
    sentences = (_best_sentence(contents, verdicts), _tail_sentence(contents, best), _other_direction(contents, best))
    return Finding(_headline(contents, first, verdicts), tuple(filter(None, sentences)), tuple(verdicts))


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
        closest = f"{best.figure.mean:.1f} % with {_name(contents, best.number)}"
        return f"{name} stays best: {_outcome(contents, first)}, {closest}"
    if all(verdict.outside_spread is False for verdict in verdicts):
        return "No difference is larger than the spread over seeds"
    if all(verdict.gap is not None and not verdict.gap.is_clear for verdict in verdicts):
        return "No difference that this test set can tell from chance"
    if any(verdict.gap is None and verdict.spread is None for verdict in verdicts):
        return "One run of each rule: nothing here can tell a difference from chance"
    return f"No rule is clearly better than {name}"


def _best_sentence(contents: Contents, verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    best, first, measure = verdicts[0], _name(contents, 0), contents.measure
    level = [verdict for verdict in verdicts if float(f"{verdict.difference:.1f}") == 0]  # as the page writes it
    if best in level:
        names = [first, *(_name(contents, verdict.number) for verdict in level)]
        others = ", ahead of the others" if len(level) < len(verdicts) else ""
        return f"{listed(names)} are level in {measure}{others}{best.certainty() if len(level) == 1 else ''}."
    name, points = _name(contents, best.number), f"{abs(best.difference):.1f} points"
    if best.difference > 0:
        return f"{name} has the highest {measure}, {points} above {first}{best.certainty()}."
    return f"{first} has the highest {measure}; {name} comes closest, {points} below {first}{best.certainty()}."


def _tail_sentence(contents: Contents, best: Verdict | None) -> str:
    direction = contents.directions[0]
    if best is None:
        head, tail = (contents.groups[0].figure(direction, contents.measure, part) for part in ("head", "tail"))
        if head is None or tail is None:
            return ""
        return f"{contents.measure} is {head} % for captions of head concepts and {tail} % for those of tail concepts."
    differences = [
        f"{signed(gap.mean)} points on {part} concepts (interval {interval_in_words(gap)})"
        for part in ("head", "tail")
        if (gap := contents.gap(best.number, direction, part)) is not None
    ]
    names = f"{_name(contents, best.number)} against {_name(contents, 0)}"
    return f"{names}: {listed(differences)}." if differences else ""


def _other_direction(contents: Contents, best: Verdict | None) -> str:
    known = []
    for number in [0, best.number] if best else [0]:
        if (figure := contents.groups[number].figure(contents.directions[1], contents.measure)) is not None:
            known.append(f"{figure} %" + (f" ({_name(contents, number)})" if best else ""))
    if not known:
        return ""
    if contents.measure == "mAP":
        return f"In the other direction, from {contents.kind} to text, mAP is {listed(known)}."
    return f"In the other direction, a right caption comes first for {listed(known)} of the {contents.kind}s."


def _outcome(contents: Contents, figure: Figure) -> str:
    if contents.measure == "mAP":
        return f"text queries reach a mean average precision (mAP) of {figure.mean:.1f} %"
    return f"the right {contents.kind} comes first for {figure.mean:.1f} % of the captions"


def _name(contents: Contents, number: int) -> str:
    return isolated(contents.groups[number].name)
