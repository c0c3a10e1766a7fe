"""Captions that do not fit their media: the score against its slow twin, planted swaps, repeated pictures, the file."""

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from tests_support import captioned_split
from torch import Tensor
from torch.nn.functional import normalize

from mmts.data.records import Split
from mmts.evaluation import mismatch
from mmts.evaluation.judgement_file import Judged, save_judgement
from mmts.evaluation.mismatch import SUSPECTED, find_mismatches
from mmts.evaluation.rank import judge


def drawn(num_media: int = 60, kinds: int = 4, per_medium: int = 1, seed: int = 0) -> tuple[Tensor, Tensor, Split]:
    """Return embeddings of media of a few kinds, each with captions of its kind, of which some strings repeat."""
    random = torch.Generator().manual_seed(seed)
    centers = torch.randn(kinds, 16, generator=random)
    kind = torch.arange(num_media) % kinds
    media = normalize(centers[kind] + 0.4 * torch.randn(num_media, 16, generator=random))
    text = centers[kind.repeat_interleave(per_medium)]
    text = normalize(text + 0.4 * torch.randn(len(text), 16, generator=random))
    captions = [[f"kind {i % kinds}, {i % 25}, {k}" for k in range(per_medium)] for i in range(num_media)]
    return media, text, captioned_split(captions)


@pytest.mark.parametrize("per_medium", [1, 2])
def test_scores_are_those_of_the_formula(per_medium: int, monkeypatch: pytest.MonkeyPatch) -> None:
    media, text, split = drawn(per_medium=per_medium)
    found = find_mismatches(media, text, split)
    assert found is not None
    rows = [side.double().tolist() for side in (media, text)]
    expected = reference.mismatch_scores(*rows, split.owner.tolist(), split.captions)
    torch.testing.assert_close(found.scores.double(), torch.tensor(expected).double(), rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(mismatch, "CHUNK_ELEMENTS", 7 * len(media))  # in many parts
    again = find_mismatches(media, text, split)
    assert again is not None
    torch.testing.assert_close(again.scores, found.scores, rtol=1e-3, atol=1e-4)
    assert torch.equal(again.nearest, found.nearest)


def test_swapped_captions_are_suspected_even_if_they_were_learned_by_heart() -> None:
    media, text, split = drawn(num_media=200)
    swapped = [0, 1, 50, 103]  # 0 with 1, 50 with 103: of other kinds
    text[swapped] = text[[1, 0, 103, 50]]
    found = find_mismatches(media, text, split)
    assert found is not None
    assert set(swapped) <= {*(found.scores > SUSPECTED).nonzero()[:, 0].tolist()}
    media[swapped] = normalize(media[swapped] + 0.3 * text[swapped])
    found = find_mismatches(media, text, split)
    assert found is not None
    assert {*found.scores.topk(4).indices.tolist()} == set(swapped)


def test_copies_are_nearest_to_each_other() -> None:
    media, text, split = drawn()
    media[7] = media[31]
    found = find_mismatches(media, text, split)
    assert found is not None
    assert (int(found.nearest[7]), int(found.nearest[31])) == (31, 7)
    assert float(found.cosine[7]) == pytest.approx(1.0)


def test_few_media_and_captions_that_all_share_have_no_wrong_ones() -> None:
    media, text, split = drawn(num_media=49)
    assert find_mismatches(media, text, split) is None
    media, text, _ = drawn()
    found = find_mismatches(media, text, captioned_split([["one for all"]] * 60))
    assert found is not None
    assert found.scores.tolist() == [0.0] * 60


def test_they_are_kept_with_the_ranks(tmp_path: Path) -> None:
    media, text, split = drawn()
    found, file, groups = find_mismatches(media, text, split), tmp_path / "judgement.npz", torch.zeros(60)
    for kept in (None, found):
        save_judgement(
            file, judge(media, text, split), split, tmp_path, "text", groups.long(), [groups, groups], mismatches=kept
        )
        again = Judged.load(tmp_path, file).mismatches
        assert (again is None) == (kept is None)
    assert again is not None
    assert found is not None
    np.testing.assert_array_equal(again.scores.numpy(), found.scores.numpy())
    assert torch.equal(again.nearest, found.nearest)
