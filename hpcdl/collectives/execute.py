"""Runs a schedule: the one place where steps become messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import Any

from ..arrays import Array
from ..codecs import BLOCK
from ..transport.base import Pending
from .coded import CodedChunks
from .exact import ExactChunks
from .lanes import Disagreement, Incoming, Outgoing
from .layout import EXACT_PIECE_BYTES, pieces, split_blocks
from .schedule import Recv, Schedule, Send, Step
from .task import Task
from .transfers import Chunks, Piece, Transfer, Whole

__all__ = ["Body", "Disagreement", "exchange", "execute"]

Body = Generator[Pending, None, Any]  # yields what it waits for next, and is resumed when that is done

_OPEN_STEPS = 4  # of a schedule, whose messages may be under way at once


def execute(schedule: Schedule, task: Task, given: Whole | None = None) -> Body:
    """Run `schedule` on `task`, never blocking: yields whenever nothing can go on. given: the chunks, where they don't lie side by side.

    Why a piece waits for the pieces that it needs, and not for the end of a step: so that encoding, sending, receiving, decoding and
    adding overlap. What a rank receives in one step leaves in the next before the rest of it has come.
    """
    size = task.transport.size
    bounds = task.bounds or split_blocks(task.x.size, schedule.chunks(size), BLOCK)
    chunks: Whole = given or (ExactChunks(task, bounds) if task.codec.exact else CodedChunks(task, bounds))
    steps = schedule.steps((task.transport.rank - task.root) % size, size)
    yield from _Flow(task, lambda out, peer: chunks).run(_plan(steps, task, chunks, bounds))
    chunks.release()


def exchange(task: Task, outgoing: dict[int, Array], incoming: dict[int, Array]) -> Body:
    """Send each peer its bytes and receive each peer's, all at once. Buffers are flat, of bytes."""
    ways = [(True, outgoing), (False, incoming)]
    chunks = {(out, peer): _Bytes(buf) for out, bufs in ways for peer, buf in bufs.items()}
    step = [(*key, Transfer(its.pieces(0, its.size), 0, its.size, False)) for key, its in chunks.items()]
    yield from _Flow(task, lambda out, peer: chunks[out, peer]).run(iter([step]))


Planned = tuple[bool, int, Transfer]  # whether it goes out, peer, transfer


def _plan(steps: Iterator[Step], task: Task, chunks: Whole, bounds: list[int]) -> Iterator[list[Planned]]:
    """The transfers of each step, each with those of earlier steps that it needs: a value must be there before it is sent, and must have
    been read by all who were to have it before it changes. Values that several peers add to are added in the order of the schedule.
    """
    last: list[Transfer | None] = [None] * (len(bounds) - 1)  # of each chunk: its latest receive
    readers: list[list[Transfer]] = [[] for _ in last]  # and the sends since
    for step in steps:
        planned: list[Planned] = []
        for action in step:
            if isinstance(action, Send):
                lo, hi = action.lo, action.hi
                needs = {need for need in last[lo:hi] if need is not None and not need.finished}
                wait = task.scale if action.final and task.scale is not None and not task.scale.done() else None
                sending = Transfer(chunks.pieces(lo, hi), bounds[lo], bounds[hi], action.final, needs, wait)
                for chunk in range(lo, hi):
                    readers[chunk].append(sending)
                planned.append((True, (action.peer + task.root) % task.transport.size, sending))
        for action in step:
            if isinstance(action, Recv):
                lo, hi = action.lo, action.hi
                before = {need for need in chain(last[lo:hi], *readers[lo:hi]) if need is not None and not need.finished}
                receiving = Transfer(chunks.pieces(lo, hi), bounds[lo], bounds[hi], action.reduce, before)
                if not action.reduce:
                    chunks.expect(lo, hi)
                for chunk in range(lo, hi):
                    last[chunk], readers[chunk] = receiving, []
                planned.append((False, (action.peer + task.root) % task.transport.size, receiving))
        yield planned


class _Flow:
    """All messages of an operation, and something to wait for: that any of them can go on."""

    source = -1
    nbytes = 0

    def __init__(self, task: Task, chunks: Callable[[bool, int], Chunks]) -> None:
        self._task, self._chunks = task, chunks  # of a direction and a peer
        self._incoming: dict[int, Incoming] = {}
        self._outgoing: dict[int, Outgoing] = {}
        self._open: deque[list[Planned]] = deque()

    def run(self, steps: Iterator[list[Planned]]) -> Body:
        """Go through all steps. Given up in between, nothing is received any more."""
        more = True
        try:
            while True:
                moved = False
                while self._open and all(transfer.finished for _, _, transfer in self._open[0]):
                    self._open.popleft()
                while more and len(self._open) < _OPEN_STEPS:
                    step = next(steps, None)
                    more = step is not None
                    if step:
                        self._begin(step)
                        moved = True
                for lane in self._lanes():
                    moved |= lane.advance()
                if not moved:
                    if not more and all(lane.idle for lane in self._lanes()):
                        return
                    yield self
        except BaseException:
            for lane in self._incoming.values():
                lane.cancel()
            raise

    def done(self) -> bool:
        """Whether anything can go on."""
        return any(lane.stirs() for lane in self._lanes())

    def cancel(self) -> None:
        """Done by `run`, which alone knows what is under way."""

    def _begin(self, step: list[Planned]) -> None:
        self._open.append(step)
        for out, peer, transfer in step:
            if out:
                if peer not in self._outgoing:
                    self._outgoing[peer] = Outgoing(self._task, self._chunks(out, peer), peer)
                self._outgoing[peer].add(transfer)
            else:
                if peer not in self._incoming:
                    self._incoming[peer] = Incoming(self._task, self._chunks(out, peer), peer)
                self._incoming[peer].add(transfer)

    def _lanes(self) -> Iterable[Incoming | Outgoing]:
        yield from self._incoming.values()
        yield from self._outgoing.values()


class _Bytes:
    """The bytes for one peer, or from it."""

    lends = True

    def __init__(self, buf: Array) -> None:
        self._buf, self.size = buf, buf.size

    def pieces(self, lo: int, hi: int) -> Iterator[Piece]:
        return pieces(lo, hi, EXACT_PIECE_BYTES)

    def wire(self, piece: Piece, final: bool) -> Array:
        return self._buf[piece[0] : piece[1]]

    def sent(self, wire: Array, final: bool) -> None:
        pass

    def landing(self, piece: Piece, reduce: bool) -> Array:
        return self._buf[piece[0] : piece[1]]

    def use(self, piece: Piece, wire: Array, reduce: bool) -> None:
        pass
