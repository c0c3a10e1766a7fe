"""The local page by plain HTTP: what it answers, and what it refuses."""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mmts.errors import RunError
from mmts.search import Searcher, build_index, open_searcher
from mmts.search.serve import UPLOAD_LIMIT, Answer, SearchServer, render, serve

Response = tuple[int, dict[str, str], bytes]


@pytest.fixture
def server(searcher: Searcher) -> Iterator[SearchServer]:
    with SearchServer(searcher, 0, 5) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: SearchServer, method: str, path: str, body: bytes | None = None, **headers: str) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.status, dict(response.getheaders()), response.read()
    connection.close()
    if method == "GET" and content[0] == 303:  # to the same search under its one address, which is not moved again
        content = ask(server, method, content[1]["Location"], **headers)
        assert "Location" not in content[1]
    return content


def test_a_text_gets_pictures_that_are_served_by_number(server: SearchServer) -> None:
    status, headers, page = ask(server, "GET", "/?q=a+red+%3Cb%3Esquare&k=3")
    assert status == 200
    assert page.count(b"<figure>") == 3
    assert b"a red &lt;b&gt;square" in page
    assert b"<b>" not in page
    assert b'href="/?q=a+red+%3Cb%3Esquare&amp;k=6#n' in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    status, headers, picture = ask(server, "GET", "/small/3")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(picture)).size == (20, 24)
    content = server.searcher.index.contents.items[3].content
    assert ask(server, "GET", f"/?like={content}")[2].count(b"<figure>") == 5
    assert ask(server, "GET", "/page.js")[0] == ask(server, "GET", "/page.css")[0] == ask(server, "GET", "/")[0] == 200


@pytest.mark.parametrize(
    "path", ["/small/12", "/small/-1", "/small/1/", "/small/../../etc/passwd", "/page.html", "//etc/passwd", "/large/x"]
)
def test_nothing_else_is_served(path: str, server: SearchServer) -> None:
    assert ask(server, "GET", path)[0] == 404


@pytest.mark.parametrize("query", ["q=%20", "q=%00%ff", "like=99", "like=-1", "k=0", "q=a&k=999999999", "&" * 50])
def test_odd_queries_get_a_page(query: str, server: SearchServer) -> None:
    status, _, page = ask(server, "GET", f"/?{query}")
    assert status == 200
    assert page.endswith(b"</html>")


@pytest.mark.parametrize("like", ["99", "-1", "0" * 32, "%3Cb%3E", "%00"])
def test_an_item_that_is_no_longer_in_the_index(like: str, server: SearchServer) -> None:
    page = ask(server, "GET", f"/?like={like}")[2]
    assert b"This image is neither in the index nor among those chosen lately" in page
    assert b"<b>" not in page


def test_the_start_page_offers_example_queries_and_random_items(
    run: Path, tmp_path: Path, server: SearchServer
) -> None:
    assert b"5 of 12 images, chosen at random" in ask(server, "GET", "/")[2]
    assert b"Try:" not in ask(server, "GET", "/")[2]  # file names are not captions
    build_index(run, run.parent / "shapes", tmp_path / "captions")
    other = open_searcher(run, tmp_path / "captions")
    page = render(other, Answer("", other.some(500)))
    examples, _, concepts = page.partition("Try:")[2].partition("Concepts of the training data")
    assert examples.count('<a href="/?q=a+') == 3
    assert len(other.concepts) == concepts.partition("</p>")[0].count('<a href="/?q=') == 3
    assert page.count("<figure>") == len(other.index)
    assert [hit.number for hit in other.some(4)] == [hit.number for hit in other.some(9)][:4]


def test_other_hosts_and_pages_elsewhere_are_refused(server: SearchServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    for headers in ({"Host": "evil.example"}, {"Host": "127.0.0.1:1"}, {"Origin": "http://evil.example"}):
        assert ask(server, "GET", "/", **headers)[0] == 403
        assert ask(server, "POST", "/file", b"x", **headers)[0] == 403
    own = f"localhost:{server.server_port}"
    assert ask(server, "GET", "/", Host=own, Origin=f"http://{own}")[0] == 200


def test_a_picture_finds_itself_and_other_files_are_refused(server: SearchServer, photos: Path) -> None:
    status, _, address = ask(server, "POST", "/file", (photos / "7.png").read_bytes())
    content = next(item.content for item in server.searcher.index.contents.items if item.path == "7.png")
    assert (status, address.decode()) == (200, f"/?like={content}")  # so that it works whenever the page is served
    page = ask(server, "GET", address.decode())[2].partition(b"<ol>")[2]
    assert b"7.png" in page.partition(b"</li>")[0]
    status, headers, problem = ask(server, "POST", "/file", b"<script>alert(1)</script>")
    assert (status, headers["Content-Type"]) == (422, "text/plain; charset=utf-8")
    assert problem.startswith(b"your file: is not an image that Pillow can read")
    assert ask(server, "POST", "/elsewhere", b"x")[0] == 404


def test_the_address_of_a_picture_shows_the_same_result_again(
    server: SearchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmts.search.serve._MAX_UPLOADS", 2)
    addresses, pictures = [], []
    for number, color in enumerate(("orange", "purple", "pink")):
        Image.new("RGB", (20, 24), color).save(tmp_path / f"{number}.png")
        pictures.append((tmp_path / f"{number}.png").read_bytes())
        addresses.append(ask(server, "POST", "/file", pictures[-1])[2].decode())
    hits = server.searcher.by_file(tmp_path / "2.png", 5)
    page = ask(server, "GET", addresses[2])[2].decode()
    assert page.count("<figure>") == 5
    places = [page.index(f'<li id="n{hit.number}">') for hit in hits]
    assert places == sorted(places)
    shown = page.partition('<img class="query" src="')[2].partition('"')[0]
    assert Image.open(io.BytesIO(ask(server, "GET", shown)[2])).size == (20, 24)
    assert b"nearest to" in ask(server, "GET", addresses[1])[2]
    assert b"choose it again" in ask(server, "GET", addresses[0])[2]  # only the latest are kept
    assert ask(server, "GET", "/query/" + "0" * 32)[0] == ask(server, "GET", "/query/..")[0] == 404


@pytest.mark.parametrize(
    ("asked", "address"),
    [
        ("/?q=&where=", "/"),
        ("/?q=+a+cat+&where=&where=shape%3Dbar&where=shape=bar&other=1", "/?q=a+cat&where=shape%3Dbar"),
        ("/?like=0&q=a%20cat", "/?q=a+cat"),
        ("/?k=007&q=x", "/?q=x"),
        ("/?like=%0d%0aSet-Cookie:x=1", "/?like=Set-Cookie%3Ax%3D1"),
    ],
)
def test_a_search_has_one_address(asked: str, address: str, server: SearchServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", asked)
    response = connection.getresponse()
    assert (response.status, response.getheader("Location")) == (303, address)
    assert response.getheader("Set-Cookie") is None
    connection.close()


def test_labels_narrow_the_page_and_links_keep_the_question(run: Path, tmp_path: Path) -> None:
    index = build_index(run, run.parent / "shapes", tmp_path / "index")
    bars = sum(item.labels["shape"] == "bar" for item in index.contents.items)
    with SearchServer(open_searcher(run, tmp_path / "index"), 0, 5) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = ask(server, "GET", "/?q=red&where=shape%3Dbar")[2].decode()
        answer = page.partition("<main")[2]
        assert answer.count("<bdi>bar</bdi>") == answer.count("<figure>") == 5
        assert 'href="/?q=red" title="Remove this filter"' in answer
        assert 'href="/?q=red&amp;where=shape%3Dbar&amp;k=10#n' in answer
        assert 'href="/?q=red&amp;where=shape%3Dbar&amp;where=split%3Dval" title="only split=val"' in page
        assert '<input type="hidden" name="where" value="shape=bar">' in page
        assert "shape in" in answer.partition("All columns")[2].partition("</dl>")[0] or "bar in" in answer
        assert f"5 of {bars} images, chosen at random" in ask(server, "GET", "/?where=shape%3Dbar")[2].decode()
        problem = ask(server, "GET", "/?q=red&where=shape%3D%3Cb%3E")[2].decode()
        assert "nothing in the index has shape=&#39;&lt;b&gt;&#39;; known: bar, square, stripe" in problem
        assert "<b>" not in problem
        server.shutdown()


def test_a_port_in_use_and_an_impossible_port_are_errors(server: SearchServer) -> None:
    taken = server.server_port
    with pytest.raises(RunError, match=rf"cannot listen on port {taken}: Address already in use; --port 0"):
        serve(server.searcher, taken, 5)
    with pytest.raises(RunError, match=r"cannot listen on port 70000: .*0-65535"):
        serve(server.searcher, 70000, 5)


def test_uploads_are_bounded(server: SearchServer) -> None:
    assert ask(server, "POST", "/file", b"x", Content_Length=str(UPLOAD_LIMIT + 1))[0] == 413
    assert ask(server, "POST", "/file", b"", Content_Length="-1")[0] == 411


def test_a_picture_whose_file_is_gone_is_not_found(server: SearchServer, photos: Path) -> None:
    for file in photos.glob("*.png"):
        file.unlink()
    assert ask(server, "GET", "/small/5")[0] == 404


def test_a_page_that_stands_alone_contains_its_pictures_and_escapes_captions(searcher: Searcher, photos: Path) -> None:
    hit = searcher.by_text("a red bar", 1)[0]
    planted = replace(hit, item=hit.item.model_copy(update={"caption": '"><script>alert(1)</script>'}))
    page = render(searcher, Answer("<script>", [planted]), stands_alone=True)
    assert "data:image/png;base64," in page
    assert "<script" not in page
    assert "&#34;&gt;&lt;script&gt;" in page
    assert "http://" not in page.replace("http-equiv", "")
    assert json.loads(json.dumps(planted.to_json()))["rank"] == 1
