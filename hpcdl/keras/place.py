"""How far `fit` is, as a part of a checkpoint, and how it goes on in the midst of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import DataError
from .asked import Call
from .shard import Sharded

__all__ = ["Place"]

_READ_BEFORE = "the number of times that the data were read before this fit"


class Place:
    """The epoch under way, and how many of its batches are done. Made within the `fit` that `call` is.

    ended: whether `fit` has stopped before its last epoch, as EarlyStopping wants it.
    """

    def __init__(self, call: Call) -> None:
        self.epoch, self.batch, self.ended = int(call.values["initial_epoch"]), 0, False
        self._begins, self._steps = self.epoch, call.values["steps_per_epoch"]
        self._iterator, data = call.values["epoch_iterator"], call.values["x"]
        self._data = data if isinstance(data, Sharded) else None
        self._batches = self._iterator.num_batches

    def state_dict(self) -> dict[str, Any]:
        """The same on all ranks. With the length of the epoch, which tells whether the data are cut as they were."""
        before = self._data.before if self._data is not None else 0
        return {"epoch": self.epoch, "batch": self.batch, "batches": self.batches, "ended": self.ended, _READ_BEFORE: before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """`fit` goes on from there. Raises DataError where it cannot, as batches have another size now."""
        if state["epoch"] < self._begins:
            raise DataError(f"it is of epoch {state['epoch']}, and fit begins with epoch {self._begins}; cure: another folder")
        self.epoch, self.batch, self.ended = int(state["epoch"]), int(state["batch"]), bool(state["ended"])
        if self.batch and state["batches"] != self.batches:
            raise DataError(
                f"it is of batch {self.batch} within an epoch of {state['batches']}, and here epochs have {self.batches}; cure: the same "
                "data and batch size, or a checkpoint from between two epochs"
            )
        if self._data is not None:
            self._data.go_on(int(state[_READ_BEFORE]), self.batch)

    @property
    def batches(self) -> int | None:
        """Of the epoch; None where nobody knows beforehand."""
        if self._data is not None:
            return self._data.batches_of(self.epoch, self._steps)
        return None if self._batches is None else int(self._batches)

    @property
    def under_way(self) -> bool:
        """Whether the data were being read when this was saved: epochs of steps_per_epoch go on with one iterator."""
        return self.batch > 0 or self._steps is not None

    def go_on(self, before_reading: Callable[[], None]) -> None:
        """Let Keras begin the epoch behind the batches that are done, and count the others as it would have.

        before_reading: called when the data are open, and before the first batch is read.
        """
        self._iterator._enumerate_iterator = lambda: self._rest(before_reading)

    def _rest(self, before_reading: Callable[[], None]) -> Iterator[tuple[int, int, Any]]:
        """The rest of an epoch, in place of what Keras's iterator yields: the first number, the last, and an iterator over batches.

        Shared data begin where they are to. Others are read from their beginning, and what is done is dropped.
        """
        iterator, done, begun = self._iterator, self.batch, False
        del iterator._enumerate_iterator  # ours: the epochs after this are whole
        steps, whole = iterator.steps_per_epoch, iterator._num_batches
        if steps is not None:
            iterator.steps_per_epoch = steps - done
        elif self._data is None:
            iterator._num_batches = whole - done
        try:
            for begin, end, batches in iterator._enumerate_iterator():
                if not begun:
                    for _ in range(done if self._data is None else 0):
                        next(batches)
                    before_reading()
                begun = True
                yield begin + done, end + done, batches
        finally:
            iterator.steps_per_epoch = steps
            if self._data is None:
                iterator._num_batches = whole
