"""Handles as Horovod gives them: whole numbers, with which `poll` and `synchronize` find the operation."""

from __future__ import annotations

from itertools import count
from typing import Any

from ..errors import CommunicationError, InvalidArgument
from .errors import translated
from .request import Request

__all__ = ["forget_all", "on_device", "poll", "register", "synchronize"]

_numbers = count()
_open: dict[int, Request] = {}


def register(request: Request) -> int:
    """The handle of an operation."""
    handle = next(_numbers)
    _open[handle] = request
    return handle


def forget_all() -> None:
    """No handle is valid any more."""
    _open.clear()


def poll(handle: int) -> bool:
    """Whether the operation has finished, so that `synchronize` returns at once. Raises InvalidArgument for what is no open handle."""
    if handle not in _open:
        raise InvalidArgument(f"Handle {handle} was not created or has been cleared.")
    return _open[handle].done()


def on_device(handle: int) -> bool:
    """Whether the operation's arrays are on a device, so that its result has a place in a stream."""
    request = _open.get(handle)
    return request is not None and request.join is not None


def synchronize(handle: int) -> Any:
    """Wait until the operation has finished; its result: a tensor, or a tuple of them. A handle is used up by it; then it gives None.

    Raises HorovodInternalError, the same on every rank, where the operation failed.
    """
    request = _open.pop(handle, None)
    if request is None:
        return None
    try:
        return request.wait()
    except CommunicationError as error:
        raise translated(error) from None
