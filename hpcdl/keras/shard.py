"""Each rank's part of the data, in the form that `fit`, `evaluate` and `predict` take on every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import keras
import numpy as np
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters.data_adapter import DataAdapter

from ..agree import agree, count
from ..errors import InvalidArgument
from ..world import World
from .asked import asked, passes
from .batch import STAND_IN
from .sources import Arrays, Common, Own, Source, structure
from .start import default_world

__all__ = ["Sharded", "shard"]


def shard(
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: bool = True,
    seed: int = 0,
    drop_last: bool = False,
    own: bool = False,
    class_weight: Mapping[int, float] | None = None,
    world: World | None = None,
) -> Sharded:
    """This rank's part of the data, for ``fit``, ``evaluate`` or ``predict``; ``fit``'s batch_size does not apply to it.

    **Arrays** (and dicts, lists and tuples of them; also ``shard((x, y))``), the same on every rank: batch_size, 32 by default, is that of
    *all ranks together*. The batches are a function of (seed, epoch) alone, the same for any number of ranks; each is cut into one part
    per rank like ``numpy.array_split``. shuffle: another order in each epoch. drop_last: without the last batch where it is smaller.

    **Batches** (a ``tf.data.Dataset``, a ``keras.utils.PyDataset``, a list of batches), the same on every rank: each rank reads every batch
    and keeps its rows. A PyDataset's batches are shuffled, others come as they do; so seed a ``tf.data`` shuffle, alike on every rank.
    **A torch DataLoader** over a data set of map style: its data set, batch size, shuffling and workers; each rank reads its samples only.

    own=True: batches of this rank's own, taken as they are; ranks may have different numbers of them, of different sizes.

    class_weight: what ``fit`` takes by that name: a weight for each class, 1 where it has none; y is of one output then.

    A rank without a sample in a step gets a stand-in, which an attached model (see `attach`) counts for nothing: where that may happen,
    batches have a sample_weight. Batches that don't know their number are read through once, to count them.

    Raises InvalidArgument, on every rank alike, where the ranks disagree on the data's length or a setting or read different batches,
    for an empty data set or one without end, for a generator, which can be read only once, and for a class_weight without y or beside a
    sample_weight. ``fit``, ``evaluate`` and ``predict`` then raise it for a y, sample_weight or class_weight of their own.

    ``fit`` with an initial_epoch reads what it would have read in these epochs.
    """
    world = default_world() if world is None else world
    parts = (x,) if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
    loader = type(x).__name__ == "DataLoader" and hasattr(x, "batch_sampler")
    batches = loader or own or isinstance(x, keras.utils.PyDataset | Iterator) or hasattr(x, "element_spec") or _list_of_batches(x)
    settings = {"seed": count("seed", seed), "shuffle": shuffle, "drop_last": drop_last, "own": own, "kind": batches}
    settings["the digest of class_weight"] = crc32(repr(sorted((class_weight or {}).items())).encode())
    source: Source
    if not batches:
        arrays = structure(x if len(parts) == 1 and isinstance(x, tuple) else parts)
        size = 32 if batch_size is None else count("batch_size", batch_size)
        agree(world, {**settings, "samples": len(keras.tree.flatten(arrays)[0]), "batch_size": size})
        source = Arrays(world, arrays, size, seed, drop_last)
    else:
        if y is not None or batch_size is not None or drop_last:
            raise InvalidArgument("y, batch_size and drop_last are for arrays; batches are made already")
        agree(world, settings)
        source = Own(world, x) if own else _loaded(world, x, seed) if loader else Common(world, x, seed)
    if class_weight is not None and (len(source.first[0]) != 2 or keras.tree.is_nested(source.first[0][1])):
        raise InvalidArgument("class_weight needs y, of one output, and no sample_weight beside it")
    return Sharded(source, world, shuffle, class_weight, x if isinstance(x, keras.utils.PyDataset) else None)


class Sharded(DataAdapter):
    """What `shard` makes: Keras takes it as data. The same number of batches on every rank.

    Why a data adapter: Keras shuffles the order of a PyDataset's batches by itself, differently on each rank.
    """

    def __init__(
        self,
        source: Source,
        world: World,
        shuffle: bool,
        class_weight: Mapping[int, float] | None = None,
        told: keras.utils.PyDataset | None = None,
    ) -> None:
        self.world, self.epoch = world, -1
        self.counts: dict[int, tuple[int, int]] = {}  # by step of the latest epoch: this rank's rows, and how many of them count
        self._told = told  # when an epoch begins and ends
        self._source, self._shuffle, self._class_weight, self._measured = source, shuffle, class_weight, False
        self.before, self._first = 0, 0  # how often the data were read before this `fit`; the batch with which a pass begins
        self._resumed: tuple[int, int] | None = None

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Within: without shuffling, and without an epoch of training going by."""
        before, self._shuffle, epoch = self._shuffle, False, self.epoch
        self._measured = True
        try:
            yield
        finally:
            self._shuffle, self.epoch, self._measured = before, epoch, False

    def go_on(self, before: int, done: int) -> None:
        """In the first epoch of the next `fit` so many batches are done already; the data were read so often before that `fit`."""
        self._resumed = before, done

    def batches_of(self, epoch: int, steps_per_epoch: int | None) -> int:
        """The batches of an epoch of `fit`."""
        batches = self._source.steps
        return min(steps_per_epoch or batches, batches - passes(epoch, batches, steps_per_epoch)[1])

    @property
    def num_batches(self) -> int:
        """Batches in an epoch. Raises InvalidArgument where Keras was asked for what it does not do with shared data."""
        call = asked(self)
        if call is not None:
            call.check()
            if call.name != "fit" and not self._measured and self.world.size > 1:
                raise InvalidArgument(
                    f"{call.name}() of shared data needs a model that knows the other ranks, else each returns its own part; cure: "
                    "hpcdl.keras.attach(model) first"
                )
        return self._source.steps

    @property
    def batch_size(self) -> int | None:
        """Not the same for all batches."""
        return None

    @property
    def has_partial_batch(self) -> bool | None:
        """Nobody needs to know."""
        return None

    @property
    def partial_batch_size(self) -> int | None:
        """Nobody needs to know."""
        return None

    def on_epoch_begin(self) -> None:
        """Called by Keras, also where it looks at a batch for its shapes, which is no epoch; but a PyDataset is told, as it is by Keras."""
        if self._told is not None:
            self._told.on_epoch_begin()
        call = asked(self)
        if call is None:
            self.epoch += 1
        elif call.epoch is not None:
            steps_per_epoch = call.values.get("steps_per_epoch")
            through, begun = passes(call.epoch, self._source.steps, steps_per_epoch)
            if call.first:
                self.before, done = self._resumed or (0 if call.epoch else self.epoch + 1, 0)
                self._resumed, self._first = None, begun + done
            elif not begun:
                self._first = 0
            self.epoch = self.before + through
            call.left(self._source.steps - self._first)

    def on_epoch_end(self) -> None:
        """Called by Keras, also where no epoch was."""
        if self._told is not None:
            self._told.on_epoch_end()

    def get_numpy_iterator(self) -> Any:
        """This rank's batches of the epoch, as NumPy arrays."""
        return self._batches()

    def get_jax_iterator(self) -> Any:
        """The same; JAX takes them as they are."""
        return self._batches()

    def get_torch_dataloader(self) -> Any:
        """The same as tensors."""
        return data_adapter_utils.get_torch_dataloader(self._batches())

    def get_tf_dataset(self) -> Any:
        """The same as a data set that reads ahead. It knows tuples only, where a batch may have lists, and strings."""
        import tensorflow as tf

        marked = [self._marked(batch, len(keras.tree.flatten(batch)[0])) for batch in self._source.first]
        known = keras.tree.map_structure(lambda leaf: tf.constant(leaf) if leaf.dtype.kind in "OUS" else leaf, marked)
        specs = data_adapter_utils.get_tensor_spec(keras.tree.lists_to_tuples(known))
        specs = keras.tree.map_structure(lambda spec: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype), specs)
        read = tf.data.Dataset.from_generator(lambda: map(keras.tree.lists_to_tuples, self._batches()), output_signature=specs)
        return read.prefetch(tf.data.AUTOTUNE)

    def _batches(self) -> Iterator[tuple[Any, ...]]:
        first = 0 if self._measured else self._first
        for step, (batch, mine) in enumerate(self._source.rounds(max(self.epoch, 0), self._shuffle, first), first):
            if not mine and len(batch) == 1 and not self._measured:
                raise InvalidArgument(
                    f"rank {self.world.rank} of {self.world.size} has no sample in batch {step}, and without labels a stand-in cannot be "
                    "marked; give shard() y (zeros will do), larger batches, or drop_last=True"
                )
            self.counts[step] = len(keras.tree.flatten(batch)[0]), mine
            yield self._marked(batch, mine)

    def _marked(self, batch: tuple[Any, ...], mine: int) -> tuple[Any, ...]:
        """With a sample_weight, where stand-ins may come, which shows whether it is one."""
        if len(batch) == 1:
            alone: tuple[Any, ...] = keras.utils.pack_x_y_sample_weight(*batch)  # as steps of one's own expect it
            return alone
        if self._class_weight is not None:
            batch = (*batch, data_adapter_utils.class_weight_to_sample_weights(batch[1], self._class_weight))
        if not self._source.lends:
            return batch
        rows = len(keras.tree.flatten(batch)[0])
        if not mine:
            return (
                *batch[:2],
                keras.tree.map_structure(lambda w: np.full_like(w, STAND_IN), batch[2]) if batch[2:] else _weights(rows, STAND_IN),
            )
        return batch if len(batch) == 3 else (*batch, _weights(rows, 1))


def _weights(rows: int, value: float) -> Any:
    return np.full(rows, value, np.float32)


def _list_of_batches(x: Any) -> bool:
    return isinstance(x, list) and bool(x) and isinstance(x[0], tuple | list)


def _loaded(world: World, loader: Any, seed: int) -> Source:
    from .loaded import Loaded

    return Loaded(world, loader, seed)
