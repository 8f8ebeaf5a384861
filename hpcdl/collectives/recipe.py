"""What a call of all-reduce amounts to, worked out once for all calls that are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import HOST, Array, accumulator, dtype_of, nccl, of
from ..codecs import Codec
from ..codecs import by_name as codec_by_name
from .board import Sides
from .checks import check_codec, check_summed
from .collective import check_name
from .group import Group
from .operation import Signature
from .ops import Op
from .ops import by_name as op_by_name
from .shared_memory import fits_one_step

__all__ = ["Recipe", "recipe_for"]

_MOST = 1024  # kinds of calls remembered by a group


@dataclass(frozen=True)
class Recipe:
    """Everything that follows from the arguments of a call but the numbers in its array."""

    op: Op
    codec: Codec
    collective: str
    segment: int  # see Task
    on_devices: bool  # on all ranks
    instead: str  # the collective where NCCL is wanted and cannot be
    work_dtype: np.dtype[Any]  # in which it is reduced
    signature: Signature
    fingerprint: int
    on_board: bool  # reduced through shared memory by all ranks, as it is
    views: Sides | None  # of the board's slots, if so and in one step


def recipe_for(
    group: Group,
    x: Array,
    op: Op | str,
    codec: Codec | str | None,
    collective: str,
    weighted: bool = False,
    feedback: bool = False,
    place: str = "",
    name: str = "",
) -> Recipe:
    """The recipe for an array like `x`, which lies at `place` in a buffer. Raises InvalidArgument for what cannot be."""
    key: tuple[Any, ...] = (type(x), x.dtype, x.shape, op, codec, collective, weighted, feedback, place, name)
    try:
        found: Recipe | None = group.recipes.get(key)
    except TypeError:  # an argument that cannot be hashed; what is wrong with it is told below
        key, found = (), None
    if found is None:
        found = _work_out(group, x, op, codec, collective, weighted, feedback, place, name)
        if len(group.recipes) >= _MOST:
            group.recipes.clear()
        group.recipes[key] = found
    return found


def _work_out(
    group: Group, x: Array, op: Op | str, codec: Codec | str | None, collective: str, weighted: bool, feedback: bool, place: str, name: str
) -> Recipe:
    op, codec = op_by_name(op), codec_by_name(codec)
    check_name(collective)
    dtype = dtype_of(x.dtype)
    op.check(dtype)
    check_codec(group, codec, dtype)
    work_dtype = accumulator(dtype)
    board = group.buffers.board if of(x) is HOST else None
    if board is None and collective in ("shared-memory", "two-level"):
        collective = "ring"  # as these do without shared memory; named, so that ranks that have it notice
    segment, host = group.plan.segment, of(x) is HOST
    fast = _is_nccl(collective)
    if fast and host:
        collective, fast = "ring", False  # named too, since a rank with an array on a device does otherwise
    on_devices = not host and (fast or collective == "auto")
    if collective == "auto" and group.sums is not None and of(x) is HOST and group.sums.takes(op.by_mpi(work_dtype), work_dtype):
        collective = "horovod"
    if collective == "horovod":
        check_summed(group, x, op, codec, work_dtype, feedback)
    elif collective == "auto" and host:
        by_mpi = codec.exact and op.by_mpi(work_dtype) is not None
        collective, segment = group.plan.choose(x.size * work_dtype.itemsize, by_mpi, bool(place))
    called, instead = collective, "ring"  # the first of which all ranks name, whatever comes of it
    if on_devices:
        instead, segment = group.plan.choose(x.size * work_dtype.itemsize, host=False)
        wanted = group.devices.links is not None and nccl.takes(op.ufunc, work_dtype)
        collective = instead if not wanted else collective if fast else "nccl"
    extra = ", ".join(
        filter(None, ("weighted" if weighted else "", "error feedback" if feedback else "", place, "on devices" if on_devices else ""))
    )
    signature = Signature("allreduce", op.name, dtype, x.shape, codec.name, called, extra, name)
    whole = board if board is not None and board.size == group.transport.size and collective == "shared-memory" else None
    one_step = whole is not None and not place and fits_one_step(whole, x.size * work_dtype.itemsize)
    return Recipe(
        op,
        codec,
        collective,
        segment,
        on_devices,
        instead,
        work_dtype,
        signature,
        signature.fingerprint(),
        whole is not None and work_dtype == dtype,
        whole.views(work_dtype, x.shape) if whole is not None and one_step else None,
    )


def _is_nccl(collective: str) -> bool:
    return collective.partition(":")[0] == "nccl"
