"""Runs a schedule: the one place where steps become messages."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from ..arrays import Array
from ..codecs import BLOCK
from ..transport.base import Pending
from .coded import CodedChunks
from .exact import ExactChunks
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

        expected = [message for action in step if isinstance(action, Recv) for message in _post(task, action, chunks, borrow)]
        sent: list[Pending] = []
        for action in step:
            if isinstance(action, Send):
                if action.final and task.scale is not None and not task.scale.done():
                    yield task.scale
                sent += _send(task, action, chunks, borrow)
        for pending, use in expected:
            if not pending.done():
                yield pending
            use(pending)
        for pending in sent:
            if not pending.done():
                yield pending
        for buf in borrowed:
            task.pool.give(buf)
    if isinstance(chunks, CodedChunks):
        chunks.release()


def exchange(task: Task, outgoing: dict[int, Array], incoming: dict[int, Array]) -> Body:
    """Send each peer its bytes and receive each peer's, all at once. Buffers are flat, of bytes."""
    received = [message for peer, buf in incoming.items() for message in _expect(task, peer, _cut(buf))]
    sent = [pending for peer, buf in outgoing.items() for pending in _emit(task, peer, (buf for buf, _ in _cut(buf)))]
    for pending, use in received:
        yield pending
        use(pending)
    yield from sent


Chunks = ExactChunks | CodedChunks
Use = Callable[[Pending], None]
Landing = tuple[Array, Callable[[], None]]  # a buffer, and what to do once it is full


def _send(task: Task, send: Send, chunks: Chunks, borrow: Callable[[int], Array]) -> Iterator[Pending]:
    return _emit(task, (send.peer + task.root) % task.transport.size, chunks.outgoing(send.lo, send.hi, send.final, borrow))


def _post(task: Task, recv: Recv, chunks: Chunks, borrow: Callable[[int], Array]) -> Iterator[tuple[Pending, Use]]:
    return _expect(task, (recv.peer + task.root) % task.transport.size, chunks.incoming(recv.lo, recv.hi, recv.reduce, borrow))


def _emit(task: Task, peer: int, wires: Iterable[Array]) -> Iterator[Pending]:
    """Send `wires` to `peer`, after the header if it is the first time."""
    if ("to", peer) not in task.met:
        task.met.add(("to", peer))
        yield task.transport.isend(task.header, peer, task.tag)
    for wire in wires:
        yield task.transport.isend(wire, peer, task.tag)


def _expect(task: Task, peer: int, landings: Iterable[Landing]) -> Iterator[tuple[Pending, Use]]:
    """Receive from `peer` into `landings`, after the header if it is the first time."""
    if ("from", peer) not in task.met:
        task.met.add(("from", peer))
        theirs = task.header.copy()
        yield task.transport.irecv(theirs, peer, task.tag), _check_header(task, peer, theirs)
    for wire, use in landings:
        yield task.transport.irecv(wire, peer, task.tag), _check_size(task, peer, wire.nbytes, use)


def _cut(buf: Array) -> Iterator[Landing]:
    for begin, end in pieces(0, buf.size, EXACT_PIECE_BYTES):
        yield buf[begin:end], _nothing


def _nothing() -> None:
    pass


def _check_header(task: Task, peer: int, theirs: Array) -> Use:
    def use(pending: Pending) -> None:
        if pending.nbytes != theirs.nbytes or (theirs != task.header).any():
            raise Disagreement(peer, theirs)

    return use


def _check_size(task: Task, peer: int, nbytes: int, then: Callable[[], None]) -> Use:
    def use(pending: Pending) -> None:
        if pending.nbytes != nbytes:
            raise Disagreement(peer, task.header)
        then()

    return use
