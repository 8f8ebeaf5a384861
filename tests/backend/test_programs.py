"""torch.distributed over this backend and over gloo, side by side: every program in programs/, each case of it one test."""

from __future__ import annotations

import pytest
from harness.parts import framework

torch = framework("torch")

from .conftest import cases, ended  # noqa: E402

pytestmark = [pytest.mark.outer]

IN_ONE = ("collectives", "messages", "ddp", "sharded", "checkpoints", "edges")  # program


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in (*IN_ONE, "trouble") for case in cases(name)])
def test_case(passed, name, case) -> None:
    passed("every" if name in IN_ONE else name, case)


@pytest.mark.parametrize("case", ["accelerate", "lightning"])
def test_framework(passed, require, case) -> None:
    require(case)
    passed("frameworks", case)


@pytest.mark.parametrize("name", ["every", "trouble"])
def test_end(require, name) -> None:
    """The program ended well, on all ranks."""
    require("mpi")
    found = ended(name)
    assert found.code == 0, found.output[-4000:]
