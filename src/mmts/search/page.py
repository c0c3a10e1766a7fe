"""Search results as HTML: the server's page, the part of it that changes, a page that stands alone, and pictures."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from urllib.parse import urlencode

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from PIL import ImageOps

from mmts.data.media.image import load_image
from mmts.data.media.video import middle_frame
from mmts.data.records import Medium
from mmts.errors import DataError, counted
from mmts.report.wording import clean, isolated
from mmts.search.query import Hit, Searcher

UPLOAD_LIMIT = 32 * 2**20  # bytes
SIZES = {"small": 320, "large": 1600}  # pixels of the longer side
_CLIP = 640  # the largest size of a clip's frame


@dataclass(frozen=True)
class Answer:
    """What a page shows."""

    query: str  # the words, or a name for the picture; empty without a query
    hits: Sequence[Hit] = ()  # nearest first
    problem: str = ""  # why there are none
    seconds: float | None = None  # how long the search took
    more: str = ""  # the address of a longer list


def render(
    searcher: Searcher, answer: Answer, *, text: str = "", stands_alone: bool = False, only_answer: bool = False
) -> str:
    """Return the server's page with `text` in its form, or only its part that depends on the answer.

    stands_alone: a page without the form that contains its pictures and needs no server.
    """
    template = _template()
    context = template.new_context(
        {
            "answer": answer,
            "css": Markup(resource("page.css")),
            "kind": searcher.encoder.kind,
            "items": counted(len(searcher.index), searcher.encoder.kind),
            "where": searcher.index.contents.root,
            "run": str(searcher.run),
            "is_exact": searcher.is_exact,
            "takes_files": searcher.encoder.media_tower is not None,
            "limit": UPLOAD_LIMIT,
            "text": text,
            "stands_alone": stands_alone,
            "examples": [] if answer.query else _examples(answer.hits),
            "source": _embedded if stands_alone else _address_of_picture,
        }
    )
    return "".join(template.blocks["answer"](context) if only_answer else template.root_render_func(context))


@cache
def resource(name: str) -> str:
    """Return the text of a file in this folder."""
    return resources.files("mmts.search").joinpath(name).read_text(encoding="utf-8")


def address(**query: object) -> str:
    """Return the address of a search on the server.

    >>> address(q="red shoe & hat", k=20)
    '/?q=red+shoe+%26+hat&k=20'
    """
    return f"/?{urlencode(query)}"


def picture(medium: Medium, side: int) -> bytes:
    """Return an image, or the middle frame of a clip, as a JPEG of at most `side` pixels.

    It is always decoded and encoded again, so that no file is passed on as it is. Raises DataError, naming the medium,
    if it cannot be read anymore.
    """
    if medium.kind == "video":
        image = middle_frame(medium, min(side, _CLIP))
    else:
        image = load_image(medium.path, side, member=medium.member, place=medium.place)
        if max(image.size) > side:
            image = ImageOps.contain(image, (side, side))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=85)
    return file.getvalue()


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["line"] = lambda value: isolated(clean(value))
    return environment.from_string(resource("page.html"))


def _examples(hits: Sequence[Hit]) -> list[str]:
    """Return up to three short captions as example queries."""
    captions = [hit.item.caption for hit in hits if hit.item.caption != hit.item.path]
    return list(dict.fromkeys(caption for caption in captions if len(caption) <= 60))[:3]


def _address_of_picture(hit: Hit, size: str) -> str | None:
    return None if hit.medium.is_features else f"/{size}/{hit.number}"


def _embedded(hit: Hit, size: str) -> str | None:
    if hit.medium.is_features:
        return None
    try:
        content = picture(hit.medium, SIZES[size])
    except DataError:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
