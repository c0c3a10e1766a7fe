import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmts.data.collect import clean_text
from mmts.data.table import read_table
from mmts.errors import DataError


def write(folder: Path, text: str, name: str = "data.csv") -> Path:
    file = folder / name
    file.write_bytes(text.encode())
    return file


def test_rows_of_one_file_are_one_medium(tmp_path: Path):
    file = write(tmp_path, 'filepath,caption\nb.jpg,"a cat, asleep"\na.jpg,a dog\n./b.jpg,a pet\n')
    dataset = read_table(file)
    assert [(each.id, each.captions) for each in dataset.media] == [
        ("b.jpg", ("a cat, asleep", "a pet")),
        ("a.jpg", ("a dog",)),
    ]
    assert dataset.media[0].path == tmp_path / "b.jpg"


@pytest.mark.parametrize("name", ["data.csv", "data.tsv"])
def test_tabs_as_open_clip_writes_them(tmp_path: Path, name: str):
    dataset = read_table(write(tmp_path, "\ufefffilepath\ttitle\r\na.jpg\ta cat, asleep\r\n\r\n", name))
    assert dataset.media[0].captions == ("a cat, asleep",)


def test_id_split_and_labels(tmp_path: Path):
    header = "filepath,caption,id,split,colour,annotator\n"
    text = header + "a.jpg,x,7,valid,red,ann\na.jpg,y,7,valid,red,bob\nb.mp4,z,8,test,,\n"
    dataset = read_table(write(tmp_path, text))
    first, second = dataset.media
    assert (first.id, first.split, first.labels) == ("7", "val", {"colour": "red"})
    assert (second.id, second.split, second.labels, second.kind) == ("8", "test", {}, "video")
    assert dataset.notes == (
        "merged 2 lines that name the same files into 1 medium with several captions",
        "not a label where it differs between the captions of one medium: 'annotator'",
    )


def test_an_id_of_each_caption_is_no_id_of_the_medium(tmp_path: Path):
    dataset = read_table(write(tmp_path, "filepath,caption,id\na.jpg,x,1\n./a.jpg,y,2\nb.jpg,z,3\n"))
    assert [(each.id, each.captions) for each in dataset.media] == [("1", ("x", "y")), ("3", ("z",))]
    assert dataset.notes[0].endswith("each keeps the id of its first line")


@pytest.mark.parametrize(("first", "second"), [("train", "Training"), ("val", " DEV "), ("test", "\uff34esting")])
def test_spellings_of_one_split_are_one_and_said(tmp_path: Path, first: str, second: str):
    text = f"filepath,caption,split\na.jpg,x,{first}\na.jpg,y,{second}\nb.jpg,z,{second}\n"
    dataset = read_table(write(tmp_path, text))
    assert dataset.split_sizes == {first: 2}
    assert f"the splits {first!r}, {second.strip()!r} are one: {first}" in dataset.notes


def test_blank_split_cells_are_none(tmp_path: Path):
    dataset = read_table(write(tmp_path, "filepath,caption,split\na.jpg,x,\nb.jpg,y,  \n"))
    assert "the data has no splits" in dataset.notes[0]


def test_a_label_that_differed_once_does_not_come_back(tmp_path: Path):
    text = "filepath,caption,who\n" + "".join(f"a.jpg,{at},{who}\n" for at, who in enumerate(["ann", "bob", "bob"]))
    assert read_table(write(tmp_path, text)).media[0].labels == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("image,caption\na.jpg,x\n", "the column 'filepath' is missing; found 'image', 'caption'"),
        ("filepath,text\na.jpg,x\n", "the column 'caption' or 'title' is missing; found 'filepath', 'text'"),
        ("filepath,caption,caption\n", "the column 'caption' is there twice"),
        ("filepath,caption\na.jpg,x\nb.jpg,y,z\n", "line 3: 3 fields, while the header names 2 columns"),
        ('filepath,caption\na.jpg,"x"y\n', "line 2: .*a quoted field begins and ends"),
        ('filepath,caption\na.jpg,x\nb.jpg,"y\nc.jpg,z\n', "line 3: unexpected end of data"),
        ("filepath,caption\n,x\n", "line 2: the path is empty"),
        ("filepath,caption\n../a.jpg,x\n", "line 2: '../a.jpg' lies outside the data folder"),
        ("filepath,caption\n/a.jpg,x\n", "line 2: '/a.jpg' lies outside the data folder"),
        ("filepath,caption,id\na.jpg,x,1\nb.jpg,y,1\n", "line 3: the id '1' is there already, in .*line 2"),
        (
            "filepath,caption,split\na.jpg,x,train\na.jpg,y,test\n",
            "line 3: 'a.jpg' has the split 'test' here and 'train'",
        ),
        ("filepath,caption,split\na.jpg,x,train\nb.jpg,y,\n", "line 3: no split here"),
        ("filepath,caption\n", "no medium with a caption"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read_table(write(tmp_path, text))
    assert "data.csv" in str(caught.value)


def test_bytes_that_are_not_utf8(tmp_path: Path):
    file = tmp_path / "data.csv"
    file.write_bytes("filepath,caption\na.jpg,café\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 2: byte 10 is not UTF-8"):
        read_table(file)


def test_long_captions_and_nul(tmp_path: Path):
    long = "word " * 60_000 + "end"
    dataset = read_table(write(tmp_path, f"filepath,caption\na.jpg,{long}\nb.jpg,a\0cat\n"))
    assert dataset.media[0].captions == (long,)
    assert dataset.media[1].captions == ("a cat",)
    assert dataset.notes[0].startswith("cleaned 1 caption of")
    assert csv.field_size_limit() == 131072


# "\r" alone ends a line for the csv module only inside quotes, which its writer sees to; surrogates are not UTF-8; NUL,
# which Python 3.10 cannot write, is tried above.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(TEXT, TEXT)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, first: str, second: str):
    file = tmp_path_factory.mktemp("any") / "data.csv"
    with open(file, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([["filepath", "caption"], ["a.jpg", "kept"], ["a.jpg", first], ["a.jpg", second]])
    expected = ("kept", *(text for text in map(clean_text, [first, second]) if text))
    assert read_table(file).media[0].captions == expected
