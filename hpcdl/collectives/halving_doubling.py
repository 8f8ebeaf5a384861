"""Halving-doubling: reduce-scatter by recursive halving, all-gather by recursive doubling. Few steps, as few bytes as the ring.

Source: Rabenseifner, "Optimization of collective reduction operations" (2004), sec. 4; Thakur, Rabenseifner & Gropp (2005), sec. 4.5.
"""

from __future__ import annotations

from collections.abc import Iterator

from .schedule import Recv, Schedule, Send, Step

__all__ = ["ALL_REDUCE"]


def core(size: int) -> int:
    """The largest power of two up to `size`: so many ranks halve and double; each of the others hands its values to one of them."""
    return 1 << (size.bit_length() - 1)


def allreduce(rank: int, size: int) -> Iterator[Step]:
    """2 lg p steps, 2n(p-1)/p elements per rank for a power of two; up to 2 steps and 2n more per rank otherwise."""
    inner = core(size)
    if rank >= inner:
        yield (Send(rank - inner, 0, inner),)
        yield (Recv(rank - inner, 0, inner, reduce=False),)
        return
    if rank + inner < size:
        yield (Recv(rank + inner, 0, inner, reduce=True),)

    lo, hi, half = 0, inner, inner // 2
    while half:
        peer, middle = rank ^ half, lo + half
        mine, theirs = ((middle, hi), (lo, middle)) if rank & half else ((lo, middle), (middle, hi))
        yield Send(peer, *theirs), Recv(peer, *mine, reduce=True)
        (lo, hi), half = mine, half // 2

    half = 1
    while half < inner:
        peer = rank ^ half
        there = (lo ^ half) & ~(half - 1)
        yield Send(peer, lo, hi, final=True), Recv(peer, there, there + half, reduce=False)
        lo, hi, half = min(lo, there), max(hi, there + half), half * 2
    if rank + inner < size:
        yield (Send(rank + inner, 0, inner, final=True),)


ALL_REDUCE = Schedule("halving-doubling", "allreduce", allreduce, chunks=core)
