"""What is answered in place of tail concepts, and what to mend in the data: repeated pictures, wrong captions."""

from collections import Counter
from typing import Any

import numpy as np

from mmts.concepts.distribution import TAIL
from mmts.evaluation.judgement_file import Judged
from mmts.evaluation.mismatch import LEAST_MEDIA, SUSPECTED, Mismatches
from mmts.report.contents import Contents
from mmts.report.gallery import Pictures
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
    run, distribution = contents.groups[0].runs[0], contents.distributions[0]
    judged, meta, arrays = run.judged, run.judged.meta, run.judged.arrays
    captions, ids, mismatches = meta["captions"], meta["media_ids"], run.judged.mismatches
    if mismatches is None:
        absent = f"judgement.npz is of an older version; `mmts evaluate {run.given}` writes it again"
        if len(ids) < LEAST_MEDIA:
            absent = f"it takes at least {LEAST_MEDIA} media"
        if meta["relevance"] == "graded":
            absent = "with graded relevance, no caption is a medium's own"
        return {"absent": absent}
    owner, scores, pictures = judged.owner.numpy(), mismatches.scores.numpy(), Pictures(judged)
    of_text, of_media = judged.concepts
    assert of_media is not None  # relevance is not graded
    concepts, media_concepts = of_text.numpy(), of_media.numpy()
    pairs, unread = _same_pictures(judged, mismatches)

    tail = np.flatnonzero(arrays["text_groups"] == TAIL)
    wrong = tail[~arrays["text_top_relevant"][tail, 0]]
    right, answer = owner[wrong], arrays["text_top"][wrong, 0]
    worst = np.full(len(ids), -np.inf)  # score of each medium's captions
    np.maximum.at(worst, owner, scores)
    ends = zip(np.minimum(right, answer).tolist(), np.maximum(right, answer).tolist(), strict=True)
    applies = [
        np.array([pair in pairs for pair in ends], dtype=bool),
        np.maximum(scores[wrong], worst[answer]) > SUSPECTED,
        concepts[wrong] != media_concepts[answer],
    ]
    kinds = np.select(applies, range(3), 3)

    def name(concept: int) -> str:
        is_known = distribution is not None and 0 <= concept < distribution.num_concepts
        return clean(distribution.names[concept], 60) if distribution and is_known else "unknown"

    def texts(medium: int) -> set[str]:
        return {captions[row] for row in np.flatnonzero(owner == medium)}

    def named(medium: int) -> tuple[str, str]:
        return clean(ids[medium], 60), pictures.caption(medium, 100)

    mistakes = Counter(concepts[wrong].tolist())
    of_concepts = []
    for concept in sorted(mistakes, key=lambda concept: (-mistakes[concept], concept))[:_MOST_CONCEPTS]:
        rows = concepts[wrong] == concept
        taken_for = Counter(media_concepts[answer[rows & (kinds == 2)]].tolist())
        of_concepts.append(
            {
                "name": name(concept),
                "queries": int((concepts[tail] == concept).sum()),
                "kinds": np.bincount(kinds[rows], minlength=len(KINDS)).tolist(),
                "answered": [(name(other), count) for other, count in taken_for.most_common(2)],
            }
        )
    examples = np.concatenate([np.flatnonzero(kinds == kind)[:_EXAMPLES] for kind in range(len(KINDS))])
    repeated = [(a, b) for a, b in pairs if texts(a) != texts(b)]
    suspected = np.argsort(-scores, kind="stable")[: int((scores > SUSPECTED).sum())].tolist()
    return {
        "absent": "",
        "num_tail": len(tail),
        "kinds": list(zip(KINDS, np.bincount(kinds, minlength=len(KINDS)).tolist(), strict=True)),
        "concepts": of_concepts,
        "examples": [
            {
                "kind": KINDS[kinds[at]],
                "caption": clean(captions[wrong[at]]),
                "concepts": [name(concepts[wrong[at]]), name(media_concepts[answer[at]])],
                "pictures": [pictures(int(right[at]), 160), pictures(int(answer[at]), 160)],
            }
            for at in examples
        ],
        "num_repeated": len(repeated),
        "repeated": [[pictures(medium, 160) for medium in pair] for pair in repeated[:_SHOWN]],
        "repeated_ids": [list(map(named, pair)) for pair in repeated[:_LISTED]],
        "unread": unread,
        "num_suspected": len(suspected),
        "suspected": [
            {
                "caption": clean(captions[row]),
                "picture": pictures(int(owner[row]), 160),
                "near": pictures.caption(int(mismatches.nearest[owner[row]]), 160),
            }
            for row in suspected[:_SHOWN]
        ],
        "suspected_ids": [(clean(ids[owner[row]], 60), clean(captions[row], 100)) for row in suspected[:_LISTED]],
    }


def _same_pictures(judged: Judged, mismatches: Mismatches) -> tuple[dict[tuple[int, int], None], int]:
    """Return pairs of media that are nearly the same picture, in order, and how many could not be compared."""
    cosine, nearest = mismatches.cosine.numpy(), mismatches.nearest.tolist()
    alike = [medium for medium in np.argsort(-cosine, kind="stable").tolist() if cosine[medium] >= _ALIKE]
    candidates = list(dict.fromkeys((min(at, nearest[at]), max(at, nearest[at])) for at in alike))
    pairs: dict[tuple[int, int], None] = {}
    unread = max(0, len(candidates) - _MOST_COMPARED)
    for pair in candidates[:_MOST_COMPARED]:
        first, second = (thumbnail(judged.medium(medium)) for medium in pair)
        if first is None or second is None:
            unread += 1
        elif np.abs(first - second).mean() < _DIFFERENCE:
            pairs[pair] = None
    return pairs, unread
