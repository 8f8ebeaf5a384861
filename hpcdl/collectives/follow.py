"""Keeps an operation in the queue of the device that it began in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays import Arrays
from ..arrays.queue import queue_of
from .execute import Body

__all__ = ["follow"]


def follow(library: Arrays, call: Callable[[int, Any], Body]) -> Callable[[int, Any], Body]:
    """`call`, with every step of its body in the queue of `library` that is current now; on the host, just `call`.

    Why: the device and the stream that are current belong to a thread in CUDA, and the progress loop runs in two of them. Work queued
    from the other one would have no order with the user's.
    """
    queue = queue_of(library)
    if queue is None:
        return call

    def within(tag: int, header: Any) -> Body:
        body = call(tag, header)
        while True:
            with queue:
                try:
                    pending = next(body)
                except StopIteration as stop:
                    return stop.value
            yield pending

    return within
