"""Programs whose cases are tests: a case that fails does not hide those behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cases import Programs

PROGRAM = """
import sys
sys.path.append({tests!r})
import numpy as np
import hpcdl
from harness.tell import tell

world = hpcdl.init()
print("launched", flush=True)

def case_first(): world.barrier()
def case_second():
    if world.rank == 1:
        raise ValueError("of rank 1 alone")
    world.barrier()
def case_third(): world.barrier()
def case_fourth(): assert world.allreduce(np.ones(1))[0] == 3
def case_fifth(): world.barrier()

tell(globals(), world.rank)
"""


@pytest.mark.outer
def test_a_failing_case_hides_no_other(require, tmp_path) -> None:
    require("mpi")
    (tmp_path / "program.py").write_text(PROGRAM.format(tests=str(Path(__file__).parents[1])))
    programs = Programs(tmp_path, ranks=2)
    found = programs.ended("program")
    assert list(found.told) == programs.cases("program") == ["first", "second", "third", "fourth", "fifth"]
    for case in ("first", "third", "fifth"):
        programs.check("program", case)
    with pytest.raises(AssertionError, match="rank 1: ValueError: of rank 1 alone"):
        programs.check("program", "second")
    with pytest.raises(AssertionError, match="rank 0: AssertionError"):
        programs.check("program", "fourth")
    assert found.code != 0 and found.output.count("launched") == 2 * 3
