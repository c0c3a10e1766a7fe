"""The local page: a server of the standard library that only this machine can reach."""

import re
import tempfile
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mmts.console import console
from mmts.errors import DataError, MmtsError, RunError
from mmts.search.page import UPLOAD_LIMIT, Answer, address, full_page, part_of_page, resource
from mmts.search.pictures import LARGE, SMALL, picture
from mmts.search.query import Hit, Searcher

_LONGEST_QUERY, _MOST = 1000, 200  # characters, results
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


def serve(searcher: Searcher, port: int, k: int) -> None:
    """Answer on 127.0.0.1 until Ctrl-C. Raises RunError where the port is taken."""
    try:
        server = SearchServer(searcher, port, k)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", error)
        raise RunError(f"cannot listen on port {port}: {why}; --port 0 takes one that is free") from None
    searcher.by_text("the first query takes longer than those after it", k)
    console.print(f"search page: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            console.print("ended")


class SearchServer(ThreadingHTTPServer):
    """Answers one query at a time; pictures meanwhile. Port 0 takes a free one, `server_port` says which."""

    daemon_threads = True

    def __init__(self, searcher: Searcher, port: int, k: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.searcher = searcher
        self.k = k
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}
        self.draw = lru_cache(maxsize=1024)(self._draw)
        self._one_at_a_time = threading.Lock()

    def ask(self, query: str, find: Callable[[], list[Hit]], more: str = "") -> Answer:
        """Ask the index, and say in the answer what went wrong and how long it took."""
        with self._one_at_a_time:
            start = time.perf_counter()
            try:
                hits = find()
            except MmtsError as error:
                return Answer(query, problem=str(error))
            return Answer(query, hits, seconds=time.perf_counter() - start, more=more)

    def _draw(self, number: int, side: int) -> bytes:
        return picture(self.searcher.index.medium(number), side)


class _Handler(BaseHTTPRequestHandler):
    """Every file is named here or by an item's number; nothing of an address becomes a path."""

    server: SearchServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mmts", ""
    timeout = 30  # seconds a client may keep silent

    def do_GET(self) -> None:
        if not self._is_for_us():
            return
        url = urlsplit(self.path)
        if url.path == "/":
            self._send(HTTPStatus.OK, _HTML, self._page(url.query))
        elif url.path in _FILES:
            self._send(HTTPStatus.OK, _FILES[url.path], resource(url.path[1:]))
        elif match := re.fullmatch(r"/(small|large)/([0-9]{1,9})", url.path):
            self._send_picture(int(match[2]), SMALL if match[1] == "small" else LARGE)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def do_POST(self) -> None:
        if not self._is_for_us():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/file":
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")
        elif not re.fullmatch(r"[0-9]{1,12}", length):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "how long is it?")
        elif int(length) > UPLOAD_LIMIT:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {UPLOAD_LIMIT >> 20} MiB are taken")
        else:
            answer = self._ask_by_file(self.rfile.read(int(length)))
            status = HTTPStatus.UNPROCESSABLE_ENTITY if answer.problem else HTTPStatus.OK
            self._send(status, _HTML, part_of_page(self.server.searcher, answer))

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what people look for is theirs."""

    def _is_for_us(self) -> bool:
        """Refuse a page elsewhere whose name was made to lead here (DNS rebinding), and what one sends here."""
        origin = self.headers.get("Origin")
        is_ours = self.headers.get("Host") in self.server.hosts
        if not is_ours or (origin is not None and origin.removeprefix("http://") not in self.server.hosts):
            self._refuse(HTTPStatus.FORBIDDEN, "this page answers to its own address only")
            return False
        return True

    def _page(self, query: str) -> str:
        server = self.server
        try:
            given = {name: values[0] for name, values in parse_qs(query, max_num_fields=10).items()}
        except ValueError:
            given = {}
        number = given.get("k", "")
        k = min(int(number), _MOST) if re.fullmatch(r"[1-9][0-9]{0,8}", number) else server.k
        text, like = given.get("q", "")[:_LONGEST_QUERY], given.get("like", "")
        searcher = server.searcher
        longer = min(2 * k, _MOST, len(searcher.index))

        def more(**asked: str) -> str:
            return address(**asked, k=longer) if longer > k else ""

        if text:
            return full_page(searcher, server.ask(text, lambda: searcher.by_text(text, k), more(q=text)), text)
        if not like:
            return full_page(searcher, Answer("", searcher.some(k), more=more()))
        item = searcher.index.number_of(like)
        if item is None:
            gone = f"this {searcher.encoder.kind} is not in the index any more, so nothing like it can be looked for"
            return full_page(searcher, Answer("", problem=gone))
        caption = searcher.index.contents.items[item].caption
        return full_page(searcher, server.ask(caption, lambda: searcher.by_item(item, k), more(like=like)))

    def _ask_by_file(self, content: bytes) -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "your file"
            file.write_bytes(content)
            answer = self.server.ask("your file", lambda: self.server.searcher.by_file(file, self.server.k))
        return answer if not answer.problem else Answer("", problem=answer.problem.replace(f"{folder}/", ""))

    def _send_picture(self, number: int, side: int) -> None:
        if number >= len(self.server.searcher.index):
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such item")
            return
        try:
            self._send(HTTPStatus.OK, _JPEG, self.server.draw(number, side))
        except DataError:
            self._refuse(HTTPStatus.NOT_FOUND, "the file cannot be read any more")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # what else was sent stays unread
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
