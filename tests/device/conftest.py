"""The fixture `cupy`: the double in the place of the real one, gone without a trace after the test."""

import sys

import pytest
from harness.parts import require

import hpcdl.arrays
from device.fake_cupy import Machine, build
from device.fake_cupy.raw import why_no_compiler


@pytest.fixture
def mode(request):
    """When the fake device works: as late as it may ("deferred"), or at once ("eager"), where a test asks for that."""
    return getattr(request, "param", "deferred")


@pytest.fixture
def cupy(mode):
    """The double, as `import cupy` gives it. After the test: nothing was converted to the host implicitly."""
    require("g++", why_no_compiler())
    with installed(Machine(deferred=mode == "deferred")) as module:
        yield module
    assert not module.machine.implicit, module.machine.implicit


class installed:  # noqa: N801  (a context manager, used like a function)
    """`cupy` is a double on `machine` meanwhile, for hpcdl too."""

    def __init__(self, machine):
        self.module = build(machine)

    def __enter__(self):
        self.before = {name: sys.modules.pop(name, None) for name in ("cupy", "cupy.cuda", "cupy.cuda.nccl", "hpcdl.arrays.device")}
        sys.modules["cupy"] = self.module
        sys.modules["cupy.cuda"] = self.module.cuda
        if self.module.machine.nccl:
            sys.modules["cupy.cuda.nccl"] = self.module.cuda.nccl
        return self.module

    def __exit__(self, *_):
        hpcdl.arrays.__dict__.pop("device", None)
        for name, module in self.before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
        if self.before["hpcdl.arrays.device"] is not None:
            hpcdl.arrays.device = self.before["hpcdl.arrays.device"]
