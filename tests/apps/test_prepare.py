import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests_support import draw_clips, draw_shards

from mmts.apps.prepare import MANIFEST, PUBLIC_SETS, READERS, prepare, write_manifest
from mmts.data.formats.captions_jsonl import read_captions_jsonl
from mmts.data.formats.coco import read_karpathy
from mmts.data.formats.youcook2 import read_youcook2
from mmts.data.records import Coverage, Dataset, Medium
from mmts.errors import DataError
from mmts.examples.sets import draw_cc3m, draw_coco, draw_ek100, draw_flickr30k, draw_youcook2

DRAW: dict[str, Callable[[Path], Path]] = {
    "flickr30k": draw_flickr30k,
    "coco": draw_coco,
    "cc3m": draw_cc3m,
    "ek100": draw_ek100,
    "youcook2": draw_youcook2,
}


@pytest.mark.parametrize("name", DRAW)
def test_a_complete_folder_gets_a_manifest_that_can_be_read_again(name: str, tmp_path: Path):
    root = DRAW[name](tmp_path)
    manifest = prepare(name, root)
    assert manifest == root / MANIFEST
    ours, read = read_captions_jsonl(manifest), READERS[name](root)
    assert tuple(ours.media) == tuple(read.media)
    assert ours.notes == ()
    left_out = [identity for identities in read.missing.values() for identity in identities]
    assert (root / "missing.txt").exists() == bool(left_out) == (name == "youcook2")
    if left_out:
        assert (root / "missing.txt").read_text().split() == left_out


def test_counts_stand_beside_the_published_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prepare("coco", draw_coco(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    assert "  found    Karpathy's splits: dataset_coco.json" in lines
    assert "split      media  published  captions  published  no file" in lines
    assert "train         24    113,287       120    566,747        0" in lines
    assert "test          10      5,000        50     25,000        0" in lines
    assert "note: 8 images of restval count as train" in lines


def test_graded_sentences_count_as_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prepare("ek100", draw_ek100(tmp_path))
    assert "test           8      9,668         7      3,842        0" in capsys.readouterr().out.splitlines()


def test_missing_files_are_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw_flickr30k(tmp_path)
    gone = [medium.path for medium in read_karpathy(tmp_path).split("test").media[:3]]
    for path in gone:
        path.unlink()
    prepare("flickr30k", tmp_path)
    out = capsys.readouterr().out
    assert "test          10      1,000        50      5,000        3" in out
    assert "no file for 3 of 38 media (7.89 %): see missing.txt" in out
    assert (tmp_path / "missing.txt").read_text().splitlines() == [f"flickr30k-images/{path.name}" for path in gone]
    assert len((tmp_path / MANIFEST).read_text().splitlines()) == 38


@pytest.mark.parametrize("name", PUBLIC_SETS)
def test_an_empty_folder_says_where_to_get_everything(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError) as caught:
        prepare(name, "data")
    out = capsys.readouterr().out
    for source in PUBLIC_SETS[name]["sources"]:
        for part in source["parts"]:
            assert (part["what"] in str(caught.value)) == part.get("required", True)
            for text in (part["what"], source["address"], part["size"], source["license"]):
                assert " ".join(text.split()) in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines()[1:])
    assert list((tmp_path / "data").iterdir()) == []


def test_only_what_is_missing_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw_coco(tmp_path)
    for image in (tmp_path / "val2014").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"lacks photos of val2014\. The lines above say where to get them"):
        prepare("coco", tmp_path)  # a folder with nothing in it counts as missing
    out = capsys.readouterr().out
    assert "val2014.zip" in out
    assert "train2014.zip" not in out
    assert "caption_datasets.zip" not in out


def test_a_name_or_folder_that_does_not_exist(tmp_path: Path):
    with pytest.raises(DataError, match=r"no public data set 'flickr' to prepare; did you mean 'flickr30k'\?"):
        prepare("flickr", tmp_path)
    with pytest.raises(DataError, match=r"nowhere does not exist. Get Karpathy's splits; photos"):
        prepare("flickr30k", tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is a file; --root is the data set's folder"):
        prepare("flickr30k", tmp_path / "file")


def test_an_error_of_the_reader_leaves_the_manifest_unchanged(tmp_path: Path):
    draw_flickr30k(tmp_path)
    (tmp_path / MANIFEST).write_text("before")
    (tmp_path / "dataset_flickr30k.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_flickr30k.json: broken JSON"):
        prepare("flickr30k", tmp_path)
    assert (tmp_path / MANIFEST).read_text() == "before"


def test_an_unreadable_path_counts_as_missing(tmp_path: Path):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    names = ("x" * 5000 + ".jpg", "loop.jpg")
    media = [Medium(name, tmp_path / name, ("a cat",), split="train") for name in names]
    assert write_manifest(Dataset("links", tmp_path, tmp_path, media), tmp_path)["train"]["absent"] == 2
    assert (tmp_path / "missing.txt").read_text().splitlines() == list(names)


def test_an_unreadable_folder_is_one_plain_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read(root: Path) -> Dataset:
        raise PermissionError(13, "Permission denied", str(root / "images"))

    monkeypatch.setitem(READERS, "flickr30k", read)
    with pytest.raises(DataError, match=r"cannot read '.*': Permission denied$"):
        prepare("flickr30k", draw_flickr30k(tmp_path))


def test_the_named_data_set_is_read_if_a_folder_has_two(tmp_path: Path):
    draw_coco(tmp_path)
    draw_flickr30k(tmp_path)
    assert len(prepare("flickr30k", tmp_path).read_text().splitlines()) == 38
    assert "COCO_" not in (tmp_path / MANIFEST).read_text()


def test_a_manifest_is_written_one_medium_at_a_time(tmp_path: Path):
    class Table:
        """A sequence that makes each medium on access; the loop may keep only the last one."""

        def __init__(self) -> None:
            self.made: list[weakref.ref[Medium]] = []

        def __len__(self) -> int:
            return 3

        def __getitem__(self, at: int) -> Medium:
            if at >= len(self):
                raise IndexError
            assert sum(reference() is not None for reference in self.made) <= 1
            medium = Medium(str(at), tmp_path / f"{at}.jpg", (f"text {at}",), split="train")
            self.made.append(weakref.ref(medium))
            return medium

    dataset = Dataset("table", tmp_path, tmp_path, Table())  # type: ignore[arg-type]
    assert write_manifest(dataset, tmp_path)["train"]["media"] == 3
    rows = [json.loads(line) for line in (tmp_path / MANIFEST).read_text().splitlines()]
    assert rows[2] == {"id": "2", "image": "2.jpg", "captions": ["text 2"], "split": "train"}


def test_coverage_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def read(root: Path) -> Dataset:
        return replace(read_karpathy(root), coverage={"test": Coverage(10, 12, 11)})

    monkeypatch.setitem(READERS, "flickr30k", read)
    prepare("flickr30k", draw_flickr30k(tmp_path))
    assert "test covers 10 of the 12 clips annotated; papers judge on 11" in capsys.readouterr().out


def test_frame_folders_pass_through_the_manifest(tmp_path: Path):
    root = draw_clips(tmp_path, "frames")
    ours = read_captions_jsonl(prepare("ek100", root))
    assert tuple(ours.media) == tuple(READERS["ek100"](root).media)
    assert ours.media[0].frames is not None


def test_shards_pass_through_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = draw_shards(tmp_path)
    ours = read_captions_jsonl(prepare("cc3m", root))
    lines = capsys.readouterr().out.splitlines()
    assert f"{'test':<6}{1:>10}{'':>11}{1:>10}{'':>11}{0:>9}" in lines  # nothing is published of such a split
    assert tuple(ours.media) == tuple(READERS["cc3m"](root).media)
    assert ours.media[0].member is not None


def test_missing_videos_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = draw_youcook2(tmp_path)
    before = read_youcook2(root)
    gone = before.split("val").media[0].path
    gone.unlink()
    prepare("youcook2", root)
    left = sum(medium.path != gone for medium in before.split("val").media)
    line = f"val covers {left} of the {before.coverage['val'].annotated} clips annotated; papers judge on 3,350"
    assert line in capsys.readouterr().out.splitlines()


def test_the_source_of_a_missing_part_is_named_if_other_parts_from_there_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = draw_ek100(tmp_path)
    (root / "retrieval_annotations" / "EPIC_100_retrieval_test_sentence.csv").unlink()
    with pytest.raises(DataError, match="sentences of test"):
        prepare("ek100", root)
    said = capsys.readouterr().out
    assert "epic-kitchens-100-annotations" in said
    assert "license: CC BY-NC 4.0" in said
