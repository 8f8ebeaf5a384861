"""benchmarks/netlab for tests: hosts with names, memory and interfaces of their own on this machine."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

NETLAB = Path(__file__).parents[2] / "benchmarks" / "netlab"


@functools.cache
def lab_module() -> ModuleType:
    """netlab's module `lab`, which is a program's and thus not on Python's path."""
    spec = importlib.util.spec_from_file_location("netlab_lab", NETLAB / "lab.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def why_no_lab() -> str:
    """Why no lab can be built here; "" if one can."""
    return str(lab_module().why_not())
