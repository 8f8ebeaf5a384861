"""How gradients travel: as they are, as 16-bit floats, or in any codec of this package."""

from __future__ import annotations

from typing import Any

import torch

from ...codecs import codecs

__all__ = ["Compression", "codec_of"]


class Compressor:
    """Interface of Horovod's compressors. Subclasses of the user's own are called around the all-reduce.

    One with a `codec` is not called: its codec encodes what travels, between nodes and where it is worth it, and sums stay in float32.
    """

    codec: str | None = None

    @staticmethod
    def compress(tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """The tensor to reduce, and what `decompress` needs to know."""
        return tensor, None

    @staticmethod
    def decompress(tensor: torch.Tensor, ctx: Any) -> torch.Tensor:
        """The tensor as it was, from what has been reduced."""
        return tensor


class NoneCompressor(Compressor):
    """Nothing is lost."""

    codec = "none"


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


class _Compressions(type):
    """Finds a codec by its name: `Compression.int8`, `Compression.int8_stochastic`."""

    def __getattr__(cls, name: str) -> type[Compressor]:
        known = {codec.replace("-", "_"): codec for codec in codecs.names()}
        if name not in known:
            raise AttributeError(f"no compression {name!r}; known: {', '.join(sorted(known))}")
        made = type(f"{name}Compressor", (Compressor,), {"codec": known[name], "__doc__": f"The codec {known[name]}."})
        setattr(cls, name, made)
        return made


class Compression(metaclass=_Compressions):
    """Ways to compress gradients: none, fp16, and each codec of this package by its name."""

    none = NoneCompressor
    fp16 = FP16Compressor


def codec_of(compression: Any, tensor: torch.Tensor) -> str | None:
    """The codec that takes the place of `compression` for `tensor`; None where its own methods are to be called."""
    codec: str | None = getattr(compression, "codec", None)
    return codec if codec is None or tensor.dtype.is_floating_point else "none"
