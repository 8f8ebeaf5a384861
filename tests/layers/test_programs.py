"""Keras on each of its backends, for real: every program in programs/, each case of it one test."""

from __future__ import annotations

import pytest

from .conftest import BACKENDS, cases, ended, there

pytestmark = [pytest.mark.outer]

PROGRAMS = ("training", "ways", "sharing", "telling")


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in PROGRAMS for case in cases(name)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_case(passed, backend, name, case) -> None:
    passed(name, backend, case)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_end(require, backend, name) -> None:
    """The program ended well, on all ranks."""
    there(backend, require)
    found = ended(name, backend)
    assert found.code == 0, found.output[-4000:]
