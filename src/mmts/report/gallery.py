"""A dozen text queries with the media found for them, and a dozen media with the captions, correct ones marked."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmts.concepts.distribution import GROUP_NAMES
from mmts.data.records import Medium
from mmts.evaluation.judgement_file import SIDES, Judged
from mmts.report.contents import Contents
from mmts.report.pictures import data_uri
from mmts.report.wording import clean

_QUERIES = 12
_SHOWN = 5
_SIDE = 128  # pixels: sharp on dense screens, where it is shown at 96
_SEED = 0


@dataclass(frozen=True)
class Hit:
    """A result: whether it is correct, its caption, and the data URI of a medium (None if it has no picture)."""

    is_right: bool
    caption: str
    source: str | None = None


@dataclass(frozen=True)
class Answer:
    """The first results of one rule (its number) for a query, and the rank of the first correct one."""

    number: int
    hits: tuple[Hit, ...]
    rank: int


@dataclass(frozen=True)
class Query:
    """A caption, or a medium with its picture and first caption; its group and, if known, the number of its concept."""

    text: str
    source: str | None
    group: str
    concept: int | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Gallery:
    """The queries of both directions, and the numbers of the rules that answer them.

    num_missing: how many media have no picture. are_features: whether all media are features, which have no picture.
    """

    rules: Sequence[int]
    texts: tuple[Query, ...] = ()
    media: tuple[Query, ...] = ()
    num_missing: int = 0
    are_features: bool = False


def make_gallery(contents: Contents, rules: Sequence[int]) -> Gallery:
    """Show the results of the first run of each of `rules` (numbers) for the same queries."""
    runs = [contents.groups[number].runs[0].judged for number in rules]
    meta, arrays, distribution = runs[0].meta, runs[0].arrays, contents.distributions[0]
    captions = meta["captions"]
    first_caption = {owner: row for row, owner in reversed(list(enumerate(arrays["owner"].tolist())))}

    sources: dict[int, str | None] = {}

    def picture(medium: int) -> str | None:
        if medium not in sources:
            sources[medium] = data_uri(_medium(meta, medium), _SIDE)
        return sources[medium]

    def caption_of(medium: int, longest: int = 160) -> str:
        return clean(captions[first_caption[medium]] if medium in first_caption else "", longest)

    def hit(side: str, at: int, is_right: bool) -> Hit:
        return Hit(is_right, caption_of(at, 80), picture(at)) if side == "text" else Hit(is_right, clean(captions[at]))

    def query(side: str, row: int) -> Query:
        concepts = runs[0].concepts[SIDES.index(side)] if distribution and "text_concepts" in arrays else None
        concept = -1 if concepts is None else int(concepts[row])
        is_known = distribution is not None and 0 <= concept < distribution.num_concepts
        answers = []
        for number, run in zip(rules, runs, strict=True):
            top, right = (run.arrays[f"{side}_{name}"][row][:_SHOWN].tolist() for name in ("top", "top_relevant"))
            hits = tuple(hit(side, at, bool(is_right)) for at, is_right in zip(top, right, strict=True) if at >= 0)
            answers.append(Answer(number, hits, int(run.arrays[f"{side}_ranks"][row])))
        text, source = (clean(captions[row]), None) if side == "text" else (caption_of(row), picture(row))
        group = GROUP_NAMES[int(arrays[f"{side}_groups"][row])]
        return Query(text, source, group, concept if is_known else None, tuple(answers))

    texts = tuple(query("text", row) for row in choose_queries(runs, "text", captions))
    media = tuple(query("media", row) for row in choose_queries(runs, "media", meta["media_ids"]))
    num_missing = sum(source is None for source in sources.values())
    are_features = all(path.endswith(".npy") for path in meta["media_paths"])
    return Gallery(rules, texts, media, num_missing, are_features=are_features)


def choose_queries(runs: Sequence[Judged], side: str, names: Sequence[str]) -> list[int]:
    """Draw queries with a fixed seed, as evenly as possible from head, mid and tail and from right and wrong answers.

    side: "text" or "media". An answer is right if at least one of the runs puts a correct result first, which favors no
    run. Of queries with equal names, only one is chosen.
    """
    arrays = runs[0].arrays
    ranks, groups = f"{side}_ranks", arrays[f"{side}_groups"]
    is_right = [any(run.arrays[ranks][row] == 1 for run in runs) for row in range(len(arrays[ranks]))]
    kinds: dict[tuple[int, bool], list[int]] = {}
    seen: set[str] = set()
    rows = list(range(len(is_right)))
    random.Random(_SEED).shuffle(rows)
    for row in rows:
        if names[row] not in seen:  # a reader sees one query in a caption that several images carry
            kinds.setdefault((int(groups[row]), is_right[row]), []).append(row)
            seen.add(names[row])
    chosen: list[int] = []
    piles = [kinds[key] for key in sorted(kinds, key=lambda key: (key[0], not key[1]))]
    for depth in range(_QUERIES):
        chosen += [pile[depth] for pile in piles if depth < len(pile)][: _QUERIES - len(chosen)]
    return sorted(chosen, key=lambda row: (int(groups[row]), chosen.index(row)))


def _medium(meta: dict[str, Any], number: int) -> Medium:
    """Return a medium from its description in a judgement."""
    segments, members = meta.get("media_segments"), meta.get("media_members")
    segment: Any = segments[number] if segments else [None] * 4
    start, end, first, last = segment
    return Medium(
        meta["media_ids"][number],
        Path(meta["data"]) / meta["media_paths"][number],
        (),
        kind=meta["kind"],
        start=start,
        end=end,
        frames=None if first is None else (first, last),
        member=None if members is None or members[number] is None else tuple(members[number]),
    )
