"""Where chunks begin and end, and the pieces in which they travel."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = [
    "CODED_PIECE_BYTES",
    "DEVICE_PIECE_BYTES",
    "EXACT_PIECE_BYTES",
    "NETWORK_MESSAGE_BYTES",
    "pieces",
    "split_blocks",
    "split_evenly",
]

#: A chunk travels in pieces of this many bytes of data at most: far below what an MPI count can hold, large enough that the cost of a
#: message does not matter; and where it is encoded, small enough for that to happen within the cache.
EXACT_PIECE_BYTES = 1 << 22
CODED_PIECE_BYTES = 1 << 19

#: The longest message between nodes. Why: Open MPI 5 moves longer ones over TCP in one direction at a time (128 KiB: 1.6 times the bound of
#: a ring of two hosts; 48 KiB: 1.00): from 64 KiB on it asks the receiver first. MPICH does not mind.
NETWORK_MESSAGE_BYTES = 48 << 10

#: And on a device, where `auto` decides: there a piece costs kernel launches, and no cache has to hold it while it is encoded; still small
#: enough that copies to the host, the wire and copies from the host overlap.
DEVICE_PIECE_BYTES = 1 << 21


def split_blocks(n: int, chunks: int, block: int) -> list[int]:
    """Bounds of `chunks` chunks of `n` elements, each but the last a whole number of blocks: chunk c is [bounds[c], bounds[c+1]).

    >>> split_blocks(1000, 3, 128)
    [0, 256, 640, 1000]
    """
    count = -(-n // block)
    return [min(n, block * (count * chunk // chunks)) for chunk in range(chunks + 1)]


def split_evenly(n: int, chunks: int) -> list[int]:
    """Bounds that numpy.array_split uses: the first ``n % chunks`` chunks are one longer.

    >>> split_evenly(10, 4)
    [0, 3, 6, 8, 10]
    """
    base, longer = divmod(n, chunks)
    return [base * chunk + min(chunk, longer) for chunk in range(chunks + 1)]


def pieces(lo: int, hi: int, length: int) -> Iterator[tuple[int, int]]:
    """Cut [lo, hi) into pieces of `length` elements."""
    for begin in range(lo, hi, length):
        yield begin, min(hi, begin + length)
