"""What a transport is: non-blocking messages of bytes between the ranks of one group."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple, Protocol

from ..arrays import Array
from .turns import Turns

__all__ = [
    "DeviceBytes",
    "NamedSums",
    "NativeCalls",
    "Pending",
    "Placement",
    "Transport",
    "TransportFailure",
    "Truncated",
    "Window",
    "renumber",
]


class TransportFailure(Exception):
    """A message could not be moved: the peer died, the network broke. Turned into PeerLost for the user."""


class Truncated(TransportFailure):
    """A message was larger than the receive posted for it: ranks disagree. Turned into Mismatch for the user."""


class Pending(Protocol):
    """A message on its way."""

    source: int  # rank that a finished receive came from
    nbytes: int  # bytes that a finished receive got

    def done(self) -> bool:
        """Whether it has finished. Never blocks; raises TransportFailure where it never will."""
        ...

    def cancel(self) -> None:
        """Give it up. Its buffer must stay alive all the same."""
        ...


class DeviceBytes(NamedTuple):
    """Bytes in device memory by their address. `owner` keeps them where they are."""

    address: int
    nbytes: int
    owner: Any


class Placement(NamedTuple):
    """Where this rank sits: its place among the ranks of its node, and its node among the nodes."""

    local_rank: int
    local_size: int
    node: int
    nodes: int

    @classmethod
    def of(cls, rank: int, nodes: tuple[int, ...]) -> Placement:
        """The place of `rank`, where ``nodes[r]`` is the node of rank r."""
        neighbours = [peer for peer, node in enumerate(nodes) if node == nodes[rank]]
        return cls(neighbours.index(rank), len(neighbours), nodes[rank], len(set(nodes)))


def renumber(names: Iterable[Hashable]) -> tuple[int, ...]:
    """Names of nodes as numbers, in the order in which they come.

    >>> renumber(["b", "a", "b", "c"])
    (0, 1, 0, 2)
    """
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)


class Window(Protocol):
    """Memory of one node that all its ranks read and write."""

    parts: tuple[Array, ...]  # of bytes, zero at first, aligned to pages: one part for each rank of the node, in rank order

    def sync(self) -> None:
        """Order memory: what was written before is seen by others before what is written after; the same for reads."""
        ...

    def leave(self) -> None:
        """This rank needs it no more. Not collective; once all ranks have left, the memory goes when they make another window, or end."""
        ...

    def close(self) -> Pending:
        """Start to give the memory back; it goes once all ranks of the node have called this, unless one still holds an array in it."""
        ...


class NativeCalls(Protocol):
    """The MPI library's own non-blocking collectives over the group, for host memory. Not counted by `Metered`."""

    turns: Turns  # of those who call, since all ranks must call in the same order

    def iallreduce(self, x: Array, op: str) -> Pending:
        """Reduce `x` in place with the operation that MPI calls `op` (``SUM``, ``PROD``, ``BAND``, …)."""
        ...

    def iallgather(self, mine: Array, everyone: Array) -> Pending:
        """Gather each rank's `mine` into the rows of `everyone`."""
        ...


class NamedSums(Protocol):
    """Another library's all-reduce of host memory over all ranks of a group, which matches what ranks reduce by name."""

    def takes(self, op: str | None, dtype: Any) -> bool:
        """Whether it can reduce arrays of this dtype with the operation that MPI calls `op`."""
        ...

    def turns(self, name: str) -> Turns:
        """The queue of those who reduce by this name, since the library takes one array of a name at a time."""
        ...

    def iallreduce(self, x: Array, op: str, name: str) -> Pending:
        """Reduce `x` in place with what the other ranks reduce by this name."""
        ...

    def within(self, label: str) -> NamedSums:
        """The same for another group of the same ranks, whose `label` sets its names apart."""
        ...

    def close(self) -> None:
        """End the library, if it was started for this."""
        ...


class Transport(Protocol):
    """Messages between the ranks of one group. Buffers are contiguous; between two ranks, messages of one tag keep their order."""

    rank: int
    size: int
    ranks: tuple[int, ...]  # world ranks of this group
    nodes: tuple[int, ...]  # the node of each rank, numbered in the order of their first ranks
    tags: int  # valid tags are 0 … tags - 1
    threaded: bool  # whether several threads may use it at once
    native: NativeCalls | None  # where there is an MPI library below, and it may be given this group's host arrays
    direct: bool  # whether isend and irecv take DeviceBytes too, where the library below can

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        """Start to send the bytes of `buf`, which must not change until it is done."""
        ...

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        """Start to receive at most the bytes of `buf`; `peer` None: from any rank."""
        ...

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        """A transport of its own tag space over `ranks` of this one. Called by its members only, by all of them; may block."""
        ...

    def window(self, nbytes: int) -> Window | None:
        """`nbytes` of memory for each rank, shared within its node; None, on every rank, where any node cannot have it or any rank
        asks for 0 bytes. Collective over the group; may block."""
        ...

    def abort(self, code: int) -> None:
        """End all ranks of the job at once."""
        ...

    def close(self) -> None:
        """Give back what the transport holds. Called by every rank of the group, once nobody sends any more."""
        ...
