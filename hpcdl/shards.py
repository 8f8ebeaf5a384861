"""Which samples a rank trains on: a permutation per epoch, cut into global batches, each cut into one shard per rank."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .errors import InvalidArgument

__all__ = ["Shards"]


class Shards:
    """One rank's shards of a data set of `samples`, in global batches of `batch_size` (the last of an epoch may be smaller).

    Every sample belongs to exactly one rank in every epoch. The order is a function of (seed, epoch) alone, so the global batches are the
    same for any number of ranks; each is cut contiguously like ``numpy.array_split``, so shards differ by one sample at most and are
    empty where a batch has fewer samples than there are ranks. Such a rank joins the step with weight 0. shuffle=False: every epoch in
    the data set's own order. drop_last: without the last batch where it is smaller.

    Raises InvalidArgument for a count below 1 or a rank outside 0 … size-1.

    >>> [shard.tolist() for shard in Shards(5, 4, rank=1, size=3, seed=1).epoch(0)]
    [[1], []]
    >>> len(Shards(5, 4))
    2
    """

    def __init__(
        self, samples: int, batch_size: int, rank: int = 0, size: int = 1, seed: int = 0, shuffle: bool = True, drop_last: bool = False
    ) -> None:
        for name, value in {"samples": samples, "batch_size": batch_size, "size": size}.items():
            if value < 1:
                raise InvalidArgument(f"{name}={value}: must be at least 1")
        if not 0 <= rank < size:
            raise InvalidArgument(f"rank={rank}: must be from 0 to {size - 1}")
        self.samples, self.batch_size, self.rank, self.size, self.seed = samples, batch_size, rank, size, seed
        self.shuffle, self.drop_last = shuffle, drop_last

    def __len__(self) -> int:
        """Global batches, that is steps, in an epoch."""
        return self.samples // self.batch_size if self.drop_last else math.ceil(self.samples / self.batch_size)

    def batches(self, epoch: int, first: int = 0) -> Iterator[NDArray[np.int64]]:
        """The global batches of `epoch`, from number `first` on: sample numbers, int64 of shape ``(n,)``, n at least 1."""
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples) if self.shuffle else np.arange(self.samples)
        for number in range(first, len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size]

    def part(self, batch: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's shard of a global batch."""
        return np.array_split(batch, self.size)[self.rank]

    def epoch(self, epoch: int) -> Iterator[NDArray[np.int64]]:
        """This rank's shard of each global batch of `epoch`: sample numbers, int64 of shape ``(n,)``, n may be 0."""
        return map(self.part, self.batches(epoch))
