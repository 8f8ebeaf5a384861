"""Buckets: gradients of many parameters in one flat array, so that few large messages replace many small ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from ..arrays import Array, Arrays, accumulator, dtype_of
from ..codecs import BLOCK
from ..collectives import moves
from ..collectives.group import Group
from ..errors import InvalidArgument

__all__ = ["Bucket", "Layout", "known", "layout", "storage"]

_PAGE = 4096  # bytes; each bucket begins on a page of its own

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Which parameters lie where in one bucket: parameter i, of shape shapes[i], is flat[cut(i)]."""

    dtype: Any
    offsets: dict[int, int]
    size: int
    shapes: dict[int, Shape]

    def cut(self, i: int) -> slice:
        """The elements of parameter `i`."""
        return slice(self.offsets[i], self.offsets[i] + math.prod(self.shapes[i]))


def known(shapes: Sequence[Any], dtype: Any, names: Sequence[str] | None) -> tuple[list[Shape], list[Any], list[str]]:
    """Shape, dtype and name of each parameter, as a reducer is told them. Raises InvalidArgument for what cannot be."""
    sizes = [_shape(i, shape) for i, shape in enumerate(shapes)]
    dtypes = [dtype_of(d) for d in (dtype if isinstance(dtype, list | tuple) else [dtype] * len(sizes))]
    told = list(names) if names is not None else [f"parameter {i}" for i in range(len(sizes))]
    if not len(sizes) == len(dtypes) == len(told):
        raise InvalidArgument(f"{len(sizes)} shapes need as many dtypes and names, got {len(dtypes)} and {len(told)}")
    return sizes, dtypes, told


def layout(shapes: Sequence[Shape], dtypes: Sequence[Any], bucket_bytes: int) -> list[Layout]:
    """Cut parameters into buckets of about `bucket_bytes`, last parameter first, since backward finishes that one first.

    Each parameter begins on a whole codec block, so that no block spans two of them: a tiny gradient beside a huge one keeps its own
    exponent or scale. A bucket holds one dtype; a parameter larger than a bucket gets one to itself.
    """
    done: list[Layout] = []
    filling: dict[Any, tuple[dict[int, int], int]] = {}
    for index in reversed(range(len(shapes))):
        dtype = dtypes[index]
        offsets, end = filling.get(dtype, ({}, 0))
        size = -(-math.prod(shapes[index]) // BLOCK) * BLOCK
        if offsets and (end + size) * dtype.itemsize > bucket_bytes:
            done.append(_layout(dtype, offsets, end, shapes))
            offsets, end = {}, 0
        filling[dtype] = ({**offsets, index: end}, end + size)
    done += [_layout(dtype, offsets, end, shapes) for dtype, (offsets, end) in filling.items()]
    return sorted(done, key=lambda bucket: -max(bucket.offsets))


def storage(group: Group, plans: Sequence[Layout]) -> list[Array]:
    """Zeroed host memory for each of `plans`, in one piece that a node's ranks share: they read where backward writes."""
    agreement = f", buckets of {[(plan.size, str(plan.dtype)) for plan in plans]}"
    begins = [0, *accumulate(-(-plan.size * plan.dtype.itemsize // _PAGE) * _PAGE for plan in plans)]
    memory = moves.buffer(group, begins[-1], "uint8", agreement)
    return [memory[begin : begin + plan.size * plan.dtype.itemsize].view(plan.dtype) for begin, plan in zip(begins, plans, strict=False)]


def _shape(i: int, shape: Any) -> Shape:
    try:
        sizes = tuple(int(n) for n in shape)
    except (TypeError, ValueError):
        raise InvalidArgument(f"shapes[{i}] must be a tuple of sizes such as (3, 4), got {shape!r}") from None
    if any(n < 0 for n in sizes):
        raise InvalidArgument(f"shapes[{i}] must not have negative sizes, got {sizes}")
    return sizes


def _layout(dtype: Any, offsets: dict[int, int], size: int, shapes: Sequence[Shape]) -> Layout:
    return Layout(dtype, offsets, size, {i: shapes[i] for i in offsets})


@dataclass
class Bucket:
    """One bucket of one rank: its memory, and which of its gradients are there in this step.

    `residual` is what was lost so far (error feedback); `kept` what a compressor keeps from step to step, by parameter.
    """

    flat: Array
    residual: Array | None
    layout: Layout
    members: frozenset[int]
    ready: set[int] = field(default_factory=set)
    kept: dict[int, Array] = field(default_factory=dict)

    @classmethod
    def allocate(cls, library: Arrays, plan: Layout, flat: Array, error_feedback: bool) -> Bucket:
        """A bucket in `flat`, which is zero."""
        residual = library.xp.zeros(plan.size, accumulator(plan.dtype)) if error_feedback else None
        return cls(flat, residual, plan, frozenset(plan.offsets))

    def full(self) -> bool:
        """Whether every gradient is there."""
        return len(self.ready) == len(self.members)
