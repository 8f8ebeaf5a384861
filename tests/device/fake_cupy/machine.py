"""The fake GPUs of one process: streams with their queues, memory, and a record of all that happened."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .memory import POISON, Memory


class ImplicitConversion(TypeError):
    """Something would have gone to the host, or waited for the device, without being asked to."""


Gate = Callable[[], bool]  # whether an item may run now; what waits for other ranks has one
HANG = 60.0  # seconds after which a host that waits for a device gives up


class CUDARuntimeError(RuntimeError):
    """What CuPy raises for an error of CUDA: made of its number, begins with its name."""

    def __init__(self, status: int) -> None:
        self.status = status
        name = next(name for name, number in ERRORS.items() if number == status)
        super().__init__(f"{name}: as the double was told")


#: Numbers of errors that a test may ask for, and of what CUDA says of an event that has not come.
ERRORS = {
    "cudaErrorInsufficientDriver": 35,
    "cudaErrorNoDevice": 100,
    "cudaErrorIllegalAddress": 700,
    "cudaErrorMemoryAllocation": 2,
    "cudaErrorNotReady": 600,
    "cudaErrorUnknown": 999,
}


class Record(NamedTuple):
    """One operation: device, stream, what it is, the thread that queued it, and the bytes that a copy moves."""

    device: int
    stream: int
    kind: str  # kernel, to host, to device, event, wait event; malloc and free: the pool has asked the device itself, which waits
    name: str
    thread: str
    nbytes: int = 0


class Queue:
    """What a stream has been told to do and has not done yet."""

    def __init__(self, device: int, stream: int, blocking: bool) -> None:
        self.device, self.stream, self.blocking = device, stream, blocking
        self.items: deque[tuple[Callable[[], None], list[tuple[Queue, int]], Gate | None]] = deque()
        self.submitted = self.done = 0
        self._running = False

    def run(self, until: int) -> bool:
        """Do everything up to item number `until`, and what it depends on, as far as gates are open; whether it came so far."""
        if self._running:
            return self.done >= until
        self._running = True
        try:
            while self.done < until:
                work, needs, gate = self.items[0]
                if not all(queue.run(number) for queue, number in needs) or (gate is not None and not gate()):
                    return False
                self.items.popleft()
                self.done += 1
                work()
            return True
        finally:
            self._running = False


class Machine:
    """`devices` fake GPUs. deferred: work waits until it is asked for; an event becomes done at its poll number `patience`.

    nccl: whether ranks that are threads find NCCL. `driver` and `faults` name errors of CUDA: of the driver as a whole, and by device.
    """

    def __init__(self, devices: int = 4, deferred: bool = True, patience: int = 3, nccl: bool = False) -> None:
        self.devices, self.deferred, self.patience = devices, deferred, patience
        self.nccl = nccl
        self.driver = ""
        self.faults: dict[int, str] = {}
        self.lock = threading.RLock()
        self.log: list[Record] = []
        self.waits: list[str] = []  # every time that the host waited for a device
        self.implicit: list[str] = []  # every attempt at an implicit conversion, also one whose exception was swallowed
        self.null: Any = None  # the stream object that is current where none was chosen
        self.event: Any = None  # the classes of events, arrays and devices
        self.array_type: Any = None
        self.device_type: Any = None
        self._queues: dict[tuple[int, int], Queue] = {(device, 0): Queue(device, 0, True) for device in range(devices)}
        self._streams = 0
        self.memory = Memory(self)
        self._pinned: dict[int, np.ndarray[Any, Any]] = {}  # address -> block, those in use
        self._free: dict[int, list[np.ndarray[Any, Any]]] = {}
        self._local = threading.local()
        self.chosen: set[tuple[str, int]] = set()  # devices that threads have made current: CUDA 12 then makes a context there
        self.events: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # by their number
        self.communicators: list[Any] = []  # of NCCL, so far

    # --- what is current in this thread

    @property
    def device(self) -> int:
        """The current device of this thread."""
        return getattr(self._local, "device", 0)

    @device.setter
    def device(self, number: int) -> None:
        if not 0 <= number < self.devices:
            raise ValueError(f"cudaErrorInvalidDevice: {number}")
        self._local.device = number
        self.chosen.add((threading.current_thread().name, number))

    def streams(self) -> dict[int, Any]:
        """The current stream of this thread by device."""
        if not hasattr(self._local, "streams"):
            self._local.streams = {}
        return self._local.streams  # type: ignore[no-any-return]

    # --- queues

    def new_stream(self, blocking: bool) -> int:
        """The number of a new stream of the current device."""
        with self.lock:
            self._streams += 1
            self._queues[self.device, self._streams] = Queue(self.device, self._streams, blocking)
            return self._streams

    def queue(self, device: int, stream: int) -> Queue:
        """The queue of a stream; stream 0 is each device's null stream."""
        return self._queues[device, stream]

    def submit(
        self, stream: int, kind: str, name: str, work: Callable[[], None], nbytes: int = 0, after: Any = None, gate: Gate | None = None
    ) -> tuple[Queue, int]:
        """Queue `work` on a stream of the current device; gives its place. The null stream and blocking streams wait for each other.

        after: a place in a queue that it waits for. gate: see `Gate`.
        """
        self.check(self.device)
        with self.lock:
            queue = self.queue(self.device, stream)
            needs = [] if after is None else [after]
            if queue.blocking:
                others = [other for other in self._queues.values() if other.device == queue.device and other.blocking]
                needs += [(other, other.submitted) for other in others if other is not queue and 0 in (stream, other.stream)]
            self.note(queue.device, stream, kind, name, nbytes)
            queue.items.append((work, needs, gate))
            queue.submitted += 1
            if not self.deferred:
                queue.run(queue.submitted)
            return queue, queue.submitted

    def note(self, device: int, stream: int, kind: str, name: str, nbytes: int = 0) -> None:
        """Put it into the record."""
        self.log.append(Record(device, stream, kind, name, threading.current_thread().name, nbytes))

    def later(self, device: int, stream: int, work: Callable[[], None]) -> None:
        """Have `work` done when the stream has come so far: nothing that the program has asked for."""
        queue = self.queue(device, stream)
        queue.items.append((work, [], None))
        queue.submitted += 1
        if not self.deferred:
            queue.run(queue.submitted)

    def wait(self, queue: Queue, number: int, why: str) -> None:
        """The host waits for item `number`."""
        self.waits.append(f"{why} ({threading.current_thread().name})")
        end = time.monotonic() + HANG
        while True:
            self.check(queue.device)
            with self.lock:
                if queue.run(number):
                    return
            if time.monotonic() > end:
                raise RuntimeError(f"the fake device {queue.device} hangs in {why}: ranks have not called NCCL alike")
            time.sleep(1e-3)

    def check(self, device: int | None = None) -> None:
        """Raise what CUDA would, if the driver or the device is in trouble."""
        name = self.driver or ("" if device is None else self.faults.get(device, ""))
        if name:
            raise CUDARuntimeError(ERRORS[name])

    def refuse(self, what: str) -> None:
        """An implicit conversion was tried."""
        self.implicit.append(f"{what} ({threading.current_thread().name})")
        raise ImplicitConversion(f"implicit conversion to the host: {what}; use get(), asnumpy or item()")

    # --- memory

    def pinned(self, nbytes: int) -> Any:
        """A buffer of pinned memory; once nobody holds it any more, its block is poisoned and goes to the next who asks."""
        size = 1 << max(nbytes - 1, 63).bit_length()
        with self.lock:
            free = self._free.setdefault(size, [])
            block = free.pop() if free else np.empty(size, np.uint8)
            self._pinned[block.ctypes.data] = block
        block[:] = POISON
        holder = (ctypes.c_uint8 * size).from_buffer(block)
        weakref.finalize(holder, self._unpin, block)
        return holder

    def _unpin(self, block: np.ndarray[Any, Any]) -> None:
        with self.lock:
            block[:] = POISON
            self._pinned.pop(block.ctypes.data, None)
            self._free[block.size].append(block)

    def raw(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
        """The bytes of a host array that lies in pinned memory, by address only, without keeping it alive; None for other memory."""
        address = array.ctypes.data
        with self.lock:
            for start, block in list(self._pinned.items()):
                if start <= address and address + array.nbytes <= start + block.size:
                    return block[address - start : address - start + array.nbytes]
        return None
