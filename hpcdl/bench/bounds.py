"""What a wire allows at best: the bound that a measured time is held against."""

from __future__ import annotations

__all__ = ["FRAMES", "ring_seconds"]

FRAMES = 1514 / 1448  # bytes on an Ethernet wire for each byte of payload in TCP: 1448 in a frame of 1514 (timestamps on)


def ring_seconds(nbytes: int, hosts: int, rate: float, frames: float = FRAMES) -> float:
    """Least seconds to all-reduce `nbytes` over `hosts` whose links carry `rate` bytes per second each way: 2(p-1)/p bytes per host.

    The bound of any all-reduce (Patarasu and Yuan 2009, sec. 2); a ring meets it. Ranks that share a host share its link, so only
    hosts count.

    >>> round(ring_seconds(64 << 20, 4, 25e6), 2)
    4.21
    """
    return 2 * (hosts - 1) / hosts * nbytes / rate * frames
