"""The memory of fake GPUs: a pool like CuPy's, which counts what it asks the device for, and runs out."""

from __future__ import annotations

import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .machine import Machine

POISON = 0xA5  # as float32 -2.9e-16, as int8 -91: nothing that a test expects
_UNIT = 512


class OutOfMemoryError(MemoryError):
    """CuPy's, with its parameters and its text."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


class Memory:
    """One pool for each device. `limit`: bytes of each device, None for no end. `total`: what has been asked of each so far.

    A block that nobody holds any more goes to the next who asks for as much in the stream that it was made in: what another stream has
    still to do with it finds it overwritten. Stricter than CuPy's, which also cuts blocks: here only one of just the size fits.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.limit: dict[int, int] = {}
        self.total: Counter[int] = Counter()
        self._free: Counter[tuple[int, int, int]] = Counter()

    def allocate(self, holder: Any, memory: np.ndarray[Any, Any], stream: int) -> None:
        """Count `memory`, which lives as long as `holder`, on the current device."""
        size, device = -(-memory.nbytes // _UNIT) * _UNIT, self._machine.device
        if not size:
            return
        with self._machine.lock:
            if self._free[device, stream, size]:
                self._free[device, stream, size] -= 1
            else:
                if device in self.limit and self.total[device] + size > self.limit[device]:
                    self.release_all(device)
                if device in self.limit and self.total[device] + size > self.limit[device]:
                    raise OutOfMemoryError(size, self.total[device], self.limit[device])
                self.total[device] += size
                self._machine.note(device, stream, "malloc", f"{size} bytes")
        weakref.finalize(holder, self._give, memory, device, stream, size)

    def release_all(self, device: int) -> None:
        """Give back what nobody holds: CuPy does so before it gives up, and the device then waits for all its work."""
        for key in [key for key in self._free if key[0] == device]:
            count = self._free.pop(key)
            if count:
                self.total[device] -= key[2] * count
                self._machine.note(device, key[1], "free", f"{count} blocks")

    def _give(self, memory: np.ndarray[Any, Any], device: int, stream: int, size: int) -> None:
        with self._machine.lock:
            self._machine.later(device, stream, lambda: memory.reshape(-1).view("u1").fill(POISON))
            self._free[device, stream, size] += 1
