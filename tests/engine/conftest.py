"""Programs with a real Horovod in their processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.cases import Programs

launch = Programs(Path(__file__).parent / "programs", ranks=2).launch


@pytest.fixture
def program(require):
    """`launch`, where MPI and Horovod are there."""
    require("mpi")
    require("horovod")
    return launch
