"""What the double offers, CuPy offers under the same names, with the same parameters. Needs CuPy, but no GPU."""

import importlib.util
import inspect
import re

import numpy as np
import pytest
from harness.parts import require

from device.conftest import installed
from device.fake_cupy import Machine


@pytest.fixture
def both():
    """The double and the real one."""
    missing = "" if importlib.util.find_spec("cupy") else "it is not installed (pip install '.[cuda12]'; a GPU is not needed)"
    require("cupy", missing)
    import cupy as real

    with installed(Machine()) as double:
        pass
    return double, real


def names(thing):
    return [name for name in vars(thing) if not name.startswith("_") and name not in ("machine", "base")]


def parameters(function):
    """Names of parameters, from the signature or, for compiled code, from the first line of the docstring."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        line = (function.__doc__ or "").split("\n")[0]
        found = re.search(r"\((.*)\)", line)
        return [re.sub(r"[=:].*", "", part).split()[-1].strip("*") for part in found[1].split(",") if part.strip()] if found else None


def check(double, real, place):
    assert hasattr(real, place), f"CuPy has no {place}"
    mine, theirs = getattr(double, place), getattr(real, place)
    if not inspect.isroutine(mine):
        return
    known = parameters(theirs)
    if known is None or "ufunc" in type(theirs).__name__:
        return
    for name in parameters(mine):
        assert name in known or name in ("args", "self"), f"CuPy's {place} has no parameter {name}; it has {known}"


def test_module(both):
    double, real = both
    for name in names(double):
        check(double, real, name)


def test_ndarray(both):
    double, real = both
    for name in names(double.ndarray.__mro__[1]):
        check(double.ndarray, real.ndarray, name)


def test_cuda(both):
    double, real = both
    for name in names(double.cuda):
        check(double.cuda, real.cuda, name)
    for name in names(double.cuda.compiler):
        check(double.cuda.compiler, real.cuda.compiler, name)
    for name in names(double.cuda.Module.__mro__[1]):
        check(double.cuda.Module, real.cuda.Module, name)
    for name in names(double.cuda.runtime):
        check(double.cuda.runtime, real.cuda.runtime, name)
    for kind in ("Stream", "Event", "Device"):
        for name in names(getattr(double.cuda, kind).__mro__[1]):
            if name not in ("place", "null"):
                check(getattr(double.cuda, kind), getattr(real.cuda, kind), name)


def test_nccl(both):
    """Needs the library of NCCL too (pip install nvidia-nccl-cu12), and no GPU: names, values, parameters, and what an identity is."""
    import importlib
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        real = importlib.import_module("cupy.cuda.nccl")
    if not real.available:
        pytest.skip("the library of NCCL is not installed (pip install nvidia-nccl-cu12)")
    with installed(Machine(nccl=True)) as double:
        mine = double.cuda.nccl
    for name in names(mine):
        check(mine, real, name)
        if name.startswith("NCCL_"):
            assert getattr(mine, name) == getattr(real, name), name
    for name in names(mine.NcclCommunicator.__mro__[1]):
        check(mine.NcclCommunicator, real.NcclCommunicator, name)
        theirs = parameters(getattr(real.NcclCommunicator, name))
        if theirs:
            ours = parameters(getattr(mine.NcclCommunicator, name))
            assert ours == theirs, name
    assert parameters(mine.NcclCommunicator)[:3] == ["ndev", "commId", "rank"] == parameters(real.NcclCommunicator)[:3]
    assert len(real.get_unique_id()) == len(mine.get_unique_id()) == 128
    assert type(real.get_unique_id()) is type(mine.get_unique_id()) is bytes
    with pytest.raises(TypeError):
        real.NcclCommunicator(1, tuple(range(128)), 0)
    with pytest.raises(TypeError):
        mine.NcclCommunicator(1, tuple(range(128)), 0)
    error = real.NcclError(5)
    assert type(mine.NcclError(5)).__name__ == type(error).__name__ and error.status == 5
    assert str(error).split(":")[0] == str(mine.NcclError(5)).split(":")[0]


def test_errors_of_cuda(both):
    from device.fake_cupy.machine import ERRORS, CUDARuntimeError

    _, real = both
    for name, status in ERRORS.items():
        error = real.cuda.runtime.CUDARuntimeError(status)
        assert str(error).split(":")[0] == name == str(CUDARuntimeError(status)).split(":")[0]
        assert error.status == status and isinstance(error, RuntimeError)


def test_an_event_of_a_device_in_trouble_is_not_done_and_says_why_when_asked(both):
    """CuPy raises nothing there: what CUDA says is a number. Without a driver every event is in trouble."""
    double, real = both
    double.cuda.Event.machine.driver = "cudaErrorInsufficientDriver"
    for cupy in (double, real):
        event = cupy.cuda.Event.__new__(cupy.cuda.Event)
        event.ptr = 0
        if cupy is double:
            event._place = double.machine._queues[0, 0], 1
            double.machine.events[0] = event
        elif real.is_available():
            pytest.skip("the driver is there, and no event in trouble")
        assert event.done is False
        assert cupy.cuda.runtime.eventQuery(0) not in (0, 600)


VIEWS = ["a[3:9]", "a[0]", "a[None]", "a[:, None]", "a[5:5]", "a[...]", "a.T", "next(iter(a.reshape(2, -1)))", "a.view('bfloat16')"]
VIEWS += ["a[4:68].view('<f4')", "a[1:4].view('f4')", "a[0].view('u1')", "a[:0].view('f4')", "a[2:6].view('u4')[0]"]
VIEWS += ["a.reshape(-1, 4)", "a.reshape(-1, 4).T", "a.reshape(-1, 4)[:, :2]", "a.reshape(3, -1)", "a[:0].reshape(-1)"]
VIEWS += ["a.reshape(-1, 4).view('i8')", "a.reshape(-1, 128)[1][3:5]"]


@pytest.mark.parametrize("text", VIEWS)
def test_views(both, text):
    """Shape, dtype, contiguity and owner of views, or the kind of error; CuPy makes views without a GPU."""
    import ml_dtypes

    double, real = both
    memory = np.zeros(256, "u1")
    pointer = real.cuda.MemoryPointer(real.cuda.UnownedMemory(memory.ctypes.data, 256, memory, 0), 0)
    text = text.replace("'bfloat16'", "bf")

    def look(a):
        try:
            view = eval(text, {"a": a, "bf": np.dtype(ml_dtypes.bfloat16)})
        except Exception as error:
            return type(error)
        return view.shape, view.dtype, view.flags.c_contiguous, view.base is a, view.strides, view.size, view.nbytes, view.ndim

    assert look(double.ndarray(256, "u1")) == look(real.ndarray(256, "u1", memptr=pointer))
