"""jobs/horovod_torch.py: a script in Horovod's style, unchanged, with its options; and on the real Horovod, where it is installed."""

import re
import sys

import pytest
from harness.parts import framework
from harness.programs import JOBS, run

framework("torch")
pytestmark = pytest.mark.outer


def accuracies(*words, n=2, options=("--as-horovod",)):
    """The accuracy after each epoch, in percent, on n ranks whose weights stay equal."""
    done = run(sys.executable, "-m", "hpcdl.cli", "run", *options, "-np", n, JOBS / "horovod_torch.py", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"{n} ranks: their weights differ by 0\n"), done.stdout
    return [float(found) for found in re.findall(r"^Test set: .* accuracy: ([\d.]+)%$", done.stdout, re.MULTILINE)]


@pytest.fixture(autouse=True)
def _parts(require):
    require("mpi")
    require("sklearn")


def test_accuracy_and_resuming(tmp_path):
    found = accuracies("--checkpoint", tmp_path / "last", n=4)
    assert len(found) == 8 and found[-1] > 95
    again = accuracies("--checkpoint", tmp_path / "last", "--epochs", 9)
    assert len(again) == 1 and again[-1] > 95


@pytest.mark.parametrize("options", [("--fp16-allreduce", "--gradient-predivide-factor", 2), ("--use-adasum",)], ids=str)
def test_options(options):
    assert accuracies(*options)[-1] > 95


def test_the_real_one():
    """It learns there what it learns here."""
    framework("horovod.torch")
    assert accuracies(options=()) == pytest.approx(accuracies(), abs=1)
