"""Judging: against the slow twins, both relevances, groups, intervals, memory, and what is kept on disk."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from tests_support import captioned_split

from mmts.data.graded import Graded
from mmts.data.records import Medium, Split
from mmts.errors import DataError, InputError
from mmts.evaluation.embeddings_file import save_embeddings
from mmts.evaluation.figures import judge_folds, recalls, summarize
from mmts.evaluation.judgement_file import Judged, save_judgement
from mmts.evaluation.rank import judge
from mmts.losses import unit
from mmts.metrics import mean_average_precision, ndcg


def embeddings(split: Split, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    media = unit(torch.randn(split.num_media, 8, generator=generator))
    return media, unit(media[split.owner] + 0.8 * torch.randn(split.num_captions, 8, generator=generator))


def slow_ranks(similarity: np.ndarray, relevant: np.ndarray) -> list[int]:
    found = []
    for scores, right in zip(similarity, relevant, strict=True):
        best = max(score for score, ok in zip(scores, right, strict=True) if ok)
        found.append(1 + sum(score >= best for score, ok in zip(scores, right, strict=True) if not ok))
    return found


@pytest.mark.parametrize("relevance", ["own", "text"])
def test_ranks_equal_the_slow_twin(relevance: str) -> None:
    split = captioned_split([["a", "b"], ["c"], ["a"], ["d", "e", "b"]])
    media, text = embeddings(split)
    right = np.zeros((split.num_captions, split.num_media), dtype=bool)
    for row, caption in enumerate(split.captions):
        for column, medium in enumerate(split.media):
            own = split.owner[row] == column
            right[row, column] = own if relevance == "own" else caption in medium.captions
    of_text, of_media = judge(media, text, split, relevance)
    similarity = (text @ media.T).numpy()
    assert of_text.ranks.tolist() == slow_ranks(similarity, right)
    assert of_media.ranks.tolist() == slow_ranks(similarity.T, right.T)
    assert of_text.top[:, 0].tolist() == similarity.argmax(axis=1).tolist()
    assert torch.equal(of_text.top_relevant[:, 0], of_text.ranks == 1)


def test_five_captions_count_as_a_hit_when_any_is_found() -> None:
    split = captioned_split([[f"{i}-{j}" for j in range(5)] for i in range(20)])
    media, text = embeddings(split)
    _, of_media = judge(media, text, split, "own")
    best_of_five = (media @ text.T).argmax(dim=1)
    assert torch.equal(of_media.ranks == 1, split.owner[best_of_five] == torch.arange(20))


def test_equal_embeddings_are_not_rewarded() -> None:
    split = captioned_split([["a"], ["b"], ["c"]])
    of_text, _ = judge(torch.ones(3, 2), torch.ones(3, 2), split)
    assert of_text.ranks.tolist() == [3, 3, 3]


def test_equal_candidates_tie_in_whichever_column_they_stand() -> None:
    """A product in float32 may give equal candidates scores that differ in the last bit."""
    media = unit(torch.randn(1, 64, generator=torch.Generator().manual_seed(0))).repeat(11, 1)
    split = captioned_split([[f"{i}"] for i in range(11)])
    text = unit(torch.randn(11, 64, generator=torch.Generator().manual_seed(1)))
    assert judge(media, text, split, "own")[0].ranks.tolist() == [11] * 11


def test_recalls_are_percent() -> None:
    assert recalls(torch.tensor([1, 4, 9, 30])) == {
        "R@1": 25.0,
        "R@5": 50.0,
        "R@10": 75.0,
        "median_rank": 6.5,
        "mean_rank": 11.0,
    }


def test_summary_has_the_documented_form_and_empty_groups_are_null() -> None:
    split = captioned_split([["a", "b"], ["c"]])
    sides = judge(*embeddings(split), split)
    text_groups = torch.tensor([0, 2, 2])
    summary = summarize(sides, split, (text_groups, text_groups[split.first]))
    assert (summary["split"], summary["num_media"], summary["num_captions"]) == ("test", 2, 3)
    assert summary["groups"]["mid"] is None
    assert summary["groups"]["head"]["num_queries"] == 1
    assert summary["groups"]["tail"]["num_queries"] == 2
    assert summary["groups"]["head"]["text_to_image"] == recalls(sides[0].ranks[:1])
    assert summary["groups"]["head"]["image_to_text"] == recalls(sides[1].ranks[:1])
    for direction in ("image_to_text", "text_to_image"):
        low, high = summary["intervals"][direction]["R@5"]
        assert low <= summary[direction]["R@5"] <= high


def test_videos_have_their_own_direction_names() -> None:
    split = Split("test", [Medium(str(i), Path(f"{i}.mp4"), (f"clip {i}",), kind="video") for i in range(3)])
    sides = judge(*embeddings(split), split)
    groups = torch.zeros(3, dtype=torch.long)
    assert {"video_to_text", "text_to_video"} <= set(summarize(sides, split, (groups, groups)))


def test_rows_must_fit_the_split() -> None:
    split = captioned_split([["a"], ["b"]])
    with pytest.raises(InputError, match="3 media and 2 caption embeddings"):
        judge(torch.ones(3, 2), torch.ones(2, 2), split)


def test_embeddings_that_are_not_numbers_name_the_medium() -> None:
    split = captioned_split([["a"], ["b", "c"]])
    media, text = embeddings(split)
    text[2, 0] = float("nan")
    with pytest.raises(InputError, match="the embedding of medium '1' or of its caption is NaN"):
        judge(media, text, split)


def test_a_saved_judgement_reads_back(tmp_path: Path) -> None:
    split = captioned_split([["a", "b"], ["c"]])
    sides = judge(*embeddings(split), split)
    groups = torch.tensor([0, 1, 2])
    save_judgement(tmp_path / "j.npz", sides, split, Path(), "text", groups, (groups, groups[split.first]))
    judged = Judged.load(tmp_path, tmp_path / "j.npz")
    arrays, meta = judged.arrays, judged.meta
    assert arrays["text_ranks"].tolist() == sides[0].ranks.tolist()
    assert arrays["media_groups"].tolist() == [0, 2]
    assert meta["captions"] == ["a", "b", "c"]
    assert meta["media_paths"] == ["0.png", "1.png"]
    (tmp_path / "j.npz").write_bytes(b"not an archive")
    with pytest.raises(DataError, match="is damaged"):
        Judged.load(tmp_path, tmp_path / "j.npz")
    with pytest.raises(DataError, match="mmts evaluate"):
        Judged.load(tmp_path, tmp_path / "missing.npz")


def test_a_saved_judgement_says_where_in_a_tar_file_media_lie(tmp_path: Path) -> None:
    media = [Medium("a", tmp_path / "0.tar", ("a",), member=(512, 90)), Medium("b", tmp_path / "b.png", ("b",))]
    groups = torch.tensor([0, 1])
    for name, chosen in (("some", media), ("none", [media[1], media[1]])):
        split = Split("test", chosen)
        sides = judge(*embeddings(split), split)
        save_judgement(tmp_path / name, sides, split, tmp_path, "text", groups, (groups, groups))
    assert Judged.load(tmp_path, tmp_path / "some").meta["media_members"] == [[512, 90], None]
    assert "media_members" not in Judged.load(tmp_path, tmp_path / "none").meta


def test_a_saved_judgement_says_which_segments_clips_are(tmp_path: Path) -> None:
    media = [
        Medium("a", tmp_path / "a.mp4", ("a",), kind="video", start=1.5, end=3.0),
        Medium("b", tmp_path / "b", ("b",), kind="video", frames=(7, 9)),
        Medium("c", tmp_path / "c.mp4", ("c",), kind="video"),
    ]
    groups = torch.tensor([0, 1, 2])
    for name, chosen in (("some", media), ("none", [media[2]] * 3)):
        split = Split("test", chosen)
        sides = judge(*embeddings(split), split)
        save_judgement(tmp_path / name, sides, split, tmp_path, "text", groups, (groups, groups))
    assert Judged.load(tmp_path, tmp_path / "some").meta["media_segments"] == [
        [1.5, 3.0, None, None],
        [None, None, 7, 9],
        [None] * 4,
    ]
    assert "media_segments" not in Judged.load(tmp_path, tmp_path / "none").meta


def test_the_embeddings_file_has_the_documented_arrays(tmp_path: Path) -> None:
    split = captioned_split([["a", "b"], ["c"]])
    media, text = embeddings(split)
    save_embeddings(tmp_path / "e.npz", media, text, split, {"run": "runs/a"})
    with np.load(tmp_path / "e.npz") as stored:
        assert sorted(stored.files) == ["caption", "media", "media_id", "owner", "run", "split", "text", "text_id"]
        assert stored["text_id"].tolist() == ["0#0", "0#1", "1#0"]
        assert stored["owner"].tolist() == [0, 0, 1]
        np.testing.assert_array_equal(stored["media"], media.numpy())


@pytest.mark.slow
def test_coco_size_fits_in_a_gigabyte() -> None:
    split = captioned_split([[f"{i} {j}" for j in range(5)] for i in range(5000)])
    media, text = torch.randn(5000, 256), torch.randn(25_000, 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    judge(unit(media), unit(text), split, "own")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9


def graded_split() -> Split:
    """Four clips of (verb, nouns): take cup, take plate, wash cup, take cup; three texts, of clips 0, 1 and 2."""
    media = [Medium(str(i), Path(f"{i}.mp4"), (f"own {i}",), kind="video") for i in range(4)]
    verbs = csr_matrix(np.array([[1, 0], [1, 0], [0, 1], [1, 0]]))
    nouns = csr_matrix(np.array([[1, 0], [0, 1], [1, 0], [1, 0]]))
    graded = Graded(("take cup", "take plate", "wash cup"), torch.tensor([0, 1, 2]), (verbs, nouns))
    return Split("test", media, graded).judged("graded")


def test_graded_relevance_is_judged_with_the_graded_texts() -> None:
    split = graded_split()
    assert list(split.captions) == ["take cup", "take plate", "wash cup"]
    media, text = embeddings(split)
    sides = judge(media, text, split, "graded")
    grades = split.graded.relevance() if split.graded else torch.empty(0)
    assert grades.tolist() == [[1.0, 0.5, 0.5], [0.5, 1.0, 0.0], [0.5, 0.0, 1.0], [1.0, 0.5, 0.5]]
    groups = torch.zeros(4, dtype=torch.long)
    metrics = summarize(sides, split, (groups[:3], groups))
    for direction, similarity, relevance in (
        ("video_to_text", media @ text.T, grades),
        ("text_to_video", text @ media.T, grades.T),
    ):
        assert metrics[direction]["mAP"] == pytest.approx(100 * mean_average_precision(similarity, relevance).item())
        assert metrics[direction]["nDCG"] == pytest.approx(100 * ndcg(similarity, relevance).item())
        binary = mean_average_precision(similarity, relevance == 1).item()
        assert metrics[direction]["binary_mAP"] == pytest.approx(100 * binary)
        assert metrics["groups"]["head"][direction]["mAP"] == metrics[direction]["mAP"]
        low, high = metrics["intervals"][direction]["nDCG"]
        assert low <= metrics[direction]["nDCG"] <= high


def test_graded_relevance_needs_grades() -> None:
    with pytest.raises(DataError, match="split 'test' has no graded relevance"):
        captioned_split([["a"]]).judged("graded")


def test_folds_are_judged_each_by_itself() -> None:
    split = captioned_split([["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"]])
    media, text = embeddings(split)
    folds = judge_folds(media, text, split, "own", folds=2)
    halves = [
        judge(media[:2], text[:4], captioned_split([["a", "b"], ["c", "d"]]), "own"),
        judge(media[2:], text[4:], captioned_split([["e", "f"], ["g", "h"]]), "own"),
    ]
    assert folds["num"] == 2
    expected = np.mean([recalls(of_text.ranks)["R@1"] for of_text, _ in halves])
    assert folds["text_to_image"]["R@1"] == pytest.approx(expected)
    medians = [recalls(of_media.ranks)["median_rank"] for _, of_media in halves]
    assert folds["image_to_text"]["median_rank"] == np.mean(medians)
