"""All TCP connections of a process, and the messages that wait at their ends."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections import deque
from typing import Any

import numpy as np

from .base import Pending, TransportFailure, Truncated

__all__ = ["Message", "Switch"]

_HEADER = struct.Struct("<Qqq")  # channel, tag, bytes
_LONGEST = 1 << 20  # bytes of one call


class Message:
    """A message on its way out or in."""

    def __init__(self, switch: Switch, buf: Any, key: tuple[int, int], peer: int | None, numbers: dict[int, int]) -> None:
        self.switch, self.key, self.peer, self.numbers = switch, key, peer, numbers
        self.view = memoryview(buf.reshape(-1).view(np.uint8)) if buf.nbytes else memoryview(b"")
        self.source, self.nbytes = -1, 0
        self.finished = False
        self.failure: TransportFailure | None = None

    def done(self) -> bool:
        if not self.finished and self.failure is None:
            self.switch.turn()
        if self.failure is not None:
            raise self.failure
        return self.finished

    def cancel(self) -> None:
        self.switch.forget(self)

    def end(self, source: int, nbytes: int) -> None:
        """All of it has come."""
        self.source, self.nbytes, self.finished = self.numbers.get(source, -1), nbytes, True


class _Line:
    """The connection to one peer: what waits to go out, and how far the message that comes in has got."""

    def __init__(self, wire: socket.socket) -> None:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.setblocking(False)
        self.wire = wire
        self.out: deque[tuple[memoryview, Message | None]] = deque()
        self.head = bytearray(_HEADER.size)
        self.got = 0  # bytes of the header, then of the body
        self.body: memoryview | None = None
        self.target: Message | None = None  # None: nobody has asked for it yet
        self.key, self.nbytes = (0, 0), 0


class Switch:
    """All connections of this process, and who waits for what. One thread at a time."""

    def __init__(self, wires: dict[int, socket.socket]) -> None:
        self._lock = threading.RLock()
        self._lines = {peer: _Line(wire) for peer, wire in wires.items()}
        self._dead: set[int] = set()
        self._wanted: dict[tuple[int, int], deque[Message]] = {}
        self._early: dict[tuple[int, int], deque[tuple[int, bytearray]]] = {}
        self._ready = selectors.DefaultSelector()
        for peer, line in self._lines.items():
            self._ready.register(line.wire, selectors.EVENT_READ, peer)

    def send(self, message: Message) -> Pending:
        """Queue `message`, and begin at once."""
        with self._lock:
            assert message.peer is not None
            if message.peer in self._dead:
                message.failure = _gone(message.peer)
                return message
            line = self._lines[message.peer]
            head = memoryview(_HEADER.pack(*message.key, message.view.nbytes))
            line.out.append((head, None if message.view.nbytes else message))
            if message.view.nbytes:
                line.out.append((message.view, message))
            self._push(message.peer, line)
        return message

    def receive(self, message: Message) -> Pending:
        """Take what has come early, or wait for it."""
        with self._lock:
            for found in self._early.get(message.key, ()):
                if message.peer in (None, found[0]):
                    _take(self._early, message.key, found)
                    self._deliver(message, *found)
                    return message
            if message.peer in self._dead:
                message.failure = _gone(message.peer)
            else:
                self._wanted.setdefault(message.key, deque()).append(message)
        return message

    def forget(self, message: Message) -> None:
        """It is wanted no more; what still comes of it goes elsewhere."""
        with self._lock:
            if message in self._wanted.get(message.key, ()):
                _take(self._wanted, message.key, message)
            for line in self._lines.values():
                if line.target is message:
                    line.target, line.body = None, memoryview(bytearray(line.nbytes))

    def turn(self) -> None:
        """Move what can be moved now. Never blocks."""
        with self._lock:
            for peer, line in tuple(self._lines.items()):
                if line.out:
                    self._push(peer, line)
            for key, _ in self._ready.select(0) if self._lines else ():
                if key.data in self._lines:
                    self._pull(key.data, self._lines[key.data])

    def _push(self, peer: int, line: _Line) -> None:
        try:
            while line.out:
                view, message = line.out[0]
                sent = line.wire.send(view[:_LONGEST])
                if sent < view.nbytes:
                    line.out[0] = view[sent:], message
                    continue
                line.out.popleft()
                if message is not None:
                    message.finished = True
        except BlockingIOError:
            pass
        except OSError:
            self._lose(peer, line)

    def _pull(self, peer: int, line: _Line) -> None:
        try:
            for _ in range(16):
                if line.body is None:
                    n = line.wire.recv_into(memoryview(line.head)[line.got :])
                else:
                    n = line.wire.recv_into(line.body[line.got : line.got + _LONGEST])
                if n == 0:
                    self._lose(peer, line)
                    return
                line.got += n
                self._advance(peer, line)
        except BlockingIOError:
            pass
        except OSError:
            self._lose(peer, line)

    def _advance(self, peer: int, line: _Line) -> None:
        if line.body is None:
            if line.got < _HEADER.size:
                return
            channel, tag, line.nbytes = _HEADER.unpack(line.head)
            line.key, line.got = (channel, tag), 0
            waiting = self._wanted.get(line.key, ())
            line.target = next((message for message in waiting if message.peer in (None, peer)), None)
            fits = line.target is not None and line.nbytes <= line.target.view.nbytes
            if line.target is not None:
                _take(self._wanted, line.key, line.target)
            line.body = line.target.view[: line.nbytes] if fits and line.target is not None else memoryview(bytearray(line.nbytes))
        if line.got == line.nbytes:
            body, line.body, line.got = line.body, None, 0
            if line.target is None:
                self._arrive(peer, line.key, bytearray(body))
            elif line.nbytes > line.target.view.nbytes:
                line.target.failure = _too_long(line.nbytes, line.target)
            else:
                line.target.end(peer, line.nbytes)
            line.target = None

    def _arrive(self, peer: int, key: tuple[int, int], body: bytearray) -> None:
        """It began before anybody asked for it; perhaps somebody has meanwhile."""
        for message in self._wanted.get(key, ()):
            if message.peer in (None, peer):
                _take(self._wanted, key, message)
                self._deliver(message, peer, body)
                return
        self._early.setdefault(key, deque()).append((peer, body))

    def _deliver(self, message: Message, peer: int, body: bytearray) -> None:
        if len(body) > message.view.nbytes:
            message.failure = _too_long(len(body), message)
            return
        message.view[: len(body)] = body
        message.end(peer, len(body))

    def _lose(self, peer: int, line: _Line) -> None:
        self._dead.add(peer)
        self._ready.unregister(line.wire)
        line.wire.close()
        messages = [message for _, message in line.out if message is not None]
        messages += [message for waiting in self._wanted.values() for message in waiting if message.peer == peer]
        if line.target is not None:
            messages.append(line.target)
        for message in messages:
            message.failure = _gone(peer)
        line.out.clear()
        del self._lines[peer]


def _take(queues: dict[tuple[int, int], deque[Any]], key: tuple[int, int], found: Any) -> None:
    """Remove `found` from its queue, and the queue once it is empty: each operation has a tag of its own."""
    queue = queues[key]
    queue.remove(found)
    if not queue:
        del queues[key]


def _gone(peer: int) -> TransportFailure:
    return TransportFailure(f"the connection to rank {peer} has ended")


def _too_long(nbytes: int, message: Message) -> Truncated:
    return Truncated(f"a message of {nbytes} bytes came where {message.view.nbytes} were expected")
