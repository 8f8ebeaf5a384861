"""How gradients travel: as they are, as 16-bit floats, or in any codec of this package. What the fronts for all frameworks share."""

from __future__ import annotations

from typing import Any

from ..codecs.base import Placed
from ..reduction.compressors import by_name, names
from ..reduction.elementwise import Elementwise

__all__ = ["Compressions", "Compressor", "NoneCompressor", "codec_of"]

_BF16 = 2.0**-8  # its relative error


class Compressor:
    """Interface of Horovod's compressors. Subclasses of the user's own are called around the all-reduce.

    One with a `codec` is not called: its codec encodes what travels, between nodes and where it is worth it, and sums stay in float32.
    error_feedback: whether optimizers add to the next gradient what the codec has dropped of this one.
    """

    codec: str | None = None
    error_feedback = False

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
    """The class of `Compression`; it finds a codec or compressor by its name: `Compression.int8`, `Compression.topk`."""

    def __getattr__(cls, name: str) -> type[Compressor]:
        known = {codec.replace("-", "_"): codec for codec in names()}
        if name not in known:
            raise AttributeError(f"no compression {name!r}; known: {', '.join(sorted(known))}")
        told = {"codec": known[name], "error_feedback": _needs_feedback(known[name]), "__doc__": f"The codec {known[name]}."}
        made = type(f"{name}Compressor", (Compressor,), told)
        setattr(cls, name, made)
        return made


def _needs_feedback(codec: str) -> bool:
    """Whether training suffers from what `codec` drops: more than 16-bit floats do, and always the same, not by chance."""
    found = by_name(codec)
    if not isinstance(found, Elementwise):
        return found.error_feedback
    return found.codec.error > _BF16 and not isinstance(found.codec, Placed)


def codec_of(compression: Any, floating: bool) -> str | None:
    """The codec that takes the place of `compression`, of floats or other numbers; None where its own methods are to be called."""
    codec: str | None = getattr(compression, "codec", None)
    return codec if codec is None or floating else "none"
