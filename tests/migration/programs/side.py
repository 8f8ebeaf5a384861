"""What the programs here share: each case tells, on each rank, how it ended."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import hpcdl.horovod.torch as hvd

sys.path.append(str(Path(__file__).parents[2]))
from harness.tell import joined, raises, tell

__all__ = ["joined", "raises", "run"]

warnings.filterwarnings("ignore")


def run(cases: dict[str, Any]) -> None:
    """Every case."""
    hvd.init(process_sets="dynamic")
    tell(cases, hvd.rank())
