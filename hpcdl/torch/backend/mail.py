"""Messages between two ranks: on communicators of their own, so that they never queue behind a collective."""

from __future__ import annotations

from typing import Any

import torch

from ..streams import all_ordered
from .base import Part, only
from .memory import about, incoming, outgoing, raw
from .work import Work

__all__ = ["Mail"]


@all_ordered
class Mail(Part):
    """send, recv and recv_anysource. Any number may be under way; those of one tag between two ranks arrive in order."""

    def send(self, tensors: list[torch.Tensor], dst: int, tag: int = 0) -> Work:
        """Start to send the tensor to rank `dst`; up to 16 KiB that ends without the receiver."""
        x = only(tensors, "send")
        return self._work([self._messages.send(raw(outgoing(x)), dst, tag, dtype=about(x)[0])], [])

    def recv(self, tensors: list[torch.Tensor], src: int, tag: int = 0) -> Work:
        """Start to receive the tensor from rank `src`."""
        return self._receive(tensors, src, tag)

    def recv_anysource(self, tensors: list[torch.Tensor], tag: int = 0) -> Work:
        """Start to receive the tensor from whichever rank sends first; `source_rank` of the handle tells which."""
        return self._receive(tensors, None, tag)

    def _receive(self, tensors: Any, src: int | None, tag: int) -> Work:
        x = only(tensors, "recv")
        there, restore = incoming(x)
        return self._work([self._messages.receive(raw(there), src, tag, dtype=about(x)[0])], [x], [restore])
