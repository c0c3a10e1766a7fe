"""Searching 100,000 items in cells, compared with every item and with HNSW, and the time of an answer of the page.

`python -m benchmarks.search` prints a table. It takes three minutes on two idle cores and is not part of `make bench`.
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
from mmts.search import index_files, open_searcher
from mmts.search.index_files import Item, write_index
from mmts.search.query import Encoder
from mmts.search.serve import SearchServer
from mmts.training.run import train

Rows = npt.NDArray[np.float32]
QUERIES = 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=100_000)
    N = parser.parse_args().items
    print("| embeddings | way | s to build | recall@10 | ms per query, median |\n|---|---|---|---|---|")
    clustered, clustered_queries = clustered_rows(N, 256)
    for line in compare_ways("random", *random_rows(N, 256)) + compare_ways("clustered", clustered, clustered_queries):
        print(line)
    tower = load_text_tower("minilm")
    ms = median_ms(lambda number: text_features(tower, [f"a red running shoe {number}"], cached=False), range(30))
    print(f"| | one text through MiniLM | | | {ms:.1f} |")
    with tempfile.TemporaryDirectory() as folder, quiet():
        ms = ms_through_the_page(Path(folder), clustered)
    print(f"| clustered | a text typed into the page, its answer as HTML | | | {ms:.1f} |")


def compare_ways(kind: str, rows: Rows, queries: Rows) -> list[str]:
    """Return table rows for a comparison with every item, our cells, and HNSW."""
    start = time.perf_counter()
    exact, cells = index_files.make_vectors(rows, len(rows) + 1), index_files.make_vectors(rows, len(rows))
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    graph = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    graph.add(rows)
    graph_seconds = time.perf_counter() - start
    graph.hnsw.efSearch = 64
    expected = [set(index_files.nearest(exact, query, 10)[0].tolist()) for query in queries]
    lines = []
    for way, search, seconds_to_build in (
        ("every item", lambda query: index_files.nearest(exact, query, 10)[0], 0.0),
        ("cells", lambda query: index_files.nearest(cells, query, 10)[0], seconds),
        ("HNSW, 32 links, 64 candidates", lambda query: graph.search(query[None], 10)[1][0], graph_seconds),
    ):
        results = [set(search(query).tolist()) for query in queries]
        recall = np.mean([len(right & result) / 10 for right, result in zip(expected, results, strict=True)])
        ms = median_ms(search, queries)
        lines.append(f"| {kind} | {way} | {seconds_to_build:.1f} | {recall:.3f} | {ms:.1f} |")
    return lines


def ms_through_the_page(folder: Path, rows: Rows) -> float:
    """Median milliseconds from a request to the whole answer, with a run of `catalogue` and an index of these rows."""
    for i in range(30):
        write_image(folder / f"{i}.png", picture("red", "square", phase=i / 30))
    lines = [{"id": str(i), "image": f"{i}.png", "captions": [f"a red square {i}"]} for i in range(30)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = folder / "run"
    train(load_recipe("catalogue", ["train.epochs=1", "train.trackers=[]"]).with_data(folder), run)
    image = Medium("0", folder / "0.png", ("a red square",))
    items = [
        Item(path="0.png", id=str(i), caption=str(i), size=1, changed=0, content="0" * 32) for i in range(len(rows))
    ]
    write_index(run / "index", items, rows, checkpoint=Encoder(run, [image]).checkpoint, kind="image", root=folder)
    server = SearchServer(open_searcher(run), 0, 10)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(number: int) -> bytes:
        address = f"http://127.0.0.1:{server.server_port}/?q=a+red+running+shoe+{number}"
        with urllib.request.urlopen(address) as answer:
            return bytes(answer.read())

    assert b"10" in ask(0)
    ms = median_ms(ask, range(30))
    server.shutdown()
    return ms


def random_rows(N: int, D: int) -> tuple[Rows, Rows]:
    """Unit rows and queries, uniform over all directions: the hardest case, since no cell is nearer than the others."""
    rng = np.random.default_rng(0)
    return unit(rng.normal(size=(N, D))), unit(rng.normal(size=(QUERIES, D)))


def clustered_rows(N: int, D: int) -> tuple[Rows, Rows]:
    """Unit rows around 1,000 centers with a long tail of sizes, and queries shifted as texts are from images."""
    rng = np.random.default_rng(0)
    centers, shift = rng.normal(size=(1000, D)), rng.normal(size=D)
    sizes = 1 / np.arange(1, 1001)
    rows = centers[rng.choice(1000, N, p=sizes / sizes.sum())] + 0.8 * rng.normal(size=(N, D))
    return unit(rows), unit(centers[rng.choice(1000, QUERIES)] + rng.normal(size=(QUERIES, D)) + shift)


def unit(rows: npt.NDArray[np.float64]) -> Rows:
    """Scale rows to length 1."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def median_ms(work: Callable[..., object], inputs: "Rows | range") -> float:
    """Median milliseconds of one call per input."""
    times = []
    for argument in inputs:
        start = time.perf_counter()
        work(argument)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


if __name__ == "__main__":
    main()
