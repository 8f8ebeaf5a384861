"""Messages from one rank to another, with tags and from any source: beside the collectives of the same ranks, never behind them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import count

import numpy as np

from ..arrays import HOST, Array, of
from ..errors import InvalidArgument
from ..transport.base import Pending, TransportFailure, Truncated
from .execute import Body
from .follow import follow
from .group import Group
from .layout import EXACT_PIECE_BYTES, NETWORK_MESSAGE_BYTES, pieces
from .operation import Operation, Signature

__all__ = ["Messages"]

_INLINE = 16 << 10  # bytes that travel with the header
_NUMBERS = 16  # bytes: length, number
_HEADER = 32  # and what the bytes are
_UNDER_WAY = 16  # pieces of one message
_PATIENCE = 2.0  # seconds for what a rank sent before it left to arrive


class Messages:
    """Sends and receives in a group that serves nothing else. Not collective; nothing is counted in anybody's sequence.

    A message is a header, with its bytes in it up to 16 KiB, and else its bytes in pieces behind. Between two ranks, messages of one tag
    come in the order in which they were sent. Headers have even tags, bytes have odd ones: a number that the header tells, so that a
    receive from any rank takes no piece of another message.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._sent = [0] * group.transport.size
        self._numbers = count(1)
        self.tags = group.transport.tags // 2  # valid are 0 … tags - 1

    def send(self, x: Array, peer: int, tag: int = 0, name: str = "", dtype: str = "") -> Operation:
        """Start to send the bytes of `x`, flat, to `peer`; they must not change until it has finished. Up to 16 KiB that is at once.

        dtype: what the bytes are; the receiver must say the same (its first 16 characters count).
        """
        self._check(peer, tag)
        number = self._sent[peer]
        self._sent[peer] += 1

        def call() -> Body:
            transport, host = self._group.transport, of(x) is HOST
            inline = x.nbytes if host and x.nbytes <= _INLINE else 0
            header = np.empty(_HEADER + inline, np.uint8)
            header[:_NUMBERS].view(np.int64)[:] = x.nbytes, number
            header[_NUMBERS:_HEADER] = _kind(dtype)
            if inline:
                header[_HEADER:] = x
            flying = deque([transport.isend(header, peer, 2 * tag)])
            if x.nbytes > inline:
                carrier, lane = self._group.carrier(of(x)), 2 * (number % self.tags) + 1
                for begin, end in pieces(0, x.nbytes, self._piece(peer)):
                    if len(flying) >= _UNDER_WAY:
                        yield _Mail(flying[0], self._group, (peer,))
                        flying.popleft()
                    flying.append(carrier.isend(x[begin:end], peer, lane))
            for pending in flying:
                if not pending.done():
                    yield _Mail(pending, self._group, (peer,))

        return self._start(Signature("send", dtype="bytes", shape=(x.nbytes,), extra=f"to rank {peer}, tag {tag}", name=name), x, call)

    def receive(self, x: Array, peer: int | None, tag: int = 0, name: str = "", dtype: str = "") -> Operation:
        """Start to receive into `x`, bytes, flat, from `peer`, or from any rank; the result is the rank it came from.

        Ends in Mismatch where a message of another length or dtype comes.
        """
        self._check(peer, tag)
        group, others = self._group, range(self._group.transport.size) if peer is None else (peer,)

        def call() -> Body:
            transport, host = group.transport, of(x) is HOST
            header = np.empty(_HEADER + (_INLINE if host else 0), np.uint8)
            flying = deque([transport.irecv(header, peer, 2 * tag)])
            try:
                yield _Mail(flying[0], group, tuple(other for other in others if other != transport.rank))
                source = flying.popleft().source
                nbytes, number = (int(value) for value in header[:_NUMBERS].view(np.int64))
                if nbytes != x.nbytes:
                    raise Truncated(f"rank {source} sent {nbytes} bytes with tag {tag} where rank {transport.rank} expects {x.nbytes}")
                if (header[_NUMBERS:_HEADER] != _kind(dtype)).any():
                    theirs = header[_NUMBERS:_HEADER].tobytes().decode(errors="replace").strip() or "bytes"
                    raise Truncated(f"rank {source} sent {theirs} with tag {tag} where rank {transport.rank} expects {dtype or 'bytes'}")
                if host and nbytes <= _INLINE:
                    x[...] = header[_HEADER : _HEADER + nbytes]
                    return source
                carrier, lane = group.carrier(of(x)), 2 * (number % self.tags) + 1
                for begin, end in pieces(0, nbytes, self._piece(source)):
                    if len(flying) >= _UNDER_WAY:
                        yield _Mail(flying[0], group, (source,))
                        flying.popleft()
                    flying.append(carrier.irecv(x[begin:end], source, lane))
                while flying:
                    yield _Mail(flying[0], group, (source,))
                    flying.popleft()
                return source
            except BaseException:  # given up: nobody writes into the user's memory any more
                for pending in flying:
                    pending.cancel()
                raise

        where = "from any rank" if peer is None else f"from rank {peer}"
        return self._start(Signature("recv", dtype="bytes", shape=(x.nbytes,), extra=f"{where}, tag {tag}", name=name), x, call)

    def _start(self, signature: Signature, x: Array, call: Callable[[], Body]) -> Operation:
        group = self._group
        with group.engine.locked():
            group.check_usable()
            number = -(next(self._numbers) * group.transport.size + group.transport.rank)  # which no other rank's has
            operation = Operation(group, number, signature, follow(of(x), lambda tag, header: call())(0, None))
            group.submit(operation)
        return operation

    def _piece(self, peer: int) -> int:
        nodes = self._group.transport.nodes
        return EXACT_PIECE_BYTES if nodes[peer] == nodes[self._group.transport.rank] else NETWORK_MESSAGE_BYTES

    def _check(self, peer: int | None, tag: int) -> None:
        group, size = self._group, self._group.transport.size
        if peer is not None and (not 0 <= peer < size or peer == group.transport.rank):
            raise InvalidArgument(f"{group.place}: the other rank must be 0 to {size - 1} and not this one, got {peer}")
        if peer is None and size == 1:
            raise InvalidArgument(f"{group.place}: there is nobody to receive from")
        if not 0 <= tag < self.tags:
            raise InvalidArgument(f"{group.place}: a tag must be 0 to {self.tags - 1}, got {tag}")


def _kind(dtype: str) -> Array:
    return np.frombuffer(dtype.encode()[: _HEADER - _NUMBERS].ljust(_HEADER - _NUMBERS), np.uint8)


class _Mail:
    """A pending message, which fails some time after all who could send or take it have left."""

    nbytes = 0  # and the source: those of `pending` count

    def __init__(self, pending: Pending, group: Group, peers: tuple[int, ...]) -> None:
        self._pending, self._group, self._peers = pending, group, peers
        self._left_at = 0.0
        self.source = -1

    def done(self) -> bool:
        if self._pending.done():
            return True
        if self._group.departed and all(peer in self._group.departed for peer in self._peers):
            now = time.monotonic()
            self._left_at = self._left_at or now
            if now - self._left_at > _PATIENCE:
                raise TransportFailure(f"{' and '.join(f'rank {peer}' for peer in self._peers)} ended without it")
        return False

    def cancel(self) -> None:
        self._pending.cancel()
