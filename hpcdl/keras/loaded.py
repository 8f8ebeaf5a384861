"""A torch DataLoader over one data set, which is shared out sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils import data

from ..agree import agree
from ..errors import InvalidArgument
from ..torch.one_dataset import OneDataset
from ..world import World
from .sources import Round, structure

__all__ = ["Loaded"]


class Loaded:
    """Rounds of a DataLoader's data set, cut as arrays are; its workers, collate_fn and batch size are kept."""

    def __init__(self, world: World, loader: Any, seed: int) -> None:
        if isinstance(loader.dataset, data.IterableDataset) or loader.batch_size is None:
            raise InvalidArgument(
                "the DataLoader's samples cannot be asked for by number (an IterableDataset, or a batch_sampler of its own); cure: each "
                "rank reads its own part, with own=True"
            )
        shuffled = isinstance(loader.sampler, data.RandomSampler)
        if not (shuffled or isinstance(loader.sampler, data.SequentialSampler)):
            raise InvalidArgument("the DataLoader has a sampler of its own; cure: each rank takes its own part by it, with own=True")
        samples, size = OneDataset.length(loader.dataset), int(loader.batch_size)
        agree(world, {"samples": samples, "batch_size": size})
        keywords = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn, "pin_memory": loader.pin_memory}
        self._sources = {
            s: OneDataset(world, loader.dataset, samples, size, seed, s and shuffled, loader.drop_last, True, keywords)
            for s in (False, True)
        }
        self.steps = self._sources[False].steps
        self.lends = min(size, samples % size if samples % size and not loader.drop_last else size) < world.size
        self.first = [batch for batch, _ in islice(self.rounds(0, False), 1)]

    def rounds(self, epoch: int, shuffle: bool, first: int = 0) -> Iterator[Round]:
        """This rank's part of each batch of `epoch`."""
        for _, batch, mine, _ in self._sources[shuffle].rounds(epoch, first):
            yield structure(batch), int(mine)
