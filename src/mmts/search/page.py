"""What was found as HTML: the page of the local server, a part of it, and a page that stands alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from urllib.parse import urlencode

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from mmts.errors import DataError, counted
from mmts.report.wording import clean, isolated
from mmts.search.pictures import LARGE, SMALL, data_uri, picture
from mmts.search.query import Hit, Searcher

UPLOAD_LIMIT = 32 * 2**20  # bytes


@dataclass(frozen=True)
class Answer:
    """What a page shows: how the query reads, what was found for it or what was wrong with it, and how long it took.

    Attributes:
        query: the words, or what stands for a picture; empty where nothing was asked.
        hits: what was found, the nearest first.
        problem: why nothing was.
        seconds: None where it was not measured.
        more: the address of a longer list.
    """

    query: str
    hits: Sequence[Hit] = ()
    problem: str = ""
    seconds: float | None = None
    more: str = ""


def full_page(searcher: Searcher, answer: Answer, text: str = "") -> str:
    """Return the server's page: the form with `text` in it, and the answer."""
    return _render(searcher, "page", answer, text=text)


def part_of_page(searcher: Searcher, answer: Answer) -> str:
    """Return what the answer changes on the server's page."""
    return _render(searcher, "answer", answer)


def lone_page(searcher: Searcher, answer: Answer) -> str:
    """Return one self-contained page with the answer, pictures and all."""
    return _render(searcher, "page", answer, stands_alone=True)


@cache
def resource(name: str) -> str:
    """Return a file that lies beside this one."""
    return resources.files("mmts.search").joinpath(name).read_text(encoding="utf-8")


def address(**query: object) -> str:
    """Return the address of a search on the server.

    >>> address(q="red shoe & hat", k=20)
    '/?q=red+shoe+%26+hat&k=20'
    """
    return f"/?{urlencode(query)}"


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["line"] = lambda value: isolated(clean(value))
    return environment.from_string(resource("page.html"))


def _render(searcher: Searcher, block: str, answer: Answer, *, text: str = "", stands_alone: bool = False) -> str:
    template = _template()
    drawn: Callable[[Hit, str], str | None] = _drawn if stands_alone else _addressed
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
            "source": drawn,
        }
    )
    return "".join(template.root_render_func(context) if block == "page" else template.blocks[block](context))


def _examples(hits: Sequence[Hit]) -> list[str]:
    """Return up to three short captions that can be asked for."""
    captions = [hit.item.caption for hit in hits if hit.item.caption != hit.item.path]
    return list(dict.fromkeys(caption for caption in captions if len(caption) <= 60))[:3]


def _addressed(hit: Hit, size: str) -> str | None:
    return None if hit.medium.is_features else f"/{size}/{hit.number}"


def _drawn(hit: Hit, size: str) -> str | None:
    try:
        return None if hit.medium.is_features else data_uri(picture(hit.medium, {"small": SMALL, "large": LARGE}[size]))
    except DataError:
        return None
