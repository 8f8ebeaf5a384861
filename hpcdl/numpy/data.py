"""Which samples a rank trains on: a permutation per epoch, cut into global batches, each cut into one shard per rank."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgument

__all__ = ["Shards"]


class Shards:
    """One rank's shards of a data set of `samples`, in global batches of `batch_size` (the last of an epoch may be smaller).

    Every sample belongs to exactly one rank in every epoch. The order is a function of (seed, epoch) alone, so the global batches are the
    same for any number of ranks; each is cut contiguously like ``numpy.array_split``, so shards differ by one sample at most and are
    empty where a batch has fewer samples than there are ranks. Such a rank joins the step with weight 0.

    Raises InvalidArgument for a count below 1 or a rank outside 0 … size-1.

    >>> [shard.tolist() for shard in Shards(5, 4, rank=1, size=3, seed=1).epoch(0)]
    [[1], []]
    >>> len(Shards(5, 4))
    2
    """

    def __init__(self, samples: int, batch_size: int, rank: int = 0, size: int = 1, seed: int = 0) -> None:
        for name, value in {"samples": samples, "batch_size": batch_size, "size": size}.items():
            if value < 1:
                raise InvalidArgument(f"{name}={value}: must be at least 1")
        if not 0 <= rank < size:
            raise InvalidArgument(f"rank={rank}: must be from 0 to {size - 1}")
        self.samples, self.batch_size, self.rank, self.size, self.seed = samples, batch_size, rank, size, seed

    def __len__(self) -> int:
        """Global batches, that is steps, in an epoch."""
        return math.ceil(self.samples / self.batch_size)

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """This rank's shard of each global batch of `epoch`: sample numbers, int64 of shape ``(n,)``, n may be 0."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        for start in range(0, self.samples, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield np.array_split(batch, self.size)[self.rank]
