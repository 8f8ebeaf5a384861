"""`hpcdl run --as-horovod`: a script of Horovod's, unchanged."""

from __future__ import annotations

import sys

import pytest
from harness.parts import framework
from harness.programs import python, run

torch = framework("torch")

pytestmark = [pytest.mark.outer]


IMPORTS = '''
import importlib
import multiprocessing

import horovod
import horovod.torch as hvd
from horovod.common.process_sets import ProcessSet
from horovod.torch.compression import Compression
from horovod.torch.elastic.state import TorchState
from horovod.torch.mpi_ops import allreduce_async_, synchronize
import hpcdl.horovod.torch
assert hvd is hpcdl.horovod.torch and horovod.__version__ == "0.28.1" and hvd.__spec__.name == "hpcdl.horovod.torch"
assert hvd.ProcessSet is ProcessSet and hvd.Compression is Compression and hvd.elastic.TorchState is TorchState
for missing in ("horovod.spark", "horovod.common.util"):
    try:
        importlib.import_module(missing)
    except ModuleNotFoundError as error:
        assert f"{missing} has no counterpart in hpcdl.horovod" in str(error)
    else:
        raise AssertionError(missing)


def inside(_):
    """What a worker that is started anew finds."""
    return hvd.__name__


if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(inside, [0]) == ["hpcdl.horovod.torch"]
    print("all found")
'''


def test_forgotten(tmp_path, require) -> None:
    """Without the option: how it is spelled."""
    require("mpi")
    script = tmp_path / "train.py"
    script.write_text("import sys\nsys.modules['horovod'] = None  # as where it is not installed\nimport horovod.torch\n")
    ended = python("-m", "hpcdl.cli", "run", "-n", 1, script)
    assert ended.returncode == 1 and "cure: `hpcdl run --as-horovod` runs a script of Horovod's without Horovod" in ended.stderr, (
        ended.stderr
    )


@pytest.mark.parametrize("start", [("hpcdl.cli", "run", "-np", "1", "--as-horovod"), ("hpcdl.horovod",)], ids=lambda words: words[0])
def test_imports(require, tmp_path, start) -> None:
    """Also from inside Horovod's modules and in processes that the script starts; an error for what is not here."""
    require("mpi")
    script = tmp_path / "imports.py"
    script.write_text(IMPORTS)
    process = run(sys.executable, "-m", *start, script)
    assert process.stdout.count("all found") == 1, process.stdout + process.stderr


def test_idioms(idioms) -> None:
    """What Horovod's users write around it runs, and leaves the ranks equal: all of them, or those of a process set."""
    found = idioms("--as-horovod")
    assert len(found) == 8 * 4
    for name, rank in found:
        first = rank % 2 if name == "halves" else 0
        assert found[name, rank] == found[name, first], (name, rank)
