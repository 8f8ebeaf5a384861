"""What a rank does before it dies of an exception: tell the others, so that they raise a clear error and do not wait for it."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["farewell", "on_farewell"]

_listeners: list[Callable[[BaseException], None]] = []


def on_farewell(listener: Callable[[BaseException], None]) -> None:
    """Have `listener` called with the exception that ends this rank."""
    _listeners.append(listener)


def farewell(error: BaseException) -> None:
    """This rank ends because of `error`. Tells whoever wants to know; returns within seconds, and never raises."""
    for listener in _listeners:
        try:
            listener(error)
        except Exception:  # dying already; nothing better to do
            continue
