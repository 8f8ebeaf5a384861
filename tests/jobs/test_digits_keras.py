"""jobs/digits_keras.py: the short version, on each backend of Keras: ended in the midst, the same command line goes on to the same end."""

import importlib.util
import re
import sys

import pytest
from harness.programs import JOBS, run, started

import hpcdl

pytestmark = pytest.mark.outer


def losses(text):
    """By epoch, as far as they are told."""
    return dict(re.findall(r"^Epoch (\d+)/20\n(?:(?!Epoch).*\n)*?.*\bloss: ([\d.e-]+)", text, re.MULTILINE))


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_ended_and_started_again(require, tmp_path, backend):
    for part in (
        "mpi",
        "sklearn",
        *([] if importlib.util.find_spec("keras") and importlib.util.find_spec(backend) else ["keras", backend]),
    ):
        require(part)
    settings = {"KERAS_BACKEND": backend, "KERAS_HOME": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings["HPCDL_CALIBRATE"] = "off"  # else another process may choose other collectives, which round elsewhere
    words = [sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, JOBS / "digits_keras.py", tmp_path / "part"]

    seen = []
    with started(*words, **settings) as job:
        for line in job.stdout:
            seen.append(line)
            if line.startswith("Epoch 3/20"):
                job.terminate()
    assert job.returncode == hpcdl.REQUEUE, "".join(seen)
    rest = run(*words, **settings)
    assert rest.returncode == 0 and not (tmp_path / "part").exists(), rest.stdout + rest.stderr
    [(counted, accuracy)] = re.findall(r"^(\d) ranks: ([\d.]+)% of 297 test images right$", rest.stdout, re.MULTILINE)
    assert int(counted) == 2 and float(accuracy) > 94
    first, last = losses("".join(seen)), losses(rest.stdout)
    assert list({**first, **last}) == [str(epoch) for epoch in range(1, 21)] and len(last) < 20, (seen, rest.stdout)

    if backend == "jax":  # the quickest; bit by bit, and on all of them: tests/layers
        whole = run(*words[:-1], tmp_path / "whole", **settings)
        assert losses(whole.stdout) == {**first, **last}, (whole.stdout + whole.stderr, seen, rest.stdout)
