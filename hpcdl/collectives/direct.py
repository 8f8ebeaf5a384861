"""Direct: every rank talks to every other at once. Two steps, the ring's bytes, p(p-1) connections: for few ranks.

Source: the pairwise-exchange reduce-scatter of Thakur, Rabenseifner & Gropp (2005), sec. 4.3, with all its steps posted together.
"""

from __future__ import annotations

from collections.abc import Iterator

from .schedule import Recv, Schedule, Send, Step

__all__ = ["ALL_GATHER", "ALL_REDUCE", "REDUCE_SCATTER"]


def _others(rank: int, size: int) -> list[int]:
    return [(rank + distance) % size for distance in range(1, size)]  # each begins with another peer


def reduce_scatter(rank: int, size: int) -> Iterator[Step]:
    """1 step, n(p-1)/p elements per rank: each chunk goes straight to its owner, who reduces in the order of the list of peers."""
    if size > 1:
        sends = tuple(Send(peer, peer, peer + 1) for peer in _others(rank, size))
        yield sends + tuple(Recv(peer, rank, rank + 1, reduce=True) for peer in reversed(_others(rank, size)))


def all_gather(rank: int, size: int) -> Iterator[Step]:
    """1 step, n(p-1)/p elements per rank: each owner sends its chunk to everybody."""
    if size > 1:
        sends = tuple(Send(peer, rank, rank + 1, final=True) for peer in _others(rank, size))
        yield sends + tuple(Recv(peer, peer, peer + 1, reduce=False) for peer in reversed(_others(rank, size)))


def allreduce(rank: int, size: int) -> Iterator[Step]:
    """2 steps, 2n(p-1)/p elements per rank."""
    yield from reduce_scatter(rank, size)
    yield from all_gather(rank, size)


ALL_REDUCE = Schedule("direct", "allreduce", allreduce, chunks=lambda size: size)
REDUCE_SCATTER = Schedule("direct", "reduce_scatter", reduce_scatter, chunks=lambda size: size)
ALL_GATHER = Schedule("direct", "all_gather", all_gather, chunks=lambda size: size)
