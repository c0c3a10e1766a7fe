"""Data on a server: a loopback server that can do everything a bad one does, and fsspec's memory for the others."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import fsspec
import pytest
from data.formats.test_parquet import content, image, write
from data.formats.test_shards import ids, pairs
from fsspec.implementations.memory import MemoryFileSystem
from tests_support import draw_shapes

from mmts.data import remote
from mmts.data.media.load import why_unreadable
from mmts.data.read import read_dataset
from mmts.errors import DataError
from mmts.files import as_address, cache_root
from mmts.recipe.recipe import load_recipe
from mmts.recipe.tiny import tiny
from mmts.training.run import train
from mmts.training.splits import open_data, resolved


class Server(ThreadingHTTPServer):
    """Serves a folder, and breaks what `breaks` says: requests by path and the number of times."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.url = folder, f"http://127.0.0.1:{self.server_port}"
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.cut: Counter[str] = Counter()  # answers that end half-way
        self.busy: Counter[str] = Counter()  # answers 503
        self.has_ranges = True

    def handle_error(self, *about: object) -> None:
        pass  # a client that hangs up is no failure


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, path = self.server, self.path.rstrip("/")
        file = server.folder / path.lstrip("/")
        server.requests[f"{self.command} {path}"] += 1
        if self.command == "GET" and server.busy[path] > 0:
            server.busy[path] -= 1
            self.send_error(503, "try later")
        elif file.is_dir():
            links = "".join(f'<a href="{item.name}{"/" * item.is_dir()}">x</a>' for item in file.iterdir())
            self.answer(200, f'<a href="../">up</a> <a href="?C=N">sort</a> {links}'.encode(), "text/html")
        elif not file.is_file() or "secret" in path:
            self.send_error(403 if "secret" in path else 404)
        else:
            data, span = file.read_bytes(), self.headers.get("Range", "")
            self.tag = f'"{len(data)}-{file.stat().st_mtime_ns}"'
            if span and server.has_ranges:
                server.ranges.append(span)
                first, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
                self.answer(206, data[first : last + 1], "application/octet-stream")
            else:
                self.answer(200, data, "application/octet-stream")

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status in (200, 206) and kind != "text/html":
            self.send_header("ETag", self.tag)
        self.end_headers()
        if self.command == "GET":
            is_cut = self.server.cut[self.path] > 0
            self.server.cut[self.path] -= is_cut
            self.wfile.write(data[: len(data) // 2] if is_cut else data)
            self.close_connection = True

    def log_message(self, *about: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (tmp_path / "site").mkdir()
    monkeypatch.setattr(remote, "_WAIT", 0.01)
    monkeypatch.setattr(remote, "_CHUNK", 4096)
    with Server(tmp_path / "site") as server:
        thread = Thread(target=lambda: server.serve_forever(0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def shards(server: Server, count: int = 3) -> str:
    for number in range(count):
        pairs(server.folder / "s" / f"{number}.tar", f"k{number}", f"m{number}")
    return f"{server.url}/s"


def test_shards_are_the_same_as_on_this_machine_and_fetched_once(server: Server):
    address = f"{shards(server)}/{{0..2}}.tar"
    dataset, local = read_dataset(address), read_dataset(server.folder / "s")
    assert ids(dataset) == ids(local) == ["k0", "m0", "k1", "m1", "k2", "m2"]
    assert [content(medium) for medium in dataset.media] == [content(medium) for medium in local.media]
    assert dataset.path == Path(address)
    assert dataset.root == cache_root() / "remote" / "http" / server.url.removeprefix("http://") / "s"
    sizes = {file.stat().st_size for file in (server.folder / "s").iterdir()}
    assert {"bytes=0-4095", f"bytes=8192-{max(sizes) - 1}"} <= {*server.ranges}
    server.requests.clear()
    assert ids(read_dataset(Path(address))) == ids(local)  # as the command line gives it
    assert {*server.requests} == {f"HEAD /s/{number}.tar" for number in range(3)}


@pytest.mark.parametrize("given", ["", "/", "/*.tar", "/{0..2}.tar", "/0.tar"])
def test_a_folder_a_glob_braces_or_a_file(server: Server, given: str):
    assert len(read_dataset(shards(server) + given).media) == (2 if given == "/0.tar" else 6)


def test_a_folder_with_a_folder_per_split(server: Server):
    for name in ("train", "valid"):
        write(server.folder / "t" / name / "0.parquet", image=[image()], caption=[name], kind=["x"])
    write(server.folder / "t" / "other" / "0.parquet", image=[image()], caption=["left out"])
    dataset = read_dataset(f"{server.url}/t")
    assert [(medium.captions, medium.split) for medium in dataset.media] == [(("train",), "train"), (("valid",), "val")]
    assert dataset.media[0].labels == {"kind": "x"}
    assert content(dataset.media[0]) == image()


def test_paths_in_a_table_are_fetched_from_its_folder(server: Server, tmp_path: Path):
    names = ["images/a 1.png", "images/100%.png", "gone.png"]
    write(server.folder / "t" / "t.parquet", filepath=names, caption=["a", "b", "c"])
    for name in names[:2]:
        (server.folder / "t" / name.replace(" ", "%20").replace("0%", "0%25")).parent.mkdir(exist_ok=True)
        (server.folder / "t" / name.replace(" ", "%20").replace("0%", "0%25")).write_bytes(image())
    dataset = read_dataset(f"{server.url}/t/t.parquet")
    assert [why_unreadable(medium) for medium in dataset.media] == [None, None, "does not exist"]
    server.requests.clear()
    read_dataset(f"{server.url}/t/t.parquet")
    assert {name for name in server.requests if "png" in name} == {"GET /t/gone.png"}
    write(server.folder / "t" / "bad.parquet", filepath=["../../secret.png"], caption=["a"])
    with pytest.raises(DataError, match=r"row 0: '../../secret.png' lies outside the data folder"):
        read_dataset(f"{server.url}/t/bad.parquet")
    assert "GET /secret.png" not in server.requests


@pytest.mark.parametrize("has_ranges", [True, False])
def test_broken_connections_are_tried_again(server: Server, has_ranges: bool, capsys: pytest.CaptureFixture[str]):
    address, server.has_ranges = f"{shards(server)}/0.tar", has_ranges
    server.cut["/s/0.tar"], server.busy["/s/0.tar"] = 2, 1
    assert ids(read_dataset(address)) == ["k0", "m0"]
    said = re.findall(r"0.tar: .*; trying again in 0.0\d s \(\d of 5\)", capsys.readouterr().err)
    assert len(said) == 3
    assert ["503" in line for line in said] == [True, False, False]
    if has_ranges:  # only what broke is asked for again; the first answer was no file
        assert [*Counter(server.ranges).values()] == [3, 1, 1]


def test_after_five_failures_nothing_half_is_kept(server: Server):
    address = shards(server)
    server.cut["/s/1.tar"] = 1000
    with pytest.raises(DataError, match=r"s/1.tar: .*\(5 times\); the same command fetches only what is still missing"):
        read_dataset(address)
    kept = {file.name for file in cache_root().rglob("*") if file.is_file() and file.name != ".fetching.lock"}
    assert "1.tar" not in kept
    assert not [name for name in kept if name.endswith(".tmp")]
    server.cut.clear()
    assert len(read_dataset(address).media) == 6


def test_a_file_that_changed_is_refused_until_its_copy_is_removed(server: Server):
    address = f"{shards(server)}/{{0..2}}.tar"
    before = read_dataset(address)
    pairs(server.folder / "s" / "1.tar", "new1", "new2")
    with pytest.raises(DataError, match=r"s/1.tar changed since it was fetched \(1 of 3 files did\)") as caught:
        read_dataset(address)
    copy = Path(re.findall(r"remove (\S+\.tar);", str(caught.value))[0])
    local = re.findall(r"give (\S+) as --data", str(caught.value))[0]
    assert ids(read_dataset(local)) == ids(before)
    copy.unlink()
    assert ids(read_dataset(address)) == ["k0", "m0", "new1", "new2", "k2", "m2"]


def test_a_file_that_vanished_is_refused(server: Server):
    address = shards(server)
    read_dataset(address)
    (server.folder / "s" / "1.tar").unlink()
    with pytest.raises(DataError, match=rf"{address} no longer has 1.tar; remove .*/s/1.tar"):
        read_dataset(address)
    with pytest.raises(DataError, match=r"s/1.tar does not exist"):
        read_dataset(f"{address}/{{0..2}}.tar")


def test_a_file_that_changes_while_it_is_fetched(server: Server, monkeypatch: pytest.MonkeyPatch):
    address, pieces = shards(server), remote._pieces

    def changing(system: Any, name: str, size: int | None) -> Iterator[bytes]:
        yield from pieces(system, name, size)
        pairs(server.folder / "s" / Path(name).name, "other")

    monkeypatch.setattr(remote, "_pieces", changing)
    with pytest.raises(DataError, match=r"\d.tar changed while it was fetched; run the same command again"):
        read_dataset(address)
    assert not [*cache_root().rglob("*.tar")]


def test_a_copy_that_is_cut_off_is_fetched_again(server: Server):
    address = f"{shards(server)}/0.tar"
    tar = read_dataset(address).media[0].path
    tar.write_bytes(tar.read_bytes()[:512])
    assert ids(read_dataset(address)) == ["k0", "m0"]


def test_two_at_once_fetch_every_file_once(server: Server):
    address = shards(server, 6)
    with ThreadPoolExecutor(2) as pool:  # threads wait like processes
        first, second = pool.map(read_dataset, [address, f"{address}/{{0..5}}.tar"])
    assert ids(first) == ids(second)
    assert Counter(server.ranges)["bytes=0-4095"] == 6


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:PORT/none.tar", r"none.tar does not exist$"),
        ("http://127.0.0.1:PORT/none", r"none does not exist$"),
        ("http://127.0.0.1:PORT/secret.tar", r"secret.tar: 403.*Forbidden"),
        ("http://127.0.0.1:PORT", r"no .tar or .parquet files there.*; other data must be copied to this machine"),
        ("http://127.0.0.1:PORT/*/0.tar", r"can stand only in the name of a .tar or .parquet file"),
        ("http://127.0.0.1:PORT/a/../0.tar", r"cannot be the address of data"),
        ("http://me:word@127.0.0.1:PORT/0.tar", r"^http://.../0.tar: a password or \? in an address would be stored"),
        ("http://127.0.0.1:PORT/{0..", r"there|brace"),
        ("http://127.0.0.1:1/0.tar", r"0.tar: .*\(5 times\)"),
    ],
)
def test_a_wrong_address_is_one_plain_error(server: Server, address: str, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read_dataset(address.replace("PORT", str(server.server_port)))
    assert "word" not in str(caught.value).replace("password", "")


def test_a_listing_cannot_name_a_file_outside(server: Server, monkeypatch: pytest.MonkeyPatch):
    listing = [{"name": f"{server.url}/s/../../../etc/x.tar", "type": "file"}]
    monkeypatch.setattr(fsspec.filesystem("http"), "ls", lambda *_, **__: listing)
    with pytest.raises(DataError, match="cannot be the address of data"):
        read_dataset(f"{server.url}/s")


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf"])
def test_the_names_of_object_stores(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Their libraries return names without the scheme. The memory stands in for all three.
    system = MemoryFileSystem(skip_instance_cache=True)
    monkeypatch.setattr(fsspec, "filesystem", lambda _: system)
    strip = staticmethod(lambda path: MemoryFileSystem._strip_protocol(path.replace(f"{scheme}://", "memory://")))
    monkeypatch.setattr(system, "_strip_protocol", strip)
    for number in range(2):
        system.pipe(f"/bucket/s/{number}.tar", pairs(tmp_path / "0.tar", f"k{number}").read_bytes())
    for given in ("s", "s/*.tar", "s/{0..1}.tar"):
        assert ids(read_dataset(f"{scheme}://bucket/{given}")) == ["k0", "k1"]
    system.pipe("/bucket/s/0.tar", pairs(tmp_path / "0.tar", "k").read_bytes())
    with pytest.raises(DataError, match=r"0.tar changed since it was fetched"):
        read_dataset(f"{scheme}://bucket/s")


def test_an_address_stays_one_in_a_recipe(server: Server, tmp_path: Path):
    address = f"{shards(server)}/{{0..2}}.tar"
    recipe = load_recipe("catalogue", [f"data.path={address}", f"data.val={address}"])
    assert as_address(resolved(recipe.data.path)) == as_address(recipe.data.val or "") == address
    assert recipe.model_dump(mode="json")["data"]["path"] == address
    assert ids(open_data(recipe.data)) == ["k0", "m0", "k1", "m1", "k2", "m2"]


@pytest.mark.slow
def test_a_run_on_served_tables_equals_one_on_this_machine(server: Server, tmp_path: Path):
    rows = list(map(json.loads, (draw_shapes(tmp_path / "shapes") / "captions.jsonl").read_text().splitlines()))
    columns = {"id": [row["id"] for row in rows], "caption": [row["captions"] for row in rows]}
    columns |= {"image": [(tmp_path / "shapes" / row["image"]).read_bytes() for row in rows]}
    table = write(server.folder / "t" / "0.parquet", **columns, split=[row["split"] for row in rows])
    recipe = tiny(load_recipe("catalogue"))
    served, local = (
        train(recipe.with_data(path), tmp_path / name)
        for name, path in {"served": Path(f"{server.url}/t/*.parquet"), "local": table.parent}.items()
    )
    assert {**served, "data": None} == {**local, "data": None}
    assert as_address(served["data"]) == f"{server.url}/t/*.parquet"


def test_nothing_is_imported_before_it_is_needed_and_a_missing_package_is_named_with_the_extra():
    code = """
import sys
from mmts.data.read import read_dataset
from mmts.errors import DataError
assert not {"aiohttp", "fsspec.implementations.http"} & {*sys.modules}
for scheme, package in {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "https": "aiohttp"}.items():
    sys.modules[package] = None
    try:
        read_dataset(f"{scheme}://host/a.tar")
    except DataError as error:
        assert str(error) == f"{scheme}://host/a.tar needs the package {package}: pip install 'mmts[remote]'", error
    else:
        raise AssertionError(scheme)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
