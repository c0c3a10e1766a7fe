"""The zero-shot classification of judged runs: accuracy by group, the worst and best classes, confusions of the few."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmts.evaluation.class_results import ClassResults
from mmts.evaluation.classification import CLASS_WORDS
from mmts.evaluation.figures import extreme_classes
from mmts.report.contents import Contents
from mmts.report.gallery import Pictures
from mmts.report.wording import clean

_CONFUSIONS = 6  # per rule
_PICTURES = 5  # per confusion


def class_section(contents: Contents, rules: Sequence[int]) -> dict[str, Any] | None:
    """Return what the page shows of a classification; None if no run was classified.

    rules: the numbers of those whose confusions are shown, from their first runs.
    """
    results = ClassResults.of(contents.groups)
    if results is None:
        return None
    classes, numbers = results.classes, range(len(contents.groups))
    rows = [
        {
            "name": CLASS_WORDS[measure],
            "num_media": int(classes.rows(measure).sum()),
            "cells": [
                (results.figure(number, measure), results.interval(number, measure), results.gap(number, measure))
                for number in numbers
            ],
        }
        for measure in results.measures
    ]
    num_media = {name: int((classes.target == at).sum()) for at, name in enumerate(classes.names)}
    alike = [rule for rule in rules if results.tops[rule] is not None]
    shown = next(number for number in numbers if results.tops[number] is not None)
    means = {name: figure.mean for name in classes.names if (figure := results.of_class(shown, name)) is not None}
    worst, best = extreme_classes({"classes": {name: {"num_queries": num_media[name]} for name in means}}, means.get)
    training = dict(zip(classes.names, classes.num_training, strict=True))

    def class_row(name: str) -> dict[str, Any]:
        figures = [results.of_class(number, name) for number in numbers]
        return {"name": clean(name, 60), "training": training[name], "media": num_media[name], "figures": figures}

    return {
        "label": clean(classes.label, 40),
        "num_classes": len(classes.names),
        "num_media": int((classes.target >= 0).sum()),
        "num_unlabeled": int((classes.target < 0).sum()),
        "templates": [clean(template, 80) for template in classes.templates],
        "rows": rows,
        "shown": shown,
        "extremes": [(word, list(map(class_row, names))) for word, names in (("lowest", worst), ("highest", best))],
        "has_few": bool(classes.rows("few").any()),
        "confusions": [(rule, _confusions(contents, results, rule)) for rule in alike],
        "left_out": results.left_out,
        "other_prompts": results.other_prompts,
    }


def _confusions(contents: Contents, results: ClassResults, rule: int) -> list[dict[str, Any]]:
    """Return the most frequent confusions of classes with few training media in a rule's first run, with pictures."""
    classes, judged = results.classes, contents.groups[rule].runs[0].judged
    pictures = Pictures(judged)
    media_of: dict[tuple[int, int], list[int]] = defaultdict(list)
    for medium in classes.rows("few").nonzero()[:, 0].tolist():
        true, answer = int(classes.target[medium]), int(judged.class_top[medium, 0])
        if answer != true:
            media_of[true, answer].append(medium)
    most = sorted(media_of.items(), key=lambda item: (-len(item[1]), item[0]))[:_CONFUSIONS]
    return [
        {
            "true": clean(classes.names[true], 60),
            "answer": clean(classes.names[answer], 60),
            "count": len(media),
            "num_media": int((classes.target == true).sum()),
            "num_training": (classes.num_training[true], classes.num_training[answer]),
            "pictures": [pictures(medium, 160) for medium in media[:_PICTURES]],
        }
        for (true, answer), media in most
    ]
