"""Predicted seconds of an all-reduce: closed formulas over measured costs, corrected by what was timed.

Sources: Thakur, Rabenseifner & Gropp (2005), sec. 4; Patarasu & Yuan (2009), sec. 3. p ranks, n bytes, a seconds per message, b per byte
sent, g per byte reduced. A schedule's formula equals `simulate.price`, in microseconds for any p.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from .board import SLOT_BYTES
from .buffers import COPIED_BYTES
from .costs import Costs, Layout
from .shared_memory import FEW, READ_BYTES
from .simulate import Network

__all__ = ["FORMULAS", "LARGE_BYTES", "WINDOWED", "Way", "price", "segment", "ways"]


class Way(NamedTuple):
    """A candidate: a collective, and the bytes of its pieces (0: it has none)."""

    collective: str
    segment: int


def _ring(p: int, n: float, net: Network) -> float:
    """2(p-1) a + 2n(p-1)/p b + n(p-1)/p g."""
    return 2 * (p - 1) * net.alpha + (p - 1) / p * n * (2 * net.beta + net.gamma)


def _halving_doubling(p: int, n: float, net: Network) -> float:
    """The ring's bytes in 2 lg p steps; off powers of two, all bytes once more to and fro."""
    inner = 1 << (p.bit_length() - 1)
    core = 2 * (inner.bit_length() - 1) * net.alpha + (inner - 1) / inner * n * (2 * net.beta + net.gamma)
    return core + (2 * (net.alpha + n * net.beta) + n * net.gamma if p > inner else 0)


def _tree(p: int, n: float, net: Network) -> float:
    """2 lg p (a + n b) + lg p n g, lg rounded up: the way of rank 0."""
    return (p - 1).bit_length() * (2 * (net.alpha + n * net.beta) + n * net.gamma)


#: Schedule -> seconds for (ranks, bytes, network). Direct costs what the ring does: p-1 messages at once are p-1 messages.
FORMULAS: dict[str, Callable[[int, float, Network], float]] = {
    "ring": _ring,
    "halving-doubling": _halving_doubling,
    "tree": _tree,
    "direct": _ring,
}


_KNOWN = ("shared-memory", "two-level", "native", *FORMULAS)  # the most likely to be the fastest first

_GUESSED, _FAR = 1.5, 4  # how much more it counts; sizes further apart than that are not near
_OUT_OF_CACHE = 3.0
LARGE_BYTES = 1 << 20  # from here on, time is spent on bytes, not on messages, nor saved by what a network takes at once
WINDOWED = ("shared-memory", "two-level")  # for these it matters where the array is


def ways(costs: Costs, layout: Layout, names: tuple[str, ...]) -> list[Way]:
    """What can be used and priced here, of the collectives in `names`."""
    found = []
    for name in sorted(set(names) & set(_KNOWN), key=_KNOWN.index):
        if name in FORMULAS or (name == "two-level" and 1 < layout.count < layout.size):
            found.append(Way(name, segment(costs, layout)))
        elif name == "native" or (name == "shared-memory" and layout.count == 1):
            found.append(Way(name, 0))
    return found


def segment(costs: Costs, layout: Layout) -> int:
    """The segment that suits the slowest link between ranks of that layout."""
    return (costs.network if layout.count > 1 and costs.network is not None else costs.node).segment()


def price(way: Way, nbytes: int, layout: Layout, costs: Costs, windowed: bool = False) -> float:
    """Predicted seconds: the formula, corrected by how far it was off for the same collective on the measured ranks.

    Between two sizes that were timed, and below the smallest, it is off by a factor. Beyond the largest, by what it was off there, and in
    its slope as between the last two.

    Why corrections: a step of Python costs more than many of the bytes it moves, and caches bend every line. On one node, what was not
    timed near the size, where others were, counts for more, or the plan would follow the formula that is furthest off. So do slots beyond
    all that was timed: once they leave the caches they take three times as long, or not, as cores and caches happen to lie.
    """
    windowed = windowed and way.collective in WINDOWED
    plain, points = _formula(way, nbytes, layout, costs, windowed), _points(way.collective, windowed, costs)
    guess, largest = 1.0, _largest(costs)
    if layout.count == 1 and _FAR * (points[-1].nbytes if points else 1) < min(nbytes, largest):
        guess = _GUESSED
    if way.collective == "shared-memory" and not windowed and points and nbytes > 2 * largest:
        guess = _OUT_OF_CACHE
    return guess * _corrected(way, nbytes, layout, costs, windowed, plain, points)


def _corrected(way: Way, nbytes: int, layout: Layout, costs: Costs, windowed: bool, plain: float, points: list[_Point]) -> float:
    if not points:
        return plain
    above = next((i for i, point in enumerate(points) if point.nbytes >= nbytes), len(points))
    if above == len(points):
        last, there = points[-1], _formula(way, points[-1].nbytes, layout, costs, windowed)
        return last.factor * there + _slope(points) * (plain - there)
    if above == 0:
        return points[0].factor * plain
    low, high = points[above - 1 : above + 1]
    share = math.log2(nbytes / low.nbytes) / math.log2(high.nbytes / low.nbytes)
    return (low.factor + share * (high.factor - low.factor)) * plain


class _Point(NamedTuple):
    """A size that was timed, and both times."""

    nbytes: int
    timed: float
    predicted: float

    @property
    def factor(self) -> float:
        return self.timed / self.predicted


def _slope(points: list[_Point]) -> float:
    """How far off the formula's slope is between the last two sizes that were timed; 1 where these are too small to tell."""
    if len(points) < 2 or points[-1].nbytes < LARGE_BYTES:
        return 1.0
    low, high = points[-2:]
    return min(4.0, max(0.25, (high.timed - low.timed) / (high.predicted - low.predicted)))


def _formula(way: Way, nbytes: int, layout: Layout, costs: Costs, windowed: bool) -> float:
    name, segment = way
    if layout.size == 1:
        return 0.0
    if name == "native":
        return _native(nbytes, layout.size, costs)
    if name == "shared-memory":
        return _shared_memory(nbytes, layout.size, costs, windowed)
    if name == "two-level":
        return _two_level(nbytes, segment, layout, costs, windowed)
    return FORMULAS[name](layout.size, nbytes, _network(name, segment, layout, costs))


def _network(name: str, segment: int, layout: Layout, costs: Costs) -> Network:
    """The slowest link on the way, its bytes shared by all ranks of a node that use it at once."""
    node, network = costs.node, costs.network
    if layout.count == 1 or network is None:
        return Network(node.message, node.per_byte(segment), costs.memory.add)
    sharing = layout.crossings if name in ("ring", "tree") else layout.widest
    return Network(max(node.message, network.message), max(node.per_byte(segment), sharing * network.per_byte(segment)), costs.memory.add)


def _native(nbytes: int, size: int, costs: Costs) -> float:
    """What was measured, taken to other numbers of ranks as lg p messages and 2n(p-1)/p bytes."""
    there = max(2, len(costs.nodes))
    steps, moved = math.ceil(math.log2(size)) / math.ceil(math.log2(there)), (1 - 1 / size) / (1 - 1 / there)
    return costs.native.message * steps + nbytes * costs.native.byte * moved


def _shared_memory(nbytes: int, size: int, costs: Costs, windowed: bool) -> float:
    """In place, ranks meet twice. Otherwise once a slotful, and all copy theirs and read all others'; many ranks with much, only slices."""
    step, copy, add = costs.shared.step, costs.memory.copy, costs.memory.add
    if windowed and nbytes > COPIED_BYTES:
        return 2 * step + nbytes * costs.shared.byte
    if size <= FEW or nbytes * size <= READ_BYTES:
        return math.ceil(nbytes / SLOT_BYTES) * step + nbytes * (copy + (size - 1) * add)
    return (2 + nbytes / SLOT_BYTES) * step + nbytes * (costs.shared.byte + 2 * copy)


def _two_level(nbytes: int, segment: int, layout: Layout, costs: Costs, windowed: bool) -> float:
    """Shared memory, and between its halves a ring over the m nodes for each local rank's slice; all slices share the network card."""
    network = costs.network or costs.node
    ring = _ring(layout.count, nbytes, Network(network.message, network.per_byte(segment), costs.memory.add / layout.widest))
    return _shared_memory(nbytes, layout.widest, costs, windowed) + ring


def _largest(costs: Costs) -> int:
    """Bytes of the largest array that anything was timed with."""
    return max((timing.nbytes for timing in costs.timings), default=0)


@lru_cache(maxsize=64)
def _points(collective: str, windowed: bool, costs: Costs) -> list[_Point]:
    """What was timed of a collective, by size."""
    layout, found = Layout(costs.nodes), []
    for timing in costs.timings:
        if timing.collective == collective and timing.windowed == windowed:
            predicted = _formula(Way(collective, timing.segment), timing.nbytes, layout, costs, windowed)
            found.append(_Point(timing.nbytes, max(timing.seconds, 1e-9), max(predicted, 1e-9)))
    return sorted(found)
