"""The zero-shot classification of judged runs: the worst and best classes, and confusions of those with few media."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmts.evaluation.class_results import ClassResults
from mmts.evaluation.classification import CLASS_WORDS
from mmts.evaluation.figures import extremes
from mmts.report.contents import Contents
from mmts.report.gallery import Pictures

_CONFUSIONS = 6  # per rule
_PICTURES = 5  # per confusion


def class_section(contents: Contents, rules: Sequence[int]) -> dict[str, Any] | None:
    """Return what the page shows of a classification; None if no run was classified.

    rules: the numbers of those whose confusions are shown, from their first runs. shown: the one whose worst and best
    classes are listed.
    """
    results = ClassResults.of(contents.groups)
    if results is None:
        return None
    names, target = results.classes.names, results.classes.target
    num_media = {name: int((target == at).sum()) for at, name in enumerate(names)}
    alike = [number for number, top in enumerate(results.tops) if top is not None]
    shown = alike[0]
    means = {name: figure.mean for name in names if (figure := results.of_class(shown, name)) is not None}
    return {
        "results": results,
        "words": CLASS_WORDS,
        "num_media": num_media,
        "shown": shown,
        "extremes": dict(zip(("lowest", "highest"), extremes(means, num_media), strict=True)),
        "confusions": [(rule, _confusions(contents, results, rule)) for rule in rules if rule in alike],
    }


def _confusions(contents: Contents, results: ClassResults, rule: int) -> list[dict[str, Any]]:
    """Return the most frequent confusions of classes with few training media in a rule's first run, with pictures."""
    target, judged = results.classes.target, contents.groups[rule].runs[0].judged
    answers, pictures = judged.class_top[:, 0], Pictures(judged)
    wrong = results.classes.rows("few") & (answers != target)
    counts = Counter(zip(target[wrong].tolist(), answers[wrong].tolist(), strict=True))
    confusions = []
    for true, answer in sorted(counts, key=lambda pair: (-counts[pair], pair))[:_CONFUSIONS]:
        media = (wrong & (target == true) & (answers == answer)).nonzero()[:_PICTURES, 0].tolist()
        shown = [pictures(medium, 160) for medium in media]
        confusions.append({"pair": (true, answer), "count": counts[true, answer], "pictures": shown})
    return confusions
