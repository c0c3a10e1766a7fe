"""What is answered in place of tail concepts, and what to mend in the data: repeated pictures, wrong captions."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mmts.concepts.distribution import TAIL
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.mismatch import LEAST_MEDIA, SUSPECTED
from mmts.report.contents import Contents
from mmts.report.gallery import Pictures, medium_of
from mmts.report.pictures import thumbnail
from mmts.report.wording import clean

KINDS = ("near-duplicate", "suspected caption", "other concept", "same concept")
"""Why a tail query is answered wrongly: the first that applies."""
_ALIKE = 0.95  # cosine, from which on two pictures are compared pixel by pixel
_DIFFERENCE = 4.0  # of 255: two pictures that differ less, on average, are nearly the same
_MOST_COMPARED = 1000
_MOST_CONCEPTS = 12
_EXAMPLES = 2  # per kind
_SHOWN, _LISTED = 6, 200


def mistakes_section(contents: Contents) -> dict[str, Any]:
    """Return what the page shows of the mistakes of the first run of the first rule.

    absent: why there is nothing to show, or "". kinds: for each of KINDS the number of tail queries. concepts: the tail
    concepts with the most mistakes. examples: a caption, the right picture and the answer. repeated: pairs of media
    that are nearly the same picture under other captions. suspected: captions that may be wrong, the worst first.
    """
    group = contents.groups[0]
    judged, distribution = group.runs[0].judged, contents.distributions[0]
    mismatches = judged.mismatches
    if mismatches is None:
        reasons = {
            "with graded relevance, no caption is a medium's own": judged.meta["relevance"] == "graded",
            f"it takes at least {LEAST_MEDIA} media": len(judged.meta["media_ids"]) < LEAST_MEDIA,
        }
        old = f"judgement.npz is of an older version; `mmts evaluate {group.runs[0].given}` writes it again"
        return {"absent": next((why for why, applies in reasons.items() if applies), old)}
    captions, owner, pictures = judged.meta["captions"], judged.owner.tolist(), Pictures(judged)
    scores = mismatches.scores.numpy()
    of_media = np.full(len(judged.meta["media_ids"]), -np.inf)
    np.maximum.at(of_media, owner, scores)
    pairs, unread = _same_pictures(judged)
    twins = {(a, b) for pair in pairs for a, b in (pair, pair[::-1])}
    of_text, of_first_caption = judged.concepts
    assert of_first_caption is not None  # relevance is not graded
    concepts, media_concepts = of_text.tolist(), of_first_caption.tolist()

    def kind_of(row: int, answer: int) -> int:
        if (owner[row], answer) in twins:
            return 0
        if max(scores[row], of_media[answer]) > SUSPECTED:
            return 1
        return 2 if concepts[row] != media_concepts[answer] else 3

    texts = defaultdict(set)
    for row, medium in enumerate(owner):
        texts[medium].add(captions[row])
    tail = np.flatnonzero(judged.arrays["text_groups"] == TAIL).tolist()
    is_right = judged.arrays["text_top_relevant"][:, 0]
    wrong = {row: int(judged.arrays["text_top"][row, 0]) for row in tail if not is_right[row]}
    kinds = {row: kind_of(row, answer) for row, answer in wrong.items()}
    counts = Counter(kinds.values())

    names = () if distribution is None else distribution.names

    def name(concept: int) -> str:
        return clean(names[concept], 60) if 0 <= concept < len(names) else "unknown"

    by_concept = defaultdict(list)
    for row in tail:
        by_concept[concepts[row]].append(row)
    failed = {concept: [row for row in rows if row in wrong] for concept, rows in by_concept.items()}
    most = sorted(failed, key=lambda concept: (-len(failed[concept]), concept))[:_MOST_CONCEPTS]
    rows_of_concepts: list[dict[str, Any]] = []
    for concept in most:
        answered = Counter(media_concepts[wrong[row]] for row in failed[concept] if kinds[row] == 2)
        rows_of_concepts.append(
            {
                "name": name(concept),
                "queries": len(by_concept[concept]),
                "kinds": [sum(kinds[row] == kind for row in failed[concept]) for kind in range(len(KINDS))],
                "answered": [(name(other), count) for other, count in answered.most_common(2)],
            }
        )
    chosen = [[row for row in wrong if kinds[row] == kind][:_EXAMPLES] for kind in range(len(KINDS))]
    other = [(a, b) for a, b in pairs if texts[a] != texts[b]]
    suspected = np.argsort(-scores, kind="stable")[: int((scores > SUSPECTED).sum())].tolist()
    ids = judged.meta["media_ids"]
    return {
        "absent": "",
        "num_tail": len(tail),
        "kinds": [(kind, counts[number]) for number, kind in enumerate(KINDS)],
        "concepts": [row for row in rows_of_concepts if sum(row["kinds"])],
        "examples": [
            {
                "kind": KINDS[kinds[row]],
                "caption": clean(captions[row]),
                "concepts": [name(concepts[row]), name(media_concepts[wrong[row]])],
                "pictures": [pictures(owner[row], 160), pictures(wrong[row], 160)],
            }
            for rows in chosen
            for row in rows
        ],
        "num_repeated": len(other),
        "repeated": [[pictures(a, 160), pictures(b, 160)] for a, b in other[:_SHOWN]],
        "repeated_ids": [[_named(ids, pictures, medium) for medium in pair] for pair in other[:_LISTED]],
        "unread": unread,
        "num_suspected": len(suspected),
        "suspected": [
            {
                "caption": clean(captions[row]),
                "picture": pictures(owner[row], 160),
                "near": pictures.caption(int(mismatches.nearest[owner[row]]), 160),
            }
            for row in suspected[:_SHOWN]
        ],
        "suspected_ids": [(clean(ids[owner[row]], 60), clean(captions[row], 100)) for row in suspected[:_LISTED]],
    }


def _named(ids: Sequence[str], pictures: Pictures, medium: int) -> tuple[str, str]:
    return clean(ids[medium], 60), pictures.caption(medium, 100)


def _same_pictures(judged: Judged) -> tuple[list[tuple[int, int]], int]:
    """Return pairs of media that are nearly the same picture, and how many could not be compared."""
    mismatches = judged.mismatches
    assert mismatches is not None
    cosine, nearest = mismatches.cosine.numpy(), mismatches.nearest.tolist()
    alike = [medium for medium in np.argsort(-cosine, kind="stable").tolist() if cosine[medium] >= _ALIKE]
    candidates = dict.fromkeys((min(at, nearest[at]), max(at, nearest[at])) for at in alike)
    pairs, unread = [], 0
    for pair in list(candidates)[:_MOST_COMPARED]:
        first, second = (thumbnail(medium_of(judged.meta, medium)) for medium in pair)
        if first is None or second is None:
            unread += 1
        elif np.abs(first - second).mean() < _DIFFERENCE:
            pairs.append(pair)
    return pairs, unread + max(0, len(candidates) - _MOST_COMPARED)
