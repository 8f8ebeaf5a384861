"""One collective call, ready to be executed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from ..arrays import Array
from ..codecs import BLOCK, Codec
from ..transport.base import NamedSums, Pending, Transport
from .layout import CODED_PIECE_BYTES, DEVICE_PIECE_BYTES, EXACT_PIECE_BYTES, NETWORK_MESSAGE_BYTES
from .ops import Op
from .pool import Pool

if TYPE_CHECKING:
    from .board import Board
    from .links import Links

__all__ = ["Scale", "Task"]


class Scale(Pending, Protocol):
    """A factor that may still be on its way, such as one over the sum of all ranks' weights."""

    @property
    def value(self) -> float:
        """The factor, once done."""
        ...


@dataclass
class Task:
    """What a collective works on: `x` (flat, contiguous; float32, float64, integers or bytes) and how.

    `residual` (float32 or float64, like `x`) is added before a value is encoded, and takes what the wire lost. `scale` multiplies each
    final value once, before its owner encodes it. `header` is sent to each peer ahead of all else and must equal the peer's. `segment`: no
    message is longer than so many bytes (but one block of a codec); 0 for 48 KiB between nodes, and the largest pieces within one.
    `given`: where the values to reduce are, if not in `x`, which then only takes the result; for ways that read all of it once.
    """

    x: Array
    op: Op
    codec: Codec
    transport: Transport
    pool: Pool
    tag: int
    header: Array
    residual: Array | None = None
    scale: Scale | None = None
    given: Array | None = None
    root: int = 0
    board: Board | None = None  # of this rank's node, for arrays on the host where any node has several ranks
    neighbours: Sequence[Array] | None = None  # `x` of each rank of this node, where it lies in shared memory on all of them
    bounds: list[int] | None = None  # chunk bounds, where the caller fixes them
    segment: int = 0
    links: Links | None = None  # of the group, where NCCL is wanted
    instead: str = "ring"  # the collective where it cannot be
    on_devices: bool = False  # on all ranks, as `auto` sees to; else pieces are what suits arrays on the host
    sums: NamedSums | None = None  # of another library, over all ranks of the group
    name: str = ""  # what it calls this there
    met: set[tuple[str, int]] = field(default_factory=set)  # directions and peers that have the header already

    @property
    def identity(self) -> tuple[int, int]:
        """The number of the operation, and the fingerprint of the history up to it: what the header says."""
        return int(self.header[0]), int(self.header[1])

    @cached_property
    def piece(self) -> int:
        """The elements in a piece; with a codec, whole blocks, and no more than what stays in the cache while it is encoded."""
        segment = self.segment or (NETWORK_MESSAGE_BYTES if len(set(self.transport.nodes)) > 1 else 0)
        if self.on_devices:
            segment = max(segment, DEVICE_PIECE_BYTES)
        if self.codec.exact:
            return max(1, (segment or EXACT_PIECE_BYTES) // int(self.x.itemsize))
        most = (DEVICE_PIECE_BYTES if self.on_devices else CODED_PIECE_BYTES) // 4
        fitting = segment // self.codec.nbytes(BLOCK) * BLOCK if segment else most
        return max(BLOCK, min(most, fitting))
