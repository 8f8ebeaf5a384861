"""`cupy.cuda.Module`: CUDA C++ that runs on this processor, compiled by g++ with cuda_on_host.hpp. Nothing of it is translated by hand."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import kernels
from .machine import Machine
from .missing import Namespace

_KERNEL = re.compile(r'extern "C" __global__ void (\w+)\(([^)]*)\)')
_HEADER = Path(__file__).with_name("cuda_on_host.hpp")
_FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing", "-w", "-U_FORTIFY_SOURCE")
_NUMBERS = {"i64": np.int64, "u64": np.uint64, "u32": np.uint32, "int": np.int32, "float": np.float32}


def why_no_compiler() -> str:
    """Why kernels cannot run here; "" if they can."""
    return "" if shutil.which("g++") else "the double runs CUDA kernels through g++, which is not installed"


@functools.cache
def _compiled(code: str) -> ctypes.PyDLL:
    """The library of a source, made once on this machine. PyDLL: it keeps the GIL, since fibers are one process's own."""
    parts = [f'#include "{_HEADER}"', code]
    for name, parameters in _KERNEL.findall(code):
        types = [parameter.strip().rpartition(" ")[0] for parameter in parameters.split(",")]
        values = ", ".join(f"*({kind}*)a[{i}]" for i, kind in enumerate(types))
        call = f"return on_host::run(grid, threads, [&] {{ {name}({values}); }});"
        parts.append(f'extern "C" const char* run_{name}(unsigned grid, unsigned threads, void** a) {{ {call} }}')
    source = "\n".join(parts)
    digest = hashlib.sha256((source + _HEADER.read_text() + " ".join(_FLAGS)).encode()).hexdigest()[:24]
    library = Path(tempfile.gettempdir(), f"hpcdl-kernels-{os.getuid()}", f"{digest}.so")
    if not library.exists():
        library.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            file, made = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            file.write_text(source)
            done = subprocess.run(["g++", *_FLAGS, "-o", made, file], check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"the kernels do not compile:\n{done.stderr}")
            made.replace(library)
    return ctypes.PyDLL(str(library))


def build(machine: Machine) -> dict[str, Any]:
    """What `cupy.cuda` has of it."""
    compiler = Namespace("cupy.cuda.compiler", compile_using_nvrtc=compile_using_nvrtc)
    return {"Module": type("Module", (Module,), {"machine": machine}), "compiler": compiler}


def compile_using_nvrtc(source: str, options: tuple[str, ...] = ()) -> tuple[bytes, None]:
    """What `Module.load` takes: here the source."""
    assert "--fmad=false" in options, "contracted sums have other bits than those of a CPU"
    return source.encode(), None


class Module:
    """Kernels of one source, on one device."""

    machine: Machine

    def __init__(self) -> None:
        self._device = self.machine.device

    def load(self, cubin: bytes) -> None:
        """Make its kernels known."""
        self._code = cubin.decode()
        self._parameters = {name: parameters.split(",") for name, parameters in _KERNEL.findall(self._code)}

    def get_function(self, name: str) -> Callable[..., None]:
        """The kernel of that name, to be called with (grid, block, args)."""
        kinds = [parameter.strip().rpartition(" ")[0] for parameter in self._parameters[name]]

        def launch(grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
            assert self.machine.device == self._device, "a kernel that was loaded into another device"
            assert len(grid) == len(block) == 1 and 0 < grid[0] < 2**31 and 0 < block[0] <= 1024, (grid, block)
            if len(args) != len(kinds):
                raise TypeError(f"{name} takes {len(kinds)} arguments, got {len(args)}")
            cells = [_cell(self.machine, name, kind, arg) for kind, arg in zip(kinds, args, strict=True)]

            def work() -> None:
                function = getattr(_compiled(self._code), f"run_{name}")
                function.restype = ctypes.c_char_p
                values = [np.asarray(cell) for cell in cells]  # on this stack while the kernel runs
                pointers = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
                wrong = function(grid[0], block[0], pointers)
                if wrong:
                    raise RuntimeError(f"kernel {name}: {wrong.decode()}")

            work.keep = args  # type: ignore[attr-defined]  # arrays whose memory it uses
            kernels.submit(self.machine, "kernel", name, work)

        return launch


def _cell(machine: Machine, name: str, kind: str, arg: Any) -> np.generic:
    """What lies in the kernel's parameter. CuPy copies a scalar's bytes, whatever the parameter's type: so it must be the right one."""
    if kind.endswith("*"):
        if kernels.is_array(arg):
            kernels.check(machine, name, arg)
            if not arg._memory.flags.c_contiguous:
                raise ValueError(f"{name}: an array that is not contiguous")
            return np.uint64(arg.data.ptr)
        if isinstance(arg, np.uint64 | np.int64 | np.intp) and arg == 0:
            return np.uint64(0)
    elif type(arg) is _NUMBERS[kind]:
        return arg  # type: ignore[no-any-return]
    raise TypeError(f"{name}: {arg!r} ({type(arg).__name__}) for a parameter of type {kind}")
