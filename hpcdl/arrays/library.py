"""What every array library offers here: the operations that the core needs, and no others."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Array", "Arrays", "Event"]

Array = Any  # numpy.ndarray or cupy.ndarray; neither has a static type that covers the other


class Event(Protocol):
    """A mark in the order of work on a device."""

    def done(self) -> bool:
        """Whether all work before the mark has finished. Never blocks."""
        ...


class Arrays(Protocol):
    """An array library. All arrays given to these methods are contiguous and of this library."""

    name: str
    xp: Any  # the NumPy-like module
    on_host: bool  # True where looking at a value costs nothing; False where it would wait for a device

    def empty(self, n: int, dtype: Any) -> Array:
        """A new array of `n` elements with undefined values."""
        ...

    def cast(self, source: Array, target: Array) -> None:
        """target[:] = source, converted, ties to even, at the speed of memory."""
        ...

    def note_finite(self, x: Array, flag: Array) -> None:
        """flag[...] = whether `x` holds neither NaN nor infinity; `flag` is a bool of shape (). Does not wait for the device."""
        ...

    def event(self) -> Event:
        """A mark behind all work queued so far on the current stream."""
        ...

    def to_host(self, source: Array, target: Array) -> None:
        """Queue a copy of `source` into the host array `target`; final once an event behind it is done."""
        ...

    def from_host(self, source: Array, target: Array) -> None:
        """Queue a copy of the host array `source` into `target`, in the order of the current stream."""
        ...

    def pinned(self, nbytes: int) -> Array:
        """A host array of bytes (uint8) that the device can copy to and from without blocking."""
        ...
