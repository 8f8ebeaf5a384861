"""Keras on each of its backends, for real: every program in programs/, each case of it one test."""

from __future__ import annotations

import pytest

from .conftest import BACKENDS, cases, ended, there

pytestmark = [pytest.mark.outer]

PROGRAMS = ("training", "ways", "own", "sharing", "resuming", "telling")


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in PROGRAMS for case in cases(name)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_case(passed, backend, name, case) -> None:
    passed("every", backend, case)


@pytest.mark.parametrize("backend", BACKENDS)
def test_end(require, backend) -> None:
    """The programs ended well, on all ranks."""
    there(backend, require)
    found = ended("every", backend)
    assert found.code == 0, found.output[-4000:]
