"""The gradients of a step: reduced in buckets, the last layers' first, all under way at once.

Why the last first: they are the first that backward makes, so in a graph they travel while it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from ...arrays import Array
from ..arguments import check_predivide, identity
from ..basics import Average, named, op_name
from ..compressors import codec_of
from ..feedback import carries_over
from ..process_sets import ProcessSet
from ..request import Request
from .bridge import finish, start, unique
from .dense import How, begin_allreduce
from .dropped import dropped_of
from .reductions import check_slices, scaled_slices

__all__ = ["Gradients"]

_BUCKET = 4 << 20  # bytes


class Gradients:
    """Reduces lists of gradients. Settings: see `tape.DistributedGradientTape`. prefix: of the names under which ranks match them.

    A variable in `local` keeps this rank's gradient, divided by the number of ranks if `scale_local`.
    """

    def __init__(
        self,
        prefix: str,
        compression: Any,
        sparse_as_dense: bool,
        op: int,
        gradient_predivide_factor: float,
        groups: Any,
        process_set: ProcessSet,
        scale_local: bool,
    ) -> None:
        check_predivide(gradient_predivide_factor, op)
        self._prefix, self._compression, self._sparse_as_dense, self._groups = prefix, compression, sparse_as_dense, groups
        apart = gradient_predivide_factor if op == Average else 1.0
        self._how = How(op, 1.0 / apart, apart, process_set, grouped=True)
        self._scale_local, self._feedback = scale_local, carries_over(compression, op_name(op))
        self.local: set[int] = set()

    def reduce(self, gradients: Sequence[Any], variables: Sequence[Any], generic_names: bool = False) -> list[Any]:
        """The gradients over all ranks; None stays None. generic_names: without the prefix."""
        found = [tf.convert_to_tensor(g) if self._sparse_as_dense and isinstance(g, tf.IndexedSlices) else g for g in gradients]
        process_set = self._how.process_set
        if not process_set.included() or named(process_set).size == 1:
            return found
        mine = [i for i, v in enumerate(variables) if identity(v) in self.local]
        for i in mine if self._scale_local else ():
            found[i] = _divided(found[i], named(process_set).size)
        away = [i for i, g in enumerate(found) if g is not None and i not in mine]
        self._check(found, away)
        prefix = "" if generic_names else f"{self._prefix}_Allreduce/"
        handles, ends, dtypes = [], [], []
        for members in self._buckets(found, away, variables):
            handle, end, kinds = self._start(found, members, variables, unique(f"{prefix}grad_{members[0]}"))
            handles.append(handle)
            ends.append((end, len(kinds)))
            dtypes += kinds
        outs = finish(handles, dtypes, "HorovodAllreduce", process_set) if handles else []
        for end, length in ends:
            end(outs[:length])
            outs = outs[length:]
        return found

    def _check(self, found: Sequence[Any], away: Sequence[int]) -> None:
        if any(isinstance(found[i], tf.IndexedSlices) for i in away):
            check_slices(self._how)

    def _start(
        self, found: list[Any], members: Sequence[int], variables: Sequence[Any], name: str
    ) -> tuple[Any, Callable[[list[Any]], None], list[Any]]:
        """The handle of one bucket; what puts its results into `found`; and their dtypes."""
        if isinstance(found[members[0]], tf.IndexedSlices):
            return self._start_slices(found, members[0], name)
        codec = codec_of(self._compression, all(found[i].dtype.is_floating for i in members))
        pairs = [(found[i], None) if codec is not None else self._compression.compress(found[i]) for i in members]
        how = self._how._replace(codec=codec or "none")
        dropped = dropped_of([variables[i] for i in members]) if self._feedback and how.codec != "none" else None
        handle = start(lambda *arrays: begin_allreduce(arrays, name, how, dropped), [x for x, _ in pairs], "HorovodAllreduce")

        def end(outs: list[Any]) -> None:
            for i, out, (_, context) in zip(members, outs, pairs, strict=True):
                out.set_shape(found[i].shape)
                found[i] = out if codec is not None else self._compression.decompress(out, context)

        return handle, end, [x.dtype for x, _ in pairs]

    def _start_slices(self, found: list[Any], i: int, name: str) -> tuple[Any, Callable[[list[Any]], None], list[Any]]:
        slices, there = found[i], named(self._how.process_set)

        def begin(*arrays: Array) -> Request:
            return there.allgather(arrays, name, grouped=True)

        def end(outs: list[Any]) -> None:
            for out, like in zip(outs, (slices.values, slices.indices), strict=True):
                out.set_shape([None, *like.shape[1:]])
            found[i] = scaled_slices(outs[0], outs[1], slices, self._how)

        return start(begin, [slices.values, slices.indices], "HorovodAllgather"), end, [slices.values.dtype, slices.indices.dtype]

    def _buckets(self, found: Sequence[Any], away: Sequence[int], variables: Sequence[Any]) -> list[list[int]]:
        """Which gradients travel together, in the order in which they start: slices alone, others as `groups` says, or by size."""
        dense = [i for i in away if not isinstance(found[i], tf.IndexedSlices)]
        buckets = [[i] for i in away if i not in dense]
        if isinstance(self._groups, list):
            by_variable = {identity(variables[i]): i for i in dense}
            buckets += [[by_variable.pop(identity(v)) for v in group if identity(v) in by_variable] for group in self._groups]
            buckets += [[i] for i in by_variable.values()]
        elif self._groups is not None:
            length, more = divmod(len(dense), self._groups)
            for number in range(self._groups):
                size = length + (number < more)
                buckets.append(dense[:size])
                dense = dense[size:]
        else:
            room = 0
            for i in reversed(dense):
                size = found[i].dtype.size * (found[i].shape.num_elements() or 0)
                if size > room:
                    buckets.append([])
                    room = _BUCKET
                buckets[-1].append(i)
                room -= size
        return [bucket for bucket in buckets if bucket]


def _divided(gradient: Any, size: int) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / size, gradient.indices, gradient.dense_shape)
    return None if gradient is None else gradient / size
