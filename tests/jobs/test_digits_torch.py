"""jobs/digits_torch.py: the short version, on one rank and on four."""

import re
import sys

import pytest
from harness.parts import framework
from harness.programs import JOBS, run

framework("torch")
pytestmark = pytest.mark.outer

DIGITS = JOBS / "digits_torch.py"


@pytest.mark.parametrize("n", [1, 4])
def test_accuracy(require, n):
    require("mpi")
    require("sklearn")
    done = run(sys.executable, "-m", "hpcdl.cli", "run", "-n", n, DIGITS)
    assert done.returncode == 0, done.stdout + done.stderr
    [(counted, accuracy)] = re.findall(r"^(\d) ranks: ([\d.]+)% of 297 test images right$", done.stdout, re.MULTILINE)
    assert int(counted) == n and float(accuracy) > 95
