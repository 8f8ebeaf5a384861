"""The double is as strict as it says."""

import sys

import numpy as np
import pytest

import hpcdl.arrays
from device.conftest import installed
from device.fake_cupy import ImplicitConversion, Machine

CONVERSIONS = {
    "array": np.asarray,
    "bool": bool,
    "float": float,
    "int": int,
    "index": lambda x: [1, 2][x],
    "ufunc": lambda x: np.add(x, 1),
    "function": lambda x: np.concatenate([x, x]),
    "numpy left": lambda x: np.ones(1) + x,
    "numpy right": lambda x: x + np.ones(1),
    "numpy in place": lambda x: x.__iadd__(np.ones(1)),
    "assignment": lambda x: x.__setitem__(slice(None), np.ones(1)),
    "into numpy": lambda x: np.zeros(1).__setitem__(slice(None), x),
    "copyto": lambda x: np.copyto(np.zeros(1), x),
    "mask": lambda x: x[x > 0],
    "if": lambda x: 1 if x > 0 else 2,
    "any": lambda x: bool((x > 0).any()),
}


@pytest.fixture
def strict(mode):
    with installed(Machine(deferred=mode == "deferred")) as module:
        yield module


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_implicit_conversions_are_refused_and_remembered(strict, convert):
    with pytest.raises((ImplicitConversion, ValueError)):
        convert(strict.ones(1))
    assert strict.machine.implicit


def test_explicit_conversions(cupy):
    x = np.arange(6, dtype="f4").reshape(2, 3)
    on_device = cupy.asarray(x)
    assert (cupy.asnumpy(on_device) == x).all() and (on_device.get() == x).all()
    on_device.set(x + 1)
    assert on_device[1, 2].item() == 6
    with pytest.raises(TypeError, match="0-d"):
        iter(on_device[0, 0])
    with pytest.raises(TypeError):
        memoryview(on_device)
    assert not hasattr(on_device, "__array_interface__") and not hasattr(on_device.flags, "writeable")


def test_what_it_lacks_is_said(cupy):
    for reach in (lambda: cupy.fft, lambda: cupy.cuda.nccl, lambda: cupy.ones(1).tolist, lambda: cupy.cuda.runtime.memcpy):
        with pytest.raises(AttributeError, match="the CuPy double lacks"):
            reach()


def test_a_copy_to_pinned_memory_is_poison_until_its_event(cupy):
    from hpcdl.arrays.device import DEVICE

    x, host = cupy.full(64, 7, "u1"), DEVICE.pinned(64)
    DEVICE.to_host(x, host)
    event = DEVICE.event()
    assert not (host == 7).any()
    while not event.done():
        assert not (host == 7).any()
    assert (host == 7).all() and not cupy.machine.waits


def test_streams_without_an_event_between_them_have_no_order(cupy):
    one, other = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    with one:
        x = cupy.ones(4, "f4")
    with other:
        assert (x + 0).get()[0] != 1
        other.wait_event(one.record())
        assert (x + 0).get()[0] == 1


def test_ordinary_streams_wait_for_the_null_stream_and_it_for_them(cupy):
    x = cupy.ones(4, "f4")
    with cupy.cuda.Stream():
        y = x + 1
    assert y.get()[0] == 2


def test_kernels_need_their_arrays_on_the_current_device(cupy):
    with cupy.cuda.Device(1):
        x = cupy.ones(4)
    with pytest.raises(ValueError, match="device 1"):
        x + 1


def test_the_record_of_a_stream(cupy):
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x = cupy.empty(4, "f4")
        x.fill(3)
        x.get(blocking=False, stream=stream, out=np.frombuffer(cupy.cuda.alloc_pinned_memory(16), "f4", count=4))
        stream.record()
    assert [record.kind for record in cupy.machine.log if record.stream == stream.ptr] == ["malloc", "kernel", "to host", "event"]
    stream.synchronize()
    assert len(cupy.machine.waits) == 1


def test_memory_goes_to_the_next_who_asks_in_its_stream(cupy):
    one, other = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    with one:
        x = cupy.ones(4, "f4")
        made = one.record()
    with other:
        other.wait_event(made)
        seen = x + 0
    one.synchronize()
    with one:
        del x  # the other stream has not read it yet
        cupy.empty(4, "f4")
        one.synchronize()
    with other:
        assert seen.get()[0] != 1
    assert [record.stream for record in cupy.machine.log if record.kind == "malloc"] == [one.ptr, other.ptr]


def test_memory_runs_out(cupy):
    cupy.machine.memory.limit[0] = 2048
    kept = cupy.empty(1024, "u1")
    del kept
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match=r"allocating 4,096 bytes .allocated so far: 0 bytes, limit set to: 2,048"):
        cupy.empty(4096, "u1")
    cupy.empty(2048, "u1")
    assert [record.kind for record in cupy.machine.log] == ["malloc", "free", "malloc"]


def test_it_leaves_no_trace():
    before = sys.modules.get("cupy"), sys.modules.get("hpcdl.arrays.device")
    with installed(Machine()) as module:
        assert hpcdl.arrays.of(module.zeros(1)).name == "cupy"
        assert hpcdl.arrays.device_name(5) == "cuda:1"
    assert (sys.modules.get("cupy"), sys.modules.get("hpcdl.arrays.device")) == before
    if before[0] is None:
        assert hpcdl.arrays.device_name(5) == "cpu"
