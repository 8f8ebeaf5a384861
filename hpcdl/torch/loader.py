"""The loader of a training script: each rank's part of every batch, epoch after epoch, and how many samples stand behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from torch.utils import data

from ..agree import agree, count
from ..errors import InvalidArgument
from ..world import World
from . import samples as announced
from .one_dataset import OneDataset
from .own_batches import OwnBatches
from .start import default_world

__all__ = ["Loader", "loader"]

_CURES = {
    "samples": "give the whole data set to every rank; where each rank has data of its own, pass its own DataLoader and batch_size=None"
}


class Source(Protocol):
    """Where the batches of a rank come from."""

    identity: dict[str, int]  # what must not change between a state in the midst of an epoch and the run that resumes from it

    @property
    def steps(self) -> int | None:
        """Batches in an epoch, on whichever rank. None: not known beforehand."""
        ...

    @property
    def own_steps(self) -> int | None:
        """Those of them that this rank gets."""
        ...

    def rounds(self, epoch: int, first: int) -> Iterator[tuple[int, Any, float, float]]:
        """This rank's batches of `epoch`, from number `first` on: (number, batch, its samples, those of all ranks)."""
        ...


def loader(
    dataset: Any,
    batch_size: int | None = None,
    *,
    world: World | None = None,
    shuffle: bool | None = None,
    train: bool = True,
    seed: int = 0,
    drop_last: bool = False,
    samples: Callable[[Any], float] | None = None,
    **keywords: Any,
) -> Loader:
    """A loader that gives each rank its part of the data. Collective; iterating it costs one tiny all-reduce an epoch, with train=True.

    **One data set, the same on every rank** (map style: ``len`` and ``[i]``). batch_size is that of *all ranks together*. Each ``iter()``
    is the next epoch; its batches are a function of (seed, epoch) alone, the same for any number of ranks, and each is cut into one
    contiguous part per rank like ``numpy.array_split``. shuffle: by default while training. drop_last: without the last batch where it
    is smaller. Where a batch has fewer samples than there are ranks, a rank without one gets one of that batch's samples as a stand-in
    with weight 0, so that its forward and backward run like everybody's and count for nothing.

    **Each rank's own batches** (batch_size None; `dataset` is the rank's own DataLoader, or anything that yields batches): taken as they
    are. Ranks may have different numbers of batches, of different sizes: before each, one tiny all-reduce finds out who still has one; a
    rank that has run out is given its last batch again, with weight 0, until all are out, so the training loop need not change. samples:
    a function that counts the samples of a batch (default: the first dimension of its first tensor). An IterableDataset is taken in the
    same way, in batches of this rank's part of batch_size, or with None as it comes; what each rank reads is the data set's own choice.

    Gradients are weighted by the batch that was handed out last, until the loop ends; so do not read ahead around the loader. Where two
    loaders' loops are within each other, or zipped, batches must be cut alike: backward raises InvalidArgument if they are not.

    train=False is for evaluation: no shuffling, no stand-ins, no communication; ranks may get different numbers of batches.

    num_workers, collate_fn, pin_memory and other `keywords` go to torch's DataLoader. Workers may be forked although MPI runs; they
    cannot communicate.

    Raises InvalidArgument, the same on every rank, where the ranks disagree on the data set's length or a setting, for an empty data
    set, and for a batch_size below 1; it may be smaller than the number of ranks.
    """
    world = default_world() if world is None else world
    own = batch_size is None or isinstance(dataset, data.IterableDataset)
    size = -1 if batch_size is None else count("batch_size", batch_size)
    if own and (shuffle or (drop_last and batch_size is None)):
        raise InvalidArgument("shuffle and drop_last are for one data set that is shared out; let each rank's own batches be made so")
    shuffle = train and not own if shuffle is None else shuffle
    length = -1 if own else OneDataset.length(dataset)
    settings = {"own batches": own, "samples": length, "batch_size": size, "drop_last": drop_last, "seed": count("seed", seed)}
    agree(world, {**settings, "shuffle": shuffle, "train": train}, _CURES)
    if own:
        return Loader(OwnBatches(world, dataset, batch_size, train, drop_last, samples, keywords), world, train)
    return Loader(OneDataset(world, dataset, length, size, seed, shuffle, drop_last, train, keywords), world, train)


class Loader:
    """What `loader` makes. Iterate it once per epoch, on every rank.

    epoch: number of the epoch under way, or of the next. samples: this rank's samples in the batch that it has now, 0 for a stand-in:
    what to weight a rank's mean loss or accuracy with. While training, the mean of gradients is weighted by it without further ado.
    """

    def __init__(self, source: Source, world: World, train: bool) -> None:
        self.world, self.epoch, self.samples = world, 0, 0.0
        self._source, self._train = source, train
        self._handed = 0  # batches of the epoch that the user has been given
        self._begun = False  # whether the epoch is under way, so that the next iter() is another one
        self._newest = 0  # number of the iterator that stands for the state

    def __len__(self) -> int:
        """Batches that this rank gets in a whole epoch. Raises TypeError where they cannot be counted before."""
        if self._source.own_steps is None:
            raise TypeError("the number of batches is not known beforehand")
        return self._source.own_steps

    def __iter__(self) -> Iterator[Any]:
        """The next epoch; after `load_state_dict`, what is left of that one."""
        if self._begun:
            self.epoch, self._handed = self.epoch + 1, 0
        self._begun = True
        self._newest += 1
        return self._hand_out(self._newest, self.epoch, self._handed)

    def state_dict(self) -> dict[str, int]:
        """Where this loader is: the epoch, and how many of its batches the user has been given, the present one included.

        The same on every rank, so one rank's is enough for a checkpoint.
        """
        whole = self._handed == self._source.steps
        return {**self._source.identity, "epoch": self.epoch + whole, "batch": 0 if whole else self._handed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there: the next iter() gives exactly the batches that were left, on any number of ranks. Not collective.

        Raises InvalidArgument where the state is of the midst of an epoch that this loader would cut differently.
        """
        changed = [name for name, value in self._source.identity.items() if state.get(name, value) != value]
        if state["batch"] and changed:
            name = changed[0]
            raise InvalidArgument(
                f"the state is of batch {state['batch']} within epoch {state['epoch']} with {name}={state[name]}, this loader has "
                f"{name}={self._source.identity[name]}; use the same, or a state saved between two epochs"
            )
        self.epoch, self._handed, self._begun = int(state["epoch"]), int(state["batch"]), False
        self._newest += 1

    def _hand_out(self, me: int, epoch: int, first: int) -> Iterator[Any]:
        if self._train:
            self._meet(epoch, first)
        try:
            for number, batch, samples, total in self._source.rounds(epoch, first):
                if me == self._newest:
                    self._handed, self.samples = number + 1, samples
                    if self._train:
                        announced.announce(self.world, samples, total, self)
                yield batch
        except GeneratorExit:
            if me == self._newest:
                announced.leave(self.world, self)
            raise
        if me == self._newest:
            self.epoch, self._handed, self._begun, self.samples = epoch + 1, 0, False, 0.0
            announced.withdraw(self.world, self)

    def _meet(self, epoch: int, first: int) -> None:
        """Raise InvalidArgument, on every rank, unless all begin at the same place: an epoch ahead is other data."""
        low_epoch, epoch, low, first = (int(n) for n in self.world.allreduce(np.array([-epoch, epoch, -first, first]), "max"))
        if (-low_epoch, -low) != (epoch, first):
            raise InvalidArgument(
                f"the ranks' loaders are at different places: epochs {-low_epoch} to {epoch}, batches {-low} to {first}; iterate on every "
                "rank alike, and load the same state; cure for a look at some data on one rank: a loader of its own with train=False"
            )
