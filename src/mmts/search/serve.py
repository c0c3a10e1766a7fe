"""The page of a search, as a file of its own or from a server that answers this machine only."""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmts.console import console
from mmts.errors import DataError, MmtsError, RunError, counted
from mmts.report.pictures import data_uri, picture
from mmts.report.wording import clean, isolated
from mmts.search.query import Hit, Searcher

UPLOAD_LIMIT = 32 * 2**20  # bytes
SIZES = {"small": 320, "large": 1600}  # pixels of the longer side
_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.loader = PackageLoader("mmts.search", "")
_TEMPLATES.filters["line"] = lambda value: isolated(clean(value))
_MAX_CHARACTERS, _MAX_RESULTS = 1000, 200
_HTML, _JPEG = "text/html; charset=utf-8", "image/jpeg"
_FILES = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


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


def serve(searcher: Searcher, port: int, k: int) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C. Raises RunError if the port is in use."""
    try:
        server = SearchServer(searcher, port, k)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", error)
        raise RunError(f"cannot listen on port {port}: {why}; --port 0 picks a free one") from None
    searcher.by_text("the first query takes longer than those after it", k)
    console.print(f"search page: http://127.0.0.1:{server.server_port}/ (stop it with Ctrl-C)")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("stopped")


class SearchServer(ThreadingHTTPServer):
    """Answers one query at a time, and serves pictures meanwhile. Port 0 picks a free one, `server_port`."""

    daemon_threads = True

    def __init__(self, searcher: Searcher, port: int, k: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.searcher = searcher
        self.k = k
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.picture = lru_cache(maxsize=1024)(lambda number, side: picture(searcher.index.medium(number), side))
        self._one_at_a_time = threading.Lock()

    def ask(self, query: str, search: Callable[[], list[Hit]], more: str = "") -> Answer:
        """Run a search; the answer says how long it took, or what went wrong."""
        with self._one_at_a_time:
            start = time.perf_counter()
            try:
                hits = search()
            except MmtsError as error:
                return Answer(query, problem=str(error))
            return Answer(query, hits, seconds=time.perf_counter() - start, more=more)


class _Handler(BaseHTTPRequestHandler):
    """Serves files that are named here, and items by number; no part of an address becomes a path."""

    server: SearchServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mmts", ""
    timeout = 30  # seconds that a client may stay silent

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/":
            self._send(HTTPStatus.OK, _HTML, self._page(url.query))
        elif url.path in _FILES:
            file = resources.files("mmts.search").joinpath(url.path[1:])
            self._send(HTTPStatus.OK, _FILES[url.path], file.read_bytes())
        elif match := re.fullmatch(r"/(small|large)/([0-9]{1,9})", url.path):
            if int(match[2]) >= len(self.server.searcher.index):
                self._refuse(HTTPStatus.NOT_FOUND, "this item does not exist")
                return
            try:
                self._send(HTTPStatus.OK, _JPEG, self.server.picture(int(match[2]), SIZES[match[1]]))
            except DataError:
                self._refuse(HTTPStatus.NOT_FOUND, "the file can no longer be read")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "this page does not exist")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/file":
            self._refuse(HTTPStatus.NOT_FOUND, "this page does not exist")
        elif not re.fullmatch(r"[0-9]{1,12}", length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        elif int(length) > UPLOAD_LIMIT:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a file may have at most {UPLOAD_LIMIT >> 20} MiB")
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "your file"
                file.write_bytes(self.rfile.read(int(length)))
                answer = self.server.ask("your file", lambda: self.server.searcher.by_file(file, self.server.k))
            if problem := answer.problem.replace(f"{folder}/", ""):
                answer = Answer("", problem=problem)
            status = HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK
            self._send(status, _HTML, render(self.server.searcher, answer, only_answer=True))

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: searches are private."""

    def parse_request(self) -> bool:
        """Refuse requests under another name (DNS rebinding), and those that a page elsewhere sends."""
        if not super().parse_request():
            return False
        origin, hosts = self.headers.get("Origin"), self.server.hosts
        if self.headers.get("Host") in hosts and (origin is None or origin.removeprefix("http://") in hosts):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "this page answers only to its own address")
        return False

    def _page(self, query: str) -> str:
        server, searcher = self.server, self.server.searcher
        try:
            values = {name: values[0] for name, values in parse_qs(query, max_num_fields=10).items()}
        except ValueError:
            values = {}
        number = values.get("k", "")
        k = min(int(number), _MAX_RESULTS) if re.fullmatch(r"[1-9][0-9]{0,8}", number) else server.k
        longer = min(2 * k, _MAX_RESULTS, len(searcher.index))
        text, like = values.get("q", "")[:_MAX_CHARACTERS], values.get("like", "")
        searched = {"q": text} if text else {"like": like} if like else {}
        more = f"/?{urlencode(searched | {'k': str(longer)})}" if longer > k else ""
        if text:
            return render(searcher, server.ask(text, lambda: searcher.by_text(text, k), more), text=text)
        if not like:
            return render(searcher, Answer("", searcher.some(k), more=more))
        items = searcher.index.contents.items
        at = next((at for at, item in enumerate(items) if item.content == like), None)
        if at is None:
            problem = f"This {searcher.encoder.kind} is no longer in the index, so nothing similar can be found."
            return render(searcher, Answer("", problem=problem))
        return render(searcher, server.ask(items[at].caption, lambda: searcher.by_item(at, k), more))

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # the rest of the request stays unread
        self._send(status, "text/plain; charset=utf-8", why + "\n")

    def _send(self, status: HTTPStatus, kind: str, content: str | bytes) -> None:
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
