"""`cupy.cuda.nccl` for ranks that are threads: each call is an item of a stream, and runs only when all ranks have come to theirs.

Stricter than NCCL: ranks that call differently get an error, where NCCL would hang. As NCCL: communicators are made once all ranks have
come, a device belongs to one rank, and what a rank queues in one communicator runs in the order in which it was queued.
"""

from __future__ import annotations

import ctypes
import threading
import time
import uuid
from typing import Any

import numpy as np

from .machine import HANG, POISON, Machine
from .missing import Namespace

DTYPES = {0: "i1", 1: "u1", 2: "i4", 3: "u4", 4: "i8", 5: "u8", 7: "f4", 8: "f8"}
NAMES = {"INT8": 0, "UINT8": 1, "INT32": 2, "UINT32": 3, "INT64": 4, "UINT64": 5, "FLOAT32": 7, "FLOAT64": 8}
OPS = {"SUM": 0, "PROD": 1, "MAX": 2, "MIN": 3}
FUNCTIONS = [np.add, np.multiply, np.maximum, np.minimum]
STATUS = {1: "NCCL_ERROR_UNHANDLED_CUDA_ERROR", 5: "NCCL_ERROR_INVALID_USAGE", 6: "NCCL_ERROR_REMOTE_ERROR"}


class NcclError(RuntimeError):
    """What CuPy raises."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"{STATUS[status]}: as the double was told")


class Meeting:
    """The ranks that know one identity."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.devices: dict[int, int] = {}  # rank -> its device
        self.calls: dict[int, Call] = {}
        self.error = 0


class Call:
    """One call of all ranks."""

    def __init__(self, size: int, signature: Any) -> None:
        self.size, self.signature = size, signature
        self.joined: dict[int, Any] = {}  # rank -> its queue, its number there, addresses to read and to write
        self.finished = False

    def ready(self, machine: Machine) -> bool:
        """Whether all ranks' streams have come to it."""
        return len(self.joined) == self.size and all(queue.run(number - 1) for queue, number, *_ in self.joined.values())

    def run(self) -> None:
        """Do it for all ranks, once."""
        if self.finished:
            return
        self.finished = True
        kind, count, dtype, op = self.signature
        length = count * self.size if kind == "reduceScatter" else count
        given = [memory(read, length, dtype).copy() for *_, read, _ in (self.joined[rank] for rank in range(self.size))]
        if kind == "allGather":
            result = np.concatenate(given)
        else:
            result = given[0]
            for other in given[1:]:
                result = FUNCTIONS[op](result, other)
        for rank, (_, _, _, write) in self.joined.items():
            part = result[rank * count : (rank + 1) * count] if kind == "reduceScatter" else result
            memory(write, part.size, dtype)[...] = part


def memory(address: int, count: int, dtype: int) -> np.ndarray[Any, Any]:
    """Device memory by its address."""
    kind = np.dtype(DTYPES[dtype])
    return np.frombuffer((ctypes.c_uint8 * (count * kind.itemsize)).from_address(address), kind)


class NcclCommunicator:
    """One rank's end."""

    machine: Machine
    meetings: dict[bytes, Meeting]

    def __init__(self, ndev: int, commId: bytes, rank: int, config: Any = None) -> None:  # noqa: N803  (CuPy's name)
        if not isinstance(commId, bytes) or len(commId) != 128:
            raise TypeError(f"Argument 'commId' has incorrect type (expected bytes, got {type(commId).__name__})")
        self.machine.check(self.machine.device)
        self._size, self._rank, self._device = ndev, rank, self.machine.device
        self._meeting = meeting = self.meetings.setdefault(commId, Meeting())
        self._queued, self._over = 0, ""
        with meeting.changed:
            if self._device in meeting.devices.values():
                meeting.error = 5
            meeting.devices[rank] = self._device
            meeting.changed.notify_all()
            end = time.monotonic() + HANG
            while len(meeting.devices) < ndev and time.monotonic() < end:
                meeting.changed.wait(0.1)
            if meeting.error or len(meeting.devices) < ndev:
                raise NcclError(meeting.error or 6)
        self.machine.communicators.append(self)

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:  # noqa: N802
        """All get the reduction."""
        self._queue(stream, ("allReduce", count, datatype, op), sendbuf, recvbuf)

    def reduceScatter(self, sendbuf: int, recvbuf: int, recvcount: int, datatype: int, op: int, stream: int) -> None:  # noqa: N802
        """Each gets a part of it."""
        self._queue(stream, ("reduceScatter", recvcount, datatype, op), sendbuf, recvbuf)

    def allGather(self, sendbuf: int, recvbuf: int, count: int, datatype: int, stream: int) -> None:  # noqa: N802
        """All get everyone's."""
        self._queue(stream, ("allGather", count, datatype, 0), sendbuf, recvbuf)

    def check_async_error(self) -> None:
        """What has gone wrong since."""
        if self._meeting.error:
            raise NcclError(self._meeting.error)

    def abort(self) -> None:
        """End it now."""
        self._over = "aborted"

    def destroy(self) -> None:
        """Give it back."""
        self._over = "destroyed"

    def rank_id(self) -> int:
        """Its rank."""
        return self._rank

    def size(self) -> int:
        """How many ranks."""
        return self._size

    def device_id(self) -> int:
        """Its device."""
        return self._device

    def _queue(self, stream: int, signature: Any, read: int, write: int) -> None:
        assert not self._over, f"NCCL is called after it was {self._over}"
        if self.machine.device != self._device:
            raise NcclError(5)
        with self.machine.lock:
            number, self._queued = self._queued, self._queued + 1
            call = self._meeting.calls.setdefault(number, Call(self._size, signature))
            if call.signature != signature:
                raise AssertionError(f"ranks call NCCL differently: {signature} on rank {self._rank} where others call {call.signature}")
            before = self._meeting.calls.get(number - 1)

            def gate() -> bool:
                return bool(self._over) or ((before is None or before.finished) and call.ready(self.machine))

            def work() -> None:
                if self._over and not call.finished:
                    memory(write, 1, 1)[...] = POISON
                else:
                    call.run()

            deferred, self.machine.deferred = self.machine.deferred, True  # not before it is known where it is
            try:
                queue, place = self.machine.submit(stream, "nccl", signature[0], work, gate=gate)
            finally:
                self.machine.deferred = deferred
            call.joined[self._rank] = queue, place, read, write
            if not deferred:
                queue.run(place)


def build(machine: Machine) -> Namespace:
    """`cupy.cuda.nccl` for one machine."""
    machine.communicators = []
    kind = type("NcclCommunicator", (NcclCommunicator,), {"machine": machine, "meetings": {}})
    numbers = {f"NCCL_{name}": number for name, number in (NAMES | OPS).items()}
    return Namespace(
        "cupy.cuda.nccl",
        available=True,
        NcclCommunicator=kind,
        NcclError=NcclError,
        get_unique_id=lambda: uuid.uuid4().bytes * 8,
        get_version=lambda: 22304,
        **numbers,
    )
