"""Buckets: gradients of many parameters in one flat array, so that few large messages replace many small ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..arrays import Array, Arrays, accumulator
from ..codecs import BLOCK

__all__ = ["Bucket", "Layout", "layout"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Which parameters lie where in one bucket: parameter i is flat[offsets[i] : offsets[i] + size of i]."""

    dtype: Any
    offsets: dict[int, int]
    size: int


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
            done.append(Layout(dtype, offsets, end))
            offsets, end = {}, 0
        filling[dtype] = ({**offsets, index: end}, end + size)
    done += [Layout(dtype, offsets, end) for dtype, (offsets, end) in filling.items()]
    return sorted(done, key=lambda bucket: -max(bucket.offsets))


@dataclass
class Bucket:
    """One bucket of one rank: its memory, and which of its gradients are there in this step."""

    flat: Array
    residual: Array | None
    members: frozenset[int]
    ready: set[int] = field(default_factory=set)

    @classmethod
    def allocate(cls, library: Arrays, plan: Layout, error_feedback: bool) -> Bucket:
        """Zeroed memory for `plan`."""
        flat = library.xp.zeros(plan.size, plan.dtype)
        residual = library.xp.zeros(plan.size, accumulator(plan.dtype)) if error_feedback else None
        return cls(flat, residual, frozenset(plan.offsets))

    def full(self) -> bool:
        """Whether every gradient is there."""
        return len(self.ready) == len(self.members)
