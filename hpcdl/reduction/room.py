"""Memory for buckets: of the size that was asked for, or of a smaller one where a device has no room."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import HOST, Arrays, accumulator
from ..collectives import moves
from ..collectives.group import Group
from ..collectives.operation import Signature
from ..errors import OutOfMemory, ranks_text
from .aside import Aside
from .bucket import Bucket, Layout, Shape, layout, storage
from .compressor import Compressor
from .gathered import Gathered

__all__ = ["allocate"]

_CLASSES = 2  # scratch buffers come in powers of two

#: Shapes, dtypes, bytes of a bucket, error feedback.
Wanted = tuple[Sequence[Shape], Sequence[Any], int, bool]


def allocate(library: Arrays, group: Group, aside: Aside, compressor: Compressor, wanted: Wanted) -> list[Bucket]:
    """Buckets of zeros as `wanted`. Collective; on a device all ranks take smaller ones where any has no room, and those ranks warn.

    The gradients take as much in buckets of any size. What smaller ones save is what is in use while they are reduced: wires, what these
    are decoded into, and copies in float32. So that is asked for here too, and kept by the library for the streams in which buckets are
    reduced: a step does not run out of memory later.

    Raises OutOfMemory on every rank where even a bucket for each parameter does not fit.
    """
    shapes, dtypes, bucket_bytes, feedback = wanted
    plans = layout(shapes, dtypes, bucket_bytes)
    if library is HOST:
        return [Bucket.allocate(library, plan, flat, feedback) for plan, flat in zip(plans, storage(group, plans), strict=True)]
    short: list[str] = []  # what this rank had no room for
    while True:
        buckets, failure = _try(library, group, aside, compressor, plans, feedback)
        agreed = Signature("buckets", extra=f"buckets of {[(plan.size, str(plan.dtype)) for plan in plans]}")
        failed = np.flatnonzero(moves.all_gather(group, np.array([failure != ""]), agreed).wait()).tolist()
        if failure:
            short.append(f"{_largest(plans):,} bytes ({failure})")
        if not failed:
            break
        buckets = []
        smaller = _smaller(shapes, dtypes, plans)
        if smaller is None:
            raise OutOfMemory(_nothing_fits(group, failed, plans, feedback))
        plans = smaller
    if short:
        warnings.warn(
            f"{group.place}: no room on its device for gradient buckets of {short[0]}; all ranks take {_largest(plans):,} bytes, "
            "which are reduced more slowly; cure: a smaller batch or model, or bucket_bytes and in_flight as small as that from the start",
            stacklevel=3,
        )
    return buckets


def _try(
    library: Arrays, group: Group, aside: Aside, compressor: Compressor, plans: Sequence[Layout], feedback: bool
) -> tuple[list[Bucket], str]:
    """The buckets, or why they cannot be. Not collective."""
    try:
        buckets = [Bucket.allocate(library, plan, library.xp.zeros(plan.size, plan.dtype), feedback) for plan in plans]
        aside.reserve([_scratch(compressor, plan, group.transport.size) for plan in plans])
    except MemoryError as error:
        return [], str(error) or type(error).__name__
    return buckets, ""


def _scratch(compressor: Compressor, plan: Layout, ranks: int) -> int:
    """About the bytes that are in use while a bucket is reduced: its wires, their values, a copy where it is summed in another dtype."""
    work = accumulator(plan.dtype).itemsize * plan.size
    codec = getattr(compressor, "codec", None)
    wires = work if codec is None or codec.exact else codec.nbytes(plan.size) * (ranks if isinstance(compressor, Gathered) else 2)
    return int(_CLASSES * (work + wires) + (work if accumulator(plan.dtype) != plan.dtype else 0)) if ranks > 1 else 0


def _smaller(shapes: Sequence[Shape], dtypes: Sequence[Any], plans: Sequence[Layout]) -> list[Layout] | None:
    """Buckets of half the size, or less where no parameters fit together in that; None if each has its own already."""
    size, largest = _largest(plans), _largest(plans)
    while size > 1:
        size //= 2
        found = layout(shapes, dtypes, size)
        if _largest(found) < largest:
            return found
    return None


def _largest(plans: Sequence[Layout]) -> int:
    return max((plan.size * plan.dtype.itemsize for plan in plans), default=0)


def _nothing_fits(group: Group, failed: Sequence[int], plans: Sequence[Layout], feedback: bool) -> str:
    gradients = sum(plan.size * plan.dtype.itemsize for plan in plans)
    lost = sum(plan.size * accumulator(plan.dtype).itemsize for plan in plans) if feedback else 0
    return (
        f"{ranks_text(failed)} of {group.transport.size}: no room on the device for the gradients ({gradients:,} bytes"
        f"{f', and {lost:,} of error feedback' if feedback else ''}) and for reducing the largest of them ({_largest(plans):,} bytes); "
        "cure: a smaller model or batch, fewer ranks on one device, or memory that another library holds on to"
    )
