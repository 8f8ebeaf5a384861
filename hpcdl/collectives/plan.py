"""What `auto` means: a fixed table from size to collective, the same on every rank. Never picks a lossy codec."""

from __future__ import annotations

from ..codecs import Codec
from ..transport.base import Transport

__all__ = ["choose"]

_LATENCY_BYTES = 1 << 12  # below: the number of steps decides
_MIDDLE_BYTES = 1 << 16  # below: still few steps, but the bytes begin to count


def choose(nbytes: int, codec: Codec, transport: Transport, shared: bool) -> str:
    """The name of the collective for an array of `nbytes` (as sent without a codec). shared: a node's ranks share memory."""
    if shared:
        return "two-level" if len(set(transport.nodes)) > 1 else "shared-memory"
    if nbytes <= _LATENCY_BYTES:
        return "native" if codec.exact and transport.native is not None else "tree"
    return "halving-doubling" if nbytes <= _MIDDLE_BYTES else "ring"
