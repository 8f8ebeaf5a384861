"""Arrays in memory that the ranks of a node share, and how to recognise them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Array
from ..transport.base import Placement, Transport, Window
from .backoff import Backoff
from .board import Board, board_bytes
from .progress import Engine

__all__ = ["COPIED_BYTES", "Buffers"]


COPIED_BYTES = 1 << 17  # arrays up to this size


class Buffers:
    """The shared memory of one group. Everything here is collective over the group, and may block, unless it says otherwise.

    ``HPCDL_SHARED_MEMORY=0`` on any rank: no rank uses shared memory.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._place = Placement.of(transport.rank, transport.nodes)
        self._neighbours = tuple(rank for rank, node in enumerate(transport.nodes) if node == self._place.node)
        self._windows: list[Window] = []
        self._wanted = os.environ.get("HPCDL_SHARED_MEMORY", "1") != "0"
        self._shares = len(set(transport.nodes)) < transport.size
        self._begins: list[tuple[int, int]] = []  # address and size of this rank's part of each window handed out
        window = self._window(board_bytes())
        #: Of this rank's node; None where no node has several ranks, or shared memory.
        self.board = None if window is None else Board(window, self._place.local_rank, self._neighbours)

    def allocate(self, nbytes: int) -> Array:
        """`nbytes` of zeros, aligned to a cache line at least."""
        window = self._window(nbytes) if self.board is not None else None
        if window is None:
            return np.zeros(nbytes, np.uint8)
        mine: Array = window.parts[self._place.local_rank]
        self._windows.append(window)
        self._begins.append((_address(mine), nbytes))
        return mine

    def share(self, nbytes: int) -> Window | None:
        """A window with `nbytes` of zeros for each rank of this node; None where there is no room, or nothing is shared."""
        window = self._window(nbytes) if self.board is not None else None
        if window is not None:
            self._windows.append(window)
            self._begins.append((0, 0))  # no arrays of the user's
        return window

    def find(self, x: Array) -> tuple[str, list[Array] | None]:
        """If `x` lies in a buffer: where, as all ranks say alike, and the same array of each rank of the node. Not collective.

        Small arrays are not looked for: copied, they meet the others once instead of twice.
        """
        if not self._begins or x.nbytes <= COPIED_BYTES:
            return "", None
        address = _address(x)
        for number, (begin, nbytes) in enumerate(self._begins):
            if begin <= address < begin + nbytes:
                offset = address - begin
                parts = self._windows[number].parts
                return f"at {offset} of buffer {number}", [part[offset : offset + x.nbytes].view(x.dtype) for part in parts]
        return "", None

    def leave(self) -> None:
        """Need none of it any more. Not collective: it goes once all ranks of the node have left, when they next make shared memory."""
        for window in self._take():
            window.leave()

    def close(self, engine: Engine, wanted: Callable[[], bool]) -> None:
        """Give it all back, but for what somebody still holds, as soon as all ranks of the node do so.

        Lets `engine` go on meanwhile; gives up where it is no longer `wanted`. One window after another, in the same order on all ranks,
        since the last act waits for the others.
        """
        with engine.locked():
            closing = [window.close() for window in self._take()]
        backoff = Backoff()
        while closing and wanted():
            backoff.pause(engine.poll())
            with engine.locked():
                closing = closing[1:] if closing[0].done() else closing

    def _take(self) -> list[Window]:
        windows = self._windows + ([self.board.window] if self.board is not None else [])
        self._windows, self._begins, self.board = [], [], None
        return windows

    def _window(self, nbytes: int) -> Window | None:
        return self._transport.window(nbytes if self._wanted else 0) if self._shares else None


def _address(x: Array) -> Any:
    return x.__array_interface__["data"][0]
