"""The PyTorch door's way onto a device, without a GPU: tensors in host memory that are said to be on one, and CuPy's double.

torch computes at once, so the double does too here. What is tested: nothing is copied or converted, and all work is queued in what
torch calls its current stream, or in a stream of the reducer's. tests/gpu does the same with real ones.
"""

import sys
import threading
from contextlib import contextmanager

import pytest
from harness.parts import framework

from device.places import own_stream
from hpcdl.errors import InvalidArgument

torch = framework("torch")

import hpcdl.torch as hvd  # noqa: E402
from hpcdl import World  # noqa: E402
from hpcdl.torch import streams, tensors  # noqa: E402

pytestmark = [pytest.mark.parametrize("mode", ["eager"], indirect=True), pytest.mark.ways("threads")]

NAMES = ["float16", "bfloat16", "float32", "float64", "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]


class Current:
    """torch's current stream: a stream of the double's that CuPy is not told of but by the door."""

    def __init__(self, cupy):
        self._cupy, self._streams, self._lock = cupy, {}, threading.Lock()
        self.kept = []

    def __call__(self, device=None):
        with self._lock:
            if device.index not in self._streams:
                with self._cupy.cuda.Device(device.index):
                    self._streams[device.index] = Stream(self._cupy.cuda.Stream(non_blocking=True))
        return self._streams[device.index]


class Stream:
    def __init__(self, there):
        self._there, self.pointer = there, getattr(there, "ptr", 0)

    def __cuda_stream__(self):
        return 0, self.pointer


@pytest.fixture
def current(cupy, monkeypatch):
    """All tensors are on the GPU whose number the thread has been told, and torch has CUDA."""
    found, here = Current(cupy), threading.local()
    gpu = lambda x: torch.device("cuda", here.number) if hasattr(here, "number") else None  # noqa: E731
    for module in (streams, tensors, __import__("hpcdl.torch.trained").torch.trained):
        monkeypatch.setattr(module, "gpu_of", gpu)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", found)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: own())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: found.kept.append(stream.pointer))
    found.here = here
    return found


@contextmanager
def own():
    """No stream of torch's own is needed: it computes at once."""
    yield


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_and_its_array_share_memory(cupy, current, name):
    dtype = getattr(torch, name)
    x = torch.arange(6).reshape(2, 3).to(dtype)
    current.here.number = 1
    with streams.in_order(x):
        array = hvd.as_array(x)
        assert (str(array.dtype), array.shape) == (name, (2, 3))
        back = hvd.as_tensor(array)
        assert (back.dtype, back.shape, back.data_ptr()) == (x.dtype, x.shape, x.data_ptr())
        array[0, 0] = 1
        assert x[0, 0] == 1
        assert hvd.as_tensor(hvd.as_array(x[0, 1])).shape == ()
        assert hvd.as_tensor(hvd.as_array(x[:0])).shape == (0, 3)
    assert current.kept == [current(torch.device("cuda", 1)).pointer] * 2, "an empty tensor has no memory to keep"


def test_work_is_queued_where_torch_s_current_stream_is(cupy, current):
    current.here.number = 2
    x = torch.ones(4)
    with streams.in_order(x):
        array = hvd.as_array(x)
        array += 1
    kernels = [record for record in cupy.machine.log if record.kind == "kernel"]
    assert {(record.device, record.stream) for record in kernels} == {(2, current(torch.device("cuda", 2)).pointer)}
    assert cupy.machine.device == 0 and cupy.cuda.get_current_stream().ptr == 0, "CuPy is as the user left it"


def other_streams(cupy, current, world, *kinds):
    """The streams of this rank's device, but for torch's current one, in which such work was; nothing was in the null stream."""
    log = [record for record in cupy.machine.log if record.device == world.rank]
    assert 0 not in {record.stream for record in log}
    return {record.stream for record in log if record.kind in kinds} - {current(torch.device("cuda", world.rank)).pointer}


def test_functions_and_their_derivatives(ranks, cupy, current):
    def body(world):
        def go():
            x = torch.full((3, 2), float(world.rank + 1), requires_grad=True)
            y = hvd.allreduce(x, "mean", world=world)
            z = hvd.allgather(y, world=world)
            (hvd.reduce_scatter(z, world=world).sum() + hvd.alltoall(z, world=world).sum()).backward()
            handle = hvd.allreduce_async(x.detach(), codec="fp16", world=world)
            values = [
                y,
                z,
                x.grad,
                handle.wait(),
                hvd.broadcast(x.detach(), 1, world=world),
                hvd.allreduce_(x.detach().clone(), "max", world=world),
            ]
            return [value.detach().clone() for value in values]

        expected = go()
        current.here.number = world.rank
        got = go()
        world.barrier()
        for one, other in zip(got, expected, strict=True):
            assert torch.equal(one, other)
        assert not other_streams(cupy, current, world, "kernel")

    ranks(2, body)


@pytest.mark.parametrize("codec", [None, "fp16", "topk:ratio=0.2"])
def test_training(ranks, cupy, current, codec):
    """Gradients lie in the device's buckets and are reduced there; the model is what it is on the host."""

    def trained(world):
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
        for i, p in enumerate(model.parameters()):  # torch's generator is one for all threads
            p.data = torch.linspace(-0.4, 0.5, p.numel()).roll(i).reshape(p.shape)
        model = hvd.DistributedDataParallel(model, codec, world=world, collective="ring", bucket_bytes=200)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        inputs = torch.arange(15.0).reshape(3, 5) * (world.rank + 1)
        for _ in range(4):
            optimizer.zero_grad()
            model(inputs).square().mean().backward()
            optimizer.step()
        model.check_replicas()
        return [p.detach().clone() for p in model.parameters()], model.report

    def body(world):
        expected, _ = trained(world)
        current.here.number = world.rank
        world.device = f"cuda:{world.rank}"
        got, report = trained(world)
        for one, other in zip(got, expected, strict=True):  # on the host flags travel along, so that fp16 cuts other chunks
            assert torch.allclose(one, other, rtol=0, atol=1e-2 if codec == "fp16" else 0)
        assert report.copies.copied > 0
        world.barrier()
        assert other_streams(cupy, current, world, "kernel", "wait event"), "the reducer has streams of its own"

    ranks(2, body)


def test_without_cupy_the_error_has_the_cure(monkeypatch, mode):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "hpcdl.arrays.device", raising=False)
    monkeypatch.setattr(tensors, "gpu_of", lambda x: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(None))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda x, stream: None)
    with pytest.raises(InvalidArgument, match=r"needs CuPy beside it .*cure: pip install 'hpcdl\[cuda12\]'"):
        hvd.as_array(torch.ones(3))


def test_on_the_host_nothing_of_cupy_is_touched(cupy, current):
    with own_stream(cupy, type("World", (), {"rank": 1})):
        before = len(cupy.machine.log)
        x = hvd.allreduce_(torch.ones(3), world=World.solo())
        assert torch.equal(x, torch.ones(3)) and len(cupy.machine.log) == before
