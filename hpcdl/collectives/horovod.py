"""Horovod's all-reduce as a collective: for sites that have tuned one."""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from ..codecs import by_name as codec_by_name
from ..codecs.common_exponent import CommonExponent
from ..transport.base import NamedSums
from . import tree
from .execute import Body, execute
from .layout import pieces
from .ops import by_name as op_by_name
from .task import Task

__all__ = ["Horovod"]

_CALL_BYTES = 1 << 28  # elements of one call, well below what MPI's 32-bit count holds


class Horovod:
    """Whatever Horovod does (MPI, NCCL), behind its negotiation, which takes a cycle or two of 1 ms: for large arrays.

    A codec must have a wire that Horovod can sum: none, and fp16, as float16 with an exponent for each block of 128 elements that all
    ranks agree on before they encode (one small all-reduce of this package's own), with room for the sum of all ranks.

    Operations are matched by a name made of the group and the signature, and those of one name go one after another; so ranks in different
    operations never add up what does not belong together, and are told apart when nothing moves.
    """

    name = "horovod"

    def allreduce(self, task: Task) -> Body:
        assert task.sums is not None  # seen to by the recipe
        turn = task.sums.turns(task.name).take()
        while not turn.done():
            yield turn
        if task.codec.exact:
            yield from _reduce(task.sums, task.x, str(task.op.mpi), task.name)
        else:
            yield from self._coded(task, task.sums)
        turn.passed = True
        if task.x.dtype.kind == "f" and (nan := np.isnan(task.x)).any():
            task.x[nan] = np.nan  # whose NaN it is, is left open, and replicas would differ
        if task.scale is not None:
            if not task.scale.done():
                yield task.scale
            task.x *= task.x.dtype.type(task.scale.value)

    def _coded(self, task: Task, sums: NamedSums) -> Body:
        share = CommonExponent(task.x.astype("f4", copy=False), task.transport.size)
        highest, exact = op_by_name("max"), codec_by_name(None)
        agreed = Task(share.exponents, highest, exact, task.transport, task.pool, task.tag, task.header, met=task.met)
        yield from execute(tree.ALL_REDUCE, agreed)
        wire = share.encode()
        yield from _reduce(sums, wire, "SUM", task.name)
        share.decode(wire, task.x)


def _reduce(sums: NamedSums, x: Array, op: str, name: str) -> Body:
    for number, (begin, end) in enumerate(pieces(0, x.size, _CALL_BYTES // x.itemsize)):
        yield sums.iallreduce(x[begin:end], op, f"{name}, piece {number}" if number else name)
