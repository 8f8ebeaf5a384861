"""jobs/train_numpy.py: warned in the midst, it leaves with the code for a requeue; the same command line goes on to the same end."""

import signal
import sys

import pytest
from harness.programs import JOBS, run, started

from hpcdl.errors import REQUEUE

pytestmark = pytest.mark.outer


def test_warned_and_started_again(require, tmp_path):
    require("mpi")

    def words(folder, epochs=12):
        script = [JOBS / "train_numpy.py", "--epochs", epochs, "--checkpoint", tmp_path / folder, "--codec", "fp16"]
        return [sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, *script]

    alike = {"HPCDL_CALIBRATE": "off"}  # else another process may choose other collectives, which round elsewhere
    whole = run(*words("whole"), **alike)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    lines = whole.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {i}" for i in range(1, 13)] and "100.00% of 800" in lines[-1]
    with started(*words("part"), **alike) as job:
        for line in job.stdout:
            if line.startswith("epoch 2:"):
                job.send_signal(signal.SIGUSR1)
    assert job.returncode == REQUEUE
    rest = run(*words("part"), **alike)
    assert rest.returncode == 0, rest.stdout + rest.stderr
    found = rest.stdout.splitlines()
    assert 0 < len(found) < 11 and found == lines[-len(found) :], rest.stdout
