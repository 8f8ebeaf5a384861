"""Runs a schedule: the one place where steps become messages."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from ..arrays import Array
from ..codecs import BLOCK
from ..transport.base import Pending
from .coded import CodedChunks
from .exact import ExactChunks, nothing
from .layout import EXACT_PIECE_BYTES, pieces, split_blocks
from .schedule import Recv, Schedule, Send
from .task import Task

__all__ = ["Body", "Disagreement", "exchange", "execute"]

Body = Generator[Pending, None, Any]  # yields what it waits for next, and is resumed when that is done


class Disagreement(Exception):
    """A peer's header says that it is in another operation."""

    def __init__(self, peer: int, theirs: Array) -> None:
        super().__init__(f"rank {peer} is in operation {int(theirs[0])} with fingerprint {int(theirs[1]) & (1 << 64) - 1:016x}")


def execute(schedule: Schedule, task: Task) -> Body:
    """Run `schedule` on `task`, never blocking: yields each pending message that the next step needs."""
    size = task.transport.size
    bounds = task.bounds or split_blocks(task.x.size, schedule.chunks(size), BLOCK)
    chunks = ExactChunks(task, bounds) if task.codec.exact else CodedChunks(task, bounds)
    for step in schedule.steps((task.transport.rank - task.root) % size, size):
        borrowed: list[Array] = []

        def borrow(nbytes: int, borrowed: list[Array] = borrowed) -> Array:
            borrowed.append(task.pool.take(nbytes))
            return borrowed[-1]

        arrivals = Arrivals(task)
        for action in step:
            if isinstance(action, Recv):
                peer = (action.peer + task.root) % size
                arrivals.expect(peer, chunks.incoming(action.lo, action.hi, action.reduce, borrow))
        sent: list[Pending] = []
        for action in step:
            if isinstance(action, Send):
                if action.final and task.scale is not None and not task.scale.done():
                    yield task.scale
                peer = (action.peer + task.root) % size
                sent += _emit(task, peer, chunks.outgoing(action.lo, action.hi, action.final, borrow))
        yield from arrivals.receive()
        for pending in sent:
            if not pending.done():
                yield pending
        for buf in borrowed:
            task.pool.give(buf)
    if isinstance(chunks, CodedChunks):
        chunks.release()


def exchange(task: Task, outgoing: dict[int, Array], incoming: dict[int, Array]) -> Body:
    """Send each peer its bytes and receive each peer's, all at once. Buffers are flat, of bytes."""
    arrivals = Arrivals(task)
    for peer, buf in incoming.items():
        arrivals.expect(peer, _cut(buf))
    sent = [pending for peer, buf in outgoing.items() for pending in _emit(task, peer, (buf for buf, _ in _cut(buf)))]
    yield from arrivals.receive()
    yield from sent


Landing = tuple[Array, Callable[[], None]]  # a buffer, and what to do once it is full


class Arrivals:
    """The receives of one step, handled in the order in which they were expected.

    Why a peer's first payload is received only after its header was found right: a message longer than its receive is an error by the
    standard, but Open MPI 5 writes beyond the buffer when both ranks share a node.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._open: list[Pending] = []
        self._strangers: dict[int, tuple[Pending, Array]] = {}  # peers whose header has not come yet
        self._expected: list[tuple[int, Iterable[Landing], list[tuple[Pending, Landing]]]] = []

    def expect(self, peer: int, landings: Iterable[Landing]) -> None:
        """Receive from `peer` into `landings`: now, or after its header where this is the first time."""
        task = self._task
        if ("from", peer) not in task.met:
            task.met.add(("from", peer))
            theirs = task.header.copy()
            self._strangers[peer] = self._post(theirs, peer), theirs
        posted = [] if peer in self._strangers else [(self._post(landing[0], peer), landing) for landing in landings]
        self._expected.append((peer, landings, posted))

    def receive(self) -> Body:
        """Wait for everything, and use it. Given up in between, nothing is received any more."""
        try:
            for peer, landings, posted in self._expected:
                if peer in self._strangers:
                    yield from self._meet(peer)
                for pending, (wire, use) in posted or [(self._post(landing[0], peer), landing) for landing in landings]:
                    if not pending.done():
                        yield pending
                    if pending.nbytes != wire.nbytes:
                        raise Disagreement(peer, self._task.header)
                    use()
        except GeneratorExit:
            for pending in self._open:
                pending.cancel()
            raise

    def _meet(self, peer: int) -> Body:
        pending, theirs = self._strangers.pop(peer)
        if not pending.done():
            yield pending
        if pending.nbytes != theirs.nbytes or (theirs != self._task.header).any():
            raise Disagreement(peer, theirs)

    def _post(self, buf: Array, peer: int) -> Pending:
        self._open.append(self._task.transport.irecv(buf, peer, self._task.tag))
        return self._open[-1]


def _emit(task: Task, peer: int, wires: Iterable[Array]) -> Iterator[Pending]:
    """Send `wires` to `peer`, after the header if it is the first time."""
    if ("to", peer) not in task.met:
        task.met.add(("to", peer))
        yield task.transport.isend(task.header, peer, task.tag)
    for wire in wires:
        yield task.transport.isend(wire, peer, task.tag)


def _cut(buf: Array) -> Iterator[Landing]:
    for begin, end in pieces(0, buf.size, EXACT_PIECE_BYTES):
        yield buf[begin:end], nothing
