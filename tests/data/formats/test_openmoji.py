import json
from collections import defaultdict
from pathlib import Path

import pytest

from mmts.data.formats import openmoji
from mmts.data.formats.openmoji import list_emoji, prepare_openmoji
from mmts.data.media.image import load_image
from mmts.data.read import read_dataset
from mmts.errors import DataError

pytest.importorskip("resvg_py")
pytest.importorskip("emoji")
pytest.importorskip("resvg_py")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[openmoji.Emoji]:
    """Let the set be small, so that drawing takes no time."""
    chosen = list_emoji()[::400]
    monkeypatch.setattr(openmoji, "list_emoji", lambda: chosen)
    return chosen


def test_3953_pairs_join_and_the_split_is_fixed():
    records = [each.record() for each in list_emoji()]
    assert len(records) == len({record["id"] for record in records}) == 3953
    splits_of = defaultdict(set)
    for record in records:
        splits_of[record["captions"][0]].add(record["split"])
    assert all(len(splits) == 1 for splits in splits_of.values())
    sizes = {name: sum(record["split"] == name for record in records) for name in ("train", "val", "test")}
    assert sizes == {"train": 3171, "val": 399, "test": 383}  # docs/datasets.md says so
    by_id = {record["id"]: record for record in records}
    assert by_id["1F600"]["captions"] == ["grinning face"]
    assert by_id["2764"]["captions"] == ["red heart"]  # the name stands under 2764-FE0F


def test_the_folder_is_a_data_set(tmp_path: Path, few: list[openmoji.Emoji]):
    folder = prepare_openmoji(tmp_path / "set", size=48)
    dataset = read_dataset(folder)
    assert [medium.captions[0] for medium in dataset.media] == [each.caption for each in few]
    assert all(load_image(medium.path).size == (48, 48) for medium in dataset.media)
    assert load_image(dataset.media[-1].path).getpixel((0, 0)) == (255, 255, 255)
    assert set(dataset.media[0].labels) == {"base", "skin_tone"}
    assert dataset.notes == ()
    assert "CC BY-SA 4.0" in (folder / "README.txt").read_text()


def test_an_interrupted_set_goes_on_where_it_stopped(
    tmp_path: Path, few: list[openmoji.Emoji], monkeypatch: pytest.MonkeyPatch
):
    draw = openmoji._draw
    monkeypatch.setattr(openmoji, "_draw", lambda pictures, folder, size: draw(pictures[:4], folder, size) or stop())

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_openmoji(tmp_path)
    assert not (tmp_path / "captions.jsonl").exists()
    (tmp_path / "images" / f"{few[1].code}.png").write_bytes(b"")  # torn off by a crash
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "images").iterdir()}
    assert len(times) == 4
    monkeypatch.setattr(openmoji, "_draw", draw)
    prepare_openmoji(tmp_path)
    kept = [name for name, time in times.items() if (tmp_path / "images" / name).stat().st_mtime_ns == time]
    assert sorted(kept) == sorted(f"{each.code}.png" for at, each in enumerate(few[:4]) if at != 1)
    assert len(list((tmp_path / "images").iterdir())) == len(few)
    assert all(load_image(medium.path) for medium in read_dataset(tmp_path).media)


def test_a_finished_set_is_left_alone_and_another_size_is_drawn_anew(tmp_path: Path, few: list[openmoji.Emoji]):
    prepare_openmoji(tmp_path, size=16)
    before = (tmp_path / "captions.jsonl").stat().st_mtime_ns
    prepare_openmoji(tmp_path, size=16)
    assert (tmp_path / "captions.jsonl").stat().st_mtime_ns == before
    prepare_openmoji(tmp_path, size=24)
    assert load_image(tmp_path / "images" / f"{few[0].code}.png").size == (24, 24)
    assert json.loads((tmp_path / "openmoji.json").read_text())["size"] == 24


def test_the_cache_is_the_usual_place(private_cache: Path, few: list[openmoji.Emoji]):
    assert prepare_openmoji(size=8) == private_cache / "openmoji"


def test_someone_elses_folder_is_not_touched(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(DataError, match="holds something else"):
        prepare_openmoji(tmp_path)
    with pytest.raises(DataError, match="cannot draw into"):
        prepare_openmoji(tmp_path / "thesis.txt")


def test_a_full_disk_is_said_plainly(tmp_path: Path, few: list[openmoji.Emoji], monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(openmoji, "_draw", full)
    with pytest.raises(DataError, match="No space left on device; the images drawn so far are kept"):
        prepare_openmoji(tmp_path)
