import gzip
import io
import tarfile
from pathlib import Path

import pytest
from tests_support import draw_shards, load_pixels

from mmts.data.formats import cc3m, pair_index
from mmts.data.formats.cc3m import looks_like_cc3m, read_cc3m
from mmts.data.records import Dataset, Medium
from mmts.errors import DataError
from mmts.examples.drawing import picture, write_image
from mmts.examples.sets import draw_cc3m

TRAIN, VAL = "Train_GCC-training.tsv", "Validation_GCC-1.1.0-Validation.tsv"


def write_tsv(folder: Path, *captions: str, name: str = TRAIN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(f"{each}\thttp://x/{at}\n" for at, each in enumerate(captions)))
    return folder


def draw(*paths: Path) -> None:
    """Draw images; a suffix that Pillow doesn't know gets a JPEG's contents."""
    for path in paths:
        drawn = path.parent / "drawn.jpg"
        write_image(drawn, picture("red", "square", width=16, height=12))
        drawn.rename(path)


def rows(dataset: Dataset) -> dict[str, str]:
    return {medium.id: str(medium.path.relative_to(dataset.root)) for medium in dataset.media}


# --- layout ----------------------------------------------------------------------------------------------------------


def test_the_official_files_with_failed_downloads(tmp_path: Path):
    dataset = read_cc3m(draw_cc3m(tmp_path))
    assert looks_like_cc3m(tmp_path)
    assert dataset.split_sizes == {"train": 26, "val": 7}
    assert dataset.notes == ("left out 5 pairs without an image file (failed downloads)",)
    lines = (tmp_path / TRAIN).read_text().splitlines()
    split = dataset.split("train")
    for medium in split.media:
        row = int(medium.path.stem)
        assert medium.id == f"train-{row}"
        assert medium.captions == (lines[row].split("\t")[0],)
        assert load_pixels(medium.path, 8, member=medium.member).shape == (3, 8, 8)
    assert "train-6" not in rows(dataset)
    assert split.shard_sizes is None


@pytest.mark.parametrize(
    "name",
    [
        "training/2.jpg",
        "training/000000002.JPEG",
        "training/00000/000000002.png",
        "training/a/b/02.webp",
        "training/2_3890171219",
        "training/2_3890171219.jpg",
        "images/2.jpg",
        "Train_GCC-training/2.jpg",
    ],
)
def test_where_an_image_may_lie(tmp_path: Path, name: str):
    write_tsv(tmp_path, "zero", "one", "two")
    draw(tmp_path / name)
    for other in ("2.txt", "1.json", "x1.jpg", "-1.jpg", "1.jpg.part", "00000_stats.json"):
        (tmp_path / name).with_name(other).write_text("{}")
    dataset = read_cc3m(tmp_path)
    assert rows(dataset) == {"train-2": name}
    assert dataset.media[0].captions == ("two",)


def test_only_the_validation_file(tmp_path: Path):
    write_tsv(tmp_path, "zero", name=VAL)
    draw(tmp_path / "validation/0.jpg")
    assert read_cc3m(tmp_path).split_sizes == {"val": 1}


def test_a_header_is_no_row_and_quotes_mean_nothing(tmp_path: Path):
    (tmp_path / TRAIN).write_text('caption\turl\n"a cat\thttp://x/0\nthe " dog\thttp://x/1\r\n', newline="")
    draw(tmp_path / "training/0.jpg", tmp_path / "training/1.jpg")
    assert list(read_cc3m(tmp_path).split("train").captions) == ['"a cat', 'the " dog']


def test_a_folder_of_shards(tmp_path: Path):
    dataset = read_cc3m(draw_shards(tmp_path / "plain"))
    assert sum(dataset.split_sizes.values()) == 31
    write_tsv(tmp_path / "both", "zero")
    draw_shards(tmp_path / "both" / "training")
    assert read_cc3m(tmp_path / "both").split_sizes == {"train": 31}


def test_rows_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cc3m, "_ROWS", 3)
    write_tsv(tmp_path, *map(str, range(8)))
    draw(*(tmp_path / f"training/{row}.jpg" for row in (0, 2, 3, 7)))
    dataset = read_cc3m(tmp_path)
    assert {medium.id: medium.captions[0] for medium in dataset.media} == {
        f"train-{row}": f"{row}" for row in (0, 2, 3, 7)
    }
    assert dataset.notes == ("left out 4 pairs without an image file (failed downloads)",)


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"no tab at all", r"line 2: a row is a caption, a tab and an address, and not 'no tab"),
        (b"", r"line 2 is blank; images are named by their row, so none may be skipped"),
        (b" \r\n\n", r"line 2 is blank"),
        (b"http://x/1\tone", r"line 2: a row is a caption, a tab and an address, and not 'http"),
        (b"a\tb\tc", r"line 2: .* and not 'a.*tb"),
        (b"a\t ", r"line 2: .* and not 'a"),
        (b"\xff\thttp://x", r"line 2: byte 1 is not UTF-8"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, line: bytes, message: str):
    draw(tmp_path / "training/0.jpg")
    (tmp_path / TRAIN).write_bytes(b"zero\thttp://x/0\n" + line + b"\ntwo\thttp://x/2\n")
    with pytest.raises(DataError, match=rf"Train_GCC-training\.tsv, {message}"):
        read_cc3m(tmp_path)


def test_blank_lines_at_the_end_mean_nothing(tmp_path: Path):
    draw(tmp_path / "training/0.jpg")
    (tmp_path / TRAIN).write_bytes(b"zero\thttp://x/0\n\r\n  \n")
    assert rows(read_cc3m(tmp_path)) == {"train-0": "training/0.jpg"}


def test_a_caption_may_be_an_address(tmp_path: Path):
    draw(tmp_path / "training/0.jpg")
    (tmp_path / TRAIN).write_text("http://a cat\thttp://x/0\n")
    assert read_cc3m(tmp_path).media[0].captions == ("http://a cat",)


def test_a_longer_file_than_the_official_one_is_not_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cc3m, "PARTS", tuple(part._replace(num_rows=1) for part in cc3m.PARTS))
    write_tsv(tmp_path, "zero")
    draw(tmp_path / "training/1.jpg")
    with pytest.raises(DataError, match=r"tsv has 1 rows, and the official file 1: training/1\.jpg would be"):
        read_cc3m(tmp_path)


def test_a_compressed_file_says_so(tmp_path: Path):
    write_tsv(tmp_path, "zero")
    draw(tmp_path / "training/0.jpg")
    (tmp_path / TRAIN).write_bytes(gzip.compress((tmp_path / TRAIN).read_bytes()))
    with pytest.raises(DataError, match=r"Train_GCC-training\.tsv is compressed with gzip; unpack it"):
        read_cc3m(tmp_path)


def test_images_that_cannot_be_placed(tmp_path: Path):
    write_tsv(tmp_path, "zero", "one")
    with pytest.raises(
        DataError, match=r"the images of Train_GCC-training\.tsv are missing; they lie in a folder train"
    ):
        read_cc3m(tmp_path)
    (tmp_path / "training").mkdir()
    with pytest.raises(DataError, match=r"training: no image in it is named by the number of its row"):
        read_cc3m(tmp_path)
    draw(tmp_path / "training/1.jpg", tmp_path / "training/2.jpg")
    with pytest.raises(
        DataError,
        match=r"Train.*tsv has 2 rows, and the official file 3,318,333: training/2\.jpg "
        "would be the image of row 2 counted from 0",
    ):
        read_cc3m(tmp_path)
    (tmp_path / "training/2.jpg").rename(tmp_path / "training/01.png")
    with pytest.raises(DataError, match=r"are both the image of row 1"):
        read_cc3m(tmp_path)


def test_the_wrong_path(tmp_path: Path):
    write_tsv(tmp_path / "cc3m", "zero")
    with pytest.raises(DataError, match=r"cannot read .*Train_GCC-training\.tsv: Not a directory"):
        read_cc3m(tmp_path / "cc3m" / TRAIN)
    assert not looks_like_cc3m(tmp_path)
    with pytest.raises(DataError, match=r"neither Train_GCC-training\.tsv nor Validation.* is in it, and no shards"):
        read_cc3m(tmp_path)


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path):
    write_tsv(tmp_path, "zero", "one", "two")
    draw(tmp_path / "training/0.jpg")
    (tmp_path / "training/1.jpg").write_text("<html>not found</html>")
    dataset = read_cc3m(tmp_path)
    assert list(rows(dataset)) == ["train-0"]
    note = next(note for note in dataset.notes if "decoded" in note)
    assert note.startswith("left out 1 pair whose image cannot be decoded")
    assert Path(note.partition("named in ")[2]).read_text() == (
        f"{tmp_path}/training/1.jpg\tis not an image that Pillow can read\n"
    )


def test_a_disk_that_fails_is_not_remembered_as_a_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_tsv(tmp_path, "zero")
    draw(tmp_path / "training/0.jpg")
    check = pair_index.why_unreadable

    def away(medium: Medium) -> str | None:
        (tmp_path / "training").rename(tmp_path / "away")
        return check(medium)

    with monkeypatch.context() as patched:
        patched.setattr(pair_index, "why_unreadable", away)
        with pytest.raises(DataError, match=r"cannot read .*0\.jpg: No such file"):
            read_cc3m(tmp_path)
    (tmp_path / "away").rename(tmp_path / "training")
    assert list(rows(read_cc3m(tmp_path))) == ["train-0"]


# --- the index -------------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded while an index is made."""
    names: list[str] = []
    check = pair_index.why_unreadable
    monkeypatch.setattr(pair_index, "why_unreadable", lambda medium: names.append(medium.path.name) or check(medium))
    return names


def test_only_what_has_changed_is_decoded_again(tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cc3m, "_ROWS", 2)
    write_tsv(tmp_path, *"abcdef")
    draw(*(tmp_path / f"training/{row}.jpg" for row in (0, 1, 2, 4)))
    read_cc3m(tmp_path)
    assert sorted(decoded) == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
    decoded.clear()
    read_cc3m(tmp_path)
    assert decoded == []
    draw(tmp_path / "training/5.jpg")  # a download more: rows 4 and 5 are one piece
    assert list(rows(read_cc3m(tmp_path))) == [f"train-{row}" for row in (0, 1, 2, 4, 5)]
    assert sorted(decoded) == ["4.jpg", "5.jpg"]
    decoded.clear()
    (tmp_path / "training/1.jpg").unlink()
    assert list(rows(read_cc3m(tmp_path))) == [f"train-{row}" for row in (0, 2, 4, 5)]
    assert decoded == ["0.jpg"]
    decoded.clear()
    write_tsv(tmp_path, *"abXdef")
    assert read_cc3m(tmp_path).media[1].captions == ("X",)
    assert decoded == ["2.jpg"]


def test_an_interrupt_keeps_the_pieces_done(tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cc3m, "_ROWS", 2)
    write_tsv(tmp_path, *"abcd")
    draw(*(tmp_path / f"training/{row}.jpg" for row in range(4)))
    counting = pair_index.why_unreadable

    def interrupt(medium: Medium) -> str | None:
        if medium.path.name == "2.jpg":
            raise KeyboardInterrupt
        return counting(medium)

    with monkeypatch.context() as patched:
        patched.setattr(pair_index, "why_unreadable", interrupt)
        with pytest.raises(KeyboardInterrupt):
            read_cc3m(tmp_path)
    decoded.clear()
    assert len(read_cc3m(tmp_path).media) == 4
    assert sorted(decoded) == ["2.jpg", "3.jpg"]


def test_the_two_examples_are_in_the_public_format(tmp_path: Path):
    folder = draw_cc3m(tmp_path / "files")
    for name in (TRAIN, VAL):
        for line in (folder / name).read_text().splitlines():
            caption, address = line.split("\t")
            assert caption
            assert address.startswith("http")
    shards = draw_shards(tmp_path / "shards")
    with tarfile.open(shards / "00001.tar") as archive:
        names = archive.getnames()
        assert names[:3] == ["000010000.jpg", "000010000.json", "000010000.txt"]
        assert "000010001.jpg" not in names  # row 13 of 36: a failed download
        member = archive.extractfile(names[0])
        assert member is not None
        assert io.BytesIO(member.read()).getvalue()[:3] == b"\xff\xd8\xff"


def test_a_folder_named_like_an_image_is_a_folder(tmp_path: Path):
    root = write_tsv(tmp_path, "a cat", "a dog")
    for folder in ("2021_12", "3_1"):
        (root / "training" / folder).mkdir(parents=True)
    draw(root / "training/2021_12/0.jpg", root / "training/3_1/1.jpg")
    assert rows(read_cc3m(root)) == {"train-0": "training/2021_12/0.jpg", "train-1": "training/3_1/1.jpg"}


def test_shards_beside_the_tsv_are_read_and_that_is_said(tmp_path: Path):
    draw_shards(tmp_path)
    write_tsv(tmp_path, "a cat")
    assert "the shards in it are read, and not Train_GCC-training.tsv with the images" in read_cc3m(tmp_path).notes


# --- images and rows that do not fit ---------------------------------------------------------------------------------


def draw_numbered(folder: Path, numbers: range, captions: list[str | None]) -> None:
    (folder / "training").mkdir()
    draw(*(folder / "training" / f"{number}.jpg" for number in numbers))
    for number, caption in zip(numbers, captions, strict=True):
        if caption is not None:
            (folder / "training" / f"{number}.txt").write_text(caption)


def test_images_counted_from_one_are_found_by_their_own_captions(tmp_path: Path):
    write_tsv(tmp_path, *(f"Row {at}" for at in range(8)))
    draw_numbered(tmp_path, range(1, 8), [f"row {at} " for at in range(7)])  # the last row was not downloaded
    with pytest.raises(DataError, match=r"7 of 7 images have .* that of training/1\.jpg is the caption of row 0"):
        read_cc3m(tmp_path)


@pytest.mark.parametrize(
    "captions",
    [
        ["row 0", "ROW  1", "row 2\n"],
        [None, None, None],
        ["written by a model", "another", "a third"],
        ["the same", "row 1", "row 2"],  # the caption of rows 0 and 3
    ],
)
def test_captions_beside_images_that_fit_or_are_something_else(tmp_path: Path, captions: list[str | None]):
    first = "the same" if captions[0] == "the same" else "row 0"
    write_tsv(tmp_path, first, "row 1", "row 2", "the same")
    draw_numbered(tmp_path, range(3), captions)
    assert [medium.captions[0] for medium in read_cc3m(tmp_path).media] == [first, "row 1", "row 2"]


def test_images_counted_from_one_without_captions_beside_them(tmp_path: Path):
    write_tsv(tmp_path, *(f"row {at}" for at in range(4)))
    draw_numbered(tmp_path, range(1, 5), [None] * 4)
    with pytest.raises(DataError, match=r"4\.jpg would be the image of row 4 .* Image 0 is missing: these seem to be"):
        read_cc3m(tmp_path)
