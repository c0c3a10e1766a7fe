"""batch_loss asks every kind of rule as it wants to be asked."""

import pytest
import torch
from adapters.made import COUNTS, published, shifted

from mmts import MMTSLoss
from mmts.adapters.batch_loss import batch_loss
from mmts.errors import InputError
from mmts.losses import info_nce, max_margin
from mmts.objectives import SogCLR

X, Y = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("progress", "steps"), [(0.0, 1), (0.3, 1), (0.3, 1000), (1.0, 7)])
def test_mmts_loss_follows_progress_whatever_its_total_steps(progress: float, steps: int) -> None:
    rule = MMTSLoss("max_margin", total_steps=steps, count_range=(1, 8))
    output = batch_loss(rule, X, Y, progress=progress, samples=COUNTS)
    margin = rule.values(step=progress * steps, counts=COUNTS)
    torch.testing.assert_close(output.log, {"margin": margin})
    torch.testing.assert_close(output.loss, max_margin(X, Y, margin))


@pytest.mark.parametrize(("rule", "samples"), [(shifted(), torch.arange(8)), (published(), COUNTS)])
def test_pairs_of_one_medium_are_no_negatives(rule, samples) -> None:  # type: ignore[no-untyped-def]
    media = torch.arange(8) // 2
    output = batch_loss(rule, X, Y, progress=0.5, samples=samples, media=media)
    temperature = output.log["temperature"]
    torch.testing.assert_close(output.loss, info_nce(X, Y, temperature, positives=media[:, None] == media))
    apart = batch_loss(rule, X, Y, progress=0.5, samples=samples, media=torch.arange(8))
    torch.testing.assert_close(apart.loss, info_nce(X, Y, temperature))


def test_what_is_remembered_of_media_goes_by_their_index() -> None:
    rule = SogCLR(num_media=4, num_captions=8, temperature=0.1)
    batch_loss(rule, X[:2], Y[:2], progress=0.0, samples=torch.tensor([5, 6]), media=torch.tensor([3, 1]))
    assert rule.media_sum.seen.tolist() == [False, True, False, True]
    assert rule.text_sum.seen.nonzero().flatten().tolist() == [5, 6]


def test_what_cannot_be_right_is_said() -> None:
    with pytest.raises(InputError, match="progress is unknown"):
        batch_loss(shifted(), X, Y, progress=None, samples=torch.arange(8))
    with pytest.raises(InputError, match=r"samples is \(3,\); for 8 pairs it must be \(8,\)"):
        batch_loss(shifted(), X, Y, progress=0.0, samples=torch.arange(3))
    with pytest.raises(InputError, match=r"media is \(8, 1\)"):
        batch_loss(shifted(), X, Y, progress=0.0, samples=torch.arange(8), media=torch.arange(8)[:, None])
