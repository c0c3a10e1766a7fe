"""VAST's contrastive term is info_nce with label smoothing, negatives gathered over processes included.

VAST (Chen et al., arXiv 2305.18500) gathers both sides' unit embeddings from all processes. Each process takes its own
rows as queries against all gathered candidates, in both directions, as two cross-entropies with label smoothing .1
over similarity / temperature, and averages the two; data-parallel training averages the processes.
"""

import pytest
import torch
from loss_cases import embeddings, loss_and_gradients
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from mmts import MMTSLoss
from mmts.losses import info_nce

TEMPERATURE, SMOOTHING = 0.07, 0.1


def vast_term(condition: Tensor, text: Tensor, processes: int) -> Tensor:
    """VAST's term averaged over `processes` that hold equal shares of the rows (B, D)."""
    condition, text = normalize(condition, dim=-1), normalize(text, dim=-1)
    share = len(text) // processes
    losses = []
    for rank in range(processes):
        mine = slice(rank * share, (rank + 1) * share)
        target = torch.arange(share) + rank * share  # where the own rows stand among the gathered
        to_text = condition[mine] @ text.T / TEMPERATURE
        to_condition = text[mine] @ condition.T / TEMPERATURE
        both = [cross_entropy(logits, target, label_smoothing=SMOOTHING) for logits in (to_text, to_condition)]
        losses.append((both[0] + both[1]) / 2)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_info_nce_with_label_smoothing_is_the_term_in_value_and_gradient(processes: int) -> None:
    x, y = embeddings(B=8)
    ours = loss_and_gradients(info_nce(x, y, TEMPERATURE, label_smoothing=SMOOTHING), x, y)
    wanted = loss_and_gradients(vast_term(x, y, processes), x, y)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


def test_the_smoothing_matters() -> None:
    x, y = embeddings(B=8)
    assert abs(info_nce(x, y, TEMPERATURE) - vast_term(x, y, 2)) > 0.1


def test_mmts_loss_held_at_one_temperature_is_the_term() -> None:
    x, y = embeddings(B=8)
    settings = {"alpha": 0.0, "low": TEMPERATURE, "high": TEMPERATURE, "label_smoothing": SMOOTHING}
    loss = MMTSLoss("info_nce", total_steps=10, count_range=(1, 5), **settings)
    ours = loss(x, y, step=3, counts=torch.tensor([1, 2, 3, 4, 5, 5, 5, 5]))
    torch.testing.assert_close(ours, vast_term(x, y, 2), rtol=0, atol=1e-12)
