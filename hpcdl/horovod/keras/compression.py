"""How gradients travel: as they are, as 16-bit floats, or in any codec of this package."""

from __future__ import annotations

from typing import Any

import keras

from ..compressors import Compressions, Compressor, NoneCompressor

__all__ = ["Compression"]


class FP16Compressor(Compressor):
    """Floats of 32 and 64 bits travel as 16 bits, with a common exponent, so that large gradients do not become infinite."""

    codec = "fp16"

    @staticmethod
    def compress(tensor: Any) -> tuple[Any, Any]:
        """The tensor in float16, if it is floating; and its dtype."""
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return (keras.ops.cast(tensor, "float16") if "float" in dtype else tensor), dtype

    @staticmethod
    def decompress(tensor: Any, ctx: Any) -> Any:
        """The tensor in the dtype that it had."""
        return keras.ops.cast(tensor, ctx)


class Compression(metaclass=Compressions):
    """Ways to compress gradients: none, fp16, and each codec of this package by its name."""

    none = NoneCompressor
    fp16 = FP16Compressor
