"""What a chunk looks like on the wire. One codec a file; a new file is tested by being registered here."""

from functools import lru_cache

from ..errors import InvalidArgument
from ..registry import Registry, parse_spec
from .base import BLOCK, Codec, encoder
from .bf16 import BF16
from .fp16 import FP16
from .int8 import Int8
from .int8_stochastic import Int8Stochastic
from .none import Exact

__all__ = ["BF16", "BLOCK", "FOR_BUCKETS", "FP16", "Codec", "Exact", "Int8", "Int8Stochastic", "by_name", "codecs", "encoder"]

codecs: Registry[Codec] = Registry("codec")
codecs.register("none", Exact)
codecs.register("fp16", FP16)
codecs.register("bf16", BF16)
codecs.register("int8", Int8)
codecs.register("int8-stochastic", Int8Stochastic)

#: Names that `hpcdl.Reducer` takes beside these, for what works on whole buckets and not on elements.
FOR_BUCKETS = ("powersgd", "randomk", "sign", "topk")

_EXACT = Exact()


def by_name(codec: Codec | str | None) -> Codec:
    """The codec that a user means: an instance, a spec such as ``"fp16"``, or None for no compression."""
    if codec is None:
        return _EXACT
    if isinstance(codec, type) or not (isinstance(codec, str) or hasattr(codec, "encode")):
        raise InvalidArgument(f"codec must be a name or an instance of a codec, got {codec!r}; known: {', '.join(codecs)}")
    if isinstance(codec, str) and (name := parse_spec(codec)[0]) in FOR_BUCKETS and name not in codecs:
        raise InvalidArgument(
            f"codec {name!r} needs memory from step to step: use hpcdl.Reducer(codec={codec!r}); here: {', '.join(codecs)}"
        )
    return _named(codec) if isinstance(codec, str) else codec


_named = lru_cache(maxsize=256)(codecs.get)  # codecs are stateless: one of each spec is enough
