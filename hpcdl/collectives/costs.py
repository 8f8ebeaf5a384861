"""What communication costs here: the numbers that a plan is made from, measured by `calibrate` or assumed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from .layout import NETWORK_MESSAGE_BYTES

__all__ = ["ASSUMED", "SEGMENTS", "Coding", "Costs", "Layout", "Link", "Memory", "Native", "Shared", "Timing"]

#: Bytes of the pieces in which a chunk may travel.
SEGMENTS = (NETWORK_MESSAGE_BYTES, 256 << 10, 4 << 20)
_AS_GOOD = 1.05  # a larger segment wins against one that is no more than so much faster: fewer messages


@dataclass(frozen=True)
class Layout:
    """Which node each rank of a group is on: node numbers in rank order."""

    nodes: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many ranks."""
        return len(self.nodes)

    @cached_property
    def count(self) -> int:
        """How many nodes."""
        return len(set(self.nodes))

    @cached_property
    def widest(self) -> int:
        """How many ranks the fullest node has."""
        return max(Counter(self.nodes).values())

    @cached_property
    def crossings(self) -> int:
        """How many edges of the ring in rank order leave one node, at most; these share its network card."""
        following = (*self.nodes[1:], *self.nodes[:1])
        return max(Counter(a for a, b in zip(self.nodes, following, strict=True) if a != b).values(), default=0)


@dataclass(frozen=True)
class Link:
    """The way from one rank to another. Seconds per message, the executor's own work included; seconds per byte.

    one_way: while the other direction is idle. both_ways: pairs of segment size and seconds per byte, where each rank sends and receives
    at once, in pieces of that size.
    """

    message: float
    one_way: float
    both_ways: tuple[tuple[int, float], ...]

    def per_byte(self, segment: int) -> float:
        """Seconds per byte of an exchange in pieces of `segment` bytes: those of the measured size next to it."""
        return min(self.both_ways, key=lambda pair: max(pair[0], segment) / max(1, min(pair[0], segment)))[1]

    def segment(self) -> int:
        """The segment size at which an exchange is fastest; of those that are as good, the largest."""
        best = min(cost for _, cost in self.both_ways)
        return max(size for size, cost in self.both_ways if cost <= _AS_GOOD * best)


@dataclass(frozen=True)
class Memory:
    """Seconds per byte of a copy and of an addition in float32, while all ranks of the node are at it."""

    copy: float
    add: float


@dataclass(frozen=True)
class Shared:
    """Shared memory of the node: seconds for all its ranks to synchronise once, and per byte of an all-reduce in windows."""

    step: float
    byte: float


@dataclass(frozen=True)
class Native:
    """The MPI library's own all-reduce over the measured ranks: seconds per call, behind our check, and per byte."""

    message: float
    byte: float


@dataclass(frozen=True)
class Coding:
    """A codec: seconds per byte of float32 to encode and to decode; bytes on the wire per byte of float32."""

    encode: float
    decode: float
    ratio: float


@dataclass(frozen=True)
class Timing:
    """The real thing: a collective over the measured ranks, seconds of the slowest, median. `windowed`: an array in shared memory."""

    collective: str
    segment: int
    windowed: bool
    nbytes: int
    seconds: float


@dataclass(frozen=True)
class Costs:
    """All costs, the same on every rank. `measured`: whether they are; `nodes`: the layout of the ranks on which they were.

    Seconds, and seconds per byte. `network` is None where all ranks share a node. `names`: the collectives that rank 0 knows.
    """

    measured: bool
    nodes: tuple[int, ...]
    names: tuple[str, ...]
    node: Link
    network: Link | None
    memory: Memory
    shared: Shared
    native: Native
    codecs: tuple[tuple[str, Coding], ...] = ()
    timings: tuple[Timing, ...] = ()

    def __hash__(self) -> int:
        return hash((self.measured, self.nodes, self.node, self.network, self.native, len(self.timings)))

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back without loss."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Costs:
        """Costs from JSON. Raises ValueError, KeyError or TypeError for any other text."""
        found = json.loads(text)
        if not isinstance(found, dict):
            raise TypeError("costs must be a JSON object")
        inner: dict[str, Any] = {
            "nodes": _tuple(found["nodes"]),
            "names": _tuple(found["names"]),
            "node": _link(found["node"]),
            "network": None if found["network"] is None else _link(found["network"]),
            "memory": Memory(**found["memory"]),
            "shared": Shared(**found["shared"]),
            "native": Native(**found["native"]),
            "codecs": tuple((str(name), Coding(**coding)) for name, coding in found["codecs"]),
            "timings": tuple(Timing(**timing) for timing in found["timings"]),
        }
        return Costs(**{**found, **inner})


def _link(found: dict[str, Any]) -> Link:
    pairs = tuple((int(size), float(cost)) for size, cost in found["both_ways"])
    if not pairs:
        raise ValueError("a link needs the cost of a segment size")
    return Link(float(found["message"]), float(found["one_way"]), pairs)


def _tuple(found: Any) -> tuple[Any, ...]:
    if not isinstance(found, list):
        raise TypeError(f"expected a list, got {found!r}")
    return tuple(found)


#: What is assumed where nothing was measured: one node, as on a laptop; names and layout do not matter.
ASSUMED = Costs(
    measured=False,
    nodes=(0, 0),
    names=("direct", "halving-doubling", "native", "ring", "shared-memory", "tree", "two-level"),
    node=Link(20e-6, 0.2e-9, tuple((size, 0.2e-9) for size in SEGMENTS)),
    network=Link(40e-6, 1e-9, ((SEGMENTS[0], 1e-9), (SEGMENTS[1], 1.5e-9), (SEGMENTS[2], 2e-9))),
    memory=Memory(0.1e-9, 0.1e-9),
    shared=Shared(5e-6, 0.2e-9),
    native=Native(15e-6, 0.5e-9),
)
