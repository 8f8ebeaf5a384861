"""The MPI library's own all-reduce, without blocking and behind a check that all ranks are in the same operation."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from ..arrays import HOST, of
from ..codecs import encoder
from ..transport.base import NativeCalls
from .coded import forget_non_finite
from .execute import Body, Disagreement
from .layout import pieces
from .task import Task

__all__ = ["Native"]

_CALL_BYTES = 1 << 28  # elements of one MPI call, well below what its 32-bit count holds


class _Otherwise(Protocol):
    def allreduce(self, task: Task) -> Body: ...


class Native:
    """MPI_Iallreduce; with a codec, MPI_Iallgather of everyone's wires, which each rank adds up in rank order.

    Without a codec it costs what the MPI library makes it cost; with one, n(p-1) encoded elements received per rank, and one rounding.
    What MPI cannot do alike everywhere (max and min of NaN, 16-bit floats, sums of short integers, device memory) goes `otherwise`.

    Why the check: MPI does not notice ranks in different operations; it hangs, or adds up what does not belong together.
    """

    name = "native"

    def __init__(self, otherwise: _Otherwise) -> None:
        self._otherwise = otherwise

    def allreduce(self, task: Task) -> Body:
        native = task.transport.native
        if native is None or of(task.x) is not HOST or (task.op.by_mpi(task.x.dtype) is None and task.codec.exact):
            return self._otherwise.allreduce(task)
        return self._reduce(task, native)

    def _reduce(self, task: Task, native: NativeCalls) -> Body:
        turn = native.turns.take()
        while not turn.done():
            yield turn
        headers = np.empty((task.transport.size, task.header.size), task.header.dtype)
        yield native.iallgather(task.header, headers)
        for peer, theirs in enumerate(headers):
            if (theirs != task.header).any():
                raise Disagreement(peer, theirs)
        yield from self._exact(task, native) if task.codec.exact else self._coded(task, native)
        turn.passed = True
        if task.scale is not None:
            if not task.scale.done():
                yield task.scale
            task.x *= task.x.dtype.type(task.scale.value)

    def _exact(self, task: Task, native: NativeCalls) -> Body:
        x = task.x.view("u1") if task.x.dtype.kind == "b" else task.x
        for begin, end in pieces(0, x.size, _CALL_BYTES // x.itemsize):
            yield native.iallreduce(x[begin:end], str(task.op.mpi))
            if x.dtype.kind == "f" and (nan := np.isnan(x[begin:end])).any():
                x[begin:end][nan] = np.nan  # MPI leaves open whose NaN it is, and replicas would differ

    def _coded(self, task: Task, native: NativeCalls) -> Body:
        n = task.x.size
        source = task.x if task.x.itemsize == 4 else task.x.astype("f4")
        decoded = np.empty(n, "f4")
        mine = np.empty(task.codec.nbytes(n), "u1")
        if task.residual is not None:
            task.residual += task.x
            source = task.residual.astype("f4", copy=False)
        encoder(task.codec, int(task.header[0]), task.transport.rank, 0).encode(source, mine)
        if task.residual is not None:
            task.codec.decode(mine, decoded)
            task.residual -= decoded
            forget_non_finite(HOST, task.residual)
        wires = np.empty((task.transport.size, mine.nbytes), "u1")
        yield native.iallgather(mine, wires)
        for rank, wire in enumerate(wires):
            task.codec.decode(wire, decoded)
            if rank == 0:
                task.x[:] = decoded
            else:
                task.op.combine(HOST, task.x, decoded)
