"""What the programs here share: each case tells, on each rank, how it ended."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from typing import Any

import hpcdl.horovod.torch as hvd

warnings.filterwarnings("ignore")


def say(**told: Any) -> None:
    """One line that the test reads, at once, since ranks share the pipe."""
    os.write(1, f"\n@{json.dumps(told)}\n".encode())


def run(cases: dict[str, Any]) -> None:
    """Run every function of `cases` whose name begins with ``case_`` (or those named on the command line)."""
    hvd.init(process_sets="dynamic")
    for name, case in list(cases.items()):
        if not name.startswith("case_") or (sys.argv[1:] and name.removeprefix("case_") not in sys.argv[1:]):
            continue
        try:
            case()
        except BaseException as error:
            say(case=name.removeprefix("case_"), rank=hvd.rank(), error=f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            raise
        say(case=name.removeprefix("case_"), rank=hvd.rank(), error="")
