"""Making an index: what is embedded, what is left out, and how a stopped process is resumed."""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_search import make_run
from tests_support import draw_shapes

from mmts.console import console
from mmts.errors import DataError, InputError, RunError
from mmts.evaluation.run import evaluate
from mmts.search import build, build_index, index_files, open_searcher
from mmts.search.command import search
from mmts.search.index_files import load_index
from mmts.training.encoder import Encoder


def counts(output: str) -> str:
    return output.rstrip().rpartition("images; ")[2]


def test_embeddings_are_those_of_evaluate(run: Path, tmp_path: Path) -> None:
    evaluate(run, embeddings_file=tmp_path / "embeddings.npz")
    index = build_index(run, run.parent / "shapes", tmp_path / "index")
    test = [at for at, item in enumerate(index.contents.items) if int(item.id) % 6 and int(item.id) % 7 == 0]
    with np.load(tmp_path / "embeddings.npz") as stored:
        np.testing.assert_allclose(index_files.rows_of(index.vectors)[test], stored["media"], atol=1e-5)
    assert index.contents.items[test[0]].caption.startswith("a ")


def test_only_new_and_changed_files_are_embedded(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(run, photos, tmp_path / "index")
    assert counts(capsys.readouterr().out) == "12 new, 0 changed, 0 removed, 0 kept; 12 embedded"
    build_index(run, photos, tmp_path / "index")
    assert counts(capsys.readouterr().out) == "0 new, 0 changed, 0 removed, 12 kept; 0 embedded"
    (photos / "1.png").unlink()
    (photos / "2.png").rename(photos / "inner" / "2.png")  # moved: known by its contents
    Image.new("RGB", (20, 24), "orange").save(photos / "3.png")
    Image.new("RGB", (20, 24), "purple").save(photos / "new.png")
    index = build_index(run, photos, tmp_path / "index")
    assert counts(capsys.readouterr().out) == "2 new, 1 changed, 2 removed, 9 kept; 2 embedded"
    fresh = build_index(run, photos, tmp_path / "fresh")
    assert [item.path for item in index.contents.items] == [item.path for item in fresh.contents.items]
    np.testing.assert_allclose(index_files.rows_of(index.vectors), index_files.rows_of(fresh.vectors), atol=1e-6)
    assert len([*(tmp_path / "index").glob("vectors-*")]) == 1


def test_one_image_is_not_several(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "inner").rename(tmp_path / "alone")
    build_index(run, tmp_path / "alone", tmp_path / "index")
    assert ": 1 image; 1 new, 0 changed, 0 removed, 0 kept; 1 embedded" in capsys.readouterr().out


def test_copies_are_counted(run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(photos / "3.png", photos / "copy.png")
    build_index(run, photos, tmp_path / "index")
    assert counts(capsys.readouterr().out).endswith("; 12 embedded; 1 is a copy and shares its embedding")
    for number in (1, 2):
        shutil.copy(photos / "3.png", photos / "inner" / f"copy{number}.png")
    build_index(run, photos, tmp_path / "index")
    assert counts(capsys.readouterr().out).endswith("; 0 embedded; 3 are copies and share their embedding")


def test_other_columns_become_labels(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_shapes(tmp_path / "shapes", 6)
    table = "\n".join(f"images/{number}.png,shape {number},{number} EUR,\"['<a>', 'b']\"" for number in range(6))
    (tmp_path / "shapes" / "captions.jsonl").unlink()
    (tmp_path / "shapes" / "table.csv").write_text(f"filepath,caption,price,tags\n{table}\n")
    build_index(run, tmp_path / "shapes" / "table.csv", tmp_path / "index")
    content = json.loads((tmp_path / "index" / "index.json").read_text())
    assert content["version"] == 3
    labels = [{"price": f"{number} EUR", "tags": ["<a>", "b"]} for number in range(6)]
    assert [item["labels"] for item in content["items"]] == labels
    hit = open_searcher(run, tmp_path / "index").by_text("a bar", 1)[0]
    assert hit.to_json()["labels"] == hit.medium.labels == hit.item.labels != {}
    search(run, "a bar", None, k=1, folder=tmp_path / "index", page=tmp_path / "page.html")
    assert "EUR, tags: <a>, b\n" in capsys.readouterr().out
    assert "tags: <bdi>&lt;a&gt;</bdi>, <bdi>b</bdi>" in (tmp_path / "page.html").read_text()


def test_hits_carry_all_columns_and_labels_narrow_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(run, run.parent / "shapes", tmp_path / "index")
    searcher = open_searcher(run, tmp_path / "index")
    everything = searcher.by_text("a bar", 48)
    lines = [json.loads(line) for line in (run.parent / "shapes" / "captions.jsonl").read_text().splitlines()]
    source = {line["id"]: line for line in lines}
    for hit in everything:
        about = hit.to_json()
        assert {name: about[name] for name in ("id", "captions", "split", "labels")} == {
            name: source[hit.item.id][name] for name in ("id", "captions", "split", "labels")
        }
    for where, fits in {
        ("shape=bar",): lambda line: line["labels"]["shape"] == "bar",
        ("shape=bar", "shape=square"): lambda line: line["labels"]["shape"] != "stripe",
        ("shape=bar", "split=test"): lambda line: line["labels"]["shape"] == "bar" and line["split"] == "test",
    }.items():
        expected = [hit.item.id for hit in everything if fits(source[hit.item.id])]
        assert [hit.item.id for hit in searcher.by_text("a bar", 48, searcher.fitting(where))] == expected != []
    with pytest.raises(InputError, match=r"has shape='baar'; did you mean 'bar'\?"):
        searcher.fitting(["shape=baar"])
    with pytest.raises(InputError, match=r"has a label 'shap'; did you mean 'shape'\?"):
        searcher.fitting(["shap=bar"])
    with pytest.raises(InputError, match=r"a condition is LABEL=VALUE, such as 'split=.*', not 'bar'"):
        searcher.fitting(["bar"])
    capsys.readouterr()
    search(run, "a bar", None, k=2, where=["shape=bar"], as_json=True, folder=tmp_path / "index")
    printed = json.loads(capsys.readouterr().out)
    assert printed["query"] == {"text": "a bar", "where": ["shape=bar"]}
    assert [hit["labels"] for hit in printed["hits"]] == [{"shape": "bar"}] * 2
    search(run, "a bar", None, k=2, where=["shape=bar"], page=tmp_path / "page.html", folder=tmp_path / "index")
    assert "<bdi>shape=bar</bdi>" in (tmp_path / "page.html").read_text()


def test_hits_become_a_table_without_formulas(run: Path, tmp_path: Path) -> None:
    draw_shapes(tmp_path / "data", 4)
    lines = [json.loads(line) for line in (tmp_path / "data" / "captions.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {
            "captions": ["=cmd()", "ein Schuh, grün"],
            "labels": {"rank": "-5", "@x": ["+a", "b"], "price": "-5 EUR"},
        }
    del lines[0]["labels"]["price"]
    (tmp_path / "data" / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build_index(run, tmp_path / "data", tmp_path / "index")
    search(run, "a shoe", None, k=4, table=tmp_path / "hits.csv", folder=tmp_path / "index")
    text = (tmp_path / "hits.csv").read_text(encoding="utf-8")
    assert text[0] == "\ufeff"
    rows = list(csv.DictReader(io.StringIO(text[1:])))
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        assert (row["caption"], row["rank (label)"], row["'@x"]) == ("'=cmd() | ein Schuh, grün", "-5", "'+a, b")
        assert row["price"] == ("" if row["id"] == "0" else "'-5 EUR")
        assert -1 <= float(row["score"]) <= 1
    with pytest.raises(InputError, match=r"ends with \.csv, not hits\.xlsx"):
        search(run, "a shoe", None, k=4, table=Path("hits.xlsx"), folder=tmp_path / "index")
    with pytest.raises(InputError, match="--serve takes no --where"):
        search(run, None, None, k=4, port=0, where=["rank=-5"], folder=tmp_path / "index")


def test_conditions_that_nothing_meets_together_find_nothing(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_shapes(tmp_path / "data", 4)  # only number 0 is in val, and it is a square
    build_index(run, tmp_path / "data", tmp_path / "index")
    search(run, "a", None, k=4, where=["shape=bar", "split=val"], folder=tmp_path / "index", table=tmp_path / "a.csv")
    assert "nothing in the index has all of this" in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_text(encoding="utf-8-sig") == "rank\n"
    build_index(run, photos, tmp_path / "other")
    with pytest.raises(InputError, match="the index has no labels"):
        open_searcher(run, tmp_path / "other").fitting(["shape=bar"])


@pytest.mark.parametrize("width", [40, 400])
def test_hits_take_one_line_if_they_fit_and_paths_are_never_cut(
    width: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = build_index(run, run.parent / "shapes", tmp_path / "index")
    paths = {str(medium.path) for medium in index.media()}
    capsys.readouterr()
    search(run, "a red bar", None, k=3, folder=tmp_path / "index")
    piped = capsys.readouterr().out.splitlines()
    assert len(piped) == 3
    monkeypatch.setattr(type(console), "is_terminal", True)
    monkeypatch.setattr(console, "_width", width)
    monkeypatch.setenv("TERM", "xterm")  # a dumb terminal has 80 columns
    search(run, "a red bar", None, k=3, folder=tmp_path / "index")
    shown = capsys.readouterr().out.splitlines()
    assert all(line.split()[2] in paths for line in piped)
    if width == 400:
        assert shown == piped
    else:
        assert {path for _, _, path in map(str.split, shown[::3])} <= paths
        assert all(line.startswith(" " * 12) for line in shown[1::3] + shown[2::3])  # caption and labels
        assert " ".join(shown).split() == " ".join(piped).split()


def test_unreadable_files_are_named_and_links_out_of_the_folder_are_ignored(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff no")
    (photos / "notes.txt").write_text("no picture")
    (photos / "out.png").symlink_to(run.parent / "shapes" / "images" / "30.png")
    (photos / "folder").symlink_to(run.parent / "shapes" / "images")
    (photos / "inside.png").symlink_to(photos / "3.png")
    index = build_index(run, photos, tmp_path / "index")
    output = capsys.readouterr().out
    assert f"left out {photos / 'broken.jpg'}: " in output
    assert {item.path for item in index.contents.items} == {
        "inner/0.png", "inside.png", *(f"{number}.png" for number in range(1, 12)),
    }  # fmt: skip


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Embed five media at a time, stop the third time, and record how many media are embedded each time."""
    whole, sizes = Encoder.media, []

    def stops(self: Encoder, media, load=None):  # type: ignore[no-untyped-def]
        sizes.append(len(media))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return whole(self, media, load)

    monkeypatch.setattr(build, "_CHUNK", 5)
    monkeypatch.setattr(Encoder, "media", stops)
    return sizes


def test_a_stopped_index_is_resumed(
    run: Path, photos: Path, tmp_path: Path, chunks: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "0.jpg").write_bytes(b"\xff\xd8\xff no")
    with pytest.raises(KeyboardInterrupt):
        build_index(run, photos, tmp_path / "index")
    [partial] = (tmp_path / "index").glob("pending-*.partial")
    with open(partial, "ab") as file:
        file.write(b"torn")
    index = build_index(run, photos, tmp_path / "index")
    assert chunks == [5, 5, 3, 3, 1]  # the last one finds out again why 0.jpg cannot be read
    assert f"note: left out {photos / '0.jpg'}: " in capsys.readouterr().out
    assert not list((tmp_path / "index").glob("pending-*"))
    (photos / "0.jpg").unlink()
    fresh = build_index(run, photos, tmp_path / "fresh")
    np.testing.assert_allclose(index_files.rows_of(index.vectors), index_files.rows_of(fresh.vectors), atol=1e-6)


def test_a_stopped_index_is_resumed_after_files_were_added(
    run: Path, photos: Path, tmp_path: Path, chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_LAST", "")  # a group per item
    with pytest.raises(KeyboardInterrupt):
        build_index(run, photos, tmp_path / "index")
    Image.new("RGB", (20, 24), "orange").save(photos / "0.png")
    assert len(build_index(run, photos, tmp_path / "index")) == 13
    assert chunks == [1] * (3 + 11)


def test_a_stopped_index_is_not_resumed_with_another_checkpoint(
    run: Path, other_run: Path, photos: Path, tmp_path: Path, chunks: list[int]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(run, photos, tmp_path / "index")
    index = build_index(other_run, photos, tmp_path / "index")
    assert chunks == [5, 5, 2, 5, 5, 2]
    fresh = build_index(other_run, photos, tmp_path / "fresh")
    np.testing.assert_allclose(index_files.rows_of(index.vectors), index_files.rows_of(fresh.vectors), atol=1e-6)


def test_another_checkpoint_embeds_everything_again(
    run: Path, other_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(run, photos, tmp_path / "index")
    with pytest.raises(RunError, match="was made by another run, or by another checkpoint"):
        open_searcher(other_run, tmp_path / "index")
    capsys.readouterr()
    build_index(other_run, photos, tmp_path / "index")
    output = capsys.readouterr().out
    assert "was made by another checkpoint, so everything is embedded again" in output
    assert counts(output) == "0 new, 0 changed, 0 removed, 12 kept; 12 embedded"
    assert len(open_searcher(other_run, tmp_path / "index").by_text("a red bar", 3)) == 3


def test_indexing_again_repairs_a_damaged_index(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(run, photos, tmp_path / "index")
    file = next((tmp_path / "index").glob("vectors-*.safetensors"))
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"vectors-.* is damaged \(its contents have changed\)"):
        open_searcher(run, tmp_path / "index")
    build_index(run, photos, tmp_path / "index")
    assert "12 embedded" in capsys.readouterr().out
    assert len(load_index(tmp_path / "index")) == 12


def test_folders_that_are_not_an_index_and_paths_without_images_are_errors(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="which is not part of an index; choose another --out"):
        build_index(run, photos, photos)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        build_index(run, tmp_path / "empty", tmp_path / "index")
    (tmp_path / "empty" / "a.png").write_bytes(b"no")
    with pytest.raises(DataError, match="1 image found, but none can be read"):
        build_index(run, tmp_path / "empty", tmp_path / "index")
    with pytest.raises(RunError, match="is not a run directory"):
        build_index(photos, photos)


def test_frozen_towers_and_precomputed_features_can_be_searched(tmp_path: Path) -> None:
    data = draw_shapes(tmp_path / "shapes", 30)
    lines = [json.loads(line) for line in (data / "captions.jsonl").read_text().splitlines()]
    rng = np.random.default_rng(0)
    for line in lines:
        line["image"] = f"{line['id']}.npy"
        np.save(data / line["image"], rng.normal(size=8).astype(np.float32))
    (data / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = make_run(tmp_path, "model.image={tower: features}", "model.text={tower: minilm, train: head}")
    (data / "3.npy").write_bytes(b"no")
    index = build_index(run, data)
    assert len(index) == 29
    searcher = open_searcher(run)
    assert len(searcher.by_text("a red bar", 5)) == 5
    with pytest.raises(RunError, match="can only be searched by text"):
        searcher.by_file(data / "1.npy", 5)


def write_tar(folder: Path) -> None:
    with tarfile.open(folder / "backup.tar", "w") as tar:
        tar.add(folder / "1.png", "1.png")


STRAYS = {
    "backup.tar": write_tar,
    "metadata.csv": lambda folder: (folder / "metadata.csv").write_text("date,camera\n2020,x\n"),
    "metadata.jsonl": lambda folder: (folder / "metadata.jsonl").write_bytes(b"\xff\xfe no text"),
}


@pytest.mark.parametrize("name", STRAYS)
def test_a_folder_of_photos_stays_one_with_other_files_in_it(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    STRAYS[name](photos)
    assert len(build_index(run, photos, tmp_path / "index")) == 12
    assert f"note: {photos} is read as a folder of images, without '{name}'" in capsys.readouterr().out


def test_media_of_other_kinds_are_counted(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.HEIC", "b.heic", "c.dng", "d.mp4", "e.txt"):
        (photos / name).write_bytes(b"anything")
    (photos / "app.ts").write_text("export {}")
    Image.new("RGB", (20, 24), "orange").save(photos / "f.jfif", "JPEG")
    Image.new("RGB", (20, 24), "purple").save(photos / "g.avif")
    assert len(build_index(run, photos, tmp_path / "index")) == 14
    output = capsys.readouterr().out
    assert "left out 2 .heic files: HEIC is read once the package pillow-heif is installed" in output
    assert "left out 1 .dng file: raw files of cameras are not read" in output
    assert "left out 1 video: this run's model takes images" in output
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.HEIC").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"holds no images, .* \(left out 1 .heic file: HEIC"):
        build_index(run, only, tmp_path / "other")
