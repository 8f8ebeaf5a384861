"""Horovod's PyTorch interface: every program in programs/, each case of it one test."""

from __future__ import annotations

import pytest
from harness.parts import framework

torch = framework("torch")

from .conftest import cases, ended  # noqa: E402

pytestmark = [pytest.mark.outer]

IN_ONE = ("tensors", "training")  # program


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in (*IN_ONE, "feedback") for case in cases(name)])
def test_case(passed, name, case) -> None:
    passed("every" if name in IN_ONE else name, case)


@pytest.mark.parametrize("name", ["every", "feedback"])
def test_end(require, name) -> None:
    """The program ended well, on all ranks."""
    require("mpi")
    found = ended(name)
    assert found.code == 0, found.output[-4000:]
