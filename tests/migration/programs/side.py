"""What the programs here share: each case tells, on each rank, how it ended."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hpcdl.horovod.torch as hvd

sys.path.append(str(Path(__file__).parents[2]))
from harness.tell import tell

warnings.filterwarnings("ignore")


def raises(kind: type[Exception], call: Callable[[], object]) -> str:
    """What `call` raises; it must be a `kind`."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def run(cases: dict[str, Any]) -> None:
    """Every case."""
    hvd.init(process_sets="dynamic")
    tell(cases, hvd.rank())
