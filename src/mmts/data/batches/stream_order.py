"""The order of millions of pairs: shards at random, and inside a shard close to the order on the disk."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmts.errors import InputError

_STREAM = 2**32 - 1  # keeps these random numbers apart from those for a medium, [seed, epoch, position]


def stream_order(
    shard_sizes: Sequence[int] | npt.NDArray[np.int64], seed: int, epoch: int, buffer: int
) -> npt.NDArray[np.int64]:
    """Return the N positions in a random order that a shuffle buffer of `buffer` samples could produce.

    The shards come in random order, each with its samples in file order. Then the sample at place p gets the rank of
    p + buffer * u, u uniform in [0, 1), so it moves by less than `buffer` places, and a reader that follows the shards
    holds at most `buffer` samples back. With buffer >= N all orders are equally likely.

    Args:
        shard_sizes: samples of each shard; the positions of a shard follow those of the shard before it.
        seed: at least 0.
        epoch: counted from 0; every epoch has another order.
        buffer: samples; 1 keeps the order inside each shard.

    Raises:
        InputError: a size, seed or epoch below 0, or a buffer below 1.

    >>> stream_order([3, 2, 4], seed=0, epoch=0, buffer=1).tolist()
    [3, 4, 5, 6, 7, 8, 0, 1, 2]
    """
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    if buffer < 1 or seed < 0 or epoch < 0 or (sizes < 0).any():
        raise InputError(
            f"need buffer >= 1, seed >= 0, epoch >= 0 and no shard below 0, not {buffer}, {seed}, {epoch} and "
            f"{sizes.min(initial=0)}"
        )
    rng = np.random.default_rng([seed, epoch, _STREAM])
    N = int(sizes.sum())
    if buffer >= N:
        return rng.permutation(N)
    shards = rng.permutation(len(sizes))
    starts, lengths = (np.cumsum(sizes) - sizes)[shards], sizes[shards]
    before = np.cumsum(lengths) - lengths
    in_line: npt.NDArray[np.int64] = np.arange(N) + np.repeat(starts - before, lengths)
    return in_line[np.argsort(np.arange(N) + buffer * rng.random(N), kind="stable")]


def process_slice(batch_size: int, process: int, num_processes: int) -> slice:
    """Return the queries of one process: a contiguous slice of every global batch, sizes equal or one apart.

    Raises InputError for a process that does not exist, or a batch with fewer samples than processes.

    >>> [process_slice(10, process, 3) for process in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 10, None)]
    """
    if not 0 <= process < num_processes:
        raise InputError(f"process must be in [0, {num_processes}), not {process}")
    if batch_size < num_processes:
        raise InputError(f"a batch of {batch_size} cannot be split over {num_processes} processes")
    return slice(batch_size * process // num_processes, batch_size * (process + 1) // num_processes)
