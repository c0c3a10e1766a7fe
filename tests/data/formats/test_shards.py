import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch
import webdataset
from PIL import Image
from tests_support import draw_shards, load_pixels

from mmts.data.formats import pair_index, shards
from mmts.data.formats.parts import files_in
from mmts.data.formats.shards import read_shards
from mmts.data.media.image import load_image
from mmts.data.media.load import load_medium
from mmts.data.records import Dataset, Medium
from mmts.errors import DataError

CC12M = Path(__file__).parents[4] / "shared/data/captions/cc12m_sample.tar"


def image(colour: str = "red", kind: str = "JPEG") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 12), colour).save(data, kind)
    return data.getvalue()


def write_tar(path: Path, files: dict[str, bytes | str]) -> Path:
    """Write files into a tar in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pairs(path: Path, *keys: str) -> Path:
    """Write a shard of plain samples."""
    files = {f"{key}.{suffix}": data for key in keys for suffix, data in (("jpg", image()), ("txt", f"picture {key}"))}
    return write_tar(path, files)


def ids(dataset: Dataset, split: str | None = None) -> list[str]:
    media = dataset.media if split is None else dataset.split(split).media
    return [medium.id for medium in media]


# --- what is in a shard ----------------------------------------------------------------------------------------------


def assert_as_webdataset_reads(dataset: Dataset, tars: list[Path]) -> int:
    theirs = list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False))
    assert ids(dataset) == [sample["__key__"] for sample in theirs]
    for medium, sample in zip(dataset.media, theirs, strict=True):
        assert medium.captions == (sample["txt"].decode().strip(),)
        assert medium.member is not None
        offset, length = medium.member
        assert medium.path.read_bytes()[offset : offset + length] == sample["jpg"]
    return len(theirs)


def test_the_same_samples_as_the_webdataset_library(tmp_path: Path):
    folder = draw_shards(tmp_path / "shards")
    assert assert_as_webdataset_reads(read_shards(folder), sorted(folder.glob("*.tar"))) == 31


@pytest.mark.skipif(not CC12M.is_file(), reason="no sample of CC12M here")
def test_real_pairs_of_cc12m():
    dataset = read_shards(CC12M)
    assert assert_as_webdataset_reads(dataset, [CC12M]) == 32
    assert dataset.media[0].captions == ("Red Square is a city square in Moscow, Russia.",)
    assert load_image(dataset.media[0].path, member=dataset.media[0].member).size == (512, 512)


def test_an_image_comes_back_as_from_a_file(tmp_path: Path):
    (tmp_path / "alone.jpg").write_bytes(image("blue"))
    medium = read_shards(write_tar(tmp_path / "0.tar", {"a.jpg": image("blue"), "a.txt": "x"})).media[0]
    assert torch.equal(load_pixels(medium.path, 8, member=medium.member), load_pixels(tmp_path / "alone.jpg", 8))


def test_what_a_sample_may_look_like(tmp_path: Path):
    tar = write_tar(
        tmp_path / "0.tar",
        {
            "a.JPG": image(),
            "a.txt": "  a caption\n",
            "deep/b.png": image(kind="PNG"),
            "deep/b.json": json.dumps({"caption": "from json", "status": "success"}),
            "c.cls": "3",
            "c.txt": "\ufeffwith a mark",
            "c.webp": image("blue", "WEBP"),
            "d.jpg": image("green"),
            "other.cls": "files that are not read may be in between",
            "d.png": image(kind="PNG"),
            "d.txt": "the text counts",
            "d.json": json.dumps({"caption": "and this does not"}),
            "__MACOSX": "",
            "._d.jpg": "resource fork",
        },
    )
    dataset = read_shards(tar)
    assert {medium.id: medium.captions[0] for medium in dataset.media} == {
        "a": "a caption",
        "deep/b": "from json",
        "c": "with a mark",
        "d": "the text counts",
    }
    chosen = dataset.media[3]
    assert load_image(chosen.path, member=chosen.member).getpixel((0, 0))[1] > 100  # the jpg, green
    assert dataset.notes[0] == "cleaned the captions of 1 pair of control characters, broken characters or outer spaces"


def test_what_is_left_out_is_counted(tmp_path: Path):
    tar = write_tar(
        tmp_path / "0.tar",
        {
            "a.jpg": image(),
            "a.txt": "good",
            "b.txt": "no image",
            "c.jpg": image(),
            "d.jpg": image(),
            "d.txt": " \n",
            "e.json": json.dumps({"status": "failed_to_download", "caption": "x"}),
            "f.jpg": image(),
            "f.json": json.dumps({"status": "failed_to_resize", "caption": "x"}),
            "g.jpg": image(),
            "g.txt": b"\xff\xfe",
            "h.jpg": image(),
            "h.json": "{broken",
            "i.jpg": image(),
            "i.json": "[1]",
            "j.jpg": image()[:300],
            "j.txt": "cut off",
            "k.jpg": "<html>",
            "k.txt": "a page",
        },
    )
    dataset = read_shards(tar)
    assert ids(dataset) == ["a"]
    assert dataset.empty_captions == 2
    assert sorted(note.partition("; ")[0] for note in dataset.notes[:-1]) == [
        "left out 1 pair with a caption that is not UTF-8",
        "left out 1 pair without an image",
        "left out 2 pairs whose download failed",
        "left out 2 pairs whose image cannot be decoded",
        "left out 2 pairs with a broken json",
        "left out 2 pairs without a caption",
    ]
    named = next(note for note in dataset.notes if "decoded" in note).partition("named in ")[2]
    cut, page = Path(named).read_text().splitlines()
    assert cut.startswith(f"{tar}, sample j\tcannot be decoded: ")
    assert page == f"{tar}, sample k\tis not an image that Pillow can read"


def test_a_second_dot_in_a_name_is_counted(tmp_path: Path):
    files = {
        "a.jpg": image(),
        "a.mask.png": image(),  # adds to the sample a
        "a.txt": "x",
        "b.1.jpg": image(),
        "b.1.txt": "y",
        "b.2.jpg": image(),
        "c.1.0.JPG": image(),
    }
    dataset = read_shards(write_tar(tmp_path / "0.tar", files))
    assert ids(dataset) == ["a"]
    assert dataset.notes[0] == (
        "left out 3 pairs whose file name has a second dot (webdataset ends the key at the first)"
    )


def test_an_empty_text_falls_back_to_the_json(tmp_path: Path):
    files = {"a.jpg": image(), "a.txt": " \n", "a.json": json.dumps({"caption": "from json"})}
    assert read_shards(write_tar(tmp_path / "0.tar", files)).media[0].captions == ("from json",)


def test_nothing_left_says_why(tmp_path: Path):
    with pytest.raises(DataError, match=r"0\.tar: no image with a caption in it \(left out 1 pair without an image\)"):
        read_shards(write_tar(tmp_path / "0.tar", {"a.txt": "x"}))


# --- which shards ----------------------------------------------------------------------------------------------------


def test_every_way_to_name_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for at in range(3):
        pairs(tmp_path / f"s-{at:02d}.tar", f"k{at}")
    (tmp_path / "._s-00.tar").write_text("of a Mac")
    monkeypatch.chdir(tmp_path)
    everything = ["k0", "k1", "k2"]
    assert ids(read_shards(tmp_path)) == everything
    assert ids(read_shards("s-{00..02}.tar")) == everything
    assert ids(read_shards("s-*.tar")) == everything
    assert ids(read_shards(tmp_path / "s-{00,02}.tar")) == ["k0", "k2"]
    assert ids(read_shards("s-01.tar")) == ["k1"]
    assert files_in(tmp_path, ".tar")
    assert not files_in(tmp_path.parent, ".tar")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s-{0..3}.tar", r"2 of the 4 files are missing, first .*s-1\.tar"),
        ("s-*.tgz.tar", "there is no such file"),
        ("none.tar", "there is no such file"),
        ("s-{0..3.tar", "a brace is not closed"),
        ("s-{0..3}}.tar", "a brace is not closed"),
        ("s-{0..999999}.tar", "names more than 100,000 files"),
        ("s-{1..1000000000000}.tar", "names more than 100,000 files"),
        ("s-{0..999}{a,{b,c{0..99}}}.tar", "names more than 100,000 files"),
        ("s-{0..9999}{a..z..2}.tar", "names more than 100,000 files"),
        ("s-{0,0}.tar", r"names the file .*s-0\.tar more than once"),
        ("s-{0,*}.tar", r"names the file .*s-0\.tar more than once"),
        ("s-{0..9}{a,{b,c{0..99}}}.tar", "1,020 of the 1,020 files are missing"),
        ("s-{0..1000000..500000}.tar", "of the 3 files are missing"),
        ("empty", "no .tar files in it, nor in folders named train, val and test"),
    ],
)
def test_shards_that_are_not_there(tmp_path: Path, path: str, message: str):
    (tmp_path / "empty").mkdir()
    for at in (0, 2):
        pairs(tmp_path / f"s-{at}.tar", f"k{at}")
    with pytest.raises(DataError, match=message):
        read_shards(tmp_path / path)


def test_folders_and_names_say_the_split(tmp_path: Path):
    pairs(tmp_path / "a/train/0.tar", "1", "2")
    pairs(tmp_path / "a/validation/0.tar", "3")
    pairs(tmp_path / "b/cc3m-train-0000.tar", "4")
    pairs(tmp_path / "b/cc3m-validation-0000.tar", "5")
    by_folder, by_name = read_shards(tmp_path / "a"), read_shards(tmp_path / "b")
    assert by_folder.split_sizes == {"train": 2, "val": 1}
    assert (ids(by_name, "train"), ids(by_name, "val")) == (["4"], ["5"])
    assert by_folder.notes == by_name.notes == ()
    assert by_folder.root == tmp_path / "a"
    assert [medium.path for medium in by_folder.media] == [
        *[tmp_path / "a/train/0.tar"] * 2,
        tmp_path / "a/validation/0.tar",
    ]


def test_splits_must_be_of_all_or_none(tmp_path: Path):
    pairs(tmp_path / "train-0.tar", "1")
    pairs(tmp_path / "0.tar", "2")
    with pytest.raises(DataError, match=r"train-0\.tar is named as part of train, and 0\.tar has no split in its name"):
        read_shards(tmp_path)
    pairs(tmp_path / "val/0.tar", "2")
    with pytest.raises(DataError, match=r"holds .tar files itself and in the folder val"):
        read_shards(tmp_path)


def test_without_splits_the_key_decides_and_it_is_said(tmp_path: Path):
    pairs(tmp_path / "0.tar", *map(str, range(30)))
    dataset = read_shards(tmp_path)
    assert sum(dataset.split_sizes.values()) == 30
    assert dataset.notes[-1].startswith(
        "the data has no splits: divided 80/10/10 by a hash of each medium's id (train 2"
    )
    assert "1" in ids(dataset, "test")
    assert "2" in ids(dataset, "train")


# --- damage ----------------------------------------------------------------------------------------------------------


def test_a_compressed_shard(tmp_path: Path):
    tar = pairs(tmp_path / "0.tar", "1")
    tar.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(DataError, match=r"0\.tar is compressed with gzip; unpack it"):
        read_shards(tar)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, at: b"", "is damaged at byte 0: empty file"),
        (lambda data, at: b"<html>" * 500, "is damaged at byte 0"),
        (lambda data, at: data[: at - 100], "is damaged at byte"),
        (lambda data, at: data[:at], "is damaged or cut off at byte {at:,}: no file begins or ends there"),
        (lambda data, at: data[: at + 100], "is damaged or cut off at byte {at:,}"),
        (lambda data, at: data[:at] + b"x" * 512 + data[at + 512 :], "is damaged or cut off at byte {at:,}"),
    ],
)
def test_a_damaged_shard_names_itself_and_the_byte(tmp_path: Path, change: Callable[[bytes, int], bytes], message: str):
    pairs(tmp_path / "0.tar", "1")
    tar = pairs(tmp_path / "1.tar", "2", "3")
    with tarfile.open(tar) as archive:
        third = archive.getmember("3.jpg").offset
    tar.write_bytes(change(tar.read_bytes(), third))
    with pytest.raises(DataError, match=rf"1\.tar {message.format(at=third)}"):
        read_shards(tmp_path)


@pytest.mark.parametrize(
    ("field", "headers", "why"),
    [
        (b"\x80" + b"\x7f" * 11, {}, "the file there does not end within the tar's 10,240 bytes"),
        (b"77777777777\0", {}, "the file there does not end within"),
        (None, {"size": "99999999999999999999999"}, "the file there does not end within"),
        (None, {"size": "-100000"}, "the file there does not end within"),
        (None, {"GNU.sparse.map": "0,5,x", "GNU.sparse.size": "1099511627776"}, "its header cannot be right"),
    ],
)
def test_numbers_in_a_header_that_cannot_be(tmp_path: Path, field: bytes | None, headers: dict[str, str], why: str):
    member = tarfile.TarInfo("a.jpg")
    member.pax_headers = headers
    with tarfile.open(tmp_path / "0.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    if field is not None:
        data = bytearray((tmp_path / "0.tar").read_bytes())
        data[124:136], data[148:156] = field, b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        (tmp_path / "0.tar").write_bytes(data)
    with pytest.raises(DataError, match=rf"0\.tar is damaged at byte 0: {why}"):
        read_shards(tmp_path)


def test_files_of_one_key_stand_together(tmp_path: Path):
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": image(), "b.jpg": image(), "a.txt": "x", "b.txt": "y"})
    with pytest.raises(
        DataError, match=r"0\.tar, byte \d+: 'a\.txt' is not next to the earlier files of its key; keep the files"
    ):
        read_shards(tar)


def test_a_key_in_two_shards(tmp_path: Path):
    pairs(tmp_path / "0.tar", "1", "2")
    pairs(tmp_path / "1.tar", "3", "2")
    for _ in range(2):  # the error is not remembered as a data set
        with pytest.raises(DataError, match=r"1\.tar: the id '2' is there already, in .*0\.tar"):
            read_shards(tmp_path)


def test_a_file_twice_in_one_sample(tmp_path: Path):
    tar = tmp_path / "0.tar"
    with tarfile.open(tar, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(DataError, match=r"0\.tar, byte 1024: 'a\.jpg' is there twice in a row"):
        read_shards(tar)


# --- the index -------------------------------------------------------------------------------------------------------


def test_every_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    decoded: list[str] = []
    check = pair_index.why_unreadable
    monkeypatch.setattr(pair_index, "why_unreadable", lambda medium: decoded.append(medium.path.name) or check(medium))
    for at in range(2):
        pairs(tmp_path / f"{at}.tar", f"a{at}", f"b{at}")
    read_shards(tmp_path)
    assert sorted(decoded) == ["0.tar", "0.tar", "1.tar", "1.tar"]
    decoded.clear()
    read_shards(tmp_path)
    read_shards(tmp_path / "1.tar")
    assert decoded == []
    pairs(tmp_path / "2.tar", "c")
    pairs(tmp_path / "1.tar", "d", "e", "f")
    assert ids(read_shards(tmp_path)) == ["a0", "b0", "d", "e", "f", "c"]
    assert sorted(decoded) == ["1.tar"] * 3 + ["2.tar"]


def test_an_interrupt_loses_one_shard_at_most(tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch):
    for at in range(3):
        pairs(tmp_path / f"{at}.tar", f"a{at}")
    check = pair_index.why_unreadable

    def interrupt(medium: Medium) -> str | None:
        if medium.path.name == "2.tar":
            raise KeyboardInterrupt
        return check(medium)

    monkeypatch.setattr(pair_index, "why_unreadable", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_shards(tmp_path)
    kept = [json.loads(file.read_text()) for file in (private_cache / "shards").glob("*.json")]
    assert sorted(piece["pairs"][0][0] for piece in kept) == ["a0", "a1"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path, private_cache: Path):
    left = private_cache / "shards" / ".all-0123.abc"
    left.mkdir(parents=True)
    (left / "texts").write_bytes(b"half")
    read_shards(pairs(tmp_path / "0.tar", "1"))
    assert not left.exists()
    assert not list((private_cache / "shards").glob("*.lock"))


def test_a_lock_file_that_an_earlier_version_left_is_nobodys(tmp_path: Path, private_cache: Path) -> None:
    (private_cache / "shards").mkdir(parents=True, exist_ok=True)
    (private_cache / "shards" / "lock").touch()
    assert len(read_shards(pairs(tmp_path / "0.tar", "a", "b").parent).media) == 2


def test_of_two_processes_one_does_the_work(tmp_path: Path, private_cache: Path, capsys: pytest.CaptureFixture[str]):
    pairs(tmp_path / "0.tar", "1")
    read: list[Dataset] = []
    other = Thread(target=lambda: read.append(read_shards(tmp_path)))  # a thread waits like a process
    with pair_index.alone(private_cache / "shards"):
        other.start()
        other.join(0.6)
        assert read == []
    other.join()
    assert ids(read[0]) == ["1"]
    assert "waiting: " in capsys.readouterr().err


def test_where_there_is_no_room_for_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMTS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot write the index"):
        read_shards(pairs(tmp_path / "0.tar", "1"))


def test_a_shard_that_may_not_be_read(tmp_path: Path):
    tar = pairs(tmp_path / "0.tar", "1")
    tar.chmod(0)
    if os.access(tar, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match=r"cannot read .*0\.tar: Permission denied"):
        read_shards(tar)


def test_an_id_that_stands_twice_leaves_no_index_behind(tmp_path: Path):
    pairs(tmp_path / "0.tar", "1", "2")
    pairs(tmp_path / "1.tar", "2", "3")
    for _ in range(2):  # the second time too
        with pytest.raises(DataError, match="the id '2' is there already"):
            read_shards(tmp_path)


def test_a_finished_index_is_opened_while_another_is_made(tmp_path: Path, private_cache: Path):
    pairs(tmp_path / "0.tar", "1", "2")
    read_shards(tmp_path)
    with pair_index.alone(private_cache / "shards"):
        assert read_shards(tmp_path).whole().num_media == 2


def test_one_damaged_shard_among_ten_is_named_and_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = [pairs(tmp_path / "shards" / f"{number}.tar", f"{number}a", f"{number}b") for number in range(10)]
    whole = tars[6].read_bytes()
    tars[6].write_bytes(whole[:1000] + b"\xff" * 3000 + whole[4000:])
    with pytest.raises(DataError, match=r"6\.tar is damaged .* byte \d+"):
        read_shards(tmp_path / "shards")
    tars[6].write_bytes(whole)
    scanned = []
    members = shards._members
    monkeypatch.setattr(shards, "_members", lambda tar: scanned.append(tar.name) or members(tar))
    assert len(read_shards(tmp_path / "shards").media) == 20
    assert scanned == ["6.tar", "7.tar", "8.tar", "9.tar"]


def test_a_shard_damaged_after_it_was_indexed_is_named_where_it_is_read(tmp_path: Path) -> None:
    tars = [pairs(tmp_path / "shards" / f"{number}.tar", f"{number}a") for number in range(10)]
    medium = read_shards(tmp_path / "shards").media[4]
    tars[4].write_bytes(tars[4].read_bytes()[:700])
    with pytest.raises(DataError, match=r"4\.tar, byte \d+: "):
        load_image(medium.path, member=medium.member)
    with pytest.raises(DataError, match=rf"4\.tar, sample {medium.id}: "):
        load_medium(medium, 32)


# --- links and names of splits ---------------------------------------------------------------------------------------


def add_link(path: Path, name: str, target: str, kind: bytes) -> None:
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)


def test_a_hard_link_is_the_file_before_it(tmp_path: Path):
    tar = write_tar(tmp_path / "0.tar", {"a.jpg": image("blue"), "a.txt": "x"})
    add_link(tar, "b.jpg", "a.jpg", tarfile.LNKTYPE)
    add_link(tar, "b.txt", "a.txt", tarfile.LNKTYPE)
    add_link(tar, "c.jpg", "b.jpg", tarfile.LNKTYPE)  # a link to a link
    add_link(tar, "c.txt", "a.txt", tarfile.LNKTYPE)
    dataset = read_shards(tar)
    assert ids(dataset) == ["a", "b", "c"]
    assert len({medium.member for medium in dataset.media}) == 1


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("a.jpg", tarfile.SYMTYPE),
        ("/etc/passwd", tarfile.SYMTYPE),
        ("/etc/passwd", tarfile.LNKTYPE),
        ("../outside.jpg", tarfile.LNKTYPE),
        ("b.jpg", tarfile.LNKTYPE),  # itself
    ],
)
def test_other_links_are_left_out_with_the_reason(tmp_path: Path, target: str, kind: bytes):
    (tmp_path / "outside.jpg").write_bytes(image())
    tar = write_tar(tmp_path / "in" / "0.tar", {"a.jpg": image("blue"), "a.txt": "x", "b.txt": "y"})
    add_link(tar, "b.jpg", target, kind)
    dataset = read_shards(tar)
    assert ids(dataset) == ["a"]
    assert dataset.notes[0].startswith("left out 1 pair with a link in place of a file (symbolic, or ")


def test_a_word_in_the_name_of_the_data_set_is_no_split(tmp_path: Path):
    pairs(tmp_path / "my-test-set-train-0.tar", "a")
    pairs(tmp_path / "my-test-set-VAL-0.tar", "b")
    assert read_shards(tmp_path).split_sizes == {"train": 1, "val": 1}
    for name in ("latest", "contest", "devices"):
        assert "the data has no splits" in read_shards(pairs(tmp_path / name / f"{name}-0.tar", "c")).notes[0]


def test_braces_and_globs_over_the_folders_of_splits(tmp_path: Path):
    pairs(tmp_path / "Train" / "0.tar", "a")
    pairs(tmp_path / "test" / "0.tar", "b")
    for pattern in ("{Train,test}/{0..0}.tar", "*/0.tar"):
        assert read_shards(tmp_path / pattern).split_sizes == {"train": 1, "test": 1}
    assert "the data has no splits" in read_shards(tmp_path / "Train" / "*.tar").notes[0]
    (tmp_path / "Train").rename(tmp_path / "train2014")
    assert read_shards(tmp_path / "{train2014,test}/0.tar").split_sizes == {"train": 1, "test": 1}


def test_shards_in_a_folder_of_another_name_are_left_out_and_said(tmp_path: Path):
    for at, name in enumerate(("train", "test", "eval")):
        pairs(tmp_path / name / "0.tar", str(at))
    dataset = read_shards(tmp_path)
    assert dataset.split_sizes == {"train": 1, "test": 1}
    assert dataset.notes == ("left out the .tar files in 'eval', as the folders are not named like a split",)


def test_two_folders_of_one_split_are_one_and_said(tmp_path: Path):
    pairs(tmp_path / "val" / "0.tar", "a")
    pairs(tmp_path / "Valid" / "0.tar", "b")
    dataset = read_shards(tmp_path)
    assert dataset.split_sizes == {"val": 2}
    assert dataset.notes == ("the splits 'Valid', 'val' are one: val",)


def test_splits_of_a_table_get_other_names(tmp_path: Path):
    pairs(tmp_path / "train" / "0.tar", "a")
    pairs(tmp_path / "val" / "0.tar", "b", "c")
    renamed = read_shards(tmp_path).with_splits({"test": "val"})
    assert renamed.split_sizes == {"train": 1, "test": 2}
    assert ids(renamed, "test") == ids(renamed, "val") == ["b", "c"]
    assert pickle.loads(pickle.dumps(renamed.split("test").media))[0].split == "test"
