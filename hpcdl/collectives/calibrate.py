"""A short measurement of what communication costs here, in the program's own loop, so that it ends in an error where a rank is lost.

Some 300 ms on one node, at most about a second on a slow network: what is measured follows the speed that is met.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codecs import by_name as codec_by_name
from . import calls, moves, quick
from .costs import ASSUMED, SEGMENTS, Coding, Costs, Layout, Link, Memory, Native, Shared, Timing
from .execute import Body
from .group import Group
from .model import LARGE_BYTES, WINDOWED, Way, price, ways
from .operation import Signature
from .plan import make

__all__ = ["calibrate", "share"]

_TRIES = 3  # after one that warms up
_CALLS, _ROUNDS = 4, 8  # of a collective at most: in a row, and of those
_MESSAGES = 10  # per try of a small message
_SECONDS = 0.2  # for timing collectives
_ENOUGH = {False: 0.0015, True: 0.008}  # seconds of one exchange from which its speed can be told
_LARGEST = 4 << 20
_MEMORY_BYTES = 2 << 20
_CODEC_BYTES = 1 << 18
_TIMED_BYTES = (1 << 10, 1 << 22, 1 << 18, 1 << 15)  # at which collectives are timed, the ends first
_INSIDE_BYTES = 1 << 24  # and after these, on one node, where beyond the caches all is different
_RIVAL = 3.0  # a collective is timed where it is predicted within so many times the best

Seconds = list[float]


def share(group: Group, text: str | None) -> str:
    """Rank 0's text, on every rank."""
    data = np.frombuffer((text or "").encode(), np.uint8)
    size = moves.broadcast(group, np.array([data.size])).wait()
    return bytes(moves.broadcast(group, data.copy() if group.transport.rank == 0 else np.empty(int(size[0]), np.uint8)).wait()).decode()


def calibrate(group: Group, layout: Layout, names: Sequence[str], codecs: Sequence[str]) -> Costs:
    """Costs over the ranks of `group`, the same on each. Collective. names, codecs: those to measure, the same on all ranks."""
    probe = _Probe(group, layout)
    with group.engine:
        memory = probe.memory()
        node = probe.link(probe.neighbours(), between=False) if layout.widest > 1 else None
        network = probe.link(probe.leaders(), between=True) if layout.count > 1 else None
        either = node or network or ASSUMED.node
        slowest = network or either
        native = Native(2 * slowest.message, 2 * slowest.per_byte(_LARGEST))  # until it is timed
        shared = Shared(ASSUMED.shared.step, 2 * memory.copy + memory.add)
        costs = Costs(True, layout.nodes, tuple(names), either, network, memory, shared, native)
        end = perf_counter() + _SECONDS
        sizes = _TIMED_BYTES if layout.count > 1 else (*_TIMED_BYTES, _INSIDE_BYTES)
        for done, nbytes in enumerate(sizes):
            costs = _with_timings(probe, costs, nbytes, (end - perf_counter()) / (len(sizes) - done))
        return replace(costs, codecs=tuple(probe.codecs(codecs)))


def _with_timings(probe: _Probe, costs: Costs, nbytes: int, seconds: float) -> Costs:
    """The costs, with collectives timed at one size: first all, then the likely ones, in about so many seconds of rank 0's clock."""
    group, layout = probe.group, probe.layout
    group.follow(costs, make(costs, layout, costs.names))
    found: tuple[Timing, ...] = ()
    for windowed in (False, True)[: 2 if nbytes <= _LARGEST else 1]:
        some = [way for way in ways(costs, layout, costs.names) if not windowed or way.collective in WINDOWED]
        prices = {way: price(way, nbytes, layout, costs, windowed) for way in some}
        chosen: list[Way] = []
        spent = 0.0
        for way in sorted(prices, key=lambda way: prices[way]):
            spent += _TRIES * prices[way]
            likely = spent < seconds / 2 and prices[way] <= _RIVAL * min(prices.values())
            if not costs.timings or likely or (len(chosen) < 2 and layout.count == 1):  # one alone would be compared with formulas only
                chosen.append(way)
        told, budget = json.loads(share(group, json.dumps([chosen, seconds / 2])))
        found += tuple(probe.collectives([Way(*way) for way in told], nbytes, windowed, max(budget, 1e-3)))
    return _with_lines(replace(costs, timings=costs.timings + found))


def _with_lines(costs: Costs) -> Costs:
    """MPI's own call, and shared memory, as lines through the smallest and the largest size; no slope is below that of a copy."""
    if points := _ends(costs, "native", False):
        byte = max(_slope(points, costs.native.byte), costs.memory.copy)
        costs = replace(costs, native=Native(max(points[0][1] - points[0][0] * byte, points[0][1] / 2), byte))
    if points := _ends(costs, "shared-memory", True):
        costs = replace(costs, shared=Shared(points[0][1], max(_slope(points, costs.shared.byte), costs.memory.copy)))
    return costs


def _ends(costs: Costs, name: str, windowed: bool) -> list[tuple[int, float]]:
    return sorted((each.nbytes, each.seconds) for each in costs.timings if (each.collective, each.windowed) == (name, windowed))


def _slope(points: list[tuple[int, float]], otherwise: float) -> float:
    """Seconds per byte between the first and the last point; `otherwise` where that is too small to tell."""
    (small, fast), (large, slow) = points[0], points[-1]
    return (slow - fast) / (large - small) if large > small and large >= LARGE_BYTES else otherwise


class _Probe:
    """Measures one thing at a time, on all ranks at once; what it returns is the slowest rank's, the same on every rank."""

    def __init__(self, group: Group, layout: Layout) -> None:
        self.group, self.layout = group, layout
        self._rank = group.transport.rank
        moves.barrier(group).wait()
        with group.engine.locked():
            self._window = group.buffers.allocate(_LARGEST)
        self._out, self._into = np.zeros(_LARGEST, np.uint8), np.zeros(_LARGEST, np.uint8)

    def neighbours(self) -> list[int]:
        """The ranks of this rank's node."""
        return [rank for rank, node in enumerate(self.layout.nodes) if node == self.layout.nodes[self._rank]]

    def leaders(self) -> list[int]:
        """The first rank of each node."""
        return [self.layout.nodes.index(node) for node in sorted(set(self.layout.nodes))]

    def memory(self) -> Memory:
        """Copy and add of float32 on all ranks at once."""
        a, b = self._out[:_MEMORY_BYTES].view("f4"), self._into[:_MEMORY_BYTES].view("f4")
        copy, add = self._alone([lambda: np.copyto(a, b), lambda: np.add(a, b, out=a)])
        return Memory(copy / _MEMORY_BYTES, add / _MEMORY_BYTES)

    def codecs(self, names: Sequence[str]) -> list[tuple[str, Coding]]:
        """Each codec's speed on normal numbers, on all ranks at once."""
        x = np.random.default_rng(0).standard_normal(_CODEC_BYTES // 4, np.float32)
        out, actions, ratios = np.empty_like(x), [], []
        for name in names:
            codec = codec_by_name(name)
            wire = np.empty(codec.nbytes(x.size), np.uint8)
            ratios.append(wire.size / x.nbytes)
            actions += [partial(codec.encode, x, wire), partial(codec.decode, wire, out)]
        seconds = [each / x.nbytes for each in self._alone(actions)]
        return [(name, Coding(*each)) for name, *each in zip(names, seconds[::2], seconds[1::2], ratios, strict=True)]

    def link(self, ring: list[int], between: bool) -> Link:
        """What it costs to pass messages round `ring`, where every such ring does so at once."""
        i = ring.index(self._rank) if self._rank in ring else -1
        right, left = (ring[(i + 1) % len(ring)], ring[i - 1]) if i >= 0 and len(ring) > 1 else (None, None)
        message = self._shift(right, left, [(8, 8)], _MESSAGES)[0]
        nbytes = SEGMENTS[0]
        while nbytes < _LARGEST and self._shift(right, left, [(nbytes, nbytes)], 1, tries=0)[0] < _ENOUGH[between]:
            nbytes *= 2
        cuts = [(nbytes, segment) for segment in SEGMENTS]
        both_ways = [max(seconds, 1e-9) / nbytes for seconds in self._shift(right, left, cuts, 1)]
        to, source = (right, None) if i % 2 == 0 and i + 1 < len(ring) else (None, left) if i % 2 else (None, None)
        one_way = max(self._shift(to if i >= 0 else None, source if i >= 0 else None, [(nbytes, nbytes)], 1)[0], 1e-9) / nbytes
        return Link(message, one_way, tuple(zip(SEGMENTS, both_ways, strict=True)))

    def collectives(self, chosen: list[Way], nbytes: int, windowed: bool, seconds: float) -> list[Timing]:
        """The real thing, in turn, for about so many seconds. On zeros, which stay zeros."""
        x = (self._window if windowed else np.zeros(nbytes, np.uint8))[:nbytes].view("f4")

        def one_call(way: Way) -> float:
            """Written before, if it is large, as backward does: it makes a difference in whose cache the bytes are."""
            if nbytes >= LARGE_BYTES:
                np.negative(x, out=x)
                moves.barrier(self.group).wait()
            begin = perf_counter()
            if not quick.allreduce(self.group, x, "sum", None, way.collective, ""):
                calls.allreduce(self.group, x, "sum", collective=way.collective).wait()
            return perf_counter() - begin

        def one_round(times: int) -> Seconds:
            return [sum(one_call(way) for _ in range(times)) / times for way in chosen]

        if not chosen:
            return []
        first = one_round(1)
        warm = sum(self._slowest([first]))
        times = max(1, min(_CALLS, int(seconds / (_TRIES * warm))))
        rounds = max(2, min(_ROUNDS, int(seconds / (times * warm))))
        found = self._slowest([first, *(one_round(times) for _ in range(rounds))])
        return [Timing(*way, windowed, nbytes, each) for way, each in zip(chosen, found, strict=True)]

    def _shift(self, to: int | None, source: int | None, cuts: list[tuple[int, int]], times: int, tries: int = _TRIES) -> Seconds:
        """Seconds to send bytes to one rank and receive as many from another, for each pair (bytes, segment)."""

        def call(tag: int, header: Any) -> Body:
            del header
            rounds = []
            for _ in range(tries + 1):
                mine = []
                for nbytes, segment in cuts:
                    begin = perf_counter()
                    for _ in range(times):
                        for pending in self._pieces(to, source, nbytes, segment, tag):
                            if not pending.done():
                                yield pending
                    mine.append((perf_counter() - begin) / times)
                rounds.append(mine)
            return rounds

        return self._slowest(self.group.start(Signature("calibrate", extra=f"{cuts}"), call).wait())

    def _pieces(self, to: int | None, source: int | None, nbytes: int, segment: int, tag: int) -> list[Any]:
        transport, begins = self.group.transport, range(0, nbytes, segment)
        pending = []
        if source is not None:
            pending += [transport.irecv(self._into[begin : min(nbytes, begin + segment)], source, tag) for begin in begins]
        if to is not None:
            pending += [transport.isend(self._out[begin : min(nbytes, begin + segment)], to, tag) for begin in begins]
        return pending

    def _alone(self, actions: Sequence[Callable[[], Any]]) -> Seconds:
        moves.barrier(self.group).wait()
        rounds = []
        for _ in range(_TRIES + 1):
            mine = []
            for action in actions:
                begin = perf_counter()
                action()
                mine.append(perf_counter() - begin)
            rounds.append(mine)
        return self._slowest(rounds)

    def _slowest(self, rounds: list[Seconds]) -> Seconds:
        """For each column the slowest rank's time, the lower quartile over all rounds but the first.

        Why not the median: where ranks outnumber cores, what is slower than that tells of the others' work, not of ours.
        """
        mine: NDArray[np.float64] = np.array(rounds, np.float64)
        if mine.size:
            calls.allreduce(self.group, mine, "max", collective="tree").wait()
        columns = (mine[1:] if len(mine) > 1 else mine).T.tolist()
        return [sorted(column)[len(column) // 4] for column in columns]
