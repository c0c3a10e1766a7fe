import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from tests_support import draw_clips
from torch import Tensor

from mmts.concepts import ConceptDistribution
from mmts.data.epic_kitchens import looks_like_epic_kitchens, read_epic_kitchens, relevancy_matrix
from mmts.errors import DataError
from mmts.examples.sets import draw_ek100
from mmts.metrics import mean_average_precision, ndcg
from mmts.policies import Shifted
from mmts.schedules import Cosine

REAL = Path(__file__).parents[3] / "shared/data/ek100"
with_real_files = pytest.mark.skipif(not REAL.is_dir(), reason="the official annotations are not at hand")
CLIP = {
    "narration_id": "P01_11_0",
    "participant_id": "P01",
    "video_id": "P01_11",
    "narration_timestamp": "00:00:00.560",
    "start_timestamp": "00:00:00.00",
    "stop_timestamp": "00:01:01.89",
    "start_frame": "1",
    "stop_frame": "3713",
    "narration": "take plate",
    "verb": "take",
    "verb_class": "0",
    "noun": "plate",
    "noun_class": "2",
    "all_nouns": "['plate']",
    "all_noun_classes": "[2]",
}
SENTENCE = {"narration_id": "P01_11_0", "narration": "take plate"}
TEST, SENTENCES = "EPIC_100_retrieval_test.csv", "EPIC_100_retrieval_test_sentence.csv"


def write(file: Path, *rows: dict[str, str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def folder_of(folder: Path, clips: list[dict[str, str]], sentences: list[dict[str, str]] | None = None) -> Path:
    write(folder / TEST, *clips)
    write(folder / SENTENCES, *([SENTENCE] if sentences is None else sentences))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_ek100(tmp_path_factory.mktemp("ek100"))


def test_every_field_of_a_clip(tmp_path: Path):
    dataset = read_epic_kitchens(folder_of(tmp_path, [CLIP]))
    (medium,) = dataset.media
    assert (medium.id, medium.captions, medium.split, medium.kind) == ("P01_11_0", ("take plate",), "test", "video")
    assert (medium.start, medium.end, medium.frames) == (0.0, 61.89, None)
    assert medium.labels == {"noun": "2", "verb": "0", "verb_noun": "0 2", "participant": "P01"}
    assert dataset.split_sizes == {"test": 1}


def test_labels_are_names_where_the_class_files_are_there(drawn: Path):
    medium = read_epic_kitchens(drawn).media[0]
    assert medium.labels == {
        "noun": "square:red",
        "verb": "take",
        "verb_noun": "take square:red",
        "participant": "P01",
    }


def test_later_class_names_count_before_older_ones(tmp_path: Path):
    folder = folder_of(tmp_path, [CLIP])
    write(folder / "EPIC_100_noun_classes.csv", {"id": "2", "key": "old"})
    write(folder / "annotations/EPIC_100_noun_classes_v2.csv", {"id": "2", "key": "plate"})
    assert read_epic_kitchens(folder).media[0].labels["verb_noun"] == "0 plate"


def test_splits_and_their_texts(drawn: Path):
    dataset = read_epic_kitchens(drawn)
    assert dataset.split_sizes == {"train": 24, "test": 8}
    test = dataset.split("test")
    assert test.graded is not None
    assert test.graded.captions == (
        *("take red square", "put red square on green bar", "take green bar", "wash blue column"),
        *("take green square", "put yellow column", "wash green bar"),
    )
    named = [test.media[at].captions[0] for at in test.graded.owner.tolist()]
    assert named == list(test.graded.captions)
    assert test.graded.owner.tolist() == [6, 1, 2, 3, 4, 5, 7]  # the first text is that of two clips


def test_relevance_of_the_reader_is_the_relevancy_matrix(drawn: Path):
    graded = read_epic_kitchens(drawn).graded["test"]
    files = [drawn / "retrieval_annotations" / name for name in (TEST, SENTENCES)]
    torch.testing.assert_close(graded.relevance(), relevancy_matrix(*files), rtol=0, atol=0)


@pytest.mark.parametrize("inner", ["", "annotations", "retrieval_annotations", "epic-kitchens-100-annotations/retrieval_annotations"])  # fmt: skip  # noqa: E501
def test_annotations_are_found_where_they_usually_lie(tmp_path: Path, inner: str):
    folder_of(tmp_path / inner, [CLIP])
    assert looks_like_epic_kitchens(tmp_path)
    assert len(read_epic_kitchens(tmp_path).media) == 1


@pytest.mark.parametrize(
    ("layout", "path", "note"),
    [
        ("chunks", "videos/P01/P01_11.MP4", "videos in chunks (videos/P01/P01_01.MP4 and so on), 4 of 4 there"),
        ("videos", "videos/P01/P01_11.MP4", "whole videos (videos/P01/P01_01.MP4 and so on), 4 of 4 there"),
        ("frames", "P01/rgb_frames/P01_11", "frame folders (P01/rgb_frames/P01_01 and so on), 4 of 4 there"),
        ("features", "features/P01_11_1.npy", "features (features/P01_01_0.npy and so on), 32 of 32 there"),
    ],
)
def test_each_layout_of_media(tmp_path: Path, layout: str, path: str, note: str):
    dataset = read_epic_kitchens(draw_clips(tmp_path, layout))
    assert dataset.notes == (f"media: {note}",)
    medium = next(each for each in dataset.media if each.id == "P01_11_1")
    assert medium.path == tmp_path / path
    assert medium.path.exists()
    assert (medium.start, medium.end) == (1.6, 2.9)
    assert medium.frames == ((17, 29) if layout == "frames" else None)
    if layout == "frames":
        assert (medium.path / "frame_0000000017.jpg").is_file()
    if layout == "chunks":
        assert sorted(each.name for each in (tmp_path / "videos/P02/P02_101.MP4").iterdir()) == ["0.MP4", "15.MP4"]
    if layout == "features":
        assert np.load(medium.path).shape == (4, 16)


@pytest.mark.parametrize("path", ["P01/videos/P01_11.MP4", "EPIC-KITCHENS/P01/videos/P01_11.MP4", "video_320p_15sec/P01/P01_11.mp4"])  # fmt: skip  # noqa: E501
def test_other_places_of_whole_videos(tmp_path: Path, path: str):
    folder_of(tmp_path, [CLIP])
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert read_epic_kitchens(tmp_path).media[0].path == tmp_path / path


def test_without_media_only_the_annotations_can_be_used(tmp_path: Path):
    dataset = read_epic_kitchens(folder_of(tmp_path, [CLIP]))
    assert dataset.media[0].path == tmp_path / "videos/P01/P01_11.MP4"
    assert dataset.notes[0].startswith(
        "no media found, so only the annotations can be used; looked for videos in chunks"
    )


def test_missing_videos_are_counted(tmp_path: Path):
    folder_of(tmp_path, [CLIP, {**CLIP, "narration_id": "P01_12_0", "video_id": "P01_12"}])
    (tmp_path / "videos/P01/P01_12.MP4").mkdir(parents=True)
    assert read_epic_kitchens(tmp_path).notes[0].endswith("1 of 2 there")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_timestamp": "00:02:00.00"}, r"the end, 61.89 s, is not after the start, 120 s"),
        ({"start_timestamp": "00:01:01.89"}, r"the end, 61.89 s, is not after the start, 61.89 s"),
        ({"start_timestamp": "12.5"}, r"start_timestamp should be a time like 00:01:23.45, not '12.5'"),
        (
            {"start_timestamp": "9" * 5000 + ":00:00"},
            r"start_timestamp should be a time like 00:01:23.45, not '9.{1,99}$",
        ),
        ({"verb_class": "9" * 5000}, r"verb_class should be a class number from 0 to 96, not '9.{1,99}$"),
        ({"stop_timestamp": "00:75:00.00"}, r"stop_timestamp should be a time like"),
        ({"start_frame": "one"}, r"start_frame should be a whole number, not 'one'"),
        ({"verb_class": "97"}, r"verb_class should be a class number from 0 to 96, not '97'"),
        ({"noun_class": "-1"}, r"noun_class should be a class number from 0 to 299, not '-1'"),
        (
            {"all_noun_classes": "[2, 300]"},
            r"should be a list of class numbers from 0 to 299 .*, not '\[2, 300\]'",
        ),
        ({"all_noun_classes": "[2"}, r"should be a list of class numbers from 0 to 299 like \[2, 17\], not '\[2'"),
        ({"all_noun_classes": "[__import__('os')]"}, r"all_noun_classes should be a list of class numbers"),
        ({"all_noun_classes": "[]"}, r"all_noun_classes should be a list of class numbers .*, not '\[\]'"),
        ({"narration": " \t"}, r"narration should be text, not ''"),
        ({"video_id": "../P01"}, r"video_id should be a name like P01_11, not '../P01'"),
        ({}, r"the narration_id 'P01_11_0' is there already, in .*, line 2"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, change: dict[str, str], message: str):
    folder = folder_of(tmp_path, [CLIP, {**CLIP, **({"narration_id": "P01_11_1"} if change else {}), **change}])
    with pytest.raises(DataError, match=rf"{TEST}, line 3: .*{message}"):
        read_epic_kitchens(folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**SENTENCE, "narration_id": "P01_12_0"}], r"line 2: the clip 'P01_12_0' is not among the 1 clips"),
        ([SENTENCE, {**SENTENCE, "narration": ""}], r"line 3: narration should be text, not ''"),
        ([SENTENCE, SENTENCE], r"line 3: the narration_id 'P01_11_0' is there already"),
        ([CLIP], r"these are clips, with times; the sentences are in the file \.\.\._sentence\.csv"),
        ([{"narration": "x"}], r"not a file of sentences: 'narration_id' is missing; found the columns 'narration'"),
    ],
)
def test_wrong_sentences_are_named(tmp_path: Path, rows: list[dict[str, str]], message: str):
    with pytest.raises(DataError, match=rf"{SENTENCES}.*{message}"):
        read_epic_kitchens(folder_of(tmp_path, [CLIP], rows))


def test_a_part_of_the_train_clips(tmp_path: Path) -> None:
    root = draw_ek100(tmp_path, features=True)
    file = root / "retrieval_annotations" / "EPIC_100_retrieval_train.csv"
    whole = read_epic_kitchens(root)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:13]))  # the header and the first 12 clips of 24
    part = read_epic_kitchens(root)
    graded, all_graded = part.graded["train"], whole.graded["train"]
    assert part.split_sizes == {"train": 12, "test": whole.split_sizes["test"]}
    relevance, before = graded.relevance(), all_graded.relevance()[:12]
    kept = [all_graded.captions.index(caption) for caption in graded.captions]
    assert torch.equal(relevance, before[:, kept])  # a sentence keeps its relevance to the clips that are there
    dropped = set(range(len(all_graded.captions))) - {*kept}
    assert dropped
    assert all(int(all_graded.owner[at]) >= 12 and not (before[:, at] == 1).any() for at in dropped)
    missing = int((all_graded.owner >= 12).sum())
    assert missing > len(dropped)
    assert part.notes[1] == (
        f"train: the clips are a part: those of {missing} of {len(all_graded.captions)} sentences are missing; "
        f"{len(dropped)} sentences are left out, and the others stand for clips with the same classes"
    )
    file.write_text("".join([lines[0], lines[1].replace("P", "Q")]))
    with pytest.raises(DataError, match=r"train_sentence\.csv, line 2: the clip .* is not among the 1 clips"):
        read_epic_kitchens(root)


def test_sentences_in_place_of_clips(tmp_path: Path):
    with pytest.raises(DataError, match=rf"{TEST}: not a file of clips: 'participant_id', 'video_id', .* is missing"):
        read_epic_kitchens(folder_of(tmp_path, [SENTENCE]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a file of clips"),
        (",".join(CLIP) + "\n", "no row below the header"),
        (",".join(CLIP) + "\nP01_11_0,P01\n", "line 2: 2 fields, while the header names 15 columns"),
    ],
)
def test_files_cut_short(tmp_path: Path, text: str, message: str):
    folder = folder_of(tmp_path, [CLIP])
    (folder / TEST).write_text(text)
    with pytest.raises(DataError, match=message):
        read_epic_kitchens(folder)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("name", "message"), [("relevancy.pkl", "is a pickle.*give the CSV file"), ("relevancy.csv", "is not UTF-8")]
)
def test_pickles_are_refused_unopened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    folder_of(tmp_path, [CLIP])
    for files in [(name, SENTENCES), (TEST, name)]:
        with pytest.raises(DataError, match=rf"{name}.* {message}"):
            relevancy_matrix(*files)
    assert not Path("ran").exists()


def test_a_folder_of_pickles(tmp_path: Path):
    (tmp_path / "EPIC_100_retrieval_test.pkl").write_bytes(b"\x80")
    assert looks_like_epic_kitchens(tmp_path)
    with pytest.raises(DataError, match=r"EPIC_100_retrieval_test\.pkl is a pickle.*give the CSV file"):
        read_epic_kitchens(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path):
    assert not looks_like_epic_kitchens(tmp_path)
    with pytest.raises(DataError, match=r"no EPIC_100_retrieval_train\.csv or EPIC_100_retrieval_test\.csv there"):
        read_epic_kitchens(tmp_path)
    write(tmp_path / TEST, CLIP)
    with pytest.raises(DataError, match=rf"{SENTENCES} is missing: test is evaluated with it"):
        read_epic_kitchens(tmp_path)


# The official files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_relevance() -> Tensor:
    return relevancy_matrix(REAL / TEST, REAL / SENTENCES)


@with_real_files
def test_the_official_test_split(real_relevance: Tensor):
    dataset = read_epic_kitchens(REAL)
    assert dataset.split_sizes == {"test": 9668}
    assert {each.labels["verb_noun"] for each in dataset.media} > {"take plate", "turn-on tap"}
    assert real_relevance.shape == (9668, 3842)
    owner = dataset.graded["test"].owner
    assert bool((real_relevance[owner, torch.arange(3842)] == 1).all())  # each sentence fits the clip it names
    assert bool((real_relevance == 1).any(dim=1).all())  # and each clip has a sentence that fits it
    assert (real_relevance > 0).double().mean().item() == pytest.approx(0.1137, abs=5e-5)
    assert (real_relevance == 1).double().mean().item() == pytest.approx(0.0017, abs=5e-5)


@with_real_files
def test_the_official_matrix_at_random_places_equals_the_definition(real_relevance: Tensor):
    with open(REAL / TEST) as clips, open(REAL / SENTENCES) as sentences:
        rows = list(csv.DictReader(clips))
        named = [row["narration_id"] for row in csv.DictReader(sentences)]
    classes = {
        row["narration_id"]: (
            {int(row["verb_class"])},
            {int(each) for each in row["all_noun_classes"][1:-1].split(",")},
        )
        for row in rows
    }
    rng = np.random.default_rng(0)
    for at, text in zip(rng.integers(len(rows), size=500), rng.integers(len(named), size=500), strict=True):
        expected = reference.relevance(classes[rows[at]["narration_id"]], classes[named[text]])
        assert real_relevance[at, text].item() == pytest.approx(expected, abs=1e-15)


@with_real_files
def test_train_sentences_name_clips_that_are_not_in_a_part_of_the_train_clips():
    with pytest.raises(
        DataError, match=r"train_sentence\.csv, line \d+: the clip 'P\w+' is not among the 16,115 clips"
    ):
        relevancy_matrix(REAL / "EPIC_100_uda_source_train.csv", REAL / "EPIC_100_retrieval_train_sentence.csv")


def chance(relevance: Tensor, clips: Tensor, sentences: Tensor) -> list[float]:
    """mAP and nDCG of random embeddings: these clips as queries, then these sentences."""
    generator = torch.Generator().manual_seed(0)
    x, y = (
        torch.nn.functional.normalize(torch.randn(count, 256, generator=generator), dim=1) for count in relevance.shape
    )
    scores = x @ y.T
    judged = [(scores[clips], relevance[clips]), (scores.T[sentences], relevance.T[sentences])]
    return [metric(*each).item() for metric in (mean_average_precision, ndcg) for each in judged]


PUBLISHED_CHANCE = [0.057, 0.056, 0.108, 0.110]  # mAP video-to-text, text-to-video; nDCG alike


@with_real_files
def test_random_embeddings_on_a_sample_of_the_queries_come_near_the_published_chance(real_relevance: Tensor):
    generator = torch.Generator().manual_seed(1)
    clips, sentences = torch.randperm(9668, generator=generator)[:500], torch.randperm(3842, generator=generator)[:300]
    assert chance(real_relevance, clips, sentences) == pytest.approx(PUBLISHED_CHANCE, abs=0.006)


@pytest.mark.slow
@with_real_files
def test_random_embeddings_give_the_published_chance(real_relevance: Tensor):
    assert chance(real_relevance, torch.arange(9668), torch.arange(3842)) == pytest.approx(PUBLISHED_CHANCE, abs=0.001)


@with_real_files
def test_the_published_margins_average_to_211_thousandths():
    with open(REAL / "train_noun_frequencies.csv") as file:
        counts = [int(row["count"]) for row in csv.DictReader(file)]
    per_clip = torch.repeat_interleave(torch.tensor(counts), torch.tensor(counts))
    assert len(per_clip) == 67_217
    concepts = ConceptDistribution.from_counts(per_clip)
    margin = Shifted(Cosine(-0.1, 0.1, cycles=5), concepts.shift(0.17, 0.30))
    over_time = [margin(p / 20, torch.arange(67_217)).double().mean().item() for p in range(20)]
    assert np.mean(over_time) == pytest.approx(0.211, abs=5e-4)
    assert (over_time[0], over_time[2]) == pytest.approx((0.311, 0.111), abs=5e-4)


def test_the_layout_with_most_media_serves_all(tmp_path: Path):
    root = draw_ek100(tmp_path, features=True)
    stray = root / "videos" / "P01" / "P01_01.MP4"
    stray.mkdir(parents=True)  # chunks of one video, begun and left
    assert all(medium.is_features for medium in read_epic_kitchens(root).media)
