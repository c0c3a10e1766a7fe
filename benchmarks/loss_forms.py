"""The losses in several forms that give the same number: in tiles, plain, and as others write them.

`python -m benchmarks.loss_forms "info_nce, fused" 8192 512` prints the peak memory of one, in MiB beside its inputs.
"""

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks.measure import peak_memory
from mmts.losses import info_nce, max_margin
from mmts.losses.contrast import contrast

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def textbook_info_nce(x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    """Two matrix products, two cross_entropy."""
    x, y = normalize(x), normalize(y)
    target, by_row = torch.arange(len(x)), temperature[:, None]
    return (cross_entropy(x @ y.T / by_row, target) + cross_entropy(y @ x.T / by_row, target)) / 2


def one_number_info_nce(x: Tensor, y: Tensor, temperature: Tensor) -> Tensor:
    """The shortest form: one temperature for all, hence one matrix product and its transpose."""
    logits = normalize(x) @ normalize(y).T / temperature.mean()
    target = torch.arange(len(x))
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def index_list_max_margin(x: Tensor, y: Tensor, margin: Tensor) -> Tensor:
    """The published form (Frozen in Time, EgoVLP and what came of them): pairs of both directions in one column, the
    own pair's similarity beside each, and those off the diagonal picked by index, after a hinge of all that is thrown
    away. A margin a sample goes the way their weights a sample do."""
    similarity = normalize(x) @ normalize(y).T
    B = len(similarity)
    own, asked = (each.unsqueeze(1).expand(B, B).contiguous().view(-1, 1) for each in (similarity.diagonal(), margin))
    own, asked = torch.cat((own, own), 0), torch.cat((asked, asked), 0)
    other = torch.cat((similarity.view(-1, 1), similarity.transpose(0, 1).contiguous().view(-1, 1)), 0)
    (asked - (own - other)).relu()
    keep = (torch.ones(B, B) - torch.eye(B)).view(-1, 1)
    index = torch.nonzero(torch.cat((keep, keep), 0).flatten()).flatten()
    own, asked, other = (torch.index_select(each, dim=0, index=index) for each in (own, asked, other))
    return (asked - (own - other)).relu().mean()


def an_eighth(x: Tensor) -> slice:
    """Return the queries of the second of eight processes."""
    return slice(len(x) // 8, len(x) // 4)


FORMS: dict[str, Form] = {
    "info_nce, fused": lambda x, y, values: info_nce(x, y, values, fused=True),
    "info_nce, plain": lambda x, y, values: info_nce(x, y, values, fused=False),
    "info_nce, textbook": textbook_info_nce,
    "info_nce, one number": one_number_info_nce,
    "max_margin, fused": lambda x, y, values: max_margin(x, y, values, fused=True),
    "max_margin, plain": lambda x, y, values: max_margin(x, y, values, fused=False),
    "max_margin, index lists": index_list_max_margin,
    "contrast, fused": lambda x, y, values: contrast(x, y, (values, values), fused=True).loss,
    "contrast, plain": lambda x, y, values: contrast(x, y, (values, values), fused=False).loss,
    "info_nce, an eighth of the queries": lambda x, y, values: info_nce(x, y, values, queries=an_eighth(x), fused=True),
    "max_margin, an eighth of the queries": lambda x, y, values: max_margin(
        x, y, values, queries=an_eighth(x), fused=True
    ),
    "contrast, an eighth of the queries": lambda x, y, values: (
        contrast(x, y, (values, values), queries=an_eighth(x), fused=True).loss
    ),
}


def forward_and_backward(name: str, B: int, D: int, dtype: torch.dtype = torch.float32) -> Callable[[], Tensor]:
    """Return what takes the loss of a fixed batch and its gradients in x and y, and returns the loss."""
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
    forward_and_backward(name, 64, D)()  # what the libraries allocate once
    print(peak_memory(forward_and_backward(name, B, D)))
