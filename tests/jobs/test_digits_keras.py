"""jobs/digits_keras.py: the short version, on each backend of Keras."""

import importlib.util
import re
import sys

import pytest
from harness.programs import JOBS, run

pytestmark = pytest.mark.outer


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_accuracy(require, tmp_path, backend):
    for part in (
        "mpi",
        "sklearn",
        *([] if importlib.util.find_spec("keras") and importlib.util.find_spec(backend) else ["keras", backend]),
    ):
        require(part)
    settings = {"KERAS_BACKEND": backend, "KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = run(sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, JOBS / "digits_keras.py", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    [(counted, accuracy)] = re.findall(r"^(\d) ranks: ([\d.]+)% of 297 test images right$", done.stdout, re.MULTILINE)
    assert int(counted) == 2 and float(accuracy) > 94
