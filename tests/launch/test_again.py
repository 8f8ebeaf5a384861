"""A launcher that could not start anything, as Open MPI's now and then: `hpcdl run` tries again, and again, and then says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcdl.launch import mpiexec
from hpcdl.launch.run import run

pytestmark = pytest.mark.outer

STUMBLING = """#!/bin/sh
echo try >>"$HPCDL_TEST_TRIES"
if [ "$(wc -l <"$HPCDL_TEST_TRIES")" -le {failures} ]; then
  printf '%s\\n' {rule} "{words}. We cannot" continue. {rule} >&2
  exit 213
fi
exec {launcher} "$@"
"""


@pytest.mark.parametrize(("failures", "words", "tries"), [(2, "", 3), (3, "", 3), (1, "No such luck", 1)])
def test_tries(
    failures: int,
    words: str,
    tries: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    require: Callable[..., object],
) -> None:
    require("mpi")
    found = mpiexec.launcher(mpiexec.library())
    said = words or found.family.passing
    if not said:
        pytest.skip(f"{found.family.name} has no failure that passes")
    wrapper, log = tmp_path / "launcher", tmp_path / "tries"
    wrapper.write_text(STUMBLING.format(failures=failures, words=said, rule="-" * 70, launcher=found.path), encoding="utf-8")
    wrapper.chmod(0o755)
    monkeypatch.setattr(mpiexec, "launcher", lambda library: dataclasses.replace(found, path=str(wrapper)))
    (tmp_path / "hello.py").write_text("print('hello', flush=True)", encoding="utf-8")
    code = run([str(tmp_path / "hello.py")], 2, env={"HPCDL_TEST_TRIES": str(log)})
    output = capfd.readouterr()
    assert log.read_text(encoding="utf-8").count("try") == tries
    if tries > failures:
        assert (code, output.out, output.err) == (0, "hello\nhello\n", "")
    else:
        assert code == 213 and output.out == "" and output.err.count(said) == 1
        assert output.err.endswith("hpcdl: the MPI launcher ended with exit code 213 before any rank had started\n")
