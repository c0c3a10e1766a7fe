"""The section on mistakes of the tail and on what to mend: kinds, pictures, foreign text, and what is absent."""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import FIXED, draw_pictures, recipe, write_run
from test_report_page import EVIL, Tags, text_of

from mmts.recipe.run_directory import RunDirectory
from mmts.report import write_report
from mmts.report.contents import read_contents
from mmts.report.mistakes import KINDS, mistakes_section

MEDIA = 60


def judged_run(folder: Path, captions: list[str] | None = None, **changes: Any) -> Path:
    """Write a run of which media 0 and 40 are one picture, caption 3 is suspected, and captions 0 to 9 are of the tail.

    Caption 0 is answered by medium 40, 1 by 3, 2 by 20 (another concept), 4 by 5 (the same); the others are right.
    """
    drawn = draw_pictures(folder / "data", MEDIA)
    run = write_run(folder / "run", recipe("fixed", FIXED), folder / "data", captions or drawn)
    file = RunDirectory(run).judgement_file
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    (folder / "data" / "images" / "40.png").write_bytes((folder / "data" / "images" / "0.png").read_bytes())
    rows = np.arange(MEDIA)
    arrays["text_groups"] = np.where(rows < 10, 2, 0).astype(np.int8)
    arrays["text_concepts"] = np.where(rows < 10, 30, 5)
    arrays["text_top"][:, 0] = rows
    for row, answer in {0: 40, 1: 3, 2: 20, 4: 5}.items():
        arrays["text_top"][row, 0] = answer
    arrays["text_top_relevant"][:, 0] = arrays["text_top"][:, 0] == rows
    arrays["text_mismatch"] = np.where(rows == 3, 9.0, 0.0).astype(np.float32)
    arrays["media_nearest"], arrays["media_nearest_cosine"] = (rows + 1) % MEDIA, np.full(MEDIA, 0.5, np.float32)
    for first, second in ((0, 40), (40, 0), (12, 13)):  # 12 and 13 look alike to the run alone
        arrays["media_nearest"][first], arrays["media_nearest_cosine"][first] = second, 0.99
    arrays |= changes
    np.savez_compressed(file, **{name: value for name, value in arrays.items() if value is not None})
    return run


def section_of(run: Path) -> str:
    page = write_report([run], run.parent / "report.html").read_text(encoding="utf-8")
    Tags(page)
    return re.findall(r'<section id="mistakes">.*?</section>', page, re.S)[0]


def test_each_mistake_has_the_first_kind_that_applies(tmp_path: Path) -> None:
    run = judged_run(tmp_path)
    section = mistakes_section(read_contents([run]))
    assert section["kinds"] == [(kind, 1) for kind in KINDS]
    assert [example["kind"] for example in section["examples"]] == list(KINDS)
    (row,) = section["concepts"]
    assert (row["queries"], row["kinds"]) == (10, [1, 1, 1, 1])
    assert row["answered"] == [("teal, circle, thing 5", 1)]
    assert section["repeated_ids"] == [[("0", "a red circle"), ("40", "a red circle number 2")]]
    assert section["suspected_ids"] == [("3", "a orange circle")]
    page = section_of(run)
    text = text_of(page)
    assert "For 4 of 10 captions of tail concepts, the run ranks a wrong image first." in text
    assert "Repeated images under other captions: 1" in text
    assert "Captions that may belong to other images: 1" in text
    assert "the image most like it is captioned a purple circle" in text
    assert page.count('src="data:image/') == 2 * 4 + 2 + 1


def test_equal_captions_are_no_repetition_to_mend(tmp_path: Path) -> None:
    captions = [f"item {at}" for at in range(MEDIA)]
    captions[40] = captions[0]
    section = mistakes_section(read_contents([judged_run(tmp_path, captions)]))
    assert section["num_repeated"] == 0
    assert section["kinds"][0] == ("near-duplicate", 1)


def test_pictures_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    run = judged_run(tmp_path)
    (tmp_path / "data" / "images" / "0.png").unlink()
    section = mistakes_section(read_contents([run]))
    assert section["unread"] == 1
    assert section["kinds"][0] == ("near-duplicate", 0)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    old = judged_run(tmp_path / "old", text_mismatch=None)
    absent = mistakes_section(read_contents([old]))["absent"]
    assert absent == f"judgement.npz is of an older version; `mmts evaluate {old}` writes it again"
    few = write_run(tmp_path / "few", recipe(), tmp_path / "data", draw_pictures(tmp_path / "data", 30))
    assert mistakes_section(read_contents([few]))["absent"] == "it takes at least 50 media"
    assert "Left out: it takes at least 50 media." in text_of(section_of(few))


def test_a_tail_without_mistakes_or_suspicions_has_no_lists(tmp_path: Path) -> None:
    rows, right = np.arange(MEDIA), np.ones((MEDIA, 10), bool)
    clean = {"text_mismatch": rows * 0.0, "media_nearest_cosine": rows * 0.0}
    text = text_of(section_of(judged_run(tmp_path, text_top_relevant=right, **clean)))
    assert "For 0 of 10 captions of tail concepts" in text
    assert "Repeated images under other captions: 0" in text
    assert "Captions that may belong to other images: 0" in text


def test_foreign_text_stays_text_and_lists_are_bounded(tmp_path: Path) -> None:
    long = [f"{EVIL} {at} {'x' * 5000}" for at in range(MEDIA)]
    page = section_of(judged_run(tmp_path, long, text_mismatch=np.full(MEDIA, 9.0, np.float32)))
    assert "<script" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert len(re.sub(r'"data:image/[^"]*"', "", page)) < 60_000


def test_a_long_list_says_that_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmts.report.mistakes._LISTED", 10)
    scores = np.where(np.arange(MEDIA) < 11, 9.0, 0.0).astype(np.float32)
    assert "The first 10, by id" in text_of(section_of(judged_run(tmp_path, text_mismatch=scores)))
