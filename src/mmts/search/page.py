"""The page of a search: the results as HTML, for the server or in a file of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmts.errors import counted
from mmts.report.pictures import data_uri
from mmts.report.wording import clean, isolated
from mmts.search.query import Hit, Searcher

UPLOAD_LIMIT = 32 * 2**20  # bytes
SIZES = {"small": 320, "large": 1600}  # pixels of the longer side
_TEMPLATES = Environment(
    loader=PackageLoader("mmts.search", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["line"] = lambda value: isolated(clean(value))


@dataclass(frozen=True)
class Answer:
    """The content of a page."""

    query: str  # the words, or a name for the picture; empty without a query
    hits: Sequence[Hit] = ()  # nearest first
    problem: str = ""  # why the search failed
    seconds: float | None = None  # how long the search took
    more: str = ""  # the address of a longer list


def render(
    searcher: Searcher, answer: Answer, *, text: str = "", stands_alone: bool = False, only_answer: bool = False
) -> str:
    """Return the server's page with `text` in its form, or only its part that depends on the answer.

    stands_alone: a page without the form that contains its pictures and needs no server.
    """

    def source(hit: Hit, size: str) -> str | None:
        if stands_alone:
            return data_uri(hit.medium, SIZES[size])
        return None if hit.medium.is_features else f"/{size}/{hit.number}"

    captions = dict.fromkeys(hit.item.caption for hit in answer.hits if hit.item.caption != hit.item.path)
    examples = [] if answer.query else [caption for caption in captions if len(caption) <= 60][:3]
    kind = searcher.encoder.kind
    template = _TEMPLATES.get_template("page.html")
    context = template.new_context(
        {
            "answer": answer, "searcher": searcher, "kind": kind, "items": counted(len(searcher.index), kind),
            "limit": UPLOAD_LIMIT, "text": text, "stands_alone": stands_alone, "examples": examples, "source": source,
        }
    )  # fmt: skip
    return "".join(template.blocks["answer"](context) if only_answer else template.root_render_func(context))
