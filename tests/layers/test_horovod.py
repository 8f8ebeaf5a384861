"""Horovod's fronts for Keras and TensorFlow: every program, each case of it one test."""

from __future__ import annotations

import pytest

from .conftest import BACKENDS, cases, ended, there

pytestmark = [pytest.mark.outer]

RUNS = [*(("migrated", backend) for backend in BACKENDS), ("graphs", "tensorflow")]


@pytest.mark.parametrize(("name", "backend", "case"), [(*one, case) for one in RUNS for case in cases(one[0])])
def test_case(passed, name, backend, case) -> None:
    passed(name, backend, case)


@pytest.mark.parametrize(("name", "backend"), RUNS)
def test_end(require, name, backend) -> None:
    """The program ended well, on all ranks."""
    there(backend, require)
    found = ended(name, backend)
    assert found.code == 0, found.output[-4000:]


def test_adasum(program) -> None:
    """On two ranks."""
    done = program("pairs", "tensorflow", n=2)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
