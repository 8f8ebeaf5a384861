"""Messages over TCP between processes that no MPI launcher has started, such as those of torchrun: one connection for each two ranks."""

from __future__ import annotations

import hashlib
import os
import secrets
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable

from ..arrays import Array
from ..errors import LaunchError
from .base import NativeCalls, Pending, Transport, Window, renumber
from .switch import Message, Switch

__all__ = ["SocketTransport", "addresses", "connect"]

_HELLO = struct.Struct("<16sq")  # the job's secret, rank
_PATIENCE = 30.0  # seconds to connect
_STRAYS = 16  # connections of others that may wait beside ours

Exchange = Callable[[str], list[str]]


def connect(rank: int, size: int, exchange: Exchange) -> SocketTransport:
    """The transport of this rank. exchange: gives every rank's text, in rank order. Collective. Raises LaunchError."""
    listener = socket.create_server(("", 0), backlog=size + _STRAYS)
    told = [text.split() for text in exchange(f"{secrets.token_hex(16)} {listener.getsockname()[1]} {' '.join(addresses())}")]
    secret, host = bytes.fromhex(told[0][0]), told[rank][2]
    wires: dict[int, socket.socket] = {}
    for peer in range(rank):
        _, port, *there = told[peer]
        wires[peer] = _dial(rank, peer, ["localhost", *there] if there[0] == host else there, int(port))
        wires[peer].sendall(_HELLO.pack(secret, rank))
    wires |= _welcome(listener, secret, set(range(rank + 1, size)))
    missing = [peer for peer in range(size) if peer != rank and peer not in wires]
    if missing:
        raise LaunchError(f"rank {rank} of {size}: no connection from ranks {missing} within {_PATIENCE:g} s")
    nodes = renumber(words[2] for words in told)
    return SocketTransport(Switch(wires), 0, tuple(range(size)), nodes, rank)


def addresses() -> list[str]:
    """Under which others may reach this host, likely ones first; the first is its name."""
    name = socket.gethostname()
    found = [name]
    try:
        found += [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except OSError:
        pass
    return list(dict.fromkeys(found))


class SocketTransport:
    """Messages of one channel. Why not MPI: its launcher must start the processes of a job, and here another one has."""

    tags = 1 << 31
    threaded = True
    native: NativeCalls | None = None
    direct = False

    def __init__(self, switch: Switch, channel: int, ranks: tuple[int, ...], nodes: tuple[int, ...], world_rank: int) -> None:
        self._switch, self._channel = switch, channel
        self.ranks, self.size, self.rank = ranks, len(ranks), ranks.index(world_rank)
        self.nodes = nodes
        self._numbers = {rank: number for number, rank in enumerate(ranks)}

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        return self._switch.send(Message(self._switch, buf, (self._channel, tag), self.ranks[peer], self._numbers))

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        source = None if peer is None else self.ranks[peer]
        return self._switch.receive(Message(self._switch, buf, (self._channel, tag), source, self._numbers))

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        members = tuple(self.ranks[rank] for rank in ranks)
        digest = hashlib.blake2b(repr((self._channel, tag, members)).encode(), digest_size=8).digest()
        nodes = renumber(self.nodes[rank] for rank in ranks)
        return SocketTransport(self._switch, int.from_bytes(digest, "little"), members, nodes, self.ranks[self.rank])

    def window(self, nbytes: int) -> Window | None:
        return None

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the launcher ends the others

    def close(self) -> None:
        pass


def _dial(rank: int, peer: int, names: list[str], port: int) -> socket.socket:
    for name in names:
        try:
            return socket.create_connection((name, port), timeout=_PATIENCE / len(names))
        except OSError:
            continue
    raise LaunchError(f"rank {rank} cannot reach rank {peer} at port {port} of {', '.join(names)}")


def _welcome(listener: socket.socket, secret: bytes, wanted: set[int]) -> dict[int, socket.socket]:
    """The connections of the ranks `wanted`, as far as they come in time. Whoever else connects is let go, and holds nobody up."""
    found: dict[int, socket.socket] = {}
    end = time.monotonic() + _PATIENCE
    listener.setblocking(False)
    with selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        heard: dict[socket.socket, bytes] = {}
        while wanted - found.keys() and (left := end - time.monotonic()) > 0:
            for key, _ in ready.select(left):
                if key.fileobj is listener:
                    for new in _accepted(listener):
                        ready.register(new, selectors.EVENT_READ)
                        heard[new] = b""
                    continue
                wire = key.fileobj
                assert isinstance(wire, socket.socket)
                more = _received(wire, _HELLO.size - len(heard[wire]))
                heard[wire] += more
                if more and len(heard[wire]) < _HELLO.size:
                    continue
                ready.unregister(wire)
                hello = heard.pop(wire)
                told, peer = _HELLO.unpack(hello) if more else (b"", -1)
                if told == secret and peer in wanted - found.keys():
                    found[peer] = wire
                else:
                    wire.close()
        for wire in heard:
            wire.close()
    listener.close()
    return found


def _accepted(listener: socket.socket) -> list[socket.socket]:
    try:
        wire, _ = listener.accept()
    except OSError:  # it has gone again
        return []
    wire.setblocking(False)
    return [wire]


def _received(wire: socket.socket, n: int) -> bytes:
    """Up to `n` bytes of what has come; nothing where the other end has gone."""
    try:
        return wire.recv(n)
    except OSError:
        return b""
