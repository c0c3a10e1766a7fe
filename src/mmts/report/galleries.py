"""A dozen text queries and the images found for them, right ones marked."""

import base64
import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmts.compare import Judged
from mmts.concepts.distribution import GROUP_NAMES
from mmts.errors import MmtsError
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
    """A found image: its data URI (None where it cannot be read), whether it is right, and its caption."""

    source: str | None
    is_right: bool
    caption: str


@dataclass(frozen=True)
class Answer:
    """What one rule found for a query; `rank` is that of the first right image."""

    number: int
    name: str
    hits: tuple[Hit, ...]
    rank: int


@dataclass(frozen=True)
class Query:
    """A caption put as a query, and the concept it belongs to where that is known."""

    text: str
    group: str
    concept: str | None
    size: int | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Gallery:
    """The queries, or why there are none."""

    queries: tuple[Query, ...]
    rules: tuple[str, ...]
    num_missing: int
    absent: str = ""
    are_features: bool = False  # nothing to be drawn, by what the data are


def make_gallery(contents: Contents, rules: Sequence[int]) -> Gallery:
    """Show what the first run of each of `rules` (numbers) found for the same queries."""
    runs = [run for run in (contents.judged[number] for number in rules) if run is not None]
    names = tuple(contents.names[number] for number in rules)
    if contents.kind != "image":
        return Gallery((), names, 0, f"no pictures of {contents.kind} clips can be drawn here")
    if len(runs) < len(rules):
        return Gallery((), names, 0, "a run has no judgement.npz; `mmts evaluate` on it writes it")
    if any(run.meta["captions"] != runs[0].meta["captions"] for run in runs):
        return Gallery((), names, 0, "the runs were judged on different queries")
    thumbnails = _Thumbnails(runs[0].meta)
    queries = []
    for row in choose_queries(runs):
        answers = tuple(
            _answer(run, row, number, contents.names[number], thumbnails)
            for run, number in zip(runs, rules, strict=True)
        )
        queries.append(_query(contents, runs[0], row, answers))
    return Gallery(tuple(queries), names, thumbnails.num_missing, are_features=thumbnails.are_features)


def choose_queries(runs: Sequence[Judged]) -> list[int]:
    """Draw queries with a fixed seed: as many of head, mid and tail as there are, of each as many right as wrong.

    Right means that at least one of the runs puts a right image first, so that no run is favoured.
    """
    arrays = runs[0].arrays
    is_right = [any(run.arrays["text_ranks"][row] == 1 for run in runs) for row in range(len(arrays["text_ranks"]))]
    kinds: dict[tuple[int, bool], list[int]] = {}
    seen: set[str] = set()
    rows = list(range(len(is_right)))
    generator = random.Random(_SEED)
    generator.shuffle(rows)
    for row in rows:
        text = runs[0].meta["captions"][row]
        if text not in seen:  # a caption that several images carry is one query to the eye
            kinds.setdefault((int(arrays["text_groups"][row]), is_right[row]), []).append(row)
            seen.add(text)
    chosen: list[int] = []
    piles = [kinds[key] for key in sorted(kinds, key=lambda key: (key[0], not key[1]))]
    for depth in range(QUERIES):
        chosen += [pile[depth] for pile in piles if depth < len(pile)][: QUERIES - len(chosen)]
    return sorted(chosen, key=lambda row: (int(arrays["text_groups"][row]), chosen.index(row)))


def thumbnail(path: Path, member: tuple[int, int] | None = None) -> str | None:
    """Return an image, or that `member` (offset, length) of a tar file, as a small data URI; None if unreadable."""
    from PIL import ImageOps

    from mmts.data.image import load_image

    try:
        image = load_image(path, size_hint=2 * SIDE, member=member)
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


class _Thumbnails:
    """Thumbnails by medium, each drawn once."""

    def __init__(self, meta: dict[str, Any]) -> None:
        self.root = Path(meta["data"])
        self.paths = meta["media_paths"]
        members = meta.get("media_members") or [None] * len(self.paths)
        self.members = [None if member is None else (member[0], member[1]) for member in members]
        self._drawn: dict[int, str | None] = {}

    def __getitem__(self, medium: int) -> str | None:
        if medium not in self._drawn:
            self._drawn[medium] = thumbnail(self.root / self.paths[medium], self.members[medium])
        return self._drawn[medium]

    @property
    def num_missing(self) -> int:
        return sum(source is None for source in self._drawn.values())

    @property
    def are_features(self) -> bool:
        return all(path.endswith(".npy") for path in self.paths)


def _answer(run: Judged, row: int, number: int, name: str, thumbnails: _Thumbnails) -> Answer:
    first_caption: dict[int, str] = {}
    for owner, caption in zip(run.arrays["owner"].tolist(), run.meta["captions"], strict=True):
        first_caption.setdefault(owner, caption)
    hits = []
    top = zip(run.arrays["text_top"][row].tolist(), run.arrays["text_top_relevant"][row].tolist(), strict=True)
    for medium, is_right in list(top)[:SHOWN]:
        if medium >= 0:
            hits.append(Hit(thumbnails[medium], bool(is_right), clean(first_caption.get(medium, ""), 80)))
    return Answer(number, name, tuple(hits), int(run.arrays["text_ranks"][row]))


def _query(contents: Contents, run: Judged, row: int, answers: tuple[Answer, ...]) -> Query:
    concept, size = None, None
    distribution = contents.distributions[0]
    if "text_concepts" in run.arrays and distribution is not None:
        number = int(run.arrays["text_concepts"][row])
        if number >= 0:
            concept, size = clean(distribution.names[number], 60), int(distribution.sizes[number])
    group = GROUP_NAMES[int(run.arrays["text_groups"][row])]
    return Query(clean(run.meta["captions"][row]), group, concept, size, answers)
