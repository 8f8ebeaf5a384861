"""What a transport is: non-blocking messages of bytes between the ranks of one group."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..arrays import Array

__all__ = ["NativeCalls", "Pending", "Placement", "Transport", "TransportFailure", "Truncated", "Turn"]


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


class Placement(NamedTuple):
    """Where this rank sits: its place among the ranks of its node, and its node among the nodes."""

    local_rank: int
    local_size: int
    node: int
    nodes: int


class Turn(Protocol):
    """A place in the queue of a communicator's collective calls, which all ranks must make in the same order."""

    passed: bool  # to be set once the holder has made its last call

    def done(self) -> bool:
        """Whether all earlier holders have passed."""
        ...

    source: int
    nbytes: int

    def cancel(self) -> None:
        """Leave the queue."""
        ...


class NativeCalls(Protocol):
    """The MPI library's own non-blocking collectives over the group, for host memory. Not counted by `Metered`."""

    def take_turn(self) -> Turn:
        """Queue up behind all who have done so before."""
        ...

    def iallreduce(self, x: Array, op: str) -> Pending:
        """Reduce `x` in place with the operation that MPI calls `op` (``SUM``, ``PROD``, ``BAND``, …)."""
        ...

    def iallgather(self, mine: Array, everyone: Array) -> Pending:
        """Gather each rank's `mine` into the rows of `everyone`."""
        ...


class Transport(Protocol):
    """Messages between the ranks of one group. Buffers are contiguous; between two ranks, messages of one tag keep their order."""

    rank: int
    size: int
    ranks: tuple[int, ...]  # world ranks of this group
    tags: int  # valid tags are 0 … tags - 1
    threaded: bool  # whether several threads may use it at once
    native: NativeCalls | None  # where there is an MPI library below, and it may be given this group's host arrays

    def isend(self, buf: Array, peer: int, tag: int) -> Pending:
        """Start to send the bytes of `buf`, which must not change until it is done."""
        ...

    def irecv(self, buf: Array, peer: int | None, tag: int) -> Pending:
        """Start to receive at most the bytes of `buf`; `peer` None: from any rank."""
        ...

    def group(self, ranks: tuple[int, ...], tag: int) -> Transport:
        """A transport of its own tag space over `ranks` of this one. Called by its members only, by all of them; may block."""
        ...

    def placement(self) -> Placement:
        """Where this rank sits. Collective over the group; may block."""
        ...

    def abort(self, code: int) -> None:
        """End all ranks of the job at once."""
        ...

    def close(self) -> None:
        """Give back what the transport holds. Called by every rank of the group, once nobody sends any more."""
        ...
