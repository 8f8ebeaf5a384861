"""Devices in trouble: a clear error on every rank, and nobody hangs."""

import sys

import numpy as np
import pytest

import hpcdl.arrays
from device.addresses import Addressed
from device.conftest import installed
from device.fake_cupy import Machine
from device.places import gradient, own_stream, up
from hpcdl.arrays import nccl, trouble
from hpcdl.collectives.devices import DevicePath
from hpcdl.errors import CommunicationError, InvalidArgument
from hpcdl.transport.metered import Metered

LOST = r"(?s)rank 1 of 3 failed inside.*cudaErrorIllegalAddress.*device cuda:1 is lost for this process.*cure: start again"


def aware(world):
    here = world.group(range(world.size))
    if not here._group.transport.direct:
        here._group.transport = Metered(Addressed(here._group.transport))
    here._group.devices._transport = here._group.transport
    here._group.devices.follow(DevicePath("aware", aware=True))
    return here


@pytest.mark.parametrize("path", ["staged", "aware"])
@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_a_device_that_is_lost_in_the_middle(ranks, cupy, path, codec):
    """Its first poll after that tells; every rank hears of it."""

    def body(world):
        here = aware(world) if path == "aware" else world.group(range(world.size))
        with own_stream(cupy, world):
            mine, other = up(cupy, gradient(world.rank, 300_000)), cupy.zeros(10, "f4")
            world.barrier()
            with pytest.raises(CommunicationError, match=LOST):
                handles = [here.allreduce_async(mine, "mean", codec, "ring")]
                if world.rank == 1:
                    cupy.machine.faults[1] = "cudaErrorIllegalAddress"
                handles.append(here.allreduce_async(other, "mean", codec, "ring"))
                for handle in handles:
                    handle.wait()
            with pytest.raises(CommunicationError, match=LOST):
                here.allreduce(other)
        world.barrier()

    cupy.machine.patience = 50  # so that nothing is through when it happens
    ranks(3, body)


def test_a_device_that_is_lost_before_a_call(ranks, cupy):
    """Whoever queues something there is told at once, where it stands; the others, that this rank is gone."""

    def body(world):
        here = world.group(range(world.size))
        with own_stream(cupy, world):
            mine = cupy.zeros(10, "f4")
            world.barrier()
            if world.rank == 1:
                cupy.machine.faults[1] = "cudaErrorIllegalAddress"
            with pytest.raises(CommunicationError, match=LOST):
                here.allreduce(mine, "mean", "fp16", "ring")
        world.barrier()

    ranks(3, body)


@pytest.mark.ways("threads")
def test_a_device_that_is_lost_while_everybody_only_waits(ranks, cupy):
    """Nothing is queued there any more that could fail: it is the event itself that must be asked."""

    def body(world):
        here = world.group(range(world.size))
        with own_stream(cupy, world):
            mine = up(cupy, gradient(world.rank, 300_000))
            world.barrier()
            with pytest.raises(CommunicationError, match=LOST):
                handle = here.allreduce_async(mine, "mean", "none", "ring")
                if world.rank == 1:
                    cupy.machine.faults[1] = "cudaErrorIllegalAddress"
                handle.wait()
            if world.rank == 1:
                with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorIllegalAddress"):
                    mark.done()
        world.barrier()

    from hpcdl.arrays.device import DEVICE

    with cupy.cuda.Device(1):
        mark = DEVICE.event()
    cupy.machine.patience = 50
    ranks(3, body)


@pytest.mark.ways("threads")
def test_arrays_on_another_device_than_the_current_one(ranks, cupy):
    def body(world):
        with cupy.cuda.Device(1):
            there = cupy.zeros(10, "f4")
        calls = [
            lambda: world.allreduce(there),
            lambda: world.allreduce(cupy.zeros(10, "f4"), out=there),
            lambda: world.allreduce(cupy.zeros(10, "f4"), "mean", "fp16", error_feedback=there),
            lambda: world.broadcast(there),
            lambda: world.allgather(there),
            lambda: world.reduce_scatter(there),
            lambda: world.alltoall(there),
        ]
        for call in calls:
            with pytest.raises(InvalidArgument, match=r"rank \d of 2: .*on cuda:1, where cuda:0 is current.*Device\(1\)"):
                call()
        with cupy.cuda.Device(1):
            world.allreduce(there)

    ranks(2, body)


@pytest.mark.parametrize(
    ("driver", "text"),
    [
        ("cudaErrorInsufficientDriver", "no NVIDIA driver, or it is older than CuPy's CUDA 12.9 needs"),
        ("cudaErrorNoDevice", "no GPU is visible to this process; cure: look at CUDA_VISIBLE_DEVICES"),
    ],
)
def test_no_driver_or_one_that_is_too_old(driver, text):
    machine = Machine(nccl=True)
    with installed(machine) as cupy:
        machine.driver = driver
        assert text in nccl.why_not()
        assert hpcdl.arrays.device_name(0) == "cpu"
        cupy.from_dlpack = lambda x: cupy.cuda.runtime.getDeviceCount()
        with pytest.raises(InvalidArgument, match="CuPy cannot use this array") as caught:
            hpcdl.arrays.adopt(object())
        assert text in str(caught.value)


def test_no_gpu_and_no_cupy(monkeypatch):
    with installed(Machine(devices=0, nccl=True)):
        assert "cudaErrorNoDevice" in nccl.why_not()
    with installed(Machine(nccl=False)):
        assert nccl.why_not() == "CuPy finds no NCCL library: pip install nvidia-nccl-cu12, or -cu13"
        assert nccl.version_text() == "none"
    with installed(Machine(nccl=True)) as cupy:
        assert nccl.why_not() == "" and nccl.version_text() == "2.23.4"
        cupy.cuda.nccl.get_version = lambda: 20703
        assert "2.7.3 is too old" in nccl.why_not()
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy cannot be imported" in nccl.why_not()


def test_other_errors_are_told_as_they_are():
    assert trouble.hint(ValueError("three")) == ""
    assert trouble.explained(ValueError("three")) == "ValueError: three"
    assert trouble.elsewhere(np.zeros(3)) == ""
