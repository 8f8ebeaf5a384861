"""The paths of device memory on a real GPU: bit for bit what the host gives, whoever shares a device with whom."""

import time

import numpy as np
import pytest
from device.places import gradient, own_stream, same

from hpcdl import device_path
from hpcdl.collectives.devices import DevicePath
from hpcdl.transport import awareness


@pytest.fixture
def cupy(require, monkeypatch):
    """The real one, on a machine with a GPU; its devices are shared out among the ranks."""
    cupy = require("gpu")
    if not hasattr(cupy, "machine"):
        monkeypatch.setattr(cupy, "machine", type("Devices", (), {"devices": cupy.cuda.runtime.getDeviceCount()}), raising=False)
    return cupy


@pytest.fixture
def nccl(cupy):
    """Our door to NCCL, where its library is."""
    from hpcdl.arrays import nccl

    if why_not := nccl.why_not():
        pytest.skip(why_not)
    return nccl


def on(world, path):
    here = world.group(range(world.size))
    device_path.follow(here, path)
    return here


def sums_alike(cupy, world, path, codec, sizes=(0, 1, 1000, 3_000_000)):
    """Both ways to the same bits, several in flight at once, from arrays that a busy stream has just made."""
    here = on(world, path)
    for n in sizes:
        xs = [gradient(world.rank + 10 * i, n) for i in range(3)]
        expected = [world.allreduce(x.copy(), "mean", codec, "ring") for x in xs]
        with own_stream(cupy, world):
            busy = cupy.ones((2000, 2000), "f4")
            for _ in range(20):
                busy = busy @ busy * np.float32(5e-4)
            mine = [cupy.asarray(x) * np.float32(2) / np.float32(2) for x in xs]
            handles = [here.allreduce_async(x, "mean", codec, "ring") for x in mine]
            for handle in reversed(handles):
                handle.wait()
            for got, wanted in zip(mine, expected, strict=True):
                same(got.get(), wanted)


@pytest.mark.parametrize("codec", ["none", "fp16", "bf16", "int8"])
def test_staged(ranks, cupy, codec):
    ranks(3, lambda world: sums_alike(cupy, world, DevicePath("staged"), codec))


@pytest.mark.ways("mpi")
@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_gpu_aware_mpi(ranks, cupy, codec):
    def body(world):
        if not awareness.takes_device_memory():
            pytest.skip("this MPI library does not say that it takes device memory")
        sums_alike(cupy, world, DevicePath("aware", aware=True), codec)

    ranks(2, body)


def test_ranks_on_one_device_never_use_nccl(ranks, cupy, nccl):
    def body(world):
        here = on(world, DevicePath("auto"))
        with cupy.cuda.Device(0), cupy.cuda.Stream(non_blocking=True):
            mine = cupy.full(1000, world.rank + 1, "f4")
            here.allreduce(mine)
            assert (mine.get() == 3).all()
        return here._group.devices.links.state()

    for state in ranks(2, body):
        assert state.startswith("ranks 0-1 use one GPU")


def test_one_rank_calls_nccl(cupy, nccl):
    """All that one GPU can show of it: our calls, types and pointers are right, and the order of the stream holds."""
    connecting = nccl.Connecting(1, nccl.unique_id(), 0)
    while not connecting.done():
        time.sleep(1e-3)
    made = connecting.communicator()
    with cupy.cuda.Stream(non_blocking=True):
        for dtype in ("float32", "float64", "int8", "uint8", "int32", "uint32", "int64", "uint64"):
            x = cupy.arange(64).astype(dtype)
            for ufunc in ("add", "multiply"):
                made.allreduce(x, ufunc)
            made.reduce_scatter(x, "add", 0, 1)
            made.all_gather(x, 0, 1)
            made.check()
            x += x.dtype.type(1)
            assert (x.get() == (np.arange(64) + 1).astype(dtype)).all()
    made.close()


@pytest.mark.ways("threads", "mpi")
def test_nccl(ranks, cupy, nccl):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("NCCL needs a GPU for each rank; there is one")

    def body(world):
        here = on(world, DevicePath("nccl"))
        with own_stream(cupy, world):
            for n in (0, 1, 1000, 3_000_000):
                x = np.random.default_rng((world.rank, n)).integers(-9, 9, n).astype("f4")
                expected = world.allreduce(x.copy(), "mean", collective="ring")
                mine = cupy.asarray(x)
                here.allreduce(mine, "mean")
                same(mine.get(), expected)
        assert here._group.devices.links.state() == "nccl"

    ranks(2, body)


def test_pinned_memory_is_used_again(cupy):
    from hpcdl.arrays.bus import bus_of
    from hpcdl.arrays.device import DEVICE

    bus = bus_of(DEVICE)
    with cupy.cuda.Stream(non_blocking=True):
        x = cupy.arange(1 << 20, dtype="f4").view("u1")
        made = []
        for _ in range(50):
            host = bus.take(x.nbytes)
            event = bus.to_host(x, host)
            while not event.done():
                pass
            back = cupy.empty(x.nbytes, "u1")
            bus.to_device(host, back)
            assert (back == x).all().item()
            made.append(bus.made)
    assert made[-1] == made[2], "fresh pinned memory for each copy"
