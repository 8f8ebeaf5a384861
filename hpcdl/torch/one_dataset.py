"""One data set, shared out: torch's DataLoader, told which samples each batch of this rank has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils import data

from ..errors import InvalidArgument
from ..shards import Shards
from ..world import World
from .workers import outliving

__all__ = ["OneDataset"]


class OneDataset:
    """This rank's part of each global batch; a source of `Loader`. Arguments: see `loader`."""

    def __init__(
        self,
        world: World,
        dataset: Any,
        length: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        train: bool,
        keywords: dict[str, Any],
    ) -> None:
        taken = sorted({"sampler", "batch_sampler"} & set(keywords))
        if taken:
            raise InvalidArgument(
                f"{taken[0]}: this loader chooses the samples; for another choice pass your own DataLoader and batch_size=None"
            )
        if length < 1:
            raise InvalidArgument("the data set is empty")
        if seed < 0:
            raise InvalidArgument(f"seed must be a whole number from 0, got {seed}")
        self._shards = Shards(length, batch_size, world.rank, world.size, seed, shuffle, drop_last)
        self.identity = {"samples": length, "batch_size": batch_size, "seed": seed, "shuffle": int(shuffle), "drop_last": int(drop_last)}
        self.steps = len(self._shards)
        if not self.steps:
            raise InvalidArgument(f"drop_last leaves nothing of {length} samples in batches of {batch_size}; use a smaller batch_size")
        self._stand_in = train
        sizes = {batch_size: length // batch_size, length % batch_size: int(not drop_last and length % batch_size > 0)}
        self.own_steps = self.steps if train else sum(steps for size, steps in sizes.items() if size > world.rank)
        self._order = _Order(self)
        self._data = data.DataLoader(dataset, batch_sampler=self._order, **outliving(keywords))

    @staticmethod
    def length(dataset: Any) -> int:
        """The number of samples. Raises InvalidArgument for what is no data set of map style."""
        if isinstance(dataset, data.DataLoader):
            raise InvalidArgument(
                "a DataLoader has made its batches already; pass its data set, or batch_size=None to take them as they are"
            )
        try:
            return len(dataset)
        except TypeError as error:
            what = type(dataset).__name__
            raise InvalidArgument(f"a {what} has no length to be shared out ({error}); pass batches of each rank's own") from error

    def rounds(self, epoch: int, first: int) -> Iterator[tuple[int, Any, float, float]]:
        """This rank's batches of `epoch`, from number `first` on: (number, batch, its samples, those of all ranks)."""
        self._order.at = epoch, first
        random = torch.get_rng_state()
        batches = iter(self._data)  # draws a number, which within an epoch that is resumed was drawn before
        if first:
            torch.set_rng_state(random)
        for batch, (number, _, mine, total) in zip(batches, self.shares(epoch, first), strict=False):
            yield number, batch, mine, total

    def shares(self, epoch: int, first: int) -> Iterator[tuple[int, list[int], int, int]]:
        """The same as sample numbers: (number, this rank's samples or a stand-in, how many of them count, how many all ranks have)."""
        for number, batch in enumerate(self._shards.batches(epoch, first), first):
            part = self._shards.part(batch).tolist()
            if part or self._stand_in:
                yield number, part or batch[:1].tolist(), len(part), len(batch)


class _Order:
    """The DataLoader's batch sampler."""

    def __init__(self, source: OneDataset) -> None:
        self._source = source
        self.at = (0, 0)  # epoch, first batch of the next iterator

    def __iter__(self) -> Iterator[list[int]]:
        return (samples for _, samples, _, _ in self._source.shares(*self.at))

    def __len__(self) -> int:
        return self._source.own_steps
