"""Buckets whose wires are gathered: each rank encodes its share once, everybody adds up all wires."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ..arrays import Array
from ..codecs import Codec
from ..codecs.on_device import block_kernels
from ..collectives import ring
from ..collectives.execute import Body, execute
from ..collectives.group import Group
from ..collectives.layout import pieces
from ..collectives.operation import Operation
from ..collectives.ops import by_name as op_by_name
from .bucket import Bucket
from .compressor import How, Share, start

__all__ = ["Gathered"]

_PIECE = 1 << 16  # elements, whole blocks


@runtime_checkable
class Sparse(Protocol):
    """A codec whose wires hold few elements, which can be added without decoding the others."""

    def add(self, wire: Array, out: Array) -> None:
        """out += what `wire` holds."""
        ...

    def take_off(self, wire: Array, out: Array) -> None:
        """out -= what `wire` holds."""
        ...


@dataclass(frozen=True)
class Gathered:
    """All-gather of the ranks' wires by a ring, each parameter encoded by itself; all ranks add them up in rank order.

    p-1 steps; each rank sends (p-1) W bytes, W the sum of ``codec.nbytes(n)`` over the parameters, and holds p W. Against 8N(p-1)/p bytes
    of a ring on N float32 elements, that pays while p W < 8N. `collective` does not matter.

    Why not the usual ring, encoding at each hop: a sum of few elements has more of them, and selecting again at each hop loses most.
    """

    codec: Codec
    error_feedback = True
    exact = False

    @property
    def name(self) -> str:
        return self.codec.name

    def reduce(self, bucket: Bucket, group: Group, how: How) -> Operation:
        return start(self.name, bucket, group, how, self._reduce)

    def _reduce(self, share: Share) -> Body:
        codec, target, pool = self.codec, share.target, share.pool
        size, rank = share.group.transport.size, share.group.transport.rank
        cuts = list(self._cuts(share))
        ends = [0]
        for cut in cuts:
            ends.append(ends[-1] + codec.nbytes(cut.stop - cut.start))
        bounds = [ends[-1] * r for r in range(size + 1)]
        wires = pool.take(bounds[-1])
        sparse = isinstance(codec, Sparse) and target.itemsize == 4
        scratch = pool.take(0 if sparse else 4 * max((cut.stop - cut.start for cut in cuts), default=0)).view("f4")

        def wire(number: int, r: int) -> Array:
            return wires[bounds[r] + ends[number] : bounds[r] + ends[number + 1]]

        for number, cut in enumerate(cuts):
            x = share.source[cut]
            if x.itemsize != 4:
                x = scratch[: x.size]
                share.library.cast(share.source[cut], x)
            codec.encode(x, wire(number, rank))
        yield from execute(ring.ALL_GATHER, share.task(wires, op_by_name("bit_or"), bounds))
        factor = yield from share.factor()
        target[:] = 0
        if factor:
            for number, cut in enumerate(cuts):
                if share.residual is not None:
                    self._take_off(wire(number, rank), share.residual[cut], scratch)
                for r in range(size):
                    self._add(wire(number, r), target[cut], scratch)
            if factor != 1:
                share.library.xp.multiply(target, target.dtype.type(factor), out=target)
        pool.give(scratch.view("u1"))
        pool.give(wires)

    def _cuts(self, share: Share) -> Iterator[slice]:
        """What is encoded by itself: a parameter where few of its elements are chosen, otherwise a piece that stays in the cache."""
        for _, cut in share.parameters():
            length = max(1, cut.stop - cut.start) if isinstance(self.codec, Sparse) else _PIECE
            for begin, end in pieces(cut.start, cut.stop, length):
                yield slice(begin, end)

    def _add(self, wire: Array, out: Array, scratch: Array) -> None:
        if isinstance(self.codec, Sparse):
            self.codec.add(wire, out)
        elif (kernels := block_kernels(self.codec, out)) is not None:
            kernels.add(wire, out)
        else:
            out += self._decoded(wire, scratch[: out.size])

    def _take_off(self, wire: Array, out: Array, scratch: Array) -> None:
        if isinstance(self.codec, Sparse):
            self.codec.take_off(wire, out)
        elif (kernels := block_kernels(self.codec, out)) is not None:
            kernels.take_off(wire, out)
        else:
            out -= self._decoded(wire, scratch[: out.size])

    def _decoded(self, wire: Array, out: Array) -> Array:
        self.codec.decode(wire, out)
        return out
