"""The page itself: what was read and drawn, put into page.html."""

import base64
import hashlib
import re
import shlex
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mmts.concepts.distribution import GROUP_NAMES
from mmts.console import console
from mmts.data.formats.collect import WITH_ARTICLE
from mmts.errors import counted, rounded
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.measures import FOLDS, folds_in_words, shown_measures
from mmts.evaluation.results import PARTS, RunGroup
from mmts.files import atomic_write
from mmts.recipe.run_directory import RunDirectory, differences
from mmts.report import charts
from mmts.report.concept_section import class_tables, concept_section
from mmts.report.contents import Contents, read_contents
from mmts.report.finding import Finding, find
from mmts.report.galleries import QUERIES, Gallery, Query, make_gallery
from mmts.report.learning import loss_line, number_of_validations, recall_line
from mmts.report.rules import ValueCurve, rule_in_words, value_curve
from mmts.report.svg import shape
from mmts.report.tail import LongTail
from mmts.report.wording import clean, in_title, interval_in_words, listed, signed

_MEANING = {
    "temperature": "softens the contrast, so that the closest wrong answers count for less",
    "margin": "asks for more distance between the right pair and every wrong one",
}
# The shapes as the charts draw them (svg.marker), so that rules differ by more than color.
_KEY_SHAPES = (
    '<circle cx="14" cy="6" r="4"/>',
    '<rect x="10.4" y="2.4" width="7.2" height="7.2"/>',
    '<path d="M14 1.6 18.6 9.8H9.4Z"/>',
    '<path d="M14 1 19 6 14 11 9 6Z"/>',
    '<path d="M14 10.4 9.4 2.2h9.2Z"/>',
    '<path d="M12.4 1.6h3.2v2.8h2.8v3.2h-2.8v2.8h-3.2V7.6H9.6V4.4h2.8Z"/>',
)
_KEY_DASHES = ("", "5 2", "", "6 2 1.5 2", "1.5 1.5")
_LONGEST_FOLDER = 60


def write_report(runs: Sequence[Path], out: Path, title: str | None = None, names: Sequence[str] | None = None) -> Path:
    """Write one self-contained HTML file about judged runs, and return its path.

    runs: run directories; those whose recipes differ only in the seed are shown as one rule with its spread, and the
    others are compared with the first. names: one for each rule, in order. What a run lacks
    (concepts.npz, the log, validation figures, images) is left out with a sentence that says so. The same runs give the
    same file, byte for byte.
    Raises RunError where none of the folders is a judged run, or where they were judged on different queries.
    """
    contents = read_contents(runs, names)
    for note in contents.results.notes:
        console.print(f"note: {note}")
    content = _fill_in(contents, Path(out), title)
    with atomic_write(out, "w") as file:
        file.write(content)
    return Path(out)


def _fill_in(contents: Contents, out: Path, title: str | None) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["unbroken"] = lambda text: re.sub(" (?=%)| (?=± )|(?<=±) ", "\N{NO-BREAK SPACE}", text)
    environment.filters["samples"] = lambda number: counted(number, "training sample")
    environment.filters |= {"signed": signed, "interval": interval_in_words, "thousands": "{:,}".format}
    template = environment.from_string(_resource("page.html"))
    finding = find(contents)
    curves = [value_curve(*pair) for pair in zip(contents.groups, contents.distributions, strict=True)]
    words = list(dict.fromkeys(curve.word for curve in curves if curve)) or ["temperature"]
    distribution = contents.distributions[0]
    script = _resource("page.js")
    gallery = make_gallery(contents, _shown_rules(finding))
    return template.render(
        title=clean(title or _default_title(contents)),
        css=Markup(_resource("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        keys=[_key(number) for number in range(len(contents.groups))],
        kind=contents.kind,
        metrics=contents.metrics,
        measure=contents.measure,
        finding=finding,
        rules=_rules(contents, finding),
        tail=LongTail.of(distribution) if distribution is not None else None,
        values=_value_charts(contents, curves),
        value_word=" and ".join(words),
        value_meaning=" and a higher margin ".join(_MEANING[word] for word in sorted(words, reverse=True)),
        values_note=_values_note(contents, curves),
        **_learning(contents),
        **_results(contents),
        **concept_section(contents, finding),
        group_numbers={name: number for number, name in enumerate(GROUP_NAMES)},
        gallery=gallery,
        text_sentence=_gallery_sentence(contents, gallery, gallery.texts, "captions", contents.kind + "s"),
        media_sentence=_gallery_sentence(contents, gallery, gallery.media, contents.kind + "s", "captions"),
        changes=_changes(contents.groups),
        commands=_commands(contents, out),
        notes=[clean(note, 600) for note in contents.results.notes],
        versions=_versions(contents.groups),
        is_openmoji=_is_openmoji(contents.groups, contents.judged),
    )


def _resource(name: str) -> str:
    return resources.files("mmts.report").joinpath(name).read_text(encoding="utf-8")


def _key(number: int) -> Markup:
    color = f"var(--series-{number % 6})"
    dash = _KEY_DASHES[number % len(_KEY_DASHES)]
    dashes = Markup(' stroke-dasharray="{}"').format(dash) if dash else ""
    return Markup(
        '<svg class="key" viewBox="0 0 28 12" aria-hidden="true">'
        '<line x1="0" y1="6" x2="28" y2="6" style="stroke:{}" stroke-width="2"{}/><g style="fill:{}">{}</g></svg>'
    ).format(color, dashes, color, Markup(_KEY_SHAPES[shape(number)]))


def _default_title(contents: Contents) -> str:
    folder = contents.groups[0].recipe.data.path
    return listed(list(contents.names)) + (f" on {folder.name}" if folder is not None else "")


def _rules(contents: Contents, finding: Finding) -> list[dict[str, Any]]:
    verdicts = {verdict.number: verdict for verdict in finding.verdicts}
    rules = []
    for number, group in enumerate(contents.groups):
        verdict = verdicts.get(number)
        recipe = yaml.safe_dump(group.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        rules.append(
            {
                "name": contents.names[number],
                "words": rule_in_words(group.recipe)[:1].upper() + rule_in_words(group.recipe)[1:],
                "figure": contents.figure(number, contents.directions[0]),
                "verdict": verdict.in_short() if verdict else "",
                "seeds": ", ".join(str(seed) for seed in group.seeds),
                "recipe": recipe,
            }
        )
    return rules


def _value_charts(contents: Contents, curves: Sequence[ValueCurve | None]) -> list[tuple[str, Markup]]:
    found = []
    for number, curve in enumerate(curves):
        if curve is not None:
            alike = [each for each in curves if each is not None and each.word == curve.word]
            top = max(max(line.high) for each in alike for line in each.lines)
            name = contents.names[number]
            panel = charts.value_panel(curve.word, name, curve.lines, (0, 1.08 * top), f"value{number}")
            found.append((contents.names[number], panel))
    return found


def _values_note(contents: Contents, curves: Sequence[ValueCurve | None]) -> str:
    logged = [contents.names[number] for number, curve in enumerate(curves) if curve and curve.is_logged]
    bands = any(line.low != line.high for curve in curves if curve for line in curve.lines)
    band = " Bands reach from the least to the most of any sample." if bands else ""
    if not logged:
        source = "Computed from the rules; the axes are the same." if len(curves) > 1 else "Computed from the rule."
        return source + band
    start = "Computed from the rules, except that" if len(logged) < len(curves) else "Read from the logs:"
    return f"{start} {listed(logged)} {'shows' if len(logged) == 1 else 'show'} what the first seed logged.{band}"


def _learning(contents: Contents) -> dict[str, Any]:
    named = list(zip(contents.names, contents.groups, strict=True))
    panels: list[tuple[str, Markup]] = []
    losses = [line for number, (name, group) in enumerate(named) if (line := loss_line(name, number, group))]
    if losses:
        panels.append(("Loss", charts.learning_panel("training loss", losses, "loss", 2)))
    for at, direction in enumerate(contents.directions):
        lines = [
            line for number, (name, group) in enumerate(named) if (line := recall_line(name, number, group, direction))
        ]
        if lines:
            title = in_title(direction)
            panels.append((title, charts.learning_panel("validation R@1, %", lines, f"val{at}", 1, " %")))
    note = "Lines are means over seeds and bands reach from the lowest to the highest seed." if any(
        len(group.seeds) > 1 for group in contents.groups
    ) else ""  # fmt: skip
    if losses and len(losses) > 1:
        note += " The loss contains the temperature or margin: compare its course between rules, not its height."
    absent = ""
    if not losses:
        absent = "Left out: these runs have no log.jsonl."
    elif len(panels) == 1:
        looked = any(number_of_validations(path) for group in contents.groups for path in group.paths)
        why = "looked at validation data only once, at the end" if looked else "had no validation data"
        absent = f"Recall over training is left out: these runs {why}."
    return {"learning": panels, "learning_note": note.strip(), "learning_absent": absent}


def _results(contents: Contents) -> dict[str, Any]:
    spreads = any(len(group.seeds) > 1 for group in contents.groups)
    recall_note = "The upright stroke is the mean and the small marks are the seeds." if spreads else ""
    table_note = "Percent. "
    if spreads:
        table_note += "± is the sample standard deviation over seeds. "
    table_note += "In brackets: the 95 % bootstrap interval over queries. "
    if len(contents.groups) > 1:
        table_note += "Bold is the highest mean, which need not be a clear difference."
    for folds in dict.fromkeys(folds_in_words(metrics) for group in contents.groups for metrics in group.metrics):
        table_note += f" {folds}." if folds else ""
    measure = contents.measure
    intervals = sum(key[2] == measure.name and key[3] in PARTS for key in contents.gaps)
    return {
        "results_sentence": (
            f"{measure.definitions} A text query belongs to head, mid or "
            f"tail by the training size of its caption's concept, {WITH_ARTICLE[contents.kind]} by that of its first "
            "caption's."
        ),
        "recall_charts": _charts(contents, _recall_rows, "recall", f"{measure.name}, %"),
        "recall_note": f"{recall_note} The axes begin where the figures do, not at 0.".strip(),
        "tables": [_table(contents, direction) for direction in contents.directions],
        "table_note": table_note.strip(),
        "gap_charts": _charts(contents, _gap_rows, "gap", f"difference in {measure.name}, points", zero=True),
        "gap_note": (
            f"Points of {measure.name} with their 95 % paired bootstrap intervals over queries (all captions of one "
            f"{contents.kind} drawn together; {measure.averaged} averaged over seeds). A filled mark: the "
            "interval leaves out 0. The intervals know nothing of the spread over seeds, and each is 95 % by itself: "
            f"of {intervals} such, about {rounded(0.05 * intervals, 1)} would leave out 0 by chance alone."
        ),
        "gap_rows": sorted(contents.gaps.items(), key=lambda item: (item[0][0], contents.directions.index(item[0][1]))),
        "no_gaps": contents.no_gaps,
        "class_tables": class_tables(contents),
    }


def _recall_rows(contents: Contents, direction: str) -> list[charts.Row]:
    rows = []
    for part in PARTS:
        for number, group in enumerate(contents.groups):
            figure = contents.figure(number, direction, part)
            if figure is None:
                continue
            values = group.values(direction, contents.measure.name, part) or ()
            name = contents.names[number]
            rows.append(charts.Row(part or "all", name, number, figure.mean, values, f"{figure} %"))
    return rows


def _gap_rows(contents: Contents, direction: str) -> list[charts.Row]:
    rows = []
    for part in PARTS:
        for number, name in enumerate(contents.names):
            gap = contents.gap(number, direction, part)
            if gap is not None:
                text = f"{signed(gap.mean)} points, {interval_in_words(gap)}"
                rows.append(charts.Row(part or "all", name, number, gap.mean, (gap.low, gap.high), text, gap.is_clear))
    return rows


def _charts(
    contents: Contents,
    rows_of: Callable[[Contents, str], list[charts.Row]],
    identifier: str,
    xlabel: str,
    zero: bool = False,
) -> list[tuple[str, Markup, Markup]]:
    """Draw a dot chart of each direction that has rows, twice: for a screen and for a phone."""
    found = []
    for at, direction in enumerate(contents.directions):
        title = in_title(direction)
        if rows := rows_of(contents, direction):
            wide, narrow = (
                charts.dot_panel(title, rows, f"{identifier}{at}-{name}", xlabel, width, zero)
                for name, width in (("wide", 504), ("narrow", 350))
            )
            found.append((title, wide, narrow))
    return found


def _table(contents: Contents, direction: str) -> dict[str, Any]:
    measures = shown_measures(contents.metrics)
    parts: list[dict[str, Any]] = []
    folds = [of[FOLDS]["num"] for group in contents.groups for of in group.metrics if of.get(FOLDS)]
    for part in (None, *([FOLDS] if folds else []), *contents.results.parts[1:]):
        figures = [
            (number, [group.figure(direction, measure, part) for measure in measures])
            for number, group in enumerate(contents.groups)
        ]
        known = [(number, cells) for number, cells in figures if None not in cells]
        if not known:
            parts.append({"name": _part_name(part), "note": "no queries", "rows": []})
            continue
        best = [max(cells[at].mean for _, cells in known) for at in range(len(measures))]  # type: ignore[union-attr]
        rows = []
        for number, cells in known:
            intervals = [contents.results.interval(number, direction, measure, part) for measure in measures]
            rows.append(
                {
                    "number": number,
                    "name": contents.names[number],
                    "cells": [
                        {
                            "mean": f"{figure.mean:.1f}",
                            "spread": None if figure.spread is None else f"{figure.spread:.1f}",
                            "interval": None if interval is None else "[{:.1f}, {:.1f}]".format(*interval),
                            "is_highest": len(known) > 1 and figure.mean == best[at],
                        }
                        for at, (interval, figure) in enumerate(zip(intervals, cells, strict=True))
                        if figure is not None
                    ],
                }
            )
        name = f"{folds[0]} folds" if part == FOLDS else _part_name(part)
        parts.append({"name": name, "note": _queries(contents, direction, part), "rows": rows})
    return {"name": in_title(direction), "measures": measures, "parts": parts}


def _part_name(part: str | None) -> str:
    """Name a part of a table: "All", "Head", "article_type: head"."""
    label, _, name = (part or "all").rpartition(" ")
    return f"{clean(label, 40)}: {name}" if label else name.capitalize()


def _queries(contents: Contents, direction: str, part: str | None) -> str:
    """Say how many queries stand behind a part of a table, where metrics.json knows."""
    if part == FOLDS:
        return "mean"
    number = contents.results.num_queries(direction, part)
    return "" if number is None else counted(number, "query", "queries")


def _shown_rules(finding: Finding) -> list[int]:
    """Return the first rule and the best of the others."""
    others = sorted(finding.verdicts, key=lambda verdict: -verdict.difference)
    return [0, *(verdict.number for verdict in others[:1])]


def _gallery_sentence(contents: Contents, gallery: Gallery, queries: Sequence[Query], asked: str, found: str) -> str:
    if not queries:
        return ""
    number = len(queries)
    whose = "at least one of the two" if len(gallery.rules) > 1 else "the model"
    rules = " and ".join(
        f"{name} (seed {contents.groups[contents.names.index(name)].seeds[0]})" for name in gallery.rules
    )
    start = f"1 {asked[:-1]} as a query, with" if number == 1 else f"{number} {asked} as queries, each with"
    return (
        f"{start.replace(f'{QUERIES} ', 'Twelve ')} the first five {found} that {rules} found. "
        "Drawn with a fixed seed, as evenly as can be from head, mid and tail and from those that "
        f"{whose} answers right at once and those not: an illustration, not a measurement."
    )


def _changes(groups: Sequence[RunGroup]) -> list[tuple[str, list[str]]]:
    """Return the keys in which any recipe differs from the first, with every recipe's value."""
    changes = [differences(groups[0].recipe, group.recipe) for group in groups]
    keys = list(dict.fromkeys(key for each in changes for key in each if key != "train.seed"))
    rows = []
    for key in keys:
        original = next(each[key][0] for each in changes if key in each)
        values = [each[key][1] if key in each else original for each in changes]
        rows.append((key, ["–" if value is None else clean(value, 80) for value in values]))
    return rows


def _commands(contents: Contents, out: Path) -> str:
    """Return the commands that train all runs again in new folders, and write a page about those."""
    lines: list[str] = []
    again: list[str] = []
    for number, (name, group) in enumerate(zip(contents.names, contents.groups, strict=True)):
        folder = "again/" + (re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_LONGEST_FOLDER] or "run")
        if any(run.startswith(folder) for run in again):
            folder += f"-{number + 1}"
        first, is_alone = group.runs[0], len(group.runs) == 1
        where = folder if is_alone else f"{folder}-seed$seed"
        seed = "" if is_alone else "--set train.seed=$seed "
        commands = [f"mmts train {shlex.quote(str(first.run.recipe_file))} {seed}--out {where}"]
        judged_so, file = [], ""
        if first.is_evaluation:
            judged_so = ["--data", first.metrics["data"], "--split", first.metrics["split"]]
            file = f"/evaluations/{first.given.name}"
        if first.metrics.get("checkpoint") == "last":
            judged_so += ["--checkpoint", "last"]
        for label in contents.results.labels:
            judged_so += ["--label", label]
        if judged_so:
            commands.append(f"mmts evaluate {where} {shlex.join(judged_so)}")
        lines += (
            commands
            if is_alone
            else [f"for seed in {' '.join(map(str, group.seeds))}; do {' && '.join(commands)}; done"]
        )
        again += [shlex.quote(where.replace("$seed", str(seed)) + file) for seed in group.seeds]
    report = ["mmts report", *again, "--out", shlex.quote(f"again/{out.name}")]
    if not any("," in name for name in contents.names):  # as it separates names
        report += ["--names", shlex.quote(",".join(contents.names))]
    lines.append(" ".join(report))
    return "\n".join(lines)


def _versions(groups: Sequence[RunGroup]) -> str:
    found: dict[str, list[str]] = {}
    for group in groups:
        for path in group.paths:
            content = yaml.safe_load(RunDirectory(path).recipe_file.read_text(encoding="utf-8"))
            for name, version in (content.get("versions") or {}).items():
                known = found.setdefault(clean(name, 40), [])
                if str(version) not in known:
                    known.append(str(version))
    return ", ".join(f"{name} {' and '.join(versions)}" for name, versions in found.items())


def _is_openmoji(groups: Sequence[RunGroup], judged: Sequence[Judged | None]) -> bool:
    """Whether a README or NOTICE beside the data says that the pictures are OpenMoji's, which must be credited."""
    folders = {Path(run.meta["data"]) for run in judged if run is not None}
    folders |= {group.recipe.data.path for group in groups if group.recipe.data.path is not None}
    for folder in [each for each in folders if each.is_dir()]:
        for file in [each for word in ("README*", "NOTICE*", "LICENSE*") for each in folder.glob(word)]:
            if file.is_file() and b"openmoji" in file.read_bytes()[:100_000].lower():
                return True
    return False
