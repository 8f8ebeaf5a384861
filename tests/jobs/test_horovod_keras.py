"""jobs/horovod_keras.py: a script of Horovod's, unchanged, on four ranks."""

import importlib.util
import re
import sys

import pytest
from harness.programs import JOBS, run

pytestmark = pytest.mark.outer


def test_accuracy(require, tmp_path):
    found = [importlib.util.find_spec(part) for part in ("keras", "tensorflow")]
    for part in ("mpi", "sklearn", *([] if all(found) else ["keras", "tensorflow"])):
        require(part)
    script = JOBS / "horovod_keras.py"
    assert "hpcdl" not in script.read_text().split('"""', 2)[2]
    settings = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = run(sys.executable, "-m", "hpcdl.cli", "run", "--as-horovod", "-np", 4, script, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    told = re.findall(r"rank (\d) of 4: ([\d.]+)% of 297 test images right$", done.stdout, re.MULTILINE)
    assert sorted(rank for rank, _ in told) == list("0123"), done.stdout
    assert len({accuracy for _, accuracy in told}) == 1 and float(told[0][1]) > 95, told
