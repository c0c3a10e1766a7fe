"""Each loss in several forms that give the same number: in tiles, plain, and as others write it.

`python -m benchmarks.loss_forms "info_nce, fused" 8192 512` prints the peak memory of one form, in MiB, without its
inputs.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.measure import peak_memory
from mmts.losses import info_nce, max_margin
from mmts.losses.contrast import contrast


def textbook_info_nce(x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    """Two matrix products and two cross_entropy."""
    x, y = normalize(x), normalize(y)
    target, of_row = torch.arange(len(x)), temperature[:, None]
    return (cross_entropy(x @ y.T / of_row, target) + cross_entropy(y @ x.T / of_row, target)) / 2


def one_temperature_info_nce(x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    """The shortest form: with one temperature for all samples, one matrix product and its transpose are enough."""
    logits = normalize(x) @ normalize(y).T / temperature.mean()
    target = torch.arange(len(x))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def index_list_max_margin(x: Tensor, y: Tensor, margin: Tensor) -> Tensor:
    """The published form (Frozen in Time, EgoVLP and their successors); a margin per sample enters as their weights do.

    The similarities of both directions form one column beside that of each row's positive pair. A first hinge over all
    pairs is computed and thrown away; the pairs off the diagonal are then selected by index.
    """
    similarity = normalize(x) @ normalize(y).T
    B = len(similarity)
    positive = similarity.diagonal().unsqueeze(1).expand(B, B).contiguous().view(-1, 1)
    margins = margin.unsqueeze(1).expand(B, B).contiguous().view(-1, 1)
    positive, margins = torch.cat((positive, positive), 0), torch.cat((margins, margins), 0)
    other = torch.cat((similarity.view(-1, 1), similarity.transpose(0, 1).contiguous().view(-1, 1)), 0)
    (margins - (positive - other)).relu()
    keep = (torch.ones(B, B) - torch.eye(B)).view(-1, 1)
    index = torch.nonzero(torch.cat((keep, keep), 0).flatten()).flatten()
    positive = torch.index_select(positive, dim=0, index=index)
    margins = torch.index_select(margins, dim=0, index=index)
    other = torch.index_select(other, dim=0, index=index)
    return (margins - (positive - other)).relu().mean()


def contrast_loss(x: Tensor, y: Tensor, temperature: Tensor, **options: Any) -> Tensor:
    """The loss of SogCLR, which takes a temperature per medium and one per text."""
    return contrast(x, y, (temperature, temperature), **options).loss


def an_eighth(loss: Callable[..., Tensor], x: Tensor, y: Tensor, values: Tensor) -> Tensor:
    """The share of the second of eight processes."""
    return loss(x, y, values, queries=slice(len(x) // 8, len(x) // 4), fused=True)


FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "info_nce, textbook": textbook_info_nce,
    "info_nce, one temperature for all": one_temperature_info_nce,
    "max_margin, index lists": index_list_max_margin,
}
for _name, _loss in (("info_nce", info_nce), ("max_margin", max_margin), ("contrast", contrast_loss)):
    FORMS[f"{_name}, fused"] = FORMS[f"{_name}, all queries"] = partial(_loss, fused=True)
    FORMS[f"{_name}, plain"] = partial(_loss, fused=False)
    FORMS[f"{_name}, an eighth of the queries"] = partial(an_eighth, _loss)


def forward_and_backward(name: str, B: int, D: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """Return a function that computes the loss of a fixed batch and its gradients in x and y, and returns the loss."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(B, D, generator=generator)
    x, y = ((common + torch.randn(B, D, generator=generator)).to(dtype).requires_grad_() for _ in range(2))
    values = 0.05 + 0.15 * torch.rand(B, generator=generator)
    del common

    def run() -> Tensor:
        x.grad = y.grad = None
        loss = FORMS[name](x, y, values)
        loss.backward()
        return loss.detach()

    return run


if __name__ == "__main__":
    name, B, D = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    forward_and_backward(name, 64, D)()  # a small run first: libraries allocate memory of their own once
    print(peak_memory(forward_and_backward(name, B, D)))
