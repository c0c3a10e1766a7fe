"""A dozen text queries with the media found for them, and a dozen media with the captions, correct ones marked."""

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmts.concepts.distribution import GROUP_NAMES
from mmts.evaluation.judgement_file import SIDES, Judged
from mmts.report.contents import Contents
from mmts.report.pictures import data_uri
from mmts.report.wording import clean

_QUERIES = 12
_SHOWN = 5
_SIDE = 128  # pixels: sharp on dense screens, where it is shown at 96
_SEED = 0


class Pictures:
    """The media of a judgement as the page shows them, each drawn once: a caption, and a picture as a data URI.

    sources: the picture by the number of the medium; None if it has none.
    """

    def __init__(self, judged: Judged) -> None:
        self._judged = judged
        self._first_caption = {owner: row for row, owner in reversed(list(enumerate(judged.owner.tolist())))}
        self.sources: dict[int, str | None] = {}

    def __call__(self, medium: int, longest: int) -> dict[str, Any]:
        """Return the first caption of a medium, cut at `longest`, as `text`, and its picture as `source`."""
        if medium not in self.sources:
            self.sources[medium] = data_uri(self._judged.medium(medium), _SIDE)
        return {"text": self.caption(medium, longest), "source": self.sources[medium]}

    def caption(self, medium: int, longest: int) -> str:
        """Return the first caption of a medium, cut at `longest`; "" if it has none."""
        row = self._first_caption.get(medium)
        return "" if row is None else clean(self._judged.meta["captions"][row], longest)


def make_gallery(contents: Contents, rules: Sequence[int]) -> dict[str, Any]:
    """Show the results of the first run of each of `rules` (numbers) for the same queries.

    texts, media: the queries of each direction, with their group, the number of their concept (None if unknown), and
    each rule's first results and rank of the first correct one.
    """
    runs = [contents.groups[number].runs[0].judged for number in rules]
    meta, distribution = runs[0].meta, contents.distributions[0]
    captions, shown_medium = meta["captions"], Pictures(runs[0])

    def shown_caption(caption: int, longest: int) -> dict[str, Any]:
        return {"text": clean(captions[caption], longest), "source": None}

    def query(side: str, row: int) -> dict[str, Any]:
        shown, result = (shown_caption, shown_medium) if side == "text" else (shown_medium, shown_caption)
        concepts = runs[0].concepts[SIDES.index(side)]
        concept = -1 if concepts is None else int(concepts[row])
        is_known = distribution is not None and 0 <= concept < distribution.num_concepts
        answers, longest = [], 80 if side == "text" else 160
        for number, run in zip(rules, runs, strict=True):
            top, right = (run.arrays[f"{side}_{name}"][row][:_SHOWN].tolist() for name in ("top", "top_relevant"))
            hits = [{**result(at, longest), "is_right": is_right} for at, is_right in zip(top, right, strict=True)]
            answers.append({"number": number, "hits": hits, "rank": int(run.arrays[f"{side}_ranks"][row])})
        group = GROUP_NAMES[int(runs[0].arrays[f"{side}_groups"][row])]
        return {**shown(row, 160), "group": group, "concept": concept if is_known else None, "answers": answers}

    return {
        "rules": rules,
        "texts": [query("text", row) for row in choose_queries(runs, "text", captions)],
        "media": [query("media", row) for row in choose_queries(runs, "media", meta["media_ids"])],
        "num_missing": sum(source is None for source in shown_medium.sources.values()),
        "are_features": all(path.endswith(".npy") for path in meta["media_paths"]),
    }


def choose_queries(runs: Sequence[Judged], side: str, names: Sequence[str]) -> list[int]:
    """Draw "text" or "media" queries, as evenly as possible from head, mid and tail and from right and wrong answers.

    An answer is right if at least one run puts a correct result first. Of queries with equal names, one is chosen.
    """
    groups = runs[0].arrays[f"{side}_groups"].tolist()
    rows = list(range(len(groups)))
    random.Random(_SEED).shuffle(rows)
    piles, seen = defaultdict(list), set[str]()
    for row in rows:
        if names[row] not in seen:  # to a reader, a caption that images share is one query
            is_wrong = all(run.arrays[f"{side}_ranks"][row] != 1 for run in runs)
            piles[groups[row], is_wrong].append(row)
            seen.add(names[row])
    chosen: list[int] = []
    for depth in range(_QUERIES):
        chosen += [pile[depth] for _, pile in sorted(piles.items()) if depth < len(pile)][: _QUERIES - len(chosen)]
    return sorted(chosen, key=lambda row: (groups[row], chosen.index(row)))
