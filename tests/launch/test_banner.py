"""What passes from the launcher's output, and what is held back."""

from __future__ import annotations

import io
import os

import pytest

from hpcdl.launch.banner import Banner
from hpcdl.launch.mpiexec import FAMILIES

OPEN_MPI = next(family for family in FAMILIES if family.name == "Open MPI")
MPICH = next(family for family in FAMILIES if family.name == "MPICH")
RULE = "-" * 74 + "\n"
BLOCK = f"{RULE}prterun detected that one or more processes exited with non-zero status,\nthus causing …\n{RULE}"
PRIMARY = f"{RULE}Primary job  terminated normally, but 1 process returned\na non-zero exit code.\n{RULE}"
BOX = "=" * 83 + "\n=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n=   PID 7 RUNNING AT vm\n=   EXIT CODE: 9\n" + "=" * 83 + "\n"


def copy(text: str, block: str, line: str) -> tuple[str, str]:
    """What passes and what is held."""
    (reader, sink), (out, passed) = os.pipe(), os.pipe()
    os.write(sink, text.encode())
    os.close(sink)
    with os.fdopen(reader, "rb", buffering=0) as source:
        banner = Banner(source, passed, block, line)
        banner.join(10)
    os.close(passed)
    with os.fdopen(out, "rb") as end:
        return end.read().decode(), b"".join(banner.held).decode()


@pytest.mark.parametrize("text", ["", "a\nb", "\r 10 %\r 20 %", RULE, f"{RULE}mine\n{RULE}", f"{RULE}{RULE}", "---\n===", f"a\n{RULE}"])
def test_passes(text: str) -> None:
    assert copy(text, OPEN_MPI.block, OPEN_MPI.line) == (text, "")
    assert copy(text, "", MPICH.line) == (text, "")


@pytest.mark.parametrize("held", [BLOCK, PRIMARY, PRIMARY + BLOCK])
def test_holds(held: str) -> None:
    assert copy(f"a\n{RULE}mine\n{held}b\n", OPEN_MPI.block, OPEN_MPI.line) == (f"a\n{RULE}mine\nb\n", held)


def test_holds_the_box() -> None:
    assert copy(f"a\n{BOX}b\n", "", MPICH.line) == ("a\nb\n", BOX)


def test_a_block_without_end_is_not_lost() -> None:
    endless = f"{RULE}mpirun noticed that process rank 1\n" + "x\n" * 100
    assert copy(endless, OPEN_MPI.block, "")[0] == endless
    assert copy(endless[:150], OPEN_MPI.block, "")[0] == endless[:150]


def test_half_lines_pass_at_once() -> None:
    (reader, sink), (out, passed) = os.pipe(), os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as source:
        banner = Banner(source, passed, OPEN_MPI.block)
        os.write(sink, b"50 %")
        assert os.read(out, 100) == b"50 %"
        os.write(sink, b"\n")
        assert os.read(out, 100) == b"\n"
        os.close(sink)
        banner.join(10)
    for descriptor in (passed, out):
        os.close(descriptor)
    assert isinstance(source, io.IOBase)
