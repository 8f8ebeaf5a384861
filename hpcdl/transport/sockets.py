"""Messages over TCP between processes that no MPI launcher has started, such as those of torchrun: one connection for each two ranks."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable

from ..arrays import Array
from ..errors import LaunchError
from .base import NativeCalls, Pending, Transport, Window, renumber
from .switch import Message, Switch

__all__ = ["SocketTransport", "addresses", "connect"]

_HELLO = struct.Struct("<16sq")  # the job's secret, rank
_PATIENCE = 30.0  # seconds to connect

Exchange = Callable[[str], list[str]]


def connect(rank: int, size: int, exchange: Exchange) -> SocketTransport:
    """The transport of this rank. exchange: gives every rank's text, in rank order. Collective. Raises LaunchError."""
    listener = socket.create_server(("", 0), backlog=size)
    told = [text.split() for text in exchange(f"{secrets.token_hex(16)} {listener.getsockname()[1]} {' '.join(addresses())}")]
    secret, host = bytes.fromhex(told[0][0]), told[rank][2]
    wires: dict[int, socket.socket] = {}
    for peer in range(rank):
        _, port, *there = told[peer]
        wires[peer] = _dial(rank, peer, ["localhost", *there] if there[0] == host else there, int(port))
        wires[peer].sendall(_HELLO.pack(secret, rank))
    listener.settimeout(_PATIENCE)
    while len(wires) < size - 1:
        try:
            wire, _ = listener.accept()
            wire.settimeout(_PATIENCE)
            found, peer = _HELLO.unpack(_exactly(wire, _HELLO.size))
        except (OSError, struct.error) as error:
            missing = [peer for peer in range(rank + 1, size) if peer not in wires]
            raise LaunchError(f"rank {rank} of {size}: no connection from ranks {missing} within {_PATIENCE:g} s ({error})") from error
        if found == secret and rank < peer < size:
            wires[peer] = wire
        else:
            wire.close()  # nobody of ours
    listener.close()
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


def _exactly(wire: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = wire.recv(n - len(data))
        if not more:
            break
        data += more
    return data
