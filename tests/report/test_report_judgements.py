"""The page with graded relevance, coverage, folds, the val split, tar files, features and equal runs."""

import base64
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from fake_runs import FIXED, LEARNED, SHIFTED, draw_pictures, make_graded, recipe, write_metrics, write_run
from PIL import Image
from test_report_page import text_of

from mmts.examples.drawing import picture, write_film
from mmts.recipe.run_directory import RunDirectory
from mmts.report import write_report
from mmts.report.contents import find, read_contents
from mmts.report.gallery import make_gallery


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("judgements") / "data"
    return folder, draw_pictures(folder, 30)


def two_runs(folder: Path, data: tuple[Path, list[str]], kind: str = "image", skill: float = 0.0) -> list[Path]:
    """Write a fixed rule and MM-TS, whose ranks differ by chance and `skill`."""
    rules = (("fixed", FIXED, 0.0), ("mm-ts", SHIFTED, skill))
    return [write_run(folder / name, recipe(name, rule), *data, kind=kind, skill=own) for name, rule, own in rules]


def page_text(runs: list[Path]) -> str:
    return text_of(write_report(runs, runs[0].parent / "report.html").read_text(encoding="utf-8"))


def keep_validations(run: Path, number: int) -> None:
    """Keep only so many of a run's last looks at validation data."""
    lines = list(RunDirectory(run).log_lines())
    looks = [line for line in lines if "val" in line]
    for line in looks[: len(looks) - number]:
        del line["val"]
    RunDirectory(run).log_file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def change_meta(run: Path, **changes: object) -> None:
    file = RunDirectory(run).judgement_file
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | changes))
    np.savez_compressed(file, **arrays)


def test_graded_relevance_leads_with_map(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = [make_graded(run) for run in two_runs(tmp_path, data, kind="video", skill=3.0)]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    first, second = (run["text_to_video"]["mAP"] for run in metrics)
    finding = find(read_contents(runs))
    assert finding.headline.startswith("mm-ts beats fixed: text queries reach a mean average precision (mAP) of")
    assert f"{second:.1f} %, instead of {first:.1f} %" in finding.headline
    assert finding.verdicts[0].difference == pytest.approx(second - first)
    assert finding.verdicts[0].gap is not None
    assert finding.verdicts[0].gap.mean == pytest.approx(second - first)
    assert "mm-ts has the highest mAP" in finding.sentences[0]
    assert "from video to text, mAP is" in finding.sentences[-1]
    page = write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert f"fixed {first:.1f} %" in text
    assert "The numbers are mAP of text queries" in text
    assert "mAP is the mean over queries of the average precision" in text
    assert "nDCG sums the relevance of each result divided by the logarithm" in text
    assert "points of mAP" in text
    assert "Text to video, mAP, %" in page
    assert "difference in mAP, points" in page
    assert "R@1, %" not in page.replace("validation R@1, %", "")


def test_one_graded_run_leads_with_its_map(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    run = make_graded(write_run(tmp_path / "run", recipe("alone", FIXED), *data, kind="video"))
    finding = find(read_contents([run]))
    assert finding.headline.startswith("Text queries reach a mean average precision (mAP) of ")


def test_recall_leads_and_is_defined_elsewhere(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    text = page_text(two_runs(tmp_path, data))
    assert (
        "The numbers are R@1 of text queries: the share of captions for which a right image is ranked first among 30."
        in text
    )
    assert "mAP" not in text


@pytest.mark.parametrize(
    ("looks", "says", "training"),
    [
        ((5, 5), "val split, which also chose the checkpoint;", ""),
        ((5, 1), "val split, which also chose the checkpoint of some runs;", ""),
        ((1, 1), "val split, which chose no checkpoint: training looked at it only once", "only once, at the end."),
        ((0, 0), "of the val split;", "these runs had no validation data."),
    ],
)
def test_the_page_says_what_the_val_split_chose(
    tmp_path: Path, data: tuple[Path, list[str]], looks: tuple[int, int], says: str, training: str
) -> None:
    runs = two_runs(tmp_path, data)
    for run, number in zip(runs, looks, strict=True):
        write_metrics(run, split="val")
        keep_validations(run, number)
    text = page_text(runs)
    assert says in text
    assert training in text
    assert ("Recall over training is left out" in text) == bool(training)


def test_the_page_names_the_coverage(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = two_runs(tmp_path, data)
    for run in runs:
        write_metrics(run, coverage={"judged": 30, "annotated": 3179, "published": 3350})
    assert "This covers 30 of the 3,179 clips annotated; papers judge on 3,350." in page_text(runs)


def test_folds_have_rows_of_their_own(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = two_runs(tmp_path, data)
    for at, run in enumerate(runs):
        figures = {"R@1": 61.5 + at, "R@5": 71.5, "R@10": 81.5, "median_rank": 1.0}
        write_metrics(run, folds={"num": 5, "text_to_image": figures, "image_to_text": figures})
    text = page_text(runs)
    assert text.count("5 folds mean fixed 61.5 71.5 81.5 mm-ts 62.5 71.5 81.5") == 2
    assert "5 folds: mean over 5 parts of 6 media, each judged by itself." in text


def test_pictures_in_a_tar_file_are_shown(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    folder, captions = data
    run = write_run(tmp_path / "run", recipe("tars", FIXED), folder, captions)
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for at in range(len(captions)):
            archive.add(folder / "images" / f"{at}.png", f"{at}.png")
    with tarfile.open(tmp_path / "0.tar") as archive:
        members = [[member.offset_data, member.size] for member in archive]
    as_files = make_gallery(read_contents([run]), [0])
    change_meta(run, data=str(tmp_path), media_paths=["0.tar"] * len(captions), media_members=members)
    assert make_gallery(read_contents([run]), [0]) == as_files
    assert as_files["num_missing"] == 0


def test_the_middle_frame_of_each_clip_is_shown(tmp_path: Path) -> None:
    write_film(tmp_path / "film.mp4", [picture("red", "square")] * 20 + [picture("blue", "square")] * 20, rate=10)
    run = write_run(tmp_path / "run", recipe("clips", FIXED), tmp_path, ["red", "blue", "gone"], kind="video")
    segments = [[0.0, 2.0, None, None], [2.0, 4.0, None, None], [9.0, None, None, None]]
    change_meta(run, media_ids=["red", "blue", "gone"], media_paths=["film.mp4"] * 3, media_segments=segments)
    gallery = make_gallery(read_contents([run]), [0])
    sources = {query["text"]: query["source"] for query in gallery["media"]}
    assert sources["gone"] is None
    assert gallery["num_missing"] == 1
    for name, channel in (("red", 0), ("blue", 2)):
        content = base64.b64decode(str(sources[name]).partition(",")[2])
        middle = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)
        assert (middle[..., channel] - middle[..., 2 - channel]).max() > 100
    hits = [hit for query in gallery["texts"] for hit in query["answers"][0]["hits"]]
    assert {hit["source"] for hit in hits} == set(sources.values())
    text = page_text([run])
    assert "Each clip is shown by its middle frame." in text
    assert "1 of the videos could not be read" in text


def test_features_are_shown_by_their_captions(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    run = write_run(tmp_path / "run", recipe("features", FIXED), *data)
    change_meta(run, media_paths=[f"features/{at}.npy" for at in range(30)])
    page = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in page
    assert "The data contain precomputed features instead of images, so captions are shown in their place." in text_of(
        page
    )
    assert "could not be read" not in page


def test_equal_runs_are_level(tmp_path: Path, data: tuple[Path, list[str]]) -> None:
    runs = two_runs(tmp_path, data)
    third = write_run(tmp_path / "learned", recipe("learned", LEARNED), *data, skill=-9.0)
    for name in ("metrics.json", "judgement.npz"):
        (runs[1] / name).write_bytes((runs[0] / name).read_bytes())
    sentence = find(read_contents(runs)).sentences[0]
    assert sentence == "fixed and mm-ts are level in R@1, with an interval over queries that includes 0."
    assert (
        find(read_contents([*runs, third]))
        .sentences[0]
        .startswith("fixed and mm-ts are level in R@1, ahead of the others, with an interval")
    )
