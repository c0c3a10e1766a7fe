"""Searching 100,000 items: cells against every item and HNSW, and how long the page takes to answer.

`python -m benchmarks.search` prints a table; it takes three minutes on two idle cores and is not part of `make bench`.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from mmts.console import quiet
from mmts.data.records import Medium
from mmts.examples.drawing import picture, write_image
from mmts.models.features import text_features
from mmts.models.text_towers import load_text_tower
from mmts.recipe.recipe import load_recipe
from mmts.search import nearest, open_searcher
from mmts.search.encoder import load_encoder
from mmts.search.index_files import Item, write_index
from mmts.search.serve import SearchServer
from mmts.training.run import train

Rows = npt.NDArray[np.float32]
QUERIES = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=100_000)
    count = parser.parse_args().items
    print("| embeddings | method | s to build | recall@10 | ms per query, median |\n|---|---|---|---|---|")
    for kind, make in (("random", random_rows), ("clustered", clustered_rows)):
        rows, queries = make(count, 256)
        start = time.perf_counter()
        exact, cells = nearest.make_vectors(rows, count + 1), nearest.make_vectors(rows, count)
        built = time.perf_counter() - start
        start = time.perf_counter()
        graph = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
        graph.add(rows)
        built_graph = time.perf_counter() - start
        graph.hnsw.efSearch = 64
        truth = [set(nearest.nearest(exact, query, 10)[0].tolist()) for query in queries]
        for way, find, took_to_build in (
            ("every item", lambda query, exact=exact: nearest.nearest(exact, query, 10)[0], 0.0),
            ("cells", lambda query, cells=cells: nearest.nearest(cells, query, 10)[0], built),
            (
                "HNSW, 32 links, 64 compared",
                lambda query, graph=graph: graph.search(query[None], 10)[1][0],
                built_graph,
            ),
        ):
            recall = np.mean(
                [len(one & {*find(query).tolist()}) / 10 for one, query in zip(truth, queries, strict=True)]
            )
            print(
                f"| {kind} | {way} | {took_to_build:.1f} | {recall:.3f} | {median_ms(find, queries):.1f} |", flush=True
            )
    tower = load_text_tower("minilm")
    took = median_ms(lambda number: text_features(tower, [f"a red running shoe {number}"], cached=False), range(30))
    print(f"| | one text through MiniLM | | | {took:.1f} |")
    with tempfile.TemporaryDirectory() as folder, quiet():
        took = ms_through_the_page(Path(folder), rows)
    print(f"| clustered | one text through the page, until its answer arrives | | | {took:.1f} |")


def ms_through_the_page(folder: Path, rows: "Rows") -> float:
    """Return the milliseconds from request to answer, with a run of `catalogue` and an index of these rows."""
    pixels = picture("red", "square")
    write_image(folder / "0.png", pixels)
    lines = [{"id": str(i), "image": "0.png", "captions": [f"a red square {i}"]} for i in range(30)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = folder / "run"
    train(load_recipe("catalogue", ["train.epochs=1", "train.trackers=[]"]).with_data(folder), run)
    image = Medium("0", folder / "0.png", ("a red square",))
    items = [
        Item(path="0.png", id=str(i), caption=str(i), size=1, changed=0, content="0" * 32) for i in range(len(rows))
    ]
    write_index(run / "index", items, rows, checkpoint=load_encoder(run, [image]).checkpoint, kind="image", root=folder)
    server = SearchServer(open_searcher(run), 0, 10)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(number: int) -> bytes:
        address = f"http://127.0.0.1:{server.server_port}/?q=a+red+running+shoe+{number}"
        with urllib.request.urlopen(address) as answer:
            return bytes(answer.read())

    assert b"10" in ask(0)
    took = median_ms(ask, range(30))
    server.shutdown()
    return took


def random_rows(count: int, width: int) -> tuple[Rows, Rows]:
    """Return unit rows in uniform directions: the worst case, because no cell is nearer than another."""
    rng = np.random.default_rng(0)
    return unit(rng.normal(size=(count, width))), unit(rng.normal(size=(QUERIES, width)))


def clustered_rows(count: int, width: int) -> tuple[Rows, Rows]:
    """Return unit rows around 1,000 centers with a long tail of sizes, and queries shifted as texts are from images."""
    rng = np.random.default_rng(0)
    centers, shift = rng.normal(size=(1000, width)), rng.normal(size=width)
    sizes = 1 / np.arange(1, 1001)
    rows = centers[rng.choice(1000, count, p=sizes / sizes.sum())] + 0.8 * rng.normal(size=(count, width))
    return unit(rows), unit(centers[rng.choice(1000, QUERIES)] + rng.normal(size=(QUERIES, width)) + shift)


def unit(rows: npt.NDArray[np.float64]) -> Rows:
    """Return the rows scaled to length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def median_ms(work: Callable[..., object], inputs: "Rows | range") -> float:
    """Return the median milliseconds of one call after another."""
    times = []
    for item in inputs:
        start = time.perf_counter()
        work(item)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
