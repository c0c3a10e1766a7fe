"""The page itself: puts the figures and charts of judged runs into page.html."""

import base64
import hashlib
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
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
from mmts.evaluation.classification import read_prompts
from mmts.evaluation.measures import FOLDS, coverage_in_words, folds_in_words, shown_measures
from mmts.evaluation.results import PARTS, JudgedRun, RunGroup
from mmts.files import atomic_write
from mmts.recipe.run_directory import differences, dotted
from mmts.report import charts
from mmts.report.by_concept import class_tables, concept_section
from mmts.report.classes import class_section
from mmts.report.contents import Contents, find, read_contents
from mmts.report.curves import loss_line, recall_line, rule_in_words, value_curve, value_word
from mmts.report.gallery import make_gallery
from mmts.report.interpolation import interpolation_section, read_curve
from mmts.report.mistakes import mistakes_section
from mmts.report.tail import LongTail
from mmts.report.wording import clean, in_title, interval_in_words, listed, signed

START_IN_WORDS = "the pretrained pair that the run started from, before training"
_LONGEST_FOLDER = 60


def write_report(runs: Sequence[Path], out: Path, title: str | None = None, names: Sequence[str] | None = None) -> Path:
    """Write one self-contained HTML file about judged runs, and return its path.

    runs: run directories; those whose recipes differ only in the seed make one rule, and the other rules are compared
    with the first. names: one per rule, in order. A sentence on the page replaces what a run lacks. The same runs give
    the same file, byte for byte. Raises RunError as `read_results` does.
    """
    contents = read_contents(runs, names)
    for note in contents.notes:
        console.print(f"note: {note}")
    content = _fill_in(contents, Path(out), title)
    with atomic_write(out, "w") as file:
        file.write(content)
    return Path(out)


def _fill_in(contents: Contents, out: Path, title: str | None) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "unbroken": lambda text: re.sub(" (?=%)| (?=± )|(?<=±) ", "\N{NO-BREAK SPACE}", text),
        "counted": counted,
        "rounded": rounded,
        "thousands": "{:,}".format,
        "signed": signed,
        "interval": interval_in_words,
        "clean": clean,
        "listed": listed,
    }
    template = environment.from_string(_resource("page.html"))
    script, finding, measure = _resource("page.js"), find(contents), contents.measure
    tail = None if contents.distributions[0] is None else LongTail(contents.distributions[0])
    shown_rules = [0, *(verdict.number for verdict in finding.verdicts[:1])]
    names, folder = [group.name for group in contents.groups], contents.groups[0].recipe.data.path
    metrics = [metrics for group in contents.groups for metrics in group.metrics]
    logs = [run.run.log_lines() for group in contents.groups if not group.is_start for run in group.runs]
    return template.render(
        contents=contents,
        title=clean(title or listed(names) + (f" on {folder.name}" if folder is not None else "")),
        css=Markup(_resource("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        shape=charts.shape,
        group_numbers={name: number for number, name in enumerate(GROUP_NAMES)},
        a_medium=WITH_ARTICLE[contents.kind],
        num_seeds=sorted({len(group.seeds) for group in contents.groups}),
        validations=[sum(bool(line.get("val")) for line in log) for log in logs],
        coverage=coverage_in_words(contents.metrics),
        finding=finding,
        rules=_rules(contents),
        tail=tail,
        tail_chart=charts.wide_and_narrow(tail.chart, "tail", 1056) if tail else None,
        **_values(contents),
        **_learning(contents),
        recall_charts=charts.dot_charts(contents, "recall", f"{measure}, %"),
        tables=[_table(contents, direction) for direction in contents.directions],
        folds=list(filter(None, dict.fromkeys(map(folds_in_words, metrics)))),
        gap_charts=charts.dot_charts(contents, "gap", f"difference in {measure}, points", are_gaps=True),
        num_intervals=sum(key[2] == measure and key[3] in PARTS for key in contents.gaps),
        gap_rows=sorted(contents.gaps.items(), key=lambda item: (item[0][0], contents.directions.index(item[0][1]))),
        interpolations=interpolation_section(contents),
        **concept_section(contents, finding),
        class_tables=class_tables(contents),
        classification=class_section(contents, shown_rules),
        gallery=make_gallery(contents, shown_rules),
        mistakes=mistakes_section(contents),
        changes=_changes(contents.groups),
        commands=_commands(contents, out),
        versions=_versions(contents),
        is_openmoji=_is_openmoji(contents),
    )


def _resource(name: str) -> str:
    return resources.files("mmts.report").joinpath(name).read_text(encoding="utf-8")


def _rules(contents: Contents) -> list[dict[str, str]]:
    rules = []
    for group in contents.groups:
        recipe = yaml.safe_dump(group.recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        words = START_IN_WORDS if group.is_start else rule_in_words(group.recipe, group.own_objects)
        rules.append({"name": group.name, "words": words[:1].upper() + words[1:], "recipe": recipe})
    return rules


def _values(contents: Contents) -> dict[str, Any]:
    """Draw the temperature or margin of each rule; rules with the same one share their axes."""
    curves, logged, tops = [], [], dict[str, float]()
    for group, concepts in zip(contents.groups, contents.distributions, strict=True):
        lines, is_logged = value_curve(group, concepts)
        if lines:
            word = value_word(group)
            tops[word] = max(tops.get(word, 0), *(max(line.high) for line in lines))
            curves.append((group.name, word, lines))
            logged += [group.name] if is_logged else []
    panels: list[tuple[str, Markup]] = []
    for name, word, lines in curves:
        what, top = f"{word.capitalize()} with {name}", 1.08 * tops[word]
        panels.append((name, charts.training_panel(what, word, lines, "{:.4f}", f"value{len(panels)}", top)))
    has_bands = any(line.low != line.high for _, _, lines in curves for line in lines)
    return {"values": panels, "value_words": [*tops] or ["temperature"], "logged": logged, "has_bands": has_bands}


def _learning(contents: Contents) -> dict[str, Any]:
    rules = [(number, group) for number, group in enumerate(contents.groups) if not group.is_start]
    losses = [line for rule in rules if (line := loss_line(*rule))]
    panels = [("Loss", charts.training_panel("Loss", "training loss", losses, "{:.2f}", "loss"))] if losses else []
    for at, direction in enumerate(contents.directions):
        if lines := [line for rule in rules if (line := recall_line(*rule, direction))]:
            title, name = in_title(direction), "validation R@1, %"
            panels.append((title, charts.training_panel(f"{title}, {name}", name, lines, "{:.1f} %", f"val{at}")))
    return {"learning": panels, "num_losses": len(losses)}


def _table(contents: Contents, direction: str) -> dict[str, Any]:
    measures = shown_measures(contents.metrics)
    folds = [metrics[FOLDS]["num"] for group in contents.groups for metrics in group.metrics if metrics.get(FOLDS)]
    parts = []
    for part in (None, *([FOLDS] if folds else []), *contents.parts[1:]):
        known = {}  # the figures of each rule that has all of them
        for number, group in enumerate(contents.groups):
            figures = [figure for name in measures if (figure := group.figure(direction, name, part)) is not None]
            if len(figures) == len(measures):
                known[number] = figures
        highest = [max(figure.mean for figure in column) for column in zip(*known.values(), strict=True)]
        rows = []
        for number, figures in known.items():
            intervals = [contents.interval(number, direction, measure, part) for measure in measures]
            is_highest = [len(known) > 1 and figure.mean == best for figure, best in zip(figures, highest, strict=True)]
            rows.append((number, list(zip(figures, intervals, is_highest, strict=True))))
        num_queries = None if part == FOLDS else int(contents.rows(part)[contents.directions.index(direction)].sum())
        label, _, name = (part or "all").rpartition(" ")
        name = f"{folds[0]} folds" if part == FOLDS else f"{clean(label, 40)}: {name}" if label else name.capitalize()
        parts.append({"name": name, "is_mean": part == FOLDS, "num_queries": num_queries, "rows": rows})
    return {"name": in_title(direction), "measures": measures, "parts": parts}


def _changes(groups: Sequence[RunGroup]) -> list[tuple[str, list[str]]]:
    """Return the keys in which any recipe differs from the first, with the value in every recipe."""
    changes = [differences(groups[0].recipe, group.recipe) for group in groups]
    originals = {key: original for change in changes for key, (original, _) in change.items() if key != "train.seed"}
    rows = []
    for key, original in originals.items():
        values = [change[key][1] if key in change else original for change in changes]
        rows.append((key, ["–" if value is None else clean(value, 80) for value in values]))
    return rows


def _commands(contents: Contents, out: Path) -> str:
    """Return the commands that train all runs again in new folders, and write a page about the new runs."""
    lines: list[str] = []
    again: list[str] = []
    groups = [group for group in contents.groups if not group.is_start]  # a run brings its start along
    for number, group in enumerate(groups):
        folder = "again/" + (re.sub(r"[^\w.-]+", "-", group.name).strip("-.")[:_LONGEST_FOLDER] or "run")
        if any(run.startswith(folder) for run in again):
            folder += f"-{number + 1}"
        first, is_alone = group.runs[0], len(group.runs) == 1
        where, seed = (folder, "") if is_alone else (f"{folder}-seed$seed", "--set train.seed=$seed ")
        commands = []
        if own := group.own_objects:  # which no command has
            lines.append(f"# {where}: call mmts.train again with {clean(listed(list(own.values())))}")
        elif group.recipe.model.is_untouched:
            commands.append(f"{_evaluation(first)} --out {where}")
        else:
            commands.append(f"mmts train {shlex.quote(str(first.run.recipe_file))} {seed}--out {where}")
        options = [word for label in contents.labels for word in ("--label", label)]
        classes = first.judged.classes
        if classes is not None and (first.is_evaluation or first.recipe.evaluation.classify != classes.label):
            options += ["--classify", classes.label]
            if (*classes.templates,) != read_prompts(None, contents.kind):
                lines.append(f"printf '%s\\n' {shlex.join(map(clean, classes.templates))} > prompts-{number + 1}.txt")
                options += ["--prompts", f"prompts-{number + 1}.txt"]
        if first.checkpoint in ("last", "interpolated"):
            options = ["--checkpoint", first.checkpoint, *options]
        if first.checkpoint == "interpolated" and (curve := read_curve(first.run, contents.measure)) is not None:
            commands.append(f"mmts evaluate {where} --interpolate {','.join(f'{share:g}' for share in curve.shares)}")
        if first.is_evaluation:
            options = ["--data", first.metrics["data"], "--split", first.metrics["split"], *options]
        if options:
            commands.append(f"mmts evaluate {where} {shlex.join(options)}")
        seeds = " ".join(map(str, group.seeds))
        if commands:
            lines += commands if is_alone else [f"for seed in {seeds}; do {' && '.join(commands)}; done"]
        file = f"/evaluations/{first.given.name}" if first.is_evaluation else ""
        again += [shlex.quote(where.replace("$seed", str(seed)) + file) for seed in group.seeds]
    report = ["mmts report", *again, "--out", shlex.quote(f"again/{out.name}")]
    if not any("," in group.name for group in groups):  # the option separates names by commas
        report += ["--names", shlex.quote(",".join(group.name for group in groups))]
    return "\n".join([*lines, " ".join(report)])


def _evaluation(run: JudgedRun) -> str:
    """Return the command that evaluates a pretrained pair as it is, with what its recipe sets."""
    settable: Any = {"data": True, "concepts": True, "evaluation": True}
    settable["model"] = {"image": {"size"}, "video": {"sampling", "stride"}}
    told = dotted(run.recipe.model_dump(mode="json", exclude_defaults=True, include=settable))
    settings = [f"{key}={value}" for key, value in told.items() if key != "data.path"]
    options = [] if run.is_evaluation else ["--split", run.metrics["split"]]
    options += [word for setting in settings for word in ("--set", setting)]
    data = str(run.recipe.data.path)
    return shlex.join(["mmts", "evaluate", str(run.recipe.model.start), "--data", data, *options])


def _versions(contents: Contents) -> str:
    versions: dict[str, dict[str, None]] = defaultdict(dict)
    for run in (run for group in contents.groups for run in group.runs):
        for name, version in run.run.versions().items():
            versions[clean(name, 40)][version] = None
    return ", ".join(f"{name} {' and '.join(known)}" for name, known in versions.items())


def _is_openmoji(contents: Contents) -> bool:
    """Whether a README or NOTICE beside the data says that the pictures are OpenMoji's, which must be credited."""
    folders = {Path(group.runs[0].judged.meta["data"]) for group in contents.groups}
    folders |= {group.recipe.data.path for group in contents.groups if group.recipe.data.path is not None}
    files = [file for folder in folders for word in ("README*", "NOTICE*", "LICENSE*") for file in folder.glob(word)]
    return any(file.is_file() and b"openmoji" in file.read_bytes()[:100_000].lower() for file in files)
