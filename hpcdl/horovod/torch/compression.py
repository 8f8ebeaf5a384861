"""How gradients travel: as they are, as 16-bit floats, or in any codec of this package."""

from __future__ import annotations

from typing import Any

import torch

from ..compressors import Compressions, Compressor, NoneCompressor

__all__ = ["Compression"]


class FP16Compressor(Compressor):
    """Floats of 32 and 64 bits travel as 16 bits.

    Why a codec and no cast: this package's float16 travels with an exponent of its own, so that large gradients do not become infinite.
    """

    codec = "fp16"

    @staticmethod
    def compress(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The tensor in float16, if it is floating; and its dtype."""
        return (tensor.to(torch.float16) if tensor.dtype.is_floating_point else tensor), tensor.dtype

    @staticmethod
    def decompress(tensor: torch.Tensor, ctx: Any) -> torch.Tensor:
        """The tensor in the dtype that it had."""
        return tensor.to(ctx) if ctx.is_floating_point else tensor


class Compression(metaclass=Compressions):
    """Ways to compress gradients: none, fp16, and each codec of this package by its name."""

    none = NoneCompressor
    fp16 = FP16Compressor
