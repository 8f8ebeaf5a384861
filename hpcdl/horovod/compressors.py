"""How gradients travel: as they are, as 16-bit floats, or in any codec of this package. What the fronts for all frameworks share."""

from __future__ import annotations

from typing import Any

from ..codecs import codecs

__all__ = ["Compressions", "Compressor", "NoneCompressor", "codec_of"]


class Compressor:
    """Interface of Horovod's compressors. Subclasses of the user's own are called around the all-reduce.

    One with a `codec` is not called: its codec encodes what travels, between nodes and where it is worth it, and sums stay in float32.
    """

    codec: str | None = None

    @staticmethod
    def compress(tensor: Any) -> tuple[Any, Any]:
        """The tensor to reduce, and what `decompress` needs to know."""
        return tensor, None

    @staticmethod
    def decompress(tensor: Any, ctx: Any) -> Any:
        """The tensor as it was, from what has been reduced."""
        return tensor


class NoneCompressor(Compressor):
    """Nothing is lost."""

    codec = "none"


class Compressions(type):
    """The class of `Compression`; it finds a codec by its name: `Compression.int8`, `Compression.int8_stochastic`."""

    def __getattr__(cls, name: str) -> type[Compressor]:
        known = {codec.replace("-", "_"): codec for codec in codecs.names()}
        if name not in known:
            raise AttributeError(f"no compression {name!r}; known: {', '.join(sorted(known))}")
        made = type(f"{name}Compressor", (Compressor,), {"codec": known[name], "__doc__": f"The codec {known[name]}."})
        setattr(cls, name, made)
        return made


def codec_of(compression: Any, floating: bool) -> str | None:
    """The codec that takes the place of `compression`, of floats or other numbers; None where its own methods are to be called."""
    codec: str | None = getattr(compression, "codec", None)
    return codec if codec is None or floating else "none"
