"""Ring: every rank talks to its two neighbours only. Optimal in bytes at any size, 2(p-1) latencies.

Source: Patarasu & Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations" (2009), sec. 3.
"""

from __future__ import annotations

from collections.abc import Iterator

from .schedule import Recv, Schedule, Send, Step

__all__ = ["ALL_GATHER", "ALL_REDUCE", "BROADCAST", "REDUCE_SCATTER"]


def reduce_scatter(rank: int, size: int) -> Iterator[Step]:
    """p-1 steps, n(p-1)/p elements per rank: a partial sum goes round and picks up each rank's share; chunk r ends at rank r."""
    right, left = (rank + 1) % size, (rank - 1) % size
    for step in range(size - 1):
        out, back = (rank - step - 1) % size, (rank - step - 2) % size
        yield Send(right, out, out + 1), Recv(left, back, back + 1, reduce=True)


def all_gather(rank: int, size: int) -> Iterator[Step]:
    """p-1 steps, n(p-1)/p elements per rank: each rank's chunk goes round."""
    right, left = (rank + 1) % size, (rank - 1) % size
    for step in range(size - 1):
        out, back = (rank - step) % size, (rank - step - 1) % size
        yield Send(right, out, out + 1, final=True), Recv(left, back, back + 1, reduce=False)


def allreduce(rank: int, size: int) -> Iterator[Step]:
    """2(p-1) steps, 2n(p-1)/p elements per rank."""
    yield from reduce_scatter(rank, size)
    yield from all_gather(rank, size)


def broadcast(rank: int, size: int) -> Iterator[Step]:
    """1 + (p-1) steps, at most 2n(p-1)/p elements per rank: rank 0 deals the chunks out, then they go round, past rank 0."""
    if rank == 0 and size > 1:
        yield tuple(Send(peer, peer, peer + 1, final=True) for peer in range(1, size))
    elif rank:
        yield (Recv(0, rank, rank + 1, reduce=False),)
    for send, recv in all_gather(rank, size):
        yield tuple(action for action in (send, recv) if not _to_root(action, rank))  # rank 0 has everything


def _to_root(action: Send | Recv, rank: int) -> bool:
    return action.peer == 0 if isinstance(action, Send) else rank == 0


ALL_REDUCE = Schedule("ring", "allreduce", allreduce, chunks=lambda size: size)
REDUCE_SCATTER = Schedule("ring", "reduce_scatter", reduce_scatter, chunks=lambda size: size)
ALL_GATHER = Schedule("ring", "all_gather", all_gather, chunks=lambda size: size)
BROADCAST = Schedule("ring", "broadcast", broadcast, chunks=lambda size: size)
