"""jobs/train_torch.py: ended in the midst, the same command line goes on to the same end."""

import re
import sys

import pytest
from harness.parts import framework
from harness.programs import JOBS, run, started

import hpcdl

framework("torch")
pytestmark = pytest.mark.outer


def test_ended_and_started_again(require, tmp_path):
    require("mpi")
    require("sklearn")

    def words(folder):
        return [sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, JOBS / "train_torch.py", "--checkpoint", tmp_path / folder]

    alike = {"HPCDL_CALIBRATE": "off"}  # else another process may choose other collectives, which round elsewhere
    whole = run(*words("whole"), **alike)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    epochs = re.findall(r"^epoch (\d+): ([\d.]+)% of 297 test images right$", whole.stdout, re.MULTILINE)
    assert [int(number) for number, _ in epochs] == list(range(1, 21)) and float(epochs[-1][1]) > 94

    seen = []
    with started(*words("part"), **alike) as job:
        for line in job.stdout:
            seen.append(line)
            if line.startswith("epoch 7:"):
                job.terminate()
    assert job.returncode == hpcdl.REQUEUE and "all ranks stop after step" in "".join(seen), seen
    rest = run(*words("part"), **alike)
    assert rest.returncode == 0, rest.stdout + rest.stderr
    lines = rest.stdout.splitlines()
    assert 0 < len(lines) <= 13 and lines == whole.stdout.splitlines()[-len(lines) :], ("".join(seen), rest.stdout, whole.stdout)
    again = run(*words("part")[:5], 3, *words("part")[6:])  # all is done; on another number of ranks
    assert again.returncode == 0 and not again.stdout, again.stdout + again.stderr
