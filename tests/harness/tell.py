"""How the ranks of a program tell of its cases, and how the test hears it. The programs import this: standard library only."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def say(**told: Any) -> None:
    """One line that the test reads, at once, since ranks share the pipe."""
    os.write(1, f"\n@{json.dumps(told)}\n".encode())


def tell(cases: dict[str, Any], rank: int, *given: Any, after: Callable[[], object] = lambda: None) -> None:
    """Run every function of `cases` whose name begins with ``case_`` (or those named on the command line), and `after` behind each."""
    for name, case in list(cases.items()):
        short = name.removeprefix("case_")
        if short == name or (sys.argv[1:] and short not in sys.argv[1:]):
            continue
        try:
            case(*given)
        except BaseException as error:
            say(case=short, rank=rank, error=f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            raise
        say(case=short, rank=rank, error="")
        after()


def heard(output: str) -> tuple[dict[str, dict[int, str]], str]:
    """What each rank told of each case, and the other lines."""
    told: dict[str, dict[int, str]] = {}
    rest = []
    for line in output.splitlines():
        if line.startswith("@{"):
            said = json.loads(line[1:])
            told.setdefault(said["case"], {})[said["rank"]] = said["error"]
        elif line.strip():
            rest.append(line)
    return told, "\n".join(rest)
