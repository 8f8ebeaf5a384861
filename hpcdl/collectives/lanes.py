"""What goes to one peer, and what comes from it: in order, a bounded number of pieces at a time, each as soon as it may."""

from __future__ import annotations

from collections import deque

from ..arrays import Array
from ..transport.base import Pending
from .task import Task
from .transfers import Chunks, Piece, Transfer

__all__ = ["Disagreement", "Incoming", "Outgoing"]

_MOST_PIECES = 32  # under way between two ranks, in one direction
_MOST_BYTES = 1 << 23


class Disagreement(Exception):
    """A peer's header says that it is in another operation."""

    def __init__(self, peer: int, theirs: Array) -> None:
        super().__init__(f"rank {peer} is in operation {int(theirs[0])} with fingerprint {int(theirs[1]) & (1 << 64) - 1:016x}")


class Outgoing:
    """What goes to one peer, after the header if it is the first time."""

    def __init__(self, task: Task, chunks: Chunks, peer: int) -> None:
        self._task, self._chunks, self._peer = task, chunks, peer
        self._window = _window(task)
        self._queue: deque[Transfer] = deque()
        self._flying: deque[tuple[Pending, Transfer, int, Array | None]] = deque()

    def add(self, transfer: Transfer) -> None:
        """Send this after all that was added before."""
        self._queue.append(transfer)

    @property
    def idle(self) -> bool:
        """Whether everything is through."""
        return not self._queue and not self._flying

    def stirs(self) -> bool:
        """Whether `advance` would do anything."""
        flying, queue = self._flying, self._queue
        if flying and flying[0][0].done():
            return True
        return bool(queue) and len(flying) < self._window and queue[0].ready(queue[0].next_upto)

    def advance(self) -> bool:
        """Send what is ready; whether anything happened."""
        moved, flying, queue, chunks = False, self._flying, self._queue, self._chunks
        while flying and flying[0][0].done():
            _, transfer, upto, wire = flying.popleft()
            if wire is not None:
                chunks.sent(wire, transfer.flag)
                if chunks.lends:
                    transfer.reach(upto)
            moved = True
        while queue and len(flying) < self._window:
            transfer, piece = queue[0], queue[0].piece
            if not transfer.ready(transfer.next_upto):
                break
            if ("to", self._peer) not in self._task.met:
                self._task.met.add(("to", self._peer))
                self._send(self._task.header, transfer, transfer.begin, None)
            if piece is not None:
                wire = chunks.wire(piece, transfer.flag)
                self._send(wire, transfer, piece[1], wire)
                if not chunks.lends:
                    transfer.reach(piece[1])
                transfer.advance()
            else:
                transfer.finished = True  # it was empty
            if transfer.piece is None:
                queue.popleft()
            moved = True
        return moved

    def _send(self, buf: Array, transfer: Transfer, upto: int, wire: Array | None) -> None:
        self._flying.append((self._task.transport.isend(buf, self._peer, self._task.tag), transfer, upto, wire))


class Incoming:
    """What comes from one peer.

    Why its first payload is received only after its header was found right: a message longer than its receive is an error by the
    standard, but Open MPI 5 writes beyond the buffer when both ranks share a node.
    """

    def __init__(self, task: Task, chunks: Chunks, peer: int) -> None:
        self._task, self._chunks, self._peer = task, chunks, peer
        self._window = _window(task)
        self._queue: deque[Transfer] = deque()
        self._posted: deque[tuple[Pending, Transfer, Piece, Array]] = deque()
        self._header: tuple[Pending, Array] | None = None
        if ("from", peer) not in task.met:
            task.met.add(("from", peer))
            theirs = task.header.copy()
            self._header = task.transport.irecv(theirs, peer, task.tag), theirs

    def add(self, transfer: Transfer) -> None:
        """Receive this after all that was added before."""
        self._queue.append(transfer)

    @property
    def idle(self) -> bool:
        """Whether everything is through."""
        return not self._queue and not self._posted

    def stirs(self) -> bool:
        """Whether `advance` would do anything."""
        if self._header is not None:
            return self._header[0].done()
        if self._posted:
            pending, transfer, piece, _ = self._posted[0]
            if transfer.ready(piece[1]) and pending.done():
                return True
        return self._may_post()

    def advance(self) -> bool:
        """Receive what is there; whether anything happened. Raises Disagreement."""
        if self._header is not None and not self._meet():
            return False
        moved = self._post()
        posted = self._posted
        while posted:
            pending, transfer, piece, wire = posted[0]
            if not transfer.ready(piece[1]) or not pending.done():
                break
            if pending.nbytes != wire.nbytes:
                raise Disagreement(self._peer, self._task.header)
            posted.popleft()
            self._chunks.use(piece, wire, transfer.flag)
            transfer.reach(piece[1])
            self._post()
            moved = True
        return moved

    def cancel(self) -> None:
        """Receive no more: nobody writes into the user's array any more."""
        for pending, *_ in self._posted:
            pending.cancel()
        if self._header is not None:
            self._header[0].cancel()

    def _meet(self) -> bool:
        assert self._header is not None
        pending, theirs = self._header
        if not pending.done():
            return False
        if pending.nbytes != theirs.nbytes or (theirs != self._task.header).any():
            raise Disagreement(self._peer, theirs)
        self._header = None
        return True

    def _may_post(self) -> bool:
        if not self._queue or len(self._posted) >= self._window:
            return False
        transfer = self._queue[0]
        direct = transfer.piece is None or (self._chunks.lends and not transfer.flag)  # lands where others may still read
        return not direct or transfer.ready(transfer.next_upto)

    def _post(self) -> bool:
        moved = False
        while self._may_post():
            transfer, piece = self._queue[0], self._queue[0].piece
            if piece is not None:
                wire = self._chunks.landing(piece, transfer.flag)
                self._posted.append((self._task.transport.irecv(wire, self._peer, self._task.tag), transfer, piece, wire))
                transfer.advance()
            else:
                transfer.finished = True  # it was empty
            if transfer.piece is None:
                self._queue.popleft()
            moved = True
        return moved


def _window(task: Task) -> int:
    return max(2, min(_MOST_PIECES, _MOST_BYTES // (task.piece * int(task.x.itemsize))))
