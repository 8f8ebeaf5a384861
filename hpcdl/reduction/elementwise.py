"""Buckets through a codec: encoded at each hop of any collective."""

from __future__ import annotations

from dataclasses import dataclass

from ..codecs import Codec
from ..collectives import calls, quick
from ..collectives.group import Group
from ..collectives.operation import Operation
from .bucket import Bucket
from .compressor import How

__all__ = ["Elementwise"]


@dataclass(frozen=True)
class Elementwise:
    """Any collective with `codec`: what `World.allreduce` does. Bytes: the collective's elements times the codec's bytes for one.

    Error feedback is off unless asked for: these codecs lose so little that most training does without.
    """

    codec: Codec
    error_feedback = False

    @property
    def name(self) -> str:
        return self.codec.name

    @property
    def exact(self) -> bool:
        return self.codec.exact

    def reduce_now(self, bucket: Bucket, group: Group, how: How) -> bool:
        """Reduce a bucket at once, for somebody who would only wait, if there is a shorter way than `reduce`; whether it has."""
        if bucket.residual is not None or not (how.scale is None or how.scale.done()):
            return False
        factor = None if how.scale is None else how.scale.value
        return quick.allreduce(group, bucket.flat, how.op, self.codec, how.collective, how.name, how.weight, factor)

    def reduce(self, bucket: Bucket, group: Group, how: How) -> Operation:
        return calls.allreduce(
            group,
            bucket.flat,
            how.op,
            self.codec,
            how.collective,
            weight=how.weight,
            scale=how.scale,
            residual=bucket.residual,
            name=how.name,
            after=how.after,
            begin=how.begin,
        )
