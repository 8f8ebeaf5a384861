"""Where a rank's batches come from: one data set that is shared out, batches that all ranks read alike, or each rank's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol
from zlib import crc32

import keras
import numpy as np

from ..agree import agree
from ..errors import InvalidArgument
from ..shards import Shards
from ..world import World

__all__ = ["Arrays", "Common", "Own", "Round", "Source", "structure"]

Round = tuple[tuple[Any, ...], int]  # a batch of at least one sample, and how many of them count; 0: it stands in for no data


class Source(Protocol):
    """What `Sharded` reads."""

    steps: int  # rounds in an epoch, the same on every rank
    lends: bool  # whether any rank may get a stand-in
    first: list[tuple[Any, ...]]  # batches to tell shapes from

    def rounds(self, epoch: int, shuffle: bool, first: int = 0) -> Iterator[Round]:
        """This rank's rounds of `epoch`, from number `first` on."""
        ...


def structure(batch: Any) -> tuple[Any, ...]:
    """A batch as (x,), (x, y) or (x, y, sample_weight), of NumPy arrays. Raises InvalidArgument for a longer one."""
    parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
    if not 1 <= len(parts) <= 3:
        raise InvalidArgument(f"a batch is x, (x, y) or (x, y, sample_weight), got {len(parts)} parts")
    arrays: tuple[Any, ...] = keras.tree.map_structure(_numpy, parts)
    if any(leaf.ndim == 0 for leaf in keras.tree.flatten(arrays)):
        raise InvalidArgument(
            "a single number where a batch should be; make batches first, dataset.batch(n), or an array of a list, np.asarray(y)"
        )
    sizes = {len(leaf) for leaf in keras.tree.flatten(arrays)}
    if not sizes:
        raise InvalidArgument("there is no array in the data")
    if len(sizes) != 1:
        raise InvalidArgument(f"the arrays must have the same number of samples, got {sorted(sizes)}")
    return arrays


def _numpy(x: Any) -> Any:
    array = x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)
    if array.ndim == 0 and array.dtype.kind in "OUS" and getattr(x, "shape", None) != ():
        raise InvalidArgument(f"expected arrays, or batches of them, got a {type(x).__name__}; make sparse and ragged ones dense first")
    return array


def _bytes(leaf: Any) -> bytes:
    """What tells an array from another one, also of strings."""
    return repr(leaf.tolist()).encode() if leaf.dtype.kind == "O" else np.ascontiguousarray(leaf).tobytes()


def _samples(batch: Any) -> int:
    return len(keras.tree.flatten(batch)[0])


class Arrays:
    """Arrays, the same on every rank: see `hpcdl.shards.Shards` for the order."""

    def __init__(self, world: World, arrays: tuple[Any, ...], batch_size: int, seed: int, drop_last: bool) -> None:
        samples = _samples(arrays)
        self._arrays = arrays
        self._shards = {s: Shards(samples, batch_size, world.rank, world.size, seed, s, drop_last) for s in (False, True)}
        self.steps = len(self._shards[False])
        if not self.steps:
            raise InvalidArgument(f"drop_last leaves nothing of {samples} samples in batches of {batch_size}; use a smaller batch_size")
        self.lends = min(batch_size, samples % batch_size if samples % batch_size and not drop_last else batch_size) < world.size
        self.first = [self._take(np.arange(1))]

    def rounds(self, epoch: int, shuffle: bool, first: int = 0) -> Iterator[Round]:
        """This rank's part of each batch of `epoch`."""
        shards = self._shards[shuffle]
        for batch in shards.batches(epoch, first):
            mine = shards.part(batch)
            yield self._take(mine if len(mine) else batch[:1]), len(mine)

    def _take(self, samples: Any) -> tuple[Any, ...]:
        taken: tuple[Any, ...] = keras.tree.map_structure(lambda leaf: leaf[samples], self._arrays)
        return taken


class Common:
    """Batches that every rank reads alike; each keeps its rows. In the order in which they come; a PyDataset's are shuffled."""

    def __init__(self, world: World, batches: Any, seed: int) -> None:
        self._world, self._batches, self._seed = world, batches, seed
        self.steps = length(batches)
        agree(world, {"batches": self.steps}, {"batches": "give every rank the same data, or own=True where each has its own"})
        if not self.steps:
            raise InvalidArgument("the data set is empty")
        self.first = [structure(batch) for batch in islice(_read(batches, range(self.steps)), 2)]
        last = [structure(batches[self.steps - 1])] if _indexed(batches) else []
        self.lends = not last or min(map(_samples, [*self.first, *last])) < world.size
        told = crc32(b"".join(map(_bytes, keras.tree.flatten(self.first[0]))))
        cure = (
            "seed its shuffling alike on every rank: shuffle(…, seed=0), and tf.random.set_seed(0) before the data set is made, since "
            "TensorFlow adds that seed, which init(seed=…) makes another on each rank; or say own=True where each rank has data of its own"
        )
        agree(world, {"the digest of the first batch": told}, {"the digest of the first batch": cure})

    def rounds(self, epoch: int, shuffle: bool, first: int = 0) -> Iterator[Round]:
        """This rank's rows of each batch."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self.steps) if shuffle else np.arange(self.steps)
        for whole in _read(self._batches, order.tolist(), first):
            batch = structure(whole)
            mine = np.array_split(np.arange(_samples(batch)), self._world.size)[self._world.rank]
            rows = slice(mine[0], mine[-1] + 1) if len(mine) else slice(1)
            yield keras.tree.map_structure(lambda leaf, rows=rows: leaf[rows], batch), len(mine)


class Own:
    """Each rank's own batches. One that has run out gets its last one as a stand-in, until the rank with most is through."""

    def __init__(self, world: World, batches: Any) -> None:
        self._batches = batches
        lengths = world.allgather(np.array([length(batches)], np.int64))
        if lengths.min() < 1:
            raise InvalidArgument(f"rank {int(lengths.argmin())} of {world.size} has no batch; give every rank at least one")
        self.steps = int(lengths.max())
        self.lends = bool((lengths != lengths[0]).any())
        self.first = [structure(batch) for batch in islice(_read(batches, range(self.steps)), 2)]

    def rounds(self, epoch: int, shuffle: bool, first: int = 0) -> Iterator[Round]:
        """This rank's batches, and stand-ins after them."""
        last = self.first[0]
        own = _read(self._batches, range(length(self._batches)) if _indexed(self._batches) else (), first)
        for _ in range(first, self.steps):
            batch = next(own, None)
            last = last if batch is None else structure(batch)
            yield last, 0 if batch is None else _samples(last)


_NO_END = -1  # tf.data.INFINITE_CARDINALITY


def _indexed(batches: Any) -> bool:
    return isinstance(batches, keras.utils.PyDataset)


def _read(batches: Any, order: Any, first: int = 0) -> Iterator[Any]:
    """The batches, in that order where they can be asked for by number, from the `first` on."""
    return (batches[i] for i in order[first:]) if _indexed(batches) else islice(batches, first, None)


def length(batches: Any) -> int:
    """How many batches there are; where nobody knows, they are read through once. Raises InvalidArgument for what can be read only once."""
    if _indexed(batches):
        if batches.num_batches is None:
            raise InvalidArgument("the PyDataset has no end; give it a num_batches")
        return int(batches.num_batches)
    if isinstance(batches, Iterator) or not hasattr(batches, "__iter__"):
        raise InvalidArgument(f"expected batches that can be read once per epoch, got a {type(batches).__name__}")
    try:
        return len(batches)
    except TypeError:
        if hasattr(batches, "cardinality") and int(batches.cardinality()) == _NO_END:
            raise InvalidArgument(
                "the data set has no end; leave repeat() out, since fit() begins it anew in each epoch, or take(n)"
            ) from None
        return sum(1 for _ in batches)
