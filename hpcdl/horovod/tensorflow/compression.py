"""How gradients travel: as they are, as 16-bit floats, or in any codec of this package."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from ..compressors import Compressions, Compressor, NoneCompressor

__all__ = ["Compression"]


class FP16Compressor(Compressor):
    """Floats of 32 and 64 bits travel as 16 bits, with a common exponent, so that large gradients do not become infinite."""

    codec = "fp16"

    @staticmethod
    def compress(tensor: Any) -> tuple[Any, Any]:
        """The tensor in float16, if it is floating; and its dtype."""
        return (tf.cast(tensor, tf.float16) if tensor.dtype.is_floating else tensor), tensor.dtype

    @staticmethod
    def decompress(tensor: Any, ctx: Any) -> Any:
        """The tensor in the dtype that it had."""
        return tf.cast(tensor, ctx) if ctx.is_floating else tensor


class Compression(metaclass=Compressions):
    """Ways to compress gradients: none, fp16, and each codec of this package by its name."""

    none = NoneCompressor
    fp16 = FP16Compressor
