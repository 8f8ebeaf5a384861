"""How the ranks of a program tell of its cases, and how the test hears it. The programs import this: standard library only."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any


def say(**told: Any) -> None:
    """One line that the test reads, at once, since ranks share the pipe."""
    os.write(1, f"\n@{json.dumps(told)}\n".encode())


def tell(cases: dict[str, Any], rank: int, *given: Any, after: Callable[[], object] = lambda: None) -> None:
    """Run every function of `cases` whose name begins with ``case_`` (or those named on the command line), and `after` behind each.

    A case that raises ends the program: the other ranks may be waiting for this one.
    """
    found = {name.removeprefix("case_"): case for name, case in cases.items() if name.startswith("case_")}
    chosen = [short for short in found if not sys.argv[1:] or short in sys.argv[1:]]
    say(cases=chosen)
    for short in chosen:
        try:
            found[short](*given)
        except BaseException as error:
            say(case=short, rank=rank, error=f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
            raise
        say(case=short, rank=rank, error="")
        after()


def joined(*programs: ModuleType) -> dict[str, Any]:
    """The cases of several programs, for one process. Of two with one name the first would never run."""
    cases = [(name, case) for program in programs for name, case in vars(program).items() if name.startswith("case_")]
    names = [name for name, _ in cases]
    assert len({*names}) == len(names), f"cases of one name: {sorted({name for name in names if names.count(name) > 1})}"
    return dict(cases)


def raises(kind: type[Exception], call: Callable[[], object]) -> str:
    """What `call` raises; it must be a `kind`."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def heard(output: str) -> tuple[dict[str, dict[int, str]], str]:
    """What each rank told of each case, in the order of the cases, and the other lines."""
    told: dict[str, dict[int, str]] = {}
    rest = []
    for line in output.splitlines():
        if line.startswith("@{"):
            said = json.loads(line[1:])
            for case in said.get("cases", ()):
                told.setdefault(case, {})
            if "case" in said:
                told[said["case"]][said["rank"]] = said["error"]
        elif line.strip():
            rest.append(line)
    return told, "\n".join(rest)
