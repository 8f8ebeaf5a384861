"""When one rank goes wrong: all end, soon, and all know why."""

from __future__ import annotations

import re

import pytest
from harness.parts import framework
from harness.programs import python

framework("torch")

pytestmark = pytest.mark.outer

BEGINNING = """
import torch, hpcdl.torch as ht
world = ht.init(timeout=20)
model = ht.DDP(torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 3)))
for step in range(3):
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(world.rank))
"""


def train(tmp_path, ending: str, ranks: int = 3) -> tuple[int, str]:
    script = tmp_path / "train.py"
    script.write_text(BEGINNING + ending)
    ended = python("-m", "hpcdl.cli", "run", "-n", ranks, script)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_rank_that_raises_in_forward(tmp_path, require) -> None:
    require("mpi")
    code, output = train(
        tmp_path,
        """
    if world.rank == 1 and step == 1:
        x = x[:, :2]
    model(x).sum().backward()
""",
    )
    assert code == 1
    assert re.search(r"rank 1 of 3 raised:\nTraceback[\s\S]*RuntimeError: (addmm: )?mat1 and mat2 shapes cannot be multiplied", output), (
        output
    )
    assert re.search(
        r"ranks 0, 2 of 3, after that: \S*PeerLost: rank 1 of 3 raised RuntimeError: .*\(train.py:\d+ … linear.py:\d+\)", output
    )


def test_a_rank_that_makes_one_step_less(tmp_path, require) -> None:
    require("mpi")
    code, output = train(
        tmp_path,
        """
    if world.rank == 2 and step == 2:
        break
    model(x).sum().backward()
""",
    )
    assert code != 0
    assert re.search(r"PeerLost: .*rank 2 .*ranks 0-1 in operation \d+, allreduce\(mean, .*'bucket 0'", output), output


def test_ranks_that_call_different_operations(tmp_path, require) -> None:
    require("mpi")
    code, output = train(
        tmp_path,
        """
    if step == 1:
        (world.barrier if world.rank == 1 else model.check_replicas)()
    model(x).sum().backward()
""",
    )
    assert code != 0
    assert re.search(r"Mismatch: ranks disagree on operation \d+ of the world: ranks 0, 2: allgather\(.*; rank 1: barrier\(\)", output), (
        output
    )
