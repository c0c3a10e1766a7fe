"""Concepts of stored embeddings: the same from every layout and any number of parts."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmts.cluster import concepts as clustering
from mmts.cluster.concepts import cluster
from mmts.cluster.embed import embed
from mmts.cluster.stored import open_stored
from mmts.concepts import ConceptDistribution
from mmts.data.read import read_dataset
from mmts.errors import DataError, InputError, MmtsError

CENTERS, N = np.random.default_rng(0).normal(size=(5, 16)), 600
ROWS = (CENTERS[np.arange(N) % 5] + np.random.default_rng(1).normal(size=(N, 16)) / 50).astype(np.float16)
COLORS = ("red", "green", "blue", "black", "white")
CAPTIONS = [f"{COLORS[at % 5]} thing" for at in range(N)]
PARTS = (range(250), range(250, 600))


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same rows as a .npy file, as parquet, and as clip-retrieval writes them."""
    folder = tmp_path_factory.mktemp("layouts")
    np.save(folder / "text.npy", ROWS)
    for name in ("parquet", "clip/text_emb", "clip/metadata"):
        (folder / name).mkdir(parents=True)
    for at, part in enumerate(PARTS):
        rows, captions = ROWS[part.start : part.stop], CAPTIONS[part.start : part.stop]
        np.save(folder / "clip" / "text_emb" / f"text_emb_{at}.npy", rows)
        pq.write_table(pa.table({"caption": captions}), folder / "clip" / "metadata" / f"metadata_{at}.parquet")
        table = pa.table({"embedding": pa.array(rows.tolist(), pa.list_(pa.float16())), "caption": captions})
        pq.write_table(table, folder / "parquet" / f"{at}.parquet")
    return {"npy": folder / "text.npy", "parquet": folder / "parquet", "clip-retrieval": folder / "clip"}


@pytest.mark.parametrize("layout", ["npy", "parquet", "clip-retrieval"])
def test_every_layout_gives_the_clusters_of_the_rows(layout: str, layouts: dict[str, Path], tmp_path: Path) -> None:
    cluster(layouts[layout], 5, tmp_path / "concepts.npz")
    concepts = ConceptDistribution.load(tmp_path / "concepts.npz")
    assert concepts.sizes.tolist() == [120] * 5
    assert all(len(set(concepts.labels[at::5].tolist())) == 1 for at in range(5))
    colors = {concepts.names[concepts.labels[at]].split()[0] for at in range(5)}
    assert colors == ({"cluster"} if layout == "npy" else {*COLORS})


def test_parts_give_the_concepts_of_one_process(
    layouts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(layouts["parquet"], 5, tmp_path / "one.npz")
    assert cluster(layouts["parquet"], 5, tmp_path / "parts.npz", part="3/3") is None
    monkeypatch.setattr(clustering, "sampled_centroids", lambda *_, **__: pytest.fail("all take those of the first"))
    monkeypatch.setenv("MMTS_CACHE", str(tmp_path / "of another machine"))
    for number in (3, 1):
        assert cluster(layouts["parquet"], 5, tmp_path / "parts.npz", part=f"{number}/3") is None
        assert not (tmp_path / "parts.npz").exists()
    cluster(layouts["parquet"], 5, tmp_path / "parts.npz", part="2/3")
    one, parts = (ConceptDistribution.load(tmp_path / name) for name in ("one.npz", "parts.npz"))
    assert one.labels.tolist() == parts.labels.tolist()
    assert one.names == parts.names
    assert not (tmp_path / "parts.npz.parts").exists()


def test_the_captions_of_embed_become_concepts_that_training_takes(
    shapes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = embed(shapes, str(clip), "text", tmp_path / "rows", split_name="train", rows_per_part=30)
    monkeypatch.setattr(clustering, "open_encoder", lambda _: lambda texts: np.ones((len(texts), 3)))
    with pytest.raises(InputError, match=r"makes rows of 3 numbers, and those at .*rows have \d+"):
        cluster(tmp_path / "rows", 4, tmp_path / "concepts.npz", encoder="other")
    monkeypatch.undo()
    cluster(tmp_path / "rows", 4, tmp_path / "concepts.npz", encoder=str(clip))
    concepts = ConceptDistribution.load(tmp_path / "concepts.npz")
    captions = read_dataset(shapes).split("train").captions
    concepts.check_captions(captions)
    assert len(concepts) == len(captions)
    with pytest.raises(InputError):
        concepts.check_captions(captions[::-1])
    for file in (folder.array_file(0), folder.table_file(0)):
        file.unlink()
    with pytest.raises(DataError, match=rf"has {len(captions) - 30} of {len(captions)} rows; `mmts embed --join"):
        cluster(tmp_path / "rows", 4, tmp_path / "concepts.npz")


def broken(folder: Path, what: str) -> Path:
    (folder / "text_emb").mkdir()
    np.save(folder / "text_emb" / "text_emb_0.npy", ROWS)
    if what == "width":
        np.save(folder / "text_emb" / "text_emb_1.npy", ROWS[:, :8])
    elif what == "table":
        (folder / "metadata").mkdir()
        pq.write_table(pa.table({"caption": CAPTIONS[:-1]}), folder / "metadata" / "metadata_0.parquet")
    elif what == "damaged":
        (folder / "metadata").mkdir()
        (folder / "metadata" / "metadata_0.parquet").write_bytes(b"PAR1")
    elif what == "header":
        header = str({"descr": "<f2", "fortran_order": False, "shape": (-3, 16)}).encode()
        start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
        (folder / "text_emb" / "text_emb_0.npy").write_bytes(start + header)
    elif what == "pages":
        (folder / "text_emb" / "text_emb_0.npy").unlink()
        pq.write_table(pa.table({"embedding": ROWS.tolist()}), folder / "a.parquet")
        content = (folder / "a.parquet").read_bytes()
        (folder / "a.parquet").write_bytes(content[:4] + b"\xff" * 400 + content[404:])
    elif what == "not finite":
        np.save(folder / "text_emb" / "text_emb_0.npy", np.where(np.arange(N)[:, None] == 7, np.nan, ROWS))
    elif what == "no parquet":
        (folder / "text_emb" / "text_emb_0.npy").unlink()
    else:
        for file in (folder / "text_emb").iterdir():
            file.unlink()
        column: Any = {"lengths": [[1.0], [1.0, 2.0]], "words": ["a", "b"], "column": None}[what]
        pq.write_table(
            pa.table({"embeddings" if column is None else "embedding": column or [[1.0]]}), folder / "a.parquet"
        )
    return folder


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("width", r"text_emb_1\.npy has rows of 8 numbers, and .*text_emb_0\.npy of 16"),
        ("table", r"metadata_0\.parquet has 599 rows, and .*text_emb_0\.npy has 600"),
        ("damaged", r"metadata_0\.parquet: not a parquet file"),
        ("header", r"text_emb_0\.npy: not a \.npy file of numbers"),
        ("pages", r"a\.parquet: not a parquet file, or damaged"),
        ("not finite", "row 7 of the embeddings is NaN"),
        ("no parquet", r"has no text_emb/\*\.npy and no \*\.parquet"),
        ("lengths", "'embedding' does not hold lists of numbers, all of one length"),
        ("words", "'embedding' does not hold lists of numbers"),
        ("column", "has no column 'embedding'; did you mean 'embeddings'"),
    ],
)
def test_what_is_wrong_with_embeddings_is_named(what: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(MmtsError, match=says):
        cluster(broken(tmp_path, what), 2, tmp_path / "concepts.npz")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; it must hold embeddings of texts"):
        open_stored(tmp_path / "nowhere")
