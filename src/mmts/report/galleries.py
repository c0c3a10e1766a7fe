"""A dozen text queries with the media found for them, and a dozen media with the captions, right ones marked."""

import base64
import io
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmts.concepts.distribution import GROUP_NAMES
from mmts.data.records import Medium
from mmts.errors import MmtsError
from mmts.evaluation.judgement_file import Judged
from mmts.report.contents import Contents
from mmts.report.wording import clean

if TYPE_CHECKING:
    from PIL import Image

QUERIES = 12
SHOWN = 5
SIDE = 128  # pixels: sharp on dense screens, where it is shown at 96
_SEED = 0


@dataclass(frozen=True)
class Hit:
    """Something found: whether it is right, the caption, and of an image its data URI (None: it cannot be read)."""

    is_right: bool
    caption: str
    source: str | None = None


@dataclass(frozen=True)
class Answer:
    """What one rule found for a query; `rank` is that of the first right result."""

    number: int
    name: str
    hits: tuple[Hit, ...]
    rank: int


@dataclass(frozen=True)
class Query:
    """A caption put as a query, or a medium by its picture and first caption, and its concept where that is known."""

    text: str
    source: str | None
    group: str
    concept: str | None
    size: int | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Gallery:
    """The queries of both directions, or why there are none."""

    texts: tuple[Query, ...]
    media: tuple[Query, ...]
    rules: tuple[str, ...]
    num_missing: int
    absent: str = ""
    are_features: bool = False  # nothing to be drawn, by what the data are


def make_gallery(contents: Contents, rules: Sequence[int]) -> Gallery:
    """Show what the first run of each of `rules` (numbers) found for the same queries."""
    runs = [run for run in (contents.judged[number] for number in rules) if run is not None]
    names = tuple(contents.names[number] for number in rules)
    if len(runs) < len(rules):
        return Gallery((), (), names, 0, "a run has no judgement.npz; `mmts evaluate` on it writes it")
    meta = runs[0].meta
    drawn: dict[int, str | None] = {}
    first_caption: dict[int, int] = {}
    for row, owner in enumerate(runs[0].arrays["owner"].tolist()):
        first_caption.setdefault(owner, row)

    def caption_of(medium: int) -> str:
        return meta["captions"][first_caption[medium]] if medium in first_caption else ""

    def picture(medium: int) -> str | None:
        if medium not in drawn:
            drawn[medium] = thumbnail(_medium(meta, medium))
        return drawn[medium]

    def image(medium: int, is_right: bool) -> Hit:
        return Hit(is_right, clean(caption_of(medium), 80), picture(medium))

    def caption(row: int, is_right: bool) -> Hit:
        return Hit(is_right, clean(meta["captions"][row]))

    def answers(side: str, row: int, hit: Callable[[int, bool], Hit]) -> tuple[Answer, ...]:
        return tuple(
            Answer(number, contents.names[number], _hits(run, side, row, hit), int(run.arrays[f"{side}_ranks"][row]))
            for run, number in zip(runs, rules, strict=True)
        )

    texts, media = [], []
    for row in choose_queries(runs, "text", meta["captions"]):
        about = _about(contents, runs[0], "text", row, row)
        texts.append(Query(clean(meta["captions"][row]), None, *about, answers("text", row, image)))
    for row in choose_queries(runs, "media", meta["media_ids"]):
        about = _about(contents, runs[0], "media", row, first_caption.get(row))
        media.append(Query(clean(caption_of(row)), picture(row), *about, answers("media", row, caption)))
    num_missing = sum(source is None for source in drawn.values())
    are_features = all(path.endswith(".npy") for path in meta["media_paths"])
    return Gallery(tuple(texts), tuple(media), names, num_missing, are_features=are_features)


def choose_queries(runs: Sequence[Judged], side: str, names: Sequence[str]) -> list[int]:
    """Draw queries with a fixed seed: as many of head, mid and tail as there are, of each as many right as wrong.

    side: "text" or "media". Right means that at least one of the runs puts something right first, so that no run is
    favoured. Of queries with equal names one is enough.
    """
    arrays = runs[0].arrays
    ranks, groups = f"{side}_ranks", arrays[f"{side}_groups"]
    is_right = [any(run.arrays[ranks][row] == 1 for run in runs) for row in range(len(arrays[ranks]))]
    kinds: dict[tuple[int, bool], list[int]] = {}
    seen: set[str] = set()
    rows = list(range(len(is_right)))
    generator = random.Random(_SEED)
    generator.shuffle(rows)
    for row in rows:
        if names[row] not in seen:  # a caption that several images carry is one query to the eye
            kinds.setdefault((int(groups[row]), is_right[row]), []).append(row)
            seen.add(names[row])
    chosen: list[int] = []
    piles = [kinds[key] for key in sorted(kinds, key=lambda key: (key[0], not key[1]))]
    for depth in range(QUERIES):
        chosen += [pile[depth] for pile in piles if depth < len(pile)][: QUERIES - len(chosen)]
    return sorted(chosen, key=lambda row: (int(groups[row]), chosen.index(row)))


def thumbnail(medium: Medium) -> str | None:
    """Return an image, or the frame in the middle of a clip, as a small data URI; None if unreadable."""
    from PIL import ImageOps

    from mmts.data.media.image import load_image
    from mmts.data.media.video import middle_frame

    if medium.is_features:
        return None
    try:
        if medium.kind == "video":
            image = middle_frame(medium, 2 * SIDE)
        else:
            image = load_image(medium.path, size_hint=2 * SIDE, member=medium.member)
    except (MmtsError, OSError):
        return None
    return _data_uri(ImageOps.contain(image, (SIDE, SIDE)))


def _data_uri(image: "Image.Image") -> str:
    """Take JPEG or PNG, whichever is smaller: drawings do better as PNG, photos as JPEG."""
    encoded = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 80, "optimize": True})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    _, kind, content = min(encoded)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _medium(meta: dict[str, Any], number: int) -> Medium:
    """Return a medium as a judgement describes it."""
    segment: Any = meta["media_segments"][number] if "media_segments" in meta else [None] * 4
    start, end, first, last = segment
    member = meta["media_members"][number] if "media_members" in meta else None
    return Medium(
        meta["media_ids"][number],
        Path(meta["data"]) / meta["media_paths"][number],
        (),
        kind=meta["kind"],
        start=start,
        end=end,
        frames=None if first is None else (first, last),
        member=None if member is None else (member[0], member[1]),
    )


def _hits(run: Judged, side: str, row: int, hit: Callable[[int, bool], Hit]) -> tuple[Hit, ...]:
    top = zip(run.arrays[f"{side}_top"][row].tolist(), run.arrays[f"{side}_top_relevant"][row].tolist(), strict=True)
    return tuple(hit(found, bool(is_right)) for found, is_right in list(top)[:SHOWN] if found >= 0)


def _about(
    contents: Contents, run: Judged, side: str, row: int, caption: int | None
) -> tuple[str, str | None, int | None]:
    """Return a query's group, and the name and training size of its caption's concept where they are known."""
    group = GROUP_NAMES[int(run.arrays[f"{side}_groups"][row])]
    distribution = contents.distributions[0]
    if distribution is None or caption is None or "text_concepts" not in run.arrays:
        return group, None, None
    concept = int(run.arrays["text_concepts"][caption])
    if not 0 <= concept < distribution.num_concepts or (side == "media" and run.meta["relevance"] == "graded"):
        return group, None, None
    return group, clean(distribution.names[concept], 60), int(distribution.sizes[concept])
