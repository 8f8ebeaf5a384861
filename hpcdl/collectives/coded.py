"""Chunks that travel encoded, with error feedback where a residual is given."""

from __future__ import annotations

from collections.abc import Iterator

from ..arrays import HOST, Array, Arrays, of
from ..codecs import encoder
from ..codecs.on_device import block_kernels
from .layout import pieces
from .pool import Scratch
from .task import Task

__all__ = ["CodedChunks", "forget_non_finite"]


class CodedChunks:
    """How the executor reads and writes `task.x` through `task.codec`.

    A final chunk is encoded once, by the rank that finished it, which decodes its own wire too; all others keep the wire they got and
    forward it verbatim. Error feedback (Seide et al. 2014; Karimireddy et al. 2019, alg. 2) is done here, at each encoding.

    Why: a residual kept at the input alone misses the errors of every later hop.
    """

    lends = False

    def __init__(self, task: Task, bounds: list[int]) -> None:
        self._task, self._bounds = task, bounds
        self._library = of(task.x)
        self._length = task.piece
        self._kernels = block_kernels(task.codec, task.x)  # None on the host
        self._scratch = Scratch(task.pool)
        self._wires: dict[int, Array] = {}  # first element of a final piece -> its wire
        widest = min(self._length, max((bounds[c + 1] - bounds[c] for c in range(len(bounds) - 1)), default=0))
        self._decoded = task.pool.take(4 * widest).view("f4")
        self._narrow = task.pool.take(4 * widest).view("f4") if task.x.itemsize != 4 else None

    def release(self) -> None:
        """Give the scratch memory back, once nothing is under way."""
        for buf in (self._decoded, self._narrow, *self._wires.values()):
            if buf is not None:
                self._task.pool.give(buf.view("u1"))
        self._scratch.release()

    def pieces(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        """Each chunk is cut by itself, so that every rank sees the same pieces."""
        for chunk in range(lo, hi):
            yield from pieces(self._bounds[chunk], self._bounds[chunk + 1], self._length)

    def expect(self, lo: int, hi: int) -> None:
        """Chunks [lo, hi) will come scaled and encoded."""

    def wire(self, piece: tuple[int, int], final: bool) -> Array:
        """The piece, encoded; a final one, encoded here or by another rank, but once."""
        begin, end = piece
        if final and begin in self._wires:
            return self._wires[begin]
        nbytes = self._task.codec.nbytes(end - begin)
        if final:
            wire = self._wires[begin] = self._task.pool.take(nbytes)
        else:
            wire = self._scratch.take(nbytes)
        self._encode(begin, end, wire, final)
        return wire

    def sent(self, wire: Array, final: bool) -> None:
        """A final wire may go to others too; another one is used again."""
        if not final:
            self._scratch.give(wire)

    def landing(self, piece: tuple[int, int], reduce: bool) -> Array:
        """Memory for a wire; a final one is kept, to be forwarded."""
        nbytes = self._task.codec.nbytes(piece[1] - piece[0])
        if reduce:
            return self._scratch.take(nbytes)
        wire = self._wires[piece[0]] = self._task.pool.take(nbytes)
        return wire

    def use(self, piece: tuple[int, int], wire: Array, reduce: bool) -> None:
        """Decode what has come, and add it or keep it."""
        if reduce:
            self._add(*piece, wire)
            self._scratch.give(wire)
        else:
            self._replace(*piece, wire)

    def _add(self, begin: int, end: int, wire: Array) -> None:
        if self._kernels is not None and self._task.op.adds:
            self._kernels.add(wire, self._task.x[begin:end])
            return
        decoded = self._decoded[: end - begin]
        self._task.codec.decode(wire, decoded)
        self._task.op.combine(self._library, self._task.x[begin:end], decoded)

    def _replace(self, begin: int, end: int, wire: Array) -> None:
        target = self._task.x[begin:end]
        if target.itemsize == 4:
            self._task.codec.decode(wire, target)
        else:
            decoded = self._decoded[: end - begin]
            self._task.codec.decode(wire, decoded)
            self._library.cast(decoded, target)

    def _encode(self, begin: int, end: int, wire: Array, final: bool) -> None:
        """Write the wire of x[begin:end]; a final piece is scaled first, and takes on what its wire says."""
        task, xp = self._task, self._library.xp
        x = task.x[begin:end]
        scale = x.dtype.type(task.scale.value) if final and task.scale is not None else None
        residual = None if task.residual is None else task.residual[begin:end]
        codec = encoder(task.codec, int(task.header[0]), task.transport.rank, begin)
        if (kernels := block_kernels(codec, x)) is not None:
            factor = None if scale is None else float(scale)
            kernels.encode_with_feedback(x, residual, factor, final, wire)
            return
        if residual is not None:
            xp.add(x, residual, out=residual)  # the residual now holds what should go out; below, what did go out is taken off
        source = x if residual is None else residual
        if scale is not None:
            source = xp.multiply(source, scale, out=x)
        if self._narrow is not None:
            self._library.cast(source, self._narrow[: end - begin])
            source = self._narrow[: end - begin]
        codec.encode(source, wire)
        if final:
            self._replace(begin, end, wire)
        if residual is not None:
            went_out = self._decoded[: end - begin]
            task.codec.decode(wire, went_out)
            if scale is not None and scale != 0:  # zero where no rank had any weight: nothing went out
                xp.divide(went_out, scale, out=went_out)
            xp.subtract(residual, went_out, out=residual)
            forget_non_finite(self._library, residual)


def forget_non_finite(library: Arrays, residual: Array) -> None:
    """Zero for NaN and infinity: one bad gradient must not come back in every later step."""
    if not library.on_host:
        library.xp.copyto(residual, library.xp.where(library.xp.isfinite(residual), residual, residual.dtype.type(0)))
    elif not HOST.all_finite(residual):
        residual[~library.xp.isfinite(residual)] = 0
