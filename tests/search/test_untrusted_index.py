"""Whatever an index contains, the result is an answer or an MmtsError of one line; nothing else is read or run."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors.numpy import save
from untrusted.hostile import PATHS, changed, damaged, values

from mmts.errors import MmtsError, RunError
from mmts.files import content_hash
from mmts.search import index_files
from mmts.search.index_files import Index, Item, load_index, write_index

FEW = settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
ROWS = np.eye(40, 8, dtype=np.float32) + np.eye(40, 8, -8, dtype=np.float32) + np.eye(40, 8, -16, dtype=np.float32)
ROWS += np.eye(40, 8, -24, dtype=np.float32) + np.eye(40, 8, -32, dtype=np.float32)


def make_index(folder: Path, count: int = 40) -> Index:
    items = [
        Item(path=f"{at}.png", id=str(at), caption="a cat", size=1, changed=2, content="0" * 32) for at in range(count)
    ]
    return write_index(folder, items, ROWS[:count], checkpoint="1" * 32, kind="image", root=folder)


def change(folder: Path, **values: Any) -> None:
    file = folder / "index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def put_vectors(folder: Path, content: bytes) -> None:
    """Put other bytes in place of the embeddings' file, with a hash that fits: damage would be noticed by it."""
    shutil.rmtree(folder, ignore_errors=True)
    make_index(folder)
    name = content_hash(content)
    (folder / f"vectors-{name}.safetensors").write_bytes(content)
    change(folder, vectors=name)


@pytest.mark.parametrize("path", [path for path in PATHS if ".." in path or path.startswith(("/", "\\", "C:"))])
def test_paths_out_of_the_root_are_refused(path: str, tmp_path: Path) -> None:
    make_index(tmp_path)
    items = json.loads((tmp_path / "index.json").read_text())["items"]
    items[3]["path"] = path
    change(tmp_path, items=items)
    if path in ("images/../a.png", "%2e%2e/secret.png"):  # stay inside
        assert len(load_index(tmp_path)) == 40
        return
    with pytest.raises(RunError, match=r"index\.json is damaged"):
        load_index(tmp_path)


CENTERS, CELLS = ROWS[:4], np.arange(40) % 4


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"rows": np.eye(40, 9, dtype=np.float32)}, r"rows \(40, 9\) of float32, not \(40, 8\)"),
        ({"rows": ROWS[:39]}, r"rows \(39, 8\)"),
        ({"rows": ROWS.astype(np.float16)}, "of float16"),
        ({"rows": 2 * ROWS}, "rows whose length is not 1"),
        ({"rows": np.nan * ROWS}, "rows whose length is not 1"),
        ({"others": ROWS}, "holds 'others'"),
        ({}, "holds nothing"),
        ({"rows": ROWS, "centres": CENTERS[:, :3], "cells": CELLS}, r"centers \(4, 3\) that are not .* of width 8"),
        ({"rows": ROWS, "centres": np.full_like(CENTERS, np.inf), "cells": CELLS}, "not finite float32 numbers"),
        ({"rows": ROWS, "centres": CENTERS, "cells": CELLS + 1}, "cells that do not exist"),
        ({"rows": ROWS, "centres": CENTERS, "cells": CELLS.astype(np.int32)}, "cells that do not exist"),
    ],
)
def test_impossible_embeddings_are_refused(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    put_vectors(tmp_path / "index", save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
    with pytest.raises(RunError, match=message):
        load_index(tmp_path / "index")


@pytest.mark.parametrize("exact_under", [100, 10])
def test_damaged_embeddings_are_an_error_or_give_existing_items(exact_under: int) -> None:
    whole = index_files.to_bytes(index_files.make_vectors(ROWS, exact_under))

    @FEW
    @given(damaged(whole))
    def holds(content: bytes) -> None:
        with suppress(MmtsError):
            numbers, scores = index_files.nearest(index_files.from_bytes(content, 40, 8), ROWS[0], 50)
            assert set(numbers.tolist()) <= set(range(40))
            assert len(numbers) == len(scores)

    holds()


def test_any_manifest_is_an_error_or_an_index(tmp_path: Path) -> None:
    make_index(tmp_path, 3)
    whole = json.loads((tmp_path / "index.json").read_text())
    keys = ["vectors", "items", "path", "size", "member", "root", "content", "other"]

    @FEW
    @given(changed(whole, keys, values))
    def holds(content: Any) -> None:
        (tmp_path / "index.json").write_text(json.dumps(content))
        said = ""
        try:
            index = load_index(tmp_path)
        except MmtsError as error:
            said = str(error)
        else:
            root = Path(index.contents.root)
            assert all(root in medium.path.parents and ".." not in medium.path.parts for medium in index.media())
        assert "\n" not in said
        assert len(said) < 1000

    holds()


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x04]", b"[1]", b'{"version": 2}', b"\xff\xfe"])
def test_a_damaged_manifest_is_an_error_of_one_line(content: bytes, tmp_path: Path) -> None:
    make_index(tmp_path)
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(RunError, match=r"index\.json is damaged"):
        load_index(tmp_path)


def test_a_search_in_cells_finds_nearly_what_an_exact_search_finds() -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 16))
    rows = (centers[rng.integers(20, size=2000)] + 0.3 * rng.normal(size=(2000, 16))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    exact = index_files.make_vectors(rows)
    cells = index_files.from_bytes(index_files.to_bytes(index_files.make_vectors(rows, 2000)), 2000, 16)
    assert index_files.is_exact(exact)
    assert not index_files.is_exact(cells)
    np.testing.assert_array_equal(index_files.rows_of(cells), rows)
    np.testing.assert_array_equal(cells.reconstruct_n(7, 1)[0], rows[7])
    truth = np.argsort(-rows[:50] @ rows.T, axis=1)[:, :10]
    for vectors, least in ((exact, 1.0), (cells, 0.95)):
        results = [set(index_files.nearest(vectors, row, 10)[0].tolist()) for row in rows[:50]]
        recall = np.mean([len(result & set(row.tolist())) / 10 for result, row in zip(results, truth, strict=True)])
        assert recall >= least
        among = np.arange(0, 2000, 7)
        best = [set((7 * np.argsort(-rows[::7] @ row)[:10]).tolist()) for row in rows[:50]]
        found = [set(index_files.nearest(vectors, row, 10, among)[0].tolist()) for row in rows[:50]]
        assert found == best  # some items are always compared exactly
