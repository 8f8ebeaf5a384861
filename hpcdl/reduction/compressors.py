"""The names that a user gives to a reducer's `codec`: every codec, and every compressor that works on whole buckets."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import is_floating
from ..codecs import Codec, codecs
from ..codecs import by_name as codec_by_name
from ..codecs.sign import Sign
from ..codecs.topk import TopK
from ..collectives.checks import SUMMED, cannot_sum
from ..collectives.ops import Op
from ..errors import InvalidArgument, UnknownName
from ..registry import Registry, parse_spec
from .compressor import Compressor
from .elementwise import Elementwise
from .gathered import Gathered
from .powersgd import PowerSGD
from .randomk import RandomK

__all__ = ["by_name", "check", "compressors", "names"]

compressors: Registry[Compressor] = Registry("compressor")
compressors.register("topk", lambda ratio=0.01: Gathered(TopK(ratio)))
compressors.register("randomk", RandomK)
compressors.register("sign", lambda: Gathered(Sign()))
compressors.register("powersgd", PowerSGD)


def names() -> list[str]:
    """Everything that `by_name` knows, sorted."""
    return sorted({*codecs, *compressors})


def by_name(codec: Compressor | Codec | str | None) -> Compressor:
    """What reduces buckets: a compressor or a codec, an instance or a spec such as ``"topk:ratio=0.01"``; None for no compression."""
    if isinstance(codec, str):
        name, _ = parse_spec(codec)
        if name in compressors:
            return compressors.get(codec)
        if name not in codecs:
            raise UnknownName(f"unknown codec {name!r}; known: {', '.join(names())}")
    found: Any = codec
    if isinstance(found, type) or not (codec is None or isinstance(codec, str) or hasattr(codec, "encode") or hasattr(codec, "reduce")):
        raise InvalidArgument(f"codec must be a name or an instance of a codec or compressor, got {codec!r}; known: {', '.join(names())}")
    return found if hasattr(codec, "reduce") else Elementwise(codec_by_name(found))


def check(compressor: Compressor, op: Op, dtype: np.dtype[Any], horovod: bool) -> None:
    """Raise InvalidArgument where a compressor meets an operation or a dtype that it cannot reduce. horovod: whether Horovod is to sum."""
    if horovod and not (isinstance(compressor, Elementwise) and compressor.name in SUMMED):
        raise InvalidArgument(cannot_sum(compressor.name, op))
    if not isinstance(compressor, Elementwise) and not (op.name in ("sum", "mean") and is_floating(dtype)):
        raise InvalidArgument(
            f"codec {compressor.name!r} reduces floats by op sum or mean, not {dtype} by {op.name}; use one of: {', '.join(codecs)}"
        )
