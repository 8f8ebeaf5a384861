"""`hpcdl run --as-horovod`: a script of Horovod's, unchanged."""

from __future__ import annotations

import re

import pytest
from harness.parts import framework

torch = framework("torch")

pytestmark = [pytest.mark.outer]


@pytest.mark.parametrize("options", [(), ("--fp16-allreduce",), ("--use-adasum",), ("--gradient-predivide-factor", "2.0")], ids=str)
def test_example(program, require, tmp_path, options) -> None:
    """It learns real digits, and all ranks end with the same weights."""
    require("sklearn")
    process = program("digits", *options, "--save", str(tmp_path / "weights"), options=("--as-horovod",))
    assert process.returncode == 0, process.stdout + process.stderr
    accuracy = [float(found) for found in re.findall(r"Accuracy: ([\d.]+)%", process.stdout)]
    assert len(accuracy) == 8 and accuracy[-1] > 80, process.stdout
    first, *others = (torch.load(tmp_path / f"weights.{rank}") for rank in range(4))
    for other in others:
        trained = [name for name in first if "norm" not in name or "weight" in name or "bias" in name]
        assert all(torch.equal(first[name], other[name]) for name in trained)


IMPORTS = """
import horovod
import horovod.torch as hvd
from horovod.common.process_sets import ProcessSet
from horovod.torch.compression import Compression
from horovod.torch.elastic.state import TorchState
from horovod.torch.mpi_ops import allreduce_async_, synchronize
import hpcdl.horovod.torch
assert hvd is hpcdl.horovod.torch and horovod.__version__ == "0.28.1" and hvd.__spec__.name == "hpcdl.horovod.torch"
assert hvd.ProcessSet is ProcessSet and hvd.Compression is Compression and hvd.elastic.TorchState is TorchState
try:
    import horovod.spark
except ModuleNotFoundError as error:
    assert "horovod.spark has no counterpart" in str(error)
else:
    raise AssertionError
print("all found")
"""


def test_imports(require, tmp_path) -> None:
    """Also from inside Horovod's modules, and an error for what is not here."""
    require("mpi")
    import sys

    from harness.programs import run

    script = tmp_path / "imports.py"
    script.write_text(IMPORTS)
    process = run(sys.executable, "-m", "hpcdl.cli", "run", "-np", "1", "--as-horovod", script)
    assert process.stdout.count("all found") == 1, process.stdout + process.stderr
