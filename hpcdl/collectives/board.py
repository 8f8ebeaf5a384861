"""Where the ranks of one node meet in shared memory: they write, post, and read what the others have written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import numpy as np

from ..arrays import Array
from ..transport.base import Window
from ..transport.turns import Turns
from .execute import Disagreement

__all__ = ["SLOT_BYTES", "Board", "Sides", "board_bytes"]

SLOT_BYTES = 1 << 20
_HEADERS = 16  # where the two headers begin, in the counter's cache line: one trip for both
_HEADER = 16  # bytes of one
_SLOTS = 4096  # where the two slots begin
_MOST_VIEWS = 256  # kinds of arrays whose views are kept


def board_bytes(slot_bytes: int = SLOT_BYTES) -> int:
    """Size of one rank's part of a board's window."""
    return _SLOTS + 2 * slot_bytes


#: This rank's array and everybody's, in even and in odd steps.
Sides = tuple[tuple[Array, list[Array]], tuple[Array, list[Array]]]


class Board:
    """One rank's view of the board of its node.

    All ranks take the same steps. In each, a rank writes into its slot, posts, and may read the others' slots once `Posted` is done. Two
    slots, used in turn, are enough: a rank writes into one again only two steps later, when all have posted the step between, which each
    does after it has read the first. An operation that uses the board holds a turn while it does.

    Why counters: Python has no atomic operations. Each counter has one writer, is eight aligned bytes, and only grows.
    """

    def __init__(self, window: Window, rank: int, members: tuple[int, ...]) -> None:
        self.rank, self.size = rank, len(window.parts)
        self.members = members  # the ranks of the group that meet here
        self.turns = Turns()
        self.roomy = self.size <= (os.cpu_count() or 1)  # whether each rank has a core
        self.window, self.sync = window, window.sync
        slot_bytes = (window.parts[0].nbytes - _SLOTS) // 2
        self.slots = tuple([part[_SLOTS + side * slot_bytes :][:slot_bytes] for part in window.parts] for side in (0, 1))
        self.slot_bytes = slot_bytes
        headers = [[memoryview(part[_HEADERS + side * _HEADER :][:_HEADER]).cast("q") for part in window.parts] for side in (0, 1)]
        self._header = [side[rank] for side in headers]
        self._theirs = [[(peer, header) for peer, header in enumerate(side) if peer != rank] for side in headers]
        counters = [memoryview(part[:8]).cast("q") for part in window.parts]
        self._mine = counters[rank]
        self._views: dict[Any, Sides] = {}
        self._others = [(peer, counter) for peer, counter in enumerate(counters) if peer != rank]
        self._step = 0
        #: Where NumPy says nothing of NaN and overflow, which are the user's to judge. Why: errstate would take longer than the sum.
        self.quiet = copy_context()
        self.quiet.run(np.seterr, all="ignore")

    def slot(self, peer: int | None = None) -> Array:
        """The slot of `peer` (this rank's own by default) in the present step, as bytes."""
        return self.slots[self._step & 1][self.rank if peer is None else peer]

    def views(self, dtype: Any, shape: tuple[int, ...]) -> Sides:
        """The beginnings of the slots as arrays of that dtype and shape, for even and for odd steps."""
        key = (dtype, shape)
        found = self._views.get(key)
        if found is None:
            nbytes = dtype.itemsize * math.prod(shape)
            even, odd = ([slot[:nbytes].view(dtype).reshape(shape) for slot in side] for side in self.slots)
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()
            found = self._views[key] = (even[self.rank], even), (odd[self.rank], odd)
        return found

    @property
    def side(self) -> int:
        """Which of the two slots belongs to the present step."""
        return self._step & 1

    def post(self, number: int, history: int) -> Posted:
        """Tell the others that this rank's slot is written and the one before read, in which operation. The step ends with `next`."""
        mine = self._header[self._step & 1]
        mine[0], mine[1] = number, history
        self.sync()
        self._mine[0] = self._step + 1
        self.sync()
        return Posted(self, self._step + 1)

    def next(self) -> None:
        """Go on to the next step, once this one's reading is over."""
        self._step += 1

    def check(self, number: int, history: int) -> None:
        """Raise Disagreement where a rank of this node has shown another header in this step."""
        for peer, theirs in self._theirs[self._step & 1]:
            if theirs[1] != history or theirs[0] != number:
                raise Disagreement(self.members[peer], np.array(theirs))

    def peers(self) -> Iterator[int]:
        """The other ranks of the node."""
        return (peer for peer, _ in self._others)


class Posted:
    """All ranks of the node have posted a step."""

    __slots__ = ("_count", "_missing", "_sync", "pressing")
    source = -1
    nbytes = 0

    def __init__(self, board: Board, count: int) -> None:
        self.pressing = True  # whether others will wait for what this rank does next
        self._sync = board.sync
        self._count = count
        self._missing = board._others

    def done(self) -> bool:
        """Whether they have; what they wrote before is then there to read."""
        while self._missing:
            if self._missing[-1][1][0] < self._count:
                return False
            self._missing = self._missing[:-1]
        self._sync()
        return True

    def cancel(self) -> None:
        """Nothing to give up."""
