"""What the page says of concepts: recall by their size, and the ones that gained and lost most."""

from typing import Any

from markupsafe import Markup

from mmts.errors import counted, rounded
from mmts.evaluation.figures import extreme_classes
from mmts.evaluation.results import Figure, RunGroup
from mmts.report import charts
from mmts.report.by_concept import Changes, find_changes, find_queries, lines_by_size
from mmts.report.contents import Contents
from mmts.report.finding import Finding
from mmts.report.wording import clean, in_title, interval_in_words, isolated, listed, signed


def concept_section(contents: Contents, finding: Finding) -> dict[str, Any]:
    """Draw recall by concept size in both directions, and compare the rules concept by concept."""
    measure = f"{contents.measure.name}, %"
    found = [find_queries(contents, side) for side in ("text", "media")]
    panels, num_unknown = [], 0
    absent: dict[str, list[str]] = {}
    for at, (direction, queries) in enumerate(zip(contents.directions, found, strict=True)):
        if isinstance(queries, str):
            absent.setdefault(queries, []).append(in_title(direction))
            continue
        num_unknown += queries.num_unknown
        lines, places = lines_by_size(contents, queries)
        if len(places) < 2:
            absent.setdefault("there are too few queries to divide by concept size", []).append(in_title(direction))
            continue
        title = in_title(direction)
        wide, narrow = (
            charts.size_panel(title, measure, lines, places, f"size{at}-{name}", width)
            for name, width in (("wide", 504), ("narrow", 350))
        )
        panels.append((title, wide, narrow))
    note = (
        "Each point is a bin of queries whose concepts are about as large, with the 95 % bootstrap interval over "
        "queries as an upright line; rules stand a little beside each other. A lack of training samples is not all "
        "that sets sizes apart: concepts also differ in how hard they are and in how many others of their kind stand "
        "among the answers."
    )
    if num_unknown:
        number = counted(num_unknown, "query", "queries")
        note += f" Left out: {number}, in both directions together, of no concept known from training."
    queries = found[0]
    changes = []
    if not isinstance(queries, str):
        order = sorted(finding.verdicts, key=lambda verdict: -verdict.difference)
        changes = [_change(contents, find_changes(contents, queries, verdict.number)) for verdict in order]
    return {
        "size_charts": panels,
        "size_note": note if panels else "",
        "size_absent": [f"{listed(titles)} left out: {why}." for why, titles in absent.items()],
        "concept_changes": changes,
        "changes_absent": queries if isinstance(queries, str) else "",
    }


def class_tables(contents: Contents) -> list[dict[str, Any]]:
    """Return for every label the values that the first rule answers worst and best, with all rules' figures."""
    return [
        {"label": clean(label, 40), "parts": parts}
        for label in contents.results.labels
        if (parts := _class_parts(contents, label))[0][1]
    ]


def _class_parts(contents: Contents, label: str) -> list[tuple[str, list[dict[str, Any]]]]:
    found = contents.groups[0].metrics[0]["labels"][label]

    def figure(value: str, group: RunGroup = contents.groups[0]) -> Figure | None:
        return group.class_figure(label, value, contents.directions[0], contents.measure.name)

    def row(value: str) -> dict[str, Any]:
        return {
            "name": clean(value, 60),
            "num_training": found["classes"][value]["num_training"],
            "num_queries": found["classes"][value]["num_queries"],
            "figures": [str(figure(value, group) or "–") for group in contents.groups],
        }

    lowest, highest = extreme_classes(found, lambda value: None if (of := figure(value)) is None else of.mean)
    parts = (("lowest", lowest), ("highest", highest))
    return [(f"{word} {contents.measure.name}", [row(value) for value in values]) for word, values in parts]


def _change(contents: Contents, changes: Changes) -> dict[str, Any]:
    name, first = contents.names[changes.number], contents.names[0]
    dots = [
        charts.Dot(
            each.size,
            each.gap.mean,
            each.group,
            f"{signed(each.gap.mean)} points, interval {interval_in_words(each.gap)}, "
            f"{counted(each.num_queries, 'query', 'queries')}\n"
            f"{isolated(each.name)} ({counted(each.size, 'training sample')})",
            each.gap.is_clear,
        )
        for each in changes.concepts
    ]
    clear = sum(dot.is_filled for dot in dots)
    chance = (
        "the median when all runs are dealt to the two at random"
        if changes.are_dealt
        else "the median when it is drawn for each query which score is whose; there are too few runs to know of seeds"
    )
    title = f"difference in {contents.measure.name}, points"
    drawn = [
        charts.change_panel(dots, title, f"change{changes.number}-{kind}", width) if dots else Markup()
        for kind, width in (("wide", 1056), ("narrow", 350))
    ]
    return {
        "name": name,
        "number": changes.number,
        "num_concepts": len(dots),
        "least": changes.least,
        "sentence": (
            f"{counted(len(dots), 'concept')} of at least {changes.least} text queries can be compared. The interval "
            f"leaves out 0 for {clear} of them; about {rounded(0.05 * len(dots), 1)} would by chance. "
            f"If {isolated(name)} and {isolated(first)} were equal, the largest gain among these concepts would still "
            f"be about {changes.by_chance:.0f} points, and the largest loss as much ({chance})."
        ),
        "charts": drawn,
        "tables": [("Gained most", changes.gained), ("Lost most", changes.lost)],
    }
