"""What objectives with memory share: each medium's and each text's moving sum over the negatives of all batches."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmts.errors import InputError
from mmts.losses.contrast import Contrast, contrast
from mmts.objectives.base import Objective, ObjectiveOutput, Pairs
from mmts.options import AtLeastOne, NotNegative, checked
from mmts.policies.base import check_index
from mmts.schedules import Constant, Schedule

SIDES = ("media", "text")


@dataclass(frozen=True)
class Share:
    """The rows of state that one of several processes holds: a range of each table, sizes equal or one apart.

    process: its number, of `number`. add: adds up a tensor over all processes, in place; all of them call it together.
    """

    process: int
    number: int
    add: Callable[[Tensor], object]

    def held(self, size: int, process: int | None = None) -> slice:
        """Return which of `size` rows this process holds, or another one.

        >>> [Share(process, 2, add=id).held(5) for process in range(2)]
        [slice(0, 2, None), slice(2, 5, None)]
        """
        process = self.process if process is None else process
        return slice(size * process // self.number, size * (process + 1) // self.number)


class MovingSum(nn.Module):
    """The moving sum over negatives, S, of `size` rows, as its logarithm (docs/method.md, 5.4)."""

    log_sum: Tensor
    seen: Tensor  # which rows have a sum

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("log_sum", torch.zeros(size))
        self.register_buffer("seen", torch.zeros(size, dtype=torch.bool))


class ObjectiveWithMemory(Objective):
    """Base of the objectives that remember, for every medium and every text, how hard its negatives are.

    State has num_media rows by media_index and num_captions rows by index. gamma, eps: as in `SogCLR`. A subclass's
    buffers NAME_media and NAME_text are tables of state too: `state[NAME_media]` are the rows (B,) of the batch's media
    before it, and `keep` changes them.
    """

    splits_queries = True
    learning_rate: float | None = None

    @checked
    def __init__(
        self, num_media: AtLeastOne, num_captions: AtLeastOne, gamma: float | Schedule, eps: NotNegative = 0.0
    ) -> None:
        super().__init__()
        self.gamma = as_schedule(gamma)
        if not 0 < self.gamma.minimum <= self.gamma.maximum <= 1:
            raise InputError(f"gamma is {gamma}; it must lie in (0, 1] throughout")
        self.num_media, self.num_captions, self.eps = num_media, num_captions, eps
        self.media_sum, self.text_sum = MovingSum(num_media), MovingSum(num_captions)
        self.share: Share | None = None
        self.state: dict[str, Tensor] = {}

    def learning_rates(self) -> dict[str, float]:
        """Return `learning_rate` for each parameter, or nothing if the objective has none of its own."""
        rate = self.learning_rate
        return {} if rate is None else {name: rate for name, _ in self.named_parameters()}

    def tables(self) -> dict[str, tuple[str, int]]:
        """Return the side of each table of state, by its name in `state_dict`, and its rows over all processes."""
        sides = {"media": self.num_media, "text": self.num_captions}
        names = [name for name, _ in self.named_buffers()]
        return {
            name: (side, size)
            for side, size in sides.items()
            for name in names
            if name.startswith(f"{side}_sum.") or (name.endswith(f"_{side}") and "." not in name)
        }

    def divide(self, share: Share) -> None:
        """Hold only a share of the rows of state from now on; those of a batch are read from all processes."""
        self.share = share
        for name, (_, size) in self.tables().items():
            module, _, buffer = name.rpartition(".")
            self.get_submodule(module).register_buffer(buffer, self.get_buffer(name)[share.held(size)].clone())

    def compute_part(self, x: Tensor, y: Tensor, pairs: Pairs) -> ObjectiveOutput:
        """Check the rows of state and read them, then compute; InputError names a row outside of it."""
        M, N = self.num_media, self.num_captions
        if pairs.media_index is not None:
            check_index(pairs.media_index, M, "media_index")
        elif M != N:
            raise InputError(f"media_index is missing: {N} samples share {M} media, whose state is kept by it")
        check_index(pairs.index, N)
        # Before anything that may fail on one process alone: the others would wait for it.
        self.state = self.read(dict(zip(SIDES, self.rows(pairs), strict=True)))
        return super().compute_part(x, y, pairs)

    def rows(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return the rows of state of the batch's media and texts, (B,) int64 each."""
        device = self.text_sum.log_sum.device
        media_index = pairs.index if pairs.media_index is None else pairs.media_index
        return media_index.to(device, torch.int64), pairs.index.to(device, torch.int64)

    def read(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the rows (B,) of every table of the sides in `rows`, by name; all processes call it, with the same."""
        tables = {name: self.get_buffer(name) for name, (side, _) in self.tables().items() if side in rows}
        if self.share is None:
            return {name: table[rows[self.tables()[name][0]]] for name, table in tables.items()}
        columns = []
        for name, table in tables.items():
            place, is_here = self._place(name, rows)
            # -0 is what changes no other number, not even its sign.
            columns.append(table[place].to(self.text_sum.log_sum.dtype).where(is_here, -0.0))
        together = torch.stack(columns)
        self.share.add(together)
        return {name: column.to(table.dtype) for (name, table), column in zip(tables.items(), together, strict=True)}

    def keep(self, name: str, rows: Tensor, values: Tensor) -> None:
        """Put values (B,) into these rows (B,) of a table; equal rows have equal values."""
        table = self.get_buffer(name)
        if self.share is not None:
            place, is_here = self._place(name, {self.tables()[name][0]: rows})
            rows, values = place[is_here], values[is_here]
        table[rows] = values.to(table)

    def _place(self, name: str, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the place in a divided table of rows (B,), 0 for those of others, and which are held here."""
        assert self.share is not None
        side, size = self.tables()[name]
        held = self.share.held(size)
        is_here = (rows[side] >= held.start) & (rows[side] < held.stop)
        return (rows[side] - held.start).where(is_here, 0), is_here

    def contrast(
        self, x: Tensor, y: Tensor, temperatures: tuple[Tensor, Tensor], pairs: Pairs, **more: Any
    ) -> Contrast:
        """Contrast media with texts and texts with media, each at its own temperatures, () or (B,).

        more: options of `mmts.losses.contrast.contrast`.
        """
        gamma = self.gamma(pairs.progress)

        def extend(log_sums: Tensor) -> Tensor:
            """Return log S (2, b) of the queries after a batch with these log sums."""
            before, seen = (
                torch.stack([self.state[f"{side}_sum.{name}"][pairs.queries] for side in SIDES])
                for name in ("log_sum", "seen")
            )
            kept = before.to(log_sums) + (math.log1p(-gamma) if gamma < 1 else -math.inf)
            return torch.where(seen, torch.logaddexp(kept, log_sums + math.log(gamma)), log_sums)

        options = {"log_added": math.log(self.eps) if self.eps else None, **more}
        return contrast(x, y, temperatures, extend, positives=pairs.positives, queries=pairs.queries, **options)

    def log(self, temperature: Tensor, result: Contrast, **more: Tensor) -> dict[str, Tensor]:
        """Return what `compute` logs: the temperature, the pull on each positive pair (5.5), and what to remember.

        more: tensors (2, b) to remember by name, of media and of texts.
        """
        log = {"temperature": temperature, "weight": result.weight.sum(dim=0)}
        for name, both in {"log_sum": result.log_sum, "contrasted": result.contrasted, **more}.items():
            log[f"_{name}_media"], log[f"_{name}_text"] = both
        return log

    def remember(self, pairs: Pairs, gathered: Mapping[str, Tensor]) -> None:
        """Keep log S of the media and texts that have a negative; queries with one row leave the mean of S."""
        for side, rows in zip(SIDES, self.rows(pairs), strict=True):
            contrasted = gathered[f"_contrasted_{side}"]
            log_sum = gathered[f"_log_sum_{side}"].masked_fill(~contrasted, -math.inf)
            top = over_same_rows(rows, log_sum, "max")
            updated = ~top.isneginf()
            pooled = over_same_rows(rows, (log_sum - top.where(updated, 0.0)).exp(), "sum").log() + top
            number = over_same_rows(rows, contrasted.to(log_sum), "sum").clamp_min(1)
            before, seen = (self.state[f"{side}_sum.{name}"] for name in ("log_sum", "seen"))
            self.keep(f"{side}_sum.log_sum", rows, torch.where(updated, (pooled - number.log()).to(before), before))
            self.keep(f"{side}_sum.seen", rows, seen | updated)


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a number as a constant schedule, and a schedule unchanged."""
    return Constant(float(value)) if isinstance(value, int | float) else value


def over_same_rows(rows: Tensor, values: Tensor, how: str) -> Tensor:
    """Return the "sum" or the "max" of the values, (B,), over the entries with the same row, (B,).

    >>> over_same_rows(torch.tensor([7, 3, 7]), torch.tensor([1.0, 2.0, 4.0]), "sum")
    tensor([5., 2., 5.])
    """
    _, place, lengths = torch.unique(rows, return_inverse=True, return_counts=True)
    values = values[place.argsort(stable=True)]
    # Not index_add, which on a GPU adds in a different order each time: processes must not drift apart.
    if values.device.type == "mps":  # which has no segment_reduce
        return torch.segment_reduce(values.cpu(), how, lengths=lengths.cpu()).to(values.device)[place]
    return torch.segment_reduce(values, how, lengths=lengths)[place]
