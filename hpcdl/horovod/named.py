"""Collectives by name, on arrays: what the doors of the frameworks are made of.

Everything here starts an operation and gives its handle; `wait` gives the result and raises HorovodInternalError, on every rank the same.
Arrays are NumPy's or CuPy's, contiguous. Ranks may start operations in any order, as long as each of them starts every name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np

from ..arrays import Array, of
from ..collectives import moves
from ..collectives.checks import check_array
from ..collectives.into import all_gather_into, all_to_all_into, check_root
from ..collectives.layout import split_evenly
from ..collectives.operation import Operation
from ..errors import InvalidArgument
from ..world import World
from .errors import Refused
from .feedback import Dropped, check_way
from .fuse import reduce_together
from .queued import ask
from .reduce import check_op, part_of
from .request import Request
from .small import Values, dtype_named
from .table import Table
from .timeline import Timeline
from .wanted import Verdict, Wanted

__all__ = ["Named"]


class Named:
    """The named operations of a world. Made by all of its ranks."""

    def __init__(self, world: World, timeline: Timeline | None = None) -> None:
        self.world, self.size = world, world.size
        self.data = world.new_group("named operations")
        table = world.new_group("names", messages_only=True, kind=Table)
        assert isinstance(table, Table)
        self.table = table
        self.table.prepare(self.data, Timeline() if timeline is None else timeline)
        self.table.zeros = self._with_zeros

    def allreduce(
        self,
        arrays: Sequence[Array],
        name: str = "",
        op: str = "average",
        prescale: float = 1.0,
        postscale: float = 1.0,
        codec: str = "none",
        grouped: bool = False,
        then: Callable[[], Any] | None = None,
        given: Sequence[Array] | None = None,
        dropped: Sequence[Dropped] | None = None,
    ) -> Request:
        """Reduce `arrays` over all ranks, in place. op: average, sum, adasum, min, max, product. then: gives the result, once all is done.

        given: arrays like these whose values are reduced in place of theirs; they must stay as they are until it has finished.
        dropped: what was dropped of each array before, for a lossy codec or a compressor with error feedback; not beside `given`.
        Sums and averages of short floats are formed in float32, and all factors are applied to that once. Integers are scaled as Horovod
        does: each factor in turn, in float64, cut towards zero. Raises InvalidArgument for what cannot be, before any rank is told.
        """
        feedback = dropped is not None
        for x in arrays:
            check_op(self.data, op, check_array(self.data, x, write=True))
            check_way(self.data, codec, op, x.dtype, feedback)
        kind = "grouped allreduce" if grouped else "allreduce"
        scales = (float(prescale), float(postscale))
        wanted = Wanted(kind, name, _told(arrays), op, scales=scales, codec=codec, feedback=feedback)

        def begin(verdict: Verdict) -> tuple[list[Operation], Callable[[], Any]]:
            started = reduce_together(self.data, arrays, wanted, given, dropped)
            return [operation for operation, _ in started], lambda: _ended([end for _, end in started], then)

        return ask(self.table, arrays, wanted, begin, Values(arrays if given is None else given, arrays, then))

    def allgather(
        self, arrays: Sequence[Array], name: str = "", grouped: bool = False, then: Callable[[Any], Any] | None = None
    ) -> Request:
        """New arrays: each of `arrays` of all ranks along axis 0, in rank order. First dimensions may differ."""
        for x in arrays:
            check_array(self.data, x, numbers=False)
            if x.ndim == 0:
                raise InvalidArgument(f"{self.data.place}: allgather needs at least one dimension, got a scalar; pass x.reshape(1)")

        def begin(verdict: Verdict) -> tuple[list[Operation], Callable[[], Any]]:
            outs, operations = [], []
            for x, rows in zip(arrays, verdict.rows, strict=True):
                out = of(x).xp.empty((sum(rows), *x.shape[1:]), x.dtype)
                outs.append(out)
                operations.append(all_gather_into(self.data, _bytes(x), _cut(out, rows), (x.dtype, (None, *x.shape[1:]))))
            return operations, lambda: outs if then is None else then(outs)

        return ask(self.table, arrays, Wanted("grouped allgather" if grouped else "allgather", name, _told(arrays)), begin)

    def broadcast(self, x: Array, root: int, name: str = "", then: Callable[[], Any] | None = None) -> Request:
        """Overwrite `x` with that of `root`, a rank of this set."""
        check_array(self.data, x, write=True, numbers=False)
        check_root(self.data, root)

        def begin(verdict: Verdict) -> tuple[list[Operation], Callable[[], Any]]:
            return [moves.broadcast(self.data, x, root)], lambda: _ended([], then)

        return ask(self.table, [x], Wanted("broadcast", name, _told([x]), root=root), begin)

    def alltoall(self, x: Array, splits: Sequence[int] | None, name: str = "", then: Callable[[Any, Any], Any] | None = None) -> Request:
        """A new array, and the rows in it from each rank: the next splits[r] rows of `x` go to rank r. None: the same number to each."""
        check_array(self.data, x, numbers=False)
        if x.ndim == 0:
            raise InvalidArgument(f"{self.data.place}: alltoall needs at least one dimension, got a scalar")
        sending = self._splits(len(x), splits)
        row = x.dtype.itemsize * math.prod(x.shape[1:])

        def begin(verdict: Verdict) -> tuple[list[Operation], Callable[[], Any]]:
            received = [theirs[self.world.rank] for theirs in verdict.splits]
            out = of(x).xp.empty((sum(received), *x.shape[1:]), x.dtype)
            sent = _bytes(x)[: row * sum(sending)]
            parts = [sent[row * begin : row * end] for begin, end in _bounds(sending)]
            operation = all_to_all_into(self.data, parts, _cut(out, received), (x.dtype, (None, *x.shape[1:])))
            return [operation], lambda: (out, received) if then is None else then(out, received)

        return ask(self.table, [x], Wanted("alltoall", name, _told([x]), splits=tuple(sending)), begin)

    def reducescatter(
        self,
        arrays: Sequence[Array],
        name: str = "",
        op: str = "average",
        prescale: float = 1.0,
        postscale: float = 1.0,
        codec: str = "none",
        grouped: bool = False,
        then: Callable[[Any], Any] | None = None,
    ) -> Request:
        """New arrays: this rank's part of each of the reduced `arrays`, which stay as they are. op: average or sum.

        Rows are dealt as evenly as can be; the first ranks get one more.
        """
        for x in arrays:
            check_op(self.data, op, check_array(self.data, x))
            check_way(self.data, codec, op, x.dtype, feedback=False)
            if x.ndim == 0:
                raise InvalidArgument(f"{self.data.place}: Reducescatter does not support scalar inputs")
        if op not in ("average", "sum"):
            raise Refused(f"{self.data.place}: Reducescatter currently only supports AVERAGE and SUM, not {op.upper()}")
        kind = "grouped reducescatter" if grouped else "reducescatter"
        wanted = Wanted(kind, name, _told(arrays), op, scales=(float(prescale), float(postscale)), codec=codec)

        def begin(verdict: Verdict) -> tuple[list[Operation], Callable[[], Any]]:
            started = [part_of(self.data, x, split_evenly(len(x), self.size), wanted) for x in arrays]

            def result() -> Any:
                outs = [end() for _, end in started]
                return outs if then is None else then(outs)

            return [operation for operation, _ in started], result

        return ask(self.table, arrays, wanted, begin)

    def barrier(self, name: str = "") -> Request:
        """Done once all ranks have come."""
        return self.table.request(Wanted("barrier", name), lambda verdict: ([], lambda: None))

    def join(self) -> Request:
        """This rank has no more data: until all have joined it takes part in their all-reduces, with zeros. The rank that joined last."""
        return self.table.request(Wanted("join", "join"), lambda verdict: ([], lambda: verdict.last))

    def agree(self, kind: str, numbers: Sequence[int]) -> None:
        """Return once all ranks have called this with the same arguments. Raises HorovodInternalError where they differ."""
        wanted = Wanted(kind, "", splits=tuple(numbers))
        self.table.request(wanted, lambda verdict: ([], lambda: None)).wait()

    def close(self) -> None:
        """Leave; collective. Waits until all ranks have left."""
        for group in (self.table, self.data):
            group.leave()
        for group in (self.table, self.data):
            group.wait_for_all_to_leave()
            group.close()

    def _splits(self, rows: int, splits: Sequence[int] | None) -> list[int]:
        if splits is None:
            if rows % self.size:
                raise InvalidArgument(
                    f"{self.data.place}: splits not provided, but first dimension of tensor ({rows}) is not an even multiple of the number "
                    f"of workers ({self.size}); pass splits"
                )
            return [rows // self.size] * self.size
        found = [int(n) for n in splits]
        if len(found) != self.size:
            raise InvalidArgument(
                f"{self.data.place}: Number of entries in splits ({len(found)}) does not equal number of workers ({self.size})"
            )
        if min(found) < 0 or sum(found) > rows:
            told = f"{found} for {rows} rows"
            raise InvalidArgument(
                f"{self.data.place}: Sum of splits entries is greater than the first dimension of tensor, or one is negative: {told}"
            )
        return found

    def _with_zeros(self, verdict: Verdict) -> list[Operation]:
        """The part of a rank that has joined."""
        wanted = verdict.wanted
        if wanted.kind not in ("allreduce", "grouped allreduce"):
            return []
        zeros = [np.zeros(shape, dtype_named(dtype)) for dtype, shape in wanted.arrays]
        return [operation for operation, _ in reduce_together(self.data, zeros, wanted)]


def _ended(ends: Sequence[Callable[[], None]], then: Callable[[], Any] | None) -> Any:
    for end in ends:
        end()
    return None if then is None else then()


def _told(arrays: Sequence[Array]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((_name(x.dtype), x.shape) for x in arrays)


@cache
def _name(dtype: Any) -> str:
    """Why kept: NumPy makes it anew each time, which takes as long as all the rest of a wish."""
    return str(dtype.name)


def _bytes(x: Array) -> Any:
    return x.reshape(-1).view("u1")


def _bounds(lengths: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(accumulate(lengths))
    return list(zip([0, *ends], ends, strict=False))


def _cut(out: Array, rows: Sequence[int]) -> list[Any]:
    """The bytes of the rows of `out` that belong to each rank."""
    row = out.dtype.itemsize * math.prod(out.shape[1:])
    flat = _bytes(out)
    return [flat[row * begin : row * end] for begin, end in _bounds(rows)]
