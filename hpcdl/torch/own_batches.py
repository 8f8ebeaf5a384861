"""Each rank's own batches, of which some may have more than others: who has run out goes on with a stand-in that counts for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count as numbers
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils import data
from torch.utils._pytree import tree_leaves

from ..collectives.layout import split_evenly
from ..errors import InvalidArgument
from ..world import World
from .parcel import send_batch
from .workers import outliving

__all__ = ["OwnBatches"]

_NONE = object()


class OwnBatches:
    """This rank's own batches, and stand-ins from its last one until every rank has run out; a source of `Loader`.

    Resumed from the midst of an epoch it skips the batches that were read before, so what it goes on with is what was left if the
    rank's own order is the same again. set_epoch(epoch) is called on `batches`, its sampler and its data set where they have it.
    """

    def __init__(
        self,
        world: World,
        batches: Any,
        batch_size: int | None,
        train: bool,
        drop_last: bool,
        samples: Callable[[Any], float] | None,
        keywords: dict[str, Any],
    ) -> None:
        batches = _readable(world, batches, batch_size, drop_last, keywords)
        try:
            length = len(batches)
        except TypeError:
            length = -1
        self.identity = {"ranks": world.size}
        self.own_steps = None if length < 0 else length
        if train:
            lengths = world.allgather(np.array([length], np.int64))
            self.own_steps = None if lengths.min() < 0 else int(lengths.max())
        guessed = isinstance(getattr(batches, "dataset", None), data.IterableDataset)
        self.steps = None if guessed else self.own_steps
        self._world, self._batches, self._train, self._count = world, batches, train, samples or _samples

    def rounds(self, epoch: int, first: int) -> Iterator[tuple[int, Any, float, float]]:
        """This rank's batches of `epoch`, from number `first` on: (number, batch, its samples, those of all ranks); a stand-in has 0.

        While training a tiny all-reduce before each asks who still has one.
        """
        for part in (self._batches, *(getattr(self._batches, name, None) for name in ("sampler", "batch_sampler", "dataset"))):
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(epoch)
        own = islice(self._batches, first, None)
        if not self._train:
            for number, batch in enumerate(own, first):
                samples = self._count(batch)
                yield number, batch, samples, samples
            return
        last: Any = _NONE
        for number in numbers(first):
            batch = next(own, _NONE)
            here = batch is not _NONE
            last = batch if here else last
            samples = self._count(batch) if here else 0
            some, lacking, total = self._world.allreduce(np.array([here, last is _NONE, samples], np.float64)).tolist()
            if not some:
                return
            if lacking:
                lent = self._lend(batch)
                last = lent if last is _NONE else last
            yield number, last, samples, total

    def _lend(self, batch: Any) -> Any:
        """The batch of the first rank that has one, on all ranks: some have never had any."""
        here = batch is not _NONE
        lender = self._world.allreduce(np.array([self._world.rank if here else self._world.size]), "min")
        return send_batch(self._world, batch if here else None, int(lender[0]))


def _readable(world: World, batches: Any, batch_size: int | None, drop_last: bool, keywords: dict[str, Any]) -> Any:
    """What gives this rank's batches anew each time it is iterated."""
    if isinstance(batches, data.IterableDataset):
        if batch_size is None:
            return data.DataLoader(batches, batch_size=None, **outliving(keywords))
        if batch_size < world.size:
            raise InvalidArgument(f"batch_size={batch_size} of an IterableDataset must be at least 1 for each of {world.size} ranks")
        begins = split_evenly(batch_size, world.size)
        return data.DataLoader(batches, begins[world.rank + 1] - begins[world.rank], drop_last=drop_last, **outliving(keywords))
    if keywords:
        raise InvalidArgument(f"{sorted(keywords)[0]}: the batches are made already; pass it to what makes them")
    if isinstance(batches, data.Dataset):
        raise InvalidArgument("a data set needs a batch_size; None is for what yields batches, such as your own DataLoader")
    if isinstance(batches, Iterator) or not (hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")):
        raise InvalidArgument(f"expected batches to be read once per epoch, got a {type(batches).__name__}; pass a list or a DataLoader")
    return batches


def _samples(batch: Any) -> float:
    """The first dimension of the first tensor of a batch."""
    for leaf in tree_leaves(batch):
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return len(leaf)
    raise InvalidArgument(
        f"found no tensor to count the samples of a batch by, in a {type(batch).__name__}; pass samples=, a function of a batch"
    )
