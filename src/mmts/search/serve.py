"""The page of a search, as a file of its own or from a server that answers this machine only."""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmts.console import console
from mmts.data.media.checks import content_name
from mmts.data.records import Medium, values_of
from mmts.errors import DataError, MmtsError, RunError, counted
from mmts.report.pictures import data_uri, picture
from mmts.report.wording import clean, isolated
from mmts.search.index_files import Numbers, Rows
from mmts.search.query import Hit, Searcher

UPLOAD_LIMIT = 32 * 2**20  # bytes
SIZES = {"small": 320, "large": 1600}  # pixels of the longer side
_TEMPLATES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
_TEMPLATES.loader = PackageLoader("mmts.search", "")
_TEMPLATES.filters["line"] = lambda value, longest=160: isolated(clean(value, longest))
_TEMPLATES.filters |= {"values": values_of, "counted": counted}
_MAX_CHARACTERS, _MAX_RESULTS, _MAX_CONDITIONS = 1000, 200, 20
_MAX_UPLOADS = 500  # pictures whose addresses work; each takes some 20 kB
_HTML, _TEXT, _JPEG = "text/html; charset=utf-8", "text/plain; charset=utf-8", "image/jpeg"
_FILES = {"/page.css": "text/css; charset=utf-8", "/page.js": "text/javascript; charset=utf-8"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
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
    asked: Mapping[str, str] = field(default_factory=dict)  # the words as "q", or the content of a picture as "like"
    where: Sequence[str] = ()  # conditions on the hits
    count: int = 0  # how many items fit them
    picture: str = ""  # the address of the picture that was asked with
    more: str = ""  # the address of a longer list


def address(asked: Mapping[str, str], where: Sequence[str] = (), k: int | None = None) -> str:
    """Return the address of a search on the served page, always the same for the same search."""
    parts = [*asked.items(), *(("where", condition) for condition in where), *([("k", str(k))] if k else [])]
    return f"/?{urlencode(parts)}" if parts else "/"


def render(searcher: Searcher, answer: Answer, *, stands_alone: bool = False) -> str:
    """Return the page of an answer; stands_alone: without the form, with its pictures inside, for no server."""

    def source(hit: Hit, size: str) -> str | None:
        if stands_alone:
            return data_uri(hit.medium, SIZES[size])
        return None if hit.medium.is_features else f"/{size}/{hit.number}"

    captions = dict.fromkeys(hit.item.caption for hit in answer.hits if hit.item.caption != hit.item.path)
    examples = [] if answer.query else [caption for caption in captions if len(caption) <= 60][:3]
    about = {"answer": answer, "searcher": searcher, "kind": searcher.encoder.kind, "limit": UPLOAD_LIMIT}
    options = {"stands_alone": stands_alone, "examples": examples, "source": source, "address": address}
    return _TEMPLATES.get_template("page.html").render(about | options)


def serve(searcher: Searcher, port: int, k: int) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C. Raises RunError if the port is in use."""
    try:
        server = SearchServer(searcher, port, k)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", error)
        raise RunError(f"cannot listen on port {port}: {why}; --port 0 picks a free one") from None
    searcher.by_text("the first query takes longer than those after it", k)
    _ = searcher.concepts, searcher.values  # so do these; damaged concepts are an error now instead of on the page
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
        items = searcher.index.contents.items
        self.by_content = {items[at].content: at for at in reversed(range(len(items)))}
        self.uploads: dict[str, tuple[Rows, bytes]] = {}  # by content: the embedding, and a small picture
        self._one_at_a_time = threading.Lock()

    def upload(self, file: Path) -> str:
        """Return the content of an uploaded file, known from now on. Raises DataError for what cannot be read."""
        medium = Medium("query", file, ("query",), kind=self.searcher.encoder.kind)
        content = content_name(medium)
        if content not in self.by_content:
            with self._one_at_a_time:
                self.uploads[content] = self.searcher.row_of(medium), picture(medium, SIZES["small"])
                for oldest in list(self.uploads)[:-_MAX_UPLOADS]:
                    del self.uploads[oldest]
        return content

    def ask(self, asked: Mapping[str, str], where: Sequence[str], k: int) -> Answer:
        """Run a search; the answer says how long it took, or what went wrong."""
        with self._one_at_a_time:
            searcher, source, start = self.searcher, "", time.perf_counter()
            kind, title, like = searcher.encoder.kind, asked.get("q", ""), asked.get("like", "")
            search: Callable[[int, Numbers | None], list[Hit]] = searcher.some
            if title:
                search = partial(searcher.by_text, title)
            elif like in self.by_content:
                at = self.by_content[like]
                title, source = searcher.index.contents.items[at].caption, f"/small/{at}"
                search = partial(searcher.by_item, at)
            elif like in self.uploads:
                title, source = "your picture" if kind == "image" else "your clip", f"/query/{like}"
                search = partial(searcher.by_row, self.uploads[like][0])
            elif like:
                problem = f"This {kind} is neither in the index nor among those chosen lately; choose it again."
                return Answer("", problem=problem, where=where)
            try:
                among = searcher.fitting(where)
                hits = search(k, among)
            except MmtsError as error:
                return Answer(title, problem=str(error), asked=asked, where=where)
            seconds, count = time.perf_counter() - start, len(searcher.index if among is None else among)
            longer = min(2 * k, _MAX_RESULTS, count)
            more = address(asked, where, longer) if longer > k else ""
            return Answer(title, hits, "", seconds, asked, where, count, source, more)


class _Handler(BaseHTTPRequestHandler):
    """Serves files that are named here, and items by number; no part of an address becomes a path."""

    server: SearchServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mmts", ""
    timeout = 30  # seconds that a client may stay silent

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/":
            asked, where, k = self._asked(url.query)
            if (named := address(asked, where, k)) != self.path:  # such as the empty fields of the form
                self._send(HTTPStatus.SEE_OTHER, _TEXT, "", Location=named)
                return
            answer = self.server.ask(asked, where, k or self.server.k)
            self._send(HTTPStatus.OK, _HTML, render(self.server.searcher, answer))
        elif url.path in _FILES:
            file = resources.files("mmts.search").joinpath(url.path[1:])
            self._send(HTTPStatus.OK, _FILES[url.path], file.read_bytes())
        elif (match := re.fullmatch(r"/query/([0-9a-f]{32})", url.path)) and match[1] in self.server.uploads:
            self._send(HTTPStatus.OK, _JPEG, self.server.uploads[match[1]][1])
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
        """Take a file, and answer with the address that shows what is similar to it."""
        length, url = self.headers.get("Content-Length", ""), urlsplit(self.path)
        if url.path != "/file":
            self._refuse(HTTPStatus.NOT_FOUND, "this page does not exist")
        elif not re.fullmatch(r"[0-9]{1,12}", length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request does not say how long it is")
        elif int(length) > UPLOAD_LIMIT:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a file may have at most {UPLOAD_LIMIT >> 20} MiB")
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "your file"
                file.write_bytes(self.rfile.read(int(length)))
                try:
                    asked = {"like": self.server.upload(file)}
                except MmtsError as error:
                    self._send(HTTPStatus.UNPROCESSABLE_ENTITY, _TEXT, str(error).replace(f"{folder}/", ""))
                    return
            self._send(HTTPStatus.OK, _TEXT, address(asked, self._asked(url.query)[1]))

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

    def _asked(self, query: str) -> tuple[dict[str, str], list[str], int | None]:
        """Return what an address asks for: the words or the picture, the conditions, and the number of results."""
        try:
            values = parse_qs(query, max_num_fields=4 * _MAX_CONDITIONS)
        except ValueError:
            values = {}
        first = {name: found[0][:_MAX_CHARACTERS].strip() for name, found in values.items()}
        name = next((name for name in ("q", "like") if first.get(name)), None)
        conditions = dict.fromkeys(text[:_MAX_CHARACTERS] for text in values.get("where", [])[:_MAX_CONDITIONS])
        number = first.get("k", "")
        k = min(int(number), _MAX_RESULTS) if re.fullmatch(r"[1-9][0-9]{0,8}", number) else None
        return {name: first[name]} if name else {}, list(conditions), k

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # the rest of the request stays unread
        self._send(status, _TEXT, why + "\n")

    def _send(self, status: HTTPStatus, kind: str, content: str | bytes, **headers: str) -> None:
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
