"""Embeddings in parts: what they equal, and what happens when parts are missing, damaged, or another job's."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mmts.cluster.embed import EmbeddingsFolder, embed, join, open_folder
from mmts.data.read import read_dataset
from mmts.errors import DataError, InputError, RunError
from mmts.training.encoder import Encoder, open_encoder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.npy")}


@pytest.mark.parametrize("side", ["text", "media"])
def test_rows_are_the_models_embeddings_in_the_order_of_the_data(
    side: str, shapes: Path, clip: Path, tmp_path: Path
) -> None:
    embed(shapes, str(clip), side, tmp_path / "out", rows_per_part=50)
    split, encoder = read_dataset(shapes).whole(), open_encoder(str(clip))
    expected = encoder.text(split.captions) if side == "text" else encoder.media(split.media)
    folder = join(tmp_path / "out")
    parts = [folder.read(part) for part in range(folder.num_parts)]
    assert [len(rows) for rows, _ in parts][:-1] == [50] * (folder.num_parts - 1)
    assert np.abs(np.concatenate([rows for rows, _ in parts]).astype(np.float32) - expected).max() < 1e-3
    ids = [name for _, table in parts for name in table["id"].to_pylist()]
    if side == "text":
        assert [caption for _, table in parts for caption in table["caption"].to_pylist()] == split.captions
        assert ids[0] == f"{split.media[0].id}#0"
    else:
        assert ids == [medium.id for medium in split.media]


def test_processes_that_share_the_work_make_the_files_of_one(shapes: Path, clip: Path, tmp_path: Path) -> None:
    embed(shapes, str(clip), "text", tmp_path / "one", rows_per_part=30)
    embed(shapes, str(clip), "text", tmp_path / "two", part="2/2", rows_per_part=30)
    with pytest.raises(DataError, match=r"parts? of \d+ to compute again: there is no .*text_emb_00000.npy: part 0 is"):
        join(tmp_path / "two")
    embed(shapes, str(clip), "text", tmp_path / "two", part="1/2", rows_per_part=30)
    join(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_missing_and_damaged_parts_alone_are_computed_again(
    shapes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = embed(shapes, str(clip), "text", tmp_path / "out", rows_per_part=30)
    before = contents(tmp_path / "out")
    _, table = folder.read(3)
    pq.write_table(table.rename_columns(["name", *table.column_names[1:]]), folder.table_file(3))
    folder.array_file(0).unlink()
    damaged = np.load(folder.array_file(1))
    damaged[0] = 0
    np.save(folder.array_file(1), damaged)
    folder.table_file(2).write_bytes(folder.table_file(2).read_bytes()[:-9])
    with pytest.raises(DataError, match="4 parts of"):
        join(tmp_path / "out")
    text, computed = Encoder.text, []
    monkeypatch.setattr(Encoder, "text", lambda self, texts: computed.append(len(texts)) or text(self, texts))
    embed(shapes, str(clip), "text", tmp_path / "out", rows_per_part=30)
    assert computed[1:4] == [30, 30, 30]  # the first call asks for the width
    assert contents(tmp_path / "out") == before
    assert "part 1 is damaged" in capsys.readouterr().out


def test_an_interrupted_command_goes_on(
    shapes: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = EmbeddingsFolder.write

    def interrupted(folder: EmbeddingsFolder, part: int, *contents: object) -> None:
        if part == 2:
            raise KeyboardInterrupt
        write(folder, part, *contents)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddingsFolder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(shapes, str(clip), "text", tmp_path / "out", rows_per_part=30)
    monkeypatch.setattr(EmbeddingsFolder, "write", write)
    embed(shapes, str(clip), "text", tmp_path / "out", rows_per_part=30)
    join(tmp_path / "out")


def test_what_cannot_be_read_is_a_row_of_zeros(shapes: Path, clip: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(shapes, tmp_path / "data")
    medium = read_dataset(tmp_path / "data").whole().media[3]
    medium.path.write_bytes(b"no picture")
    folder = embed(tmp_path / "data", str(clip), "media", tmp_path / "out")
    rows, table = folder.read(0)
    assert not rows[3].any()
    assert table["content"].to_pylist()[3] is None
    assert rows[[at for at in range(len(rows)) if at != 3]].any(axis=1).all()


def test_another_job_is_not_mixed_in(shapes: Path, clip: Path, tmp_path: Path) -> None:
    embed(shapes, str(clip), "text", tmp_path / "out")
    with pytest.raises(RunError, match="out holds other embeddings: side is text there and media now"):
        embed(shapes, str(clip), "media", tmp_path / "out")
    with pytest.raises(RunError, match="rows_per_part is 16384 there and 7 now"):
        embed(shapes, str(clip), "text", tmp_path / "out", rows_per_part=7)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2"])
def test_a_part_that_does_not_exist_is_an_error(part: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it must be I/N, the I-th of N processes"):
        embed(tmp_path, "clip", "text", tmp_path / "out", part=part)


def test_what_is_no_folder_of_embeddings_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"not a folder of embeddings: it lacks embeddings\.json"):
        open_folder(tmp_path)
    right = {"side": "text", "num_rows": 1, "width": 1, "rows_per_part": 1}
    wrong = ({"side": "x"}, {"side": []}, {"num_rows": 0}, {"num_rows": float("inf")})
    for about in ("[]", "{}", *(json.dumps(right | part) for part in wrong)):
        (tmp_path / "embeddings.json").write_text(about)
        with pytest.raises(RunError, match=r"embeddings\.json is damaged"):
            open_folder(tmp_path)
