"""Binomial tree: fewest steps for small messages; every hop carries the whole message.

Source: Thakur, Rabenseifner & Gropp, "Optimization of collective communication operations in MPICH" (2005), sec. 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from .schedule import Recv, Schedule, Send, Step

__all__ = ["ALL_REDUCE", "BROADCAST"]


def reduce(rank: int, size: int) -> Iterator[Step]:
    """lg p steps, n elements per rank: sums flow to rank 0."""
    distance = 1
    while distance < size:
        if rank & distance:
            yield (Send(rank - distance, 0, 1),)
            return
        if rank + distance < size:
            yield (Recv(rank + distance, 0, 1, reduce=True),)
        distance *= 2


def broadcast(rank: int, size: int) -> Iterator[Step]:
    """lg p steps, up to n lg p elements per rank: rank 0's values flow out, those with the longest way to go first."""
    lowest = rank & -rank if rank else 1 << max(size - 1, 1).bit_length()
    if rank:
        yield (Recv(rank - lowest, 0, 1, reduce=False),)
    distance = lowest // 2
    while distance:
        if rank + distance < size:
            yield (Send(rank + distance, 0, 1, final=True),)
        distance //= 2


def allreduce(rank: int, size: int) -> Iterator[Step]:
    """2 lg p steps, up to n lg p elements per rank."""
    yield from reduce(rank, size)
    yield from broadcast(rank, size)


ALL_REDUCE = Schedule("tree", "allreduce", allreduce, chunks=lambda size: 1)
BROADCAST = Schedule("tree", "broadcast", broadcast, chunks=lambda size: 1)
