"""`cupy.cuda`: devices, streams, events, pinned memory."""

from __future__ import annotations

from typing import Any

from . import nccl
from .machine import CUDARuntimeError, Machine, Queue
from .memory import OutOfMemoryError
from .missing import Namespace


class Device:
    """A GPU; as a context, the current one."""

    machine: Machine

    def __init__(self, device: int | None = None) -> None:
        self.id = self.machine.device if device is None else device
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._stack().append(self.machine.device)
        self.machine.device = self.id
        return self

    def __exit__(self, *args: object) -> None:
        self.machine.device = self._stack().pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def __int__(self) -> int:
        return self.id

    def use(self) -> None:
        """Make it current."""
        self.machine.device = self.id

    @property
    def pci_bus_id(self) -> str:
        """Where it sits."""
        self.machine.check(self.id)
        return f"0000:{self.id + 1:02x}:00.0"

    def synchronize(self) -> None:
        """Wait for everything on the device."""
        for (device, _), queue in list(self.machine._queues.items()):
            if device == self.id:
                self.machine.wait(queue, queue.submitted, "Device.synchronize")

    def _stack(self) -> list[int]:
        local: Any = self.machine._local
        if not hasattr(local, "devices"):
            local.devices = []
        return local.devices  # type: ignore[no-any-return]


class Stream:
    """A queue of work; as a context, the current one of its device. The null stream is that of whichever device is current."""

    machine: Machine
    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None) -> None:
        self.ptr = 0 if null else self.machine.new_stream(blocking=not non_blocking)
        self.device_id = -1 if null else self.machine.device

    @classmethod
    def from_external(cls, obj: Any) -> Stream:
        """A stream of another library, of whichever device is current: CuPy does not know either."""
        found = object.__new__(cls)
        _, found.ptr = obj.__cuda_stream__()
        found.device_id = -1
        return found

    def __enter__(self) -> Stream:
        self._check_device()
        local: Any = self.machine._local
        if not hasattr(local, "stack"):
            local.stack = []
        local.stack.append((self.machine.device, get_current_stream(self.machine)))
        self.machine.streams()[self.machine.device] = self
        return self

    def __exit__(self, *args: object) -> None:
        device, before = self.machine._local.stack.pop()
        self.machine.streams()[device] = before

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return self.ptr

    def use(self) -> Stream:
        """Make it current."""
        self._check_device()
        self.machine.streams()[self.machine.device] = self
        return self

    def record(self, event: Any = None) -> Any:
        """Put an event behind the work queued so far."""
        event = self.machine.event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Later work on this stream waits for the event."""
        queue, number = event.place()
        self._check_device()
        self.machine.submit(self.ptr, "wait event", "", _nothing, after=(queue, number))

    def synchronize(self) -> None:
        """Wait for all work on it."""
        queue = self.machine.queue(self._device, self.ptr)
        self.machine.wait(queue, queue.submitted, "Stream.synchronize")

    @property
    def _device(self) -> int:
        """Its device's number."""
        return self.machine.device if self.device_id < 0 else self.device_id

    def _check_device(self) -> None:
        if self.device_id not in (-1, self.machine.device):
            raise RuntimeError(f"the stream was made on device {self.device_id}, but device {self.machine.device} is current")


class Event:
    """A mark in a stream. `done` lets the device catch up once it has been asked `patience` times."""

    machine: Machine

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._place: tuple[Queue, int] | None = None
        self._polls = 0
        self.timing = not disable_timing
        self.ptr = id(self)
        self.machine.events[self.ptr] = self

    def record(self, stream: Stream | None = None) -> None:
        """Mark the end of what is queued on `stream` now."""
        stream = get_current_stream(self.machine) if stream is None else stream
        stream._check_device()
        self._place, self._polls = self.machine.submit(stream.ptr, "event", "", _nothing), 0

    @property
    def done(self) -> bool:
        """Whether all work before the mark has finished. Never waits, and, as CuPy's, is not told of errors: then it just never is."""
        return self._status() == 0

    def _status(self) -> int:
        """What CUDA says of it: 0, 600 (not yet), or an error."""
        if self._place is None:
            return 0
        queue, number = self._place
        try:
            self.machine.check(queue.device)
        except CUDARuntimeError as error:
            return error.status
        with self.machine.lock:
            self._polls += 1
            if queue.done < number and self._polls >= self.machine.patience:
                queue.run(number)
            return 0 if queue.done >= number else 600

    def synchronize(self) -> None:
        """Wait for the mark."""
        self.machine.wait(*self.place(), "Event.synchronize")

    def place(self) -> tuple[Queue, int]:
        """Where it is."""
        if self._place is None:
            raise RuntimeError("the event has not been recorded")
        return self._place


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds; both must have come. As many as there were operations in between."""
    (one, begin), (other, end) = start_event.place(), end_event.place()
    if one.done < begin or other.done < end or not (start_event.timing and end_event.timing):
        raise CUDARuntimeError(600)
    return float(end - begin)


def get_current_stream(machine: Machine, device_id: int = -1) -> Stream:
    """The current stream of a device in this thread."""
    found: Stream = machine.streams().get(machine.device if device_id < 0 else device_id, machine.null)
    return found


def _nothing() -> None:
    pass


def build(machine: Machine, more: dict[str, Any]) -> Namespace:
    """`cupy.cuda` for one machine. more: what else it has."""
    bound: dict[str, Any] = {kind.__name__: type(kind.__name__, (kind,), {"machine": machine}) for kind in (Device, Stream, Event)}
    machine.event = bound["Event"]
    machine.null = bound["Stream"].null = bound["Stream"](null=True)

    def alloc_pinned_memory(size: int) -> Any:
        return machine.pinned(size)

    def count() -> int:
        machine.check()
        if not machine.devices:
            raise CUDARuntimeError(100)
        return machine.devices

    def event_query(event: int) -> int:
        return int(machine.events[event]._status())

    memory = Namespace("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError)
    runtime = Namespace(
        "cupy.cuda.runtime",
        getDeviceCount=count,
        getDevice=lambda: machine.device,
        getDeviceProperties=lambda device: {"name": f"Double {device}".encode()},
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 0 if machine.driver else 13000,
        eventQuery=event_query,
        CUDARuntimeError=CUDARuntimeError,
    )
    extra = {"nccl": nccl.build(machine)} if machine.nccl else {}
    return Namespace(
        "cupy.cuda",
        **bound,
        **more,
        runtime=runtime,
        memory=memory,
        get_current_stream=lambda device_id=-1: get_current_stream(machine, device_id),
        alloc_pinned_memory=alloc_pinned_memory,
        get_elapsed_time=get_elapsed_time,
        **extra,
    )
