import csv
import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmts.data.formats.collect import MISSING_CAPTIONS, clean_text
from mmts.data.formats.table import read_table
from mmts.data.read import read_dataset
from mmts.errors import DataError
from mmts.recipe.recipe import parse_columns


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
        "not used as labels, since they differ between the lines of one medium: 'annotator'",
    )


def test_an_id_of_each_caption_is_no_id_of_the_medium(tmp_path: Path):
    dataset = read_table(write(tmp_path, "filepath,caption,id\na.jpg,x,1\n./a.jpg,y,2\nb.jpg,z,3\n"))
    assert [(each.id, each.captions) for each in dataset.media] == [("1", ("x", "y")), ("3", ("z",))]
    assert dataset.notes[0].endswith("each keeps the id of its first line")


@pytest.mark.parametrize(("first", "second"), [("train", "Training"), ("val", " DEV "), ("test", "Testing")])
def test_spellings_of_one_split_are_one_and_said(tmp_path: Path, first: str, second: str):
    text = f"filepath,caption,split\na.jpg,x,{first}\na.jpg,y,{second}\nb.jpg,z,{second}\n"
    dataset = read_table(write(tmp_path, text))
    assert dataset.split_sizes == {first: 2}
    assert f"the splits {first!r}, {second.strip()!r} are one: {first}" in dataset.notes


def test_blank_split_cells_are_none(tmp_path: Path):
    dataset = read_table(write(tmp_path, "filepath,caption,split\na.jpg,x,\nb.jpg,y,  \n"))
    assert "the data has no splits" in dataset.notes[0]


def test_a_cell_with_a_list_of_strings_is_a_label_of_several_values(tmp_path: Path):
    cells = ['[\'cup\', ""dog""]', '[""cup"", null, """"]', "[]", "[cup]", "[1, 2]"]
    rows = "".join(f'{at}.jpg,x,"{cell}"\n' for at, cell in enumerate(cells))
    found = [medium.labels["tags"] for medium in read_table(write(tmp_path, f"filepath,caption,tags\n{rows}")).media]
    assert found == [["cup", "dog"], ["cup"], [], "[cup]", "[1, 2]"]


def test_a_label_that_differed_once_does_not_come_back(tmp_path: Path):
    text = "filepath,caption,who\n" + "".join(f"a.jpg,{at},{who}\n" for at, who in enumerate(["ann", "bob", "bob"]))
    assert read_table(write(tmp_path, text)).media[0].labels == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        (
            "filepath,words\na.jpg,x\n",
            r"the column of captions \(caption, text, title, ...\) is missing; found 'filepath', ",
        ),
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


# "\r" alone ends a line for the csv module only inside quotes, which its writer sees to; surrogates are not UTF-8; NUL,
# which Python 3.10 cannot write, is tried above.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(
    lambda text: text.strip().lower() not in MISSING_CAPTIONS and text.strip() != "[]"
)


@given(TEXT, TEXT)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, first: str, second: str):
    file = tmp_path_factory.mktemp("any") / "data.csv"
    with open(file, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerows([["filepath", "caption"], ["a.jpg", "kept"], ["a.jpg", first], ["a.jpg", second]])
    expected = ("kept", *(text for text in map(clean_text, [first, second]) if text))
    assert read_table(file).media[0].captions == expected


SPREADSHEETS = {
    "Excel, German": "\ufeffNr;Bild;Beschreibung;;\r\n1;a.jpg;ein Hut, rot;;\r\n;;;;\r\n2;b.jpg;zwei;;\r\n3;;;;\r\n",
    "a line that names the separator": "sep=;\r\nBild;Beschreibung\r\na.jpg;ein Hut, rot\r\nb.jpg;zwei\r\n",
    "Excel for Macintosh": 'Bild,Beschreibung\ra.jpg,"ein Hut, rot"\rb.jpg,zwei\r',
    "pipes": "Bild| Nr| Beschreibung\na.jpg| 0| ein Hut, rot\nb.jpg| 1| zwei\n",
    "tabs": "Bild\tBeschreibung\na.jpg\tein Hut, rot\nb.jpg\tzwei\n",
    "a comma in a header": 'Beschreibung;"Größe, in cm, und Farbe";Bild\nein Hut, rot;3;a.jpg\nzwei;4;b.jpg\n',
    "spaces": 'Bild , Beschreibung \n a.jpg ,"ein Hut, rot"\n b.jpg , zwei \n',
    "pandas with its index": ',Bild,Beschreibung\n0,a.jpg,"ein Hut, rot"\n1,b.jpg,zwei\n',
}
GERMAN = {"media": "Bild", "caption": "Beschreibung"}


def test_a_column_with_a_long_name_is_not_repeated_in_full(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text(f"{'9' * 5000},text\na.jpg,some words\n")
    with pytest.raises(DataError, match="looks like paths") as caught:
        read_table(file)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", SPREADSHEETS.values(), ids=SPREADSHEETS)
def test_tables_as_spreadsheets_write_them(tmp_path: Path, text: str):
    file = write(tmp_path, text)
    media = read_table(file, GERMAN).media
    assert [(each.path.name, each.captions) for each in media] == [("a.jpg", ("ein Hut, rot",)), ("b.jpg", ("zwei",))]
    with pytest.raises(DataError, match="'Bild' looks like paths and 'Beschreibung' like text") as caught:
        read_table(file)
    assert str(caught.value).endswith(" --columns media=Bild,caption=Beschreibung")


@pytest.mark.parametrize(
    "header",
    [
        *("filepath,title", "image,caption", "File Name,Text", " IMAGE_PATH , Description ", "video,sentence"),
        *("image_name,comment", "PATH,Captions", "\ufeff\ufefffilename,caption"),
    ],
)
def test_usual_names_of_columns(tmp_path: Path, header: str):
    dataset = read_table(write(tmp_path, f"{header}\na.jpg,a cat\n", "captions.txt"))
    assert [(each.path.name, each.captions) for each in dataset.media] == [("a.jpg", ("a cat",))]
    assert len(dataset.notes) == 1  # on the splits


def test_a_choice_among_usual_names_is_said(tmp_path: Path):
    file = write(tmp_path, "image,file_name,text,caption\nx.jpg,a.jpg,other,a cat\n")
    dataset = read_table(file)
    assert (dataset.media[0].id, dataset.media[0].captions) == ("a.jpg", ("a cat",))
    assert dataset.notes[0] == "media from the column 'file_name', not 'image'; --columns media=NAME takes another"
    assert dataset.notes[1] == "caption from the column 'caption', not 'text'; --columns caption=NAME takes another"
    assert read_table(file, {"media": "image", "caption": "text"}).media[0].captions == ("other",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Bild;Text\na.jpg;x\n", "there is no column 'Bidl' for media; did you mean 'Bild'.*; found 'Bild', 'Text'; "),
        ("url,caption\nhttps://x.org/a.jpg,x\n", "'url' holds addresses: download the files"),
        ("a.jpg,a cat\nb.jpg,a dog\n", "the first line should name the columns, and is 'a.jpg', 'a cat'"),
        (
            "My pictures;;\n;;\nfilepath;caption;\na.jpg;x;\n",
            "remove the lines above the one .*: 'filepath', 'caption'",
        ),
        ("a,b\n1,2\n", "found 'a', 'b', none of which looks like paths of files"),
        ("image,words\nhttp://x.org/a.jpg,x\n", "holds addresses"),
    ],
)
def test_columns_that_are_not_found(tmp_path: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path, text), {"media": "Bidl"} if text.startswith("Bild") else None)


def test_a_call_in_an_error_works(tmp_path: Path):
    file = write(tmp_path, "Bild, klein;Mein Text\na.jpg;ein Hut\n")
    with pytest.raises(DataError, match="--columns ") as caught:
        read_table(file)
    columns = parse_columns(shlex.split(str(caught.value).split("--columns ")[1])[0])
    assert columns is not None
    assert read_table(file, columns.model_dump()).media[0].captions == ("ein Hut",)


def test_rows_that_end_early_are_counted(tmp_path: Path):
    dataset = read_table(write(tmp_path, "filepath,caption,colour\na.jpg,x\nb.jpg,y,red\n"))
    assert [each.labels for each in dataset.media] == [{}, {"colour": "red"}]
    assert "rows that end early, whose last columns count as empty: 1" in dataset.notes
    with pytest.raises(DataError, match="line 2: 1 fields, while the header names 2 columns"):
        read_table(write(tmp_path, "filepath,caption\na.jpg\n"))


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("['a', 'b']", ("a", "b")),
        ('["a", "b\\u00e9"]', ("a", "bé")),
        ("[\"one's\", 'b']", ("one's", "b")),
        ("['a' 'b']", ("a", "b")),  # as numpy prints an array
        ("['a', None, nan, '']", ("a",)),
        ("[a cat]", ("[a cat]",)),
        ("['a's, 'b']", ("['a's, 'b']",)),
        ("[" * 10_000, ("[" * 10_000,)),
        ("[" * 10_000 + "'a'" + "]" * 10_000, ("[" * 10_000 + "'a'" + "]" * 10_000,)),
        ("['\\d', 'b']", ("\\d", "b")),
        ("[__import__('os').getcwd()]", ("[__import__('os').getcwd()]",)),
        ("12", ("12",)),
    ],
)
def test_a_list_in_a_cell(tmp_path: Path, cell: str, captions: tuple[str, ...]):
    file = tmp_path / "data.csv"
    with open(file, "w", newline="") as handle:
        csv.writer(handle).writerows([["filepath", "caption"], ["a.jpg", cell]])
    dataset = read_table(file)
    assert dataset.media[0].captions == captions
    assert any("1 caption in the form of a list" in note for note in dataset.notes) == (captions != (cell,))


@pytest.mark.parametrize("cell", ["", "nan", "NaN", "None", "null", "<NA>", "#N/A"])
def test_a_cell_that_is_missing_is_an_empty_caption(tmp_path: Path, cell: str):
    dataset = read_table(write(tmp_path, f"filepath,caption\na.jpg,x\na.jpg,{cell}\n"))
    assert dataset.media[0].captions == ("x",)
    assert dataset.empty_captions == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filepath;caption\na.jpg;ä\n".encode("utf-16"), "is not UTF-8 but perhaps UTF-16; save the file as UTF-8"),
        ("filepath;caption\na.jpg;ä\n".encode("utf-16-le"), r"UTF-16; .* \(in Excel: CSV UTF-8"),
        (
            "filepath;caption\na.jpg;schön\n".encode("cp1252"),
            r"line 2: .* \(in Windows-1252 it reads 'a.jpg;schön'\); save",
        ),
        (
            b"PK\x03\x04\xff\n",
            "compressed with zip; unpack it .an Excel workbook is a zip file too: save it as CSV UTF-8",
        ),
    ],
)
def test_files_that_are_not_utf8_say_how_to_save_them(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "data.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "data.csv")


def test_a_table_beside_its_folder_of_images(tmp_path: Path):
    for name in ("Images", "thumbs"):
        (tmp_path / name).mkdir()
    (tmp_path / "Images/a.jpg").touch()
    file = write(tmp_path, "image,caption\na.jpg,a cat\na.jpg,a pet\ngone.jpg,a dog\n", "captions.txt")
    dataset = read_table(file)
    assert [each.path for each in dataset.media] == [tmp_path / "Images/a.jpg", tmp_path / "Images/gone.jpg"]
    assert "paths are those of files in Images/, where the first one is" in dataset.notes
    (tmp_path / "thumbs/a.jpg").touch()  # which of the two is not known
    assert read_table(file).media[0].path == tmp_path / "a.jpg"


def test_a_column_name_that_no_command_line_can_hold_is_not_proposed(tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "te\\r\\nxt": "a cat"}\n')
    with pytest.raises(DataError, match=r"'te\\r\\nxt' like text$"):
        read_dataset(tmp_path)
