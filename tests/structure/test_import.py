"""What importing a module of hpcdl brings along: neither MPI nor CuPy nor a framework."""

import subprocess
import sys

import pytest

from structure.rules import PLACES

MODULES = ("hpcdl", "hpcdl.world", "hpcdl.transport.threads", "hpcdl.reduction.reducer", "hpcdl.numpy", "hpcdl.cli")
PROBE = "import sys, {module}; print(*sorted(set({heavy!r}) & set(sys.modules)))"


@pytest.mark.parametrize("module", MODULES)
def test_light_import(module):
    child = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module, heavy=sorted(PLACES))], capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [], f"`import {module}` has imported {child.stdout}"
