"""A folder of programs whose cases are tests: each program is started once, on several ranks, and each rank tells how each case ended."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .programs import run
from .tell import heard

_LAUNCHES = 4  # of one program, at most: where everything fails, one more tells nothing new
_TIMED_OUT = -1


class Ended(NamedTuple):
    """How a program ended: what each rank told of each case, and all that was printed besides."""

    told: dict[str, dict[int, str]]
    code: int
    output: str


class Programs:
    """The programs in `folder`, started as a user does, on so many ranks if not told otherwise, with these variables."""

    def __init__(self, folder: Path, ranks: int, **environ: str) -> None:
        self.folder, self.ranks = folder, ranks
        self.environ = {"HPCDL_TIMEOUT": "60", "OMP_NUM_THREADS": "1", **environ}
        self.ended = cache(self._ended)

    def cases(self, program: str) -> list[str]:
        """The cases of a program, as its text defines them."""
        return re.findall(r"^def case_(\w+)", (self.folder / f"{program}.py").read_text(encoding="utf-8"), re.MULTILINE)

    def launch(
        self, program: str, *words: str, n: int | None = None, options: tuple[str, ...] = (), **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """`hpcdl run` with these options of its own; the words go to the program."""
        start = (sys.executable, "-m", "hpcdl.cli", "run", "-n", n or self.ranks, *options)
        return run(*start, self.folder / f"{program}.py", *words, **{**self.environ, **environ})

    def _ended(self, program: str, **environ: str) -> Ended:
        """`ended(program)`: all of a program's cases, run once for each environment.

        A case that fails ends the program. Those behind it are started again, so that each tells of itself.
        """
        told: dict[str, dict[int, str]] = {}
        code, output, words = 0, "", list[str]()
        for _ in range(_LAUNCHES):
            found = self._launched(program, *words, **environ)
            told.update(found.told)
            code, output = code or found.code, f"{output}{found.output}\n"
            cases = list(found.told)
            failed = next((i for i, case in enumerate(cases) if found.told[case] != dict.fromkeys(range(self.ranks), "")), len(cases))
            words = cases[failed + 1 :]
            if not words or found.code == _TIMED_OUT:
                break
        return Ended(told, code, output)

    def _launched(self, program: str, *words: str, **environ: str) -> Ended:
        try:
            process = self.launch(program, *words, **environ)
            code, output = process.returncode, process.stdout + process.stderr
        except subprocess.TimeoutExpired as error:
            code = _TIMED_OUT
            output = "".join(part if isinstance(part, str) else (part or b"").decode() for part in (error.stdout, error.stderr))
        told, rest = heard(output)
        return Ended(told, code, rest)

    def check(self, program: str, case: str, **environ: str) -> None:
        """The case ran on every rank and none found fault."""
        found = self.ended(program, **environ)
        told = found.told.get(case, {})
        errors = [f"rank {rank}: {error}" for rank, error in sorted(told.items()) if error]
        assert not errors, "\n".join(errors)
        assert sorted(told) == list(range(self.ranks)), f"ranks {sorted(told)} came to the end; exit {found.code}\n{found.output[-4000:]}"
