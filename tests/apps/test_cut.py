"""Parts of a data set with a long tail of a given imbalance."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tests_support import draw_clips, draw_shapes

from mmts.apps.cut import class_sizes, cut, largest_total, write_cut
from mmts.data.read import read_dataset
from mmts.data.records import Medium
from mmts.errors import DataError


@pytest.mark.parametrize("imbalance", [1, 10, 100])
def test_sizes_fall_by_the_imbalance_and_add_up(imbalance: float) -> None:
    sizes = class_sizes(25, imbalance, 3000)
    assert sum(sizes) == 3000
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] / sizes[-1] == pytest.approx(imbalance, rel=0.15)


@pytest.mark.parametrize("imbalance", [1, 3, 50])
@pytest.mark.parametrize("available", [[500, 40, 5], [7, 7, 7, 7], [90, 2], [12]])
def test_the_largest_total_is_the_last_that_fits(available: list[int], imbalance: float) -> None:
    def fits(total: int) -> bool:
        return all(map(int.__le__, class_sizes(len(available), imbalance, total), available))

    total = largest_total(available, imbalance)
    assert fits(total)
    assert not any(fits(more) for more in range(total + 1, sum(available) + 2))


def media() -> list[Medium]:
    """Return 32, 24, 16, 2 media of four classes."""
    classes = [name for name, size in zip("abcd", (32, 24, 16, 2), strict=True) for _ in range(size)]
    return [Medium(str(i), Path(f"{i}.png"), ("x",), {"class": name}) for i, name in enumerate(classes)]


def test_a_cut_keeps_as_many_training_media_as_asked() -> None:
    left = cut(media(), "class", 4, 3, 21)
    assert Counter(medium.labels["class"] for medium in left) == {"a": 12, "b": 6, "c": 3}
    assert [int(medium.id) for medium in left] == sorted(int(medium.id) for medium in left)
    assert cut(media(), "class", 4, 3, 21) == left
    assert Counter(medium.labels["class"] for medium in cut(media(), "class", 16)) == {"a": 32, "b": 13, "c": 5, "d": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("clas", 1), "train has no label 'clas'; did you mean 'class'"),
        (("class", 1, 5, 10), "class has 4 classes in train, fewer than --classes 5"),
        (("class", 1, 3, 60), "c has 16 training media but needs 20; lower --total"),
        (("class", 100, 4, 20), "d would keep no training media; raise --total"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(options: tuple, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cut(media(), *options)


def test_a_label_with_several_values_is_refused() -> None:
    several = Medium("both", Path("both.png"), ("x",), {"class": ["a", "b"]})
    with pytest.raises(DataError, match="medium 'both' has 2 values of class, 'a', 'b'; a cut needs a label with one"):
        cut([*media(), several], "class", 2)


def test_a_cut_is_a_data_set_with_the_queries_of_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = read_dataset(draw_shapes(tmp_path / "shapes", 60))
    write_cut(tmp_path / "shapes", tmp_path / "cut", "shape", 4, 3, 21)
    dataset = read_dataset(tmp_path / "cut")
    train = dataset.split("train").media
    assert sorted(Counter(medium.labels["shape"] for medium in train).values()) == [3, 6, 12]
    assert all(medium.path.is_file() for medium in train)
    for split in ("val", "test"):
        same = [[(each.id, each.captions) for each in data.split(split).media] for data in (dataset, whole)]
        assert same[0] == same[1]
    assert "train 21, val 10, test 7; 3 classes, from 12 training media down to 3" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="is there already"):
        write_cut(tmp_path / "shapes", tmp_path / "cut", "shape", 4, 3, 21)


def test_a_split_without_the_label_is_kept_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = draw_shapes(tmp_path / "shapes", 60)
    lines = map(json.loads, (folder / "captions.jsonl").read_text().splitlines())
    changed = [line | {"labels": {}} if line["split"] == "test" else line for line in lines]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, changed)))
    write_cut(folder, tmp_path / "cut", "shape", 4, 2, 21)
    assert [data.split_sizes["test"] for data in map(read_dataset, (folder, tmp_path / "cut"))] == [7, 7]
    assert "nothing in test has the label 'shape', so all of it is kept" in capsys.readouterr().out


def test_clips_keep_their_times_and_share_a_copy_of_their_video(tmp_path: Path) -> None:
    write_cut(draw_clips(tmp_path / "clips", "videos"), tmp_path / "cut", "noun", 2)
    whole = {medium.id: medium for medium in read_dataset(tmp_path / "clips").media}
    left = read_dataset(tmp_path / "cut").media
    assert left
    for medium in left:
        assert (medium.start, medium.end, medium.captions) == (
            whole[medium.id].start,
            whole[medium.id].end,
            whole[medium.id].captions,
        )
        assert medium.path.read_bytes() == whole[medium.id].path.read_bytes()
