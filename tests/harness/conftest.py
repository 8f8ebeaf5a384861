"""Fixtures of the harness's own tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.nested import Suite, make_suite


@pytest.fixture
def suite(tmp_path: Path) -> Callable[[str], Suite]:
    """`suite(source)`: a suite of one file."""

    def make(source: str) -> Suite:
        folder = tmp_path / "suite"
        folder.mkdir()
        return make_suite(folder, source)

    return make
