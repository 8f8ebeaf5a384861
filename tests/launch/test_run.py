"""`hpcdl run` with real ranks: what they see, how they end, and what is said about it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import HANG, environment

pytestmark = pytest.mark.outer

Job = Callable[..., "subprocess.CompletedProcess[str]"]
IN_MPI = "from mpi4py import MPI\ncomm = MPI.COMM_WORLD\n"


def cli(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hpcdl.cli", *args]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=HANG, check=False, stdin=subprocess.DEVNULL
    )


def test_what_a_script_sees(job: Job, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("x = 7", encoding="utf-8")
    source = """
    import pickle, neighbour
    from mpi4py import MPI
    class Mine: pass
    assert type(pickle.loads(pickle.dumps(Mine()))) is Mine
    assert sys.modules["__main__"].Mine is Mine and __name__ == "__main__" and __spec__ is None
    assert sys.path[0] == os.path.dirname(os.path.realpath(__file__))
    print(MPI.COMM_WORLD.size, rank, sys.argv, __file__, os.environ["OMP_NUM_THREADS"])
    """
    ended = job(source, 2, "-n", "9", "--tag-output", "-m", OMP_NUM_THREADS="3")
    assert ended.returncode == 0, ended.stderr
    line = "['script.py', '-n', '9', '--tag-output', '-m'] script.py 3"
    assert sorted(ended.stdout.splitlines()) == [f"2 0 {line}", f"2 1 {line}"]


def test_threads_are_shared(job: Job) -> None:
    ended = job("print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])", 1, flags=("--tag-output",), MKL_NUM_THREADS="5")
    share, mkl = ended.stdout.split()[1:]
    assert int(share) >= 1 and mkl == "5"


def test_tagged_lines_are_whole(job: Job) -> None:
    source = "for i in range(200): print('o' * 50, i); print('e' * 50, i, file=sys.stderr)\nprint('last', end='')"
    ended = job(source, 3, flags=("--tag-output",))
    for text, letter in ((ended.stdout, "o"), (ended.stderr, "e")):
        lines = [line for line in text.splitlines() if not line.endswith("last")]
        assert sorted(lines) == sorted(f"[{rank}] {letter * 50} {i}" for rank in range(3) for i in range(200))
    assert ended.stdout.count("last") == 3


def test_module(tmp_path: Path, require: Callable[..., object]) -> None:
    require("mpi")
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").touch()
    (tmp_path / "package/__main__.py").write_text(
        "import sys; from . import __name__ as n; print(n, __spec__.name, sys.argv[1:])", encoding="utf-8"
    )
    ended = cli("run", "-np", "2", "-m", "package", "-n", "3", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, "package package.__main__ ['-n', '3']\n" * 2), ended.stderr
    ended = cli("run", "-n", "2", "-m", "package.nothing", cwd=tmp_path)
    assert ended.returncode == 1 and "no module named 'package.nothing'" in ended.stderr and "Traceback" not in ended.stderr


def test_program_that_is_not_python(tmp_path: Path, require: Callable[..., object]) -> None:
    require("mpi")
    ended = cli("run", "-n", "2", "--tag-output", "sh", "-c", "echo $0 $OMP_NUM_THREADS; exit 5", "a", cwd=tmp_path)
    assert ended.returncode == 5 and "exit code 5" in ended.stderr
    assert re.search(r"\[[01]\] a", ended.stdout), ended.stdout  # the first to end may take the other with it before that has printed


def test_traceback_once_last_with_rank(job: Job) -> None:
    source = f"{IN_MPI}print('to the error stream', file=sys.stderr)\nif rank == 1: raise ValueError('boom')\ncomm.Barrier()"
    ended = job(source, 4)
    assert ended.returncode == 1
    text = ended.stderr
    assert text.count("Traceback") == 1 and text.count("boom") == 2 and text.count("to the error stream") == 4
    assert text.endswith("ValueError: boom\n") and "rank 1 of 4 raised:\nTraceback" in text
    assert "hpcdl/launch" not in text and 'File "script.py", line' in text
    assert not [line for line in (text + ended.stdout).splitlines() if line.startswith(("---", "===")) or "mpirun" in line]


def test_equal_errors_are_merged(job: Job) -> None:
    ended = job(f"{IN_MPI}comm.Barrier()\nraise ValueError(f'rank {{rank}} of 4: boom')", 4)
    assert ended.returncode == 1 and ended.stderr.count("Traceback") == 1
    assert ended.stderr.startswith("ranks 0-3 of 4 raised:\n")


def test_the_earliest_wins_the_others_get_a_line(job: Job) -> None:
    ended = job("if rank == 2: raise ValueError('first')\ntime.sleep(0.3)\nif rank == 0: raise KeyError('second')\ntime.sleep(50)", 3)
    assert ended.returncode == 1
    assert ended.stderr.startswith("rank 0 of 3, after that: KeyError: 'second'\nrank 2 of 3 raised:\nTraceback")
    assert ended.stderr.endswith("ValueError: first\n")


def test_a_rank_that_raises_beside_a_collective(job: Job) -> None:
    pytest.importorskip("hpcdl.start")
    source = """
    import numpy, hpcdl
    world = hpcdl.init()
    if rank == 1: raise ValueError('boom')
    world.allreduce(numpy.ones(9))
    """
    ended = job(source, 3)
    assert ended.returncode == 1 and ended.stderr.count("Traceback") == 1
    assert ended.stderr.endswith("ValueError: boom\n") and "rank 1 of 3 raised:" in ended.stderr


@pytest.mark.parametrize(
    ("statement", "code", "said"),
    [
        ("sys.exit(3)", 3, "rank 1 of 3: exit code 3\n"),
        ("sys.exit('bad luck')", 1, "rank 1 of 3: exit code 1:\nbad luck\n"),
        ("os._exit(4)", 4, "rank 1 of 3: exit code 4\n"),
        ("os.kill(os.getpid(), 9)", 137, "rank 1 of 3: killed by signal 9 (Killed); was it out of memory? `dmesg` tells\n"),
    ],
)
def test_other_ends(job: Job, statement: str, code: int, said: str) -> None:
    ended = job(f"{IN_MPI}if rank == 1: {statement}\ncomm.Barrier()\ntime.sleep(50)", 3)
    assert (ended.returncode, ended.stderr) == (code, said)


def test_segmentation_fault_shows_the_stack(job: Job) -> None:
    ended = job("import ctypes\ndef deep(): ctypes.string_at(0)\nif rank == 1: deep()\ntime.sleep(50)", 2)
    assert ended.returncode == 139
    assert "rank 1 of 2: killed by signal 11 (Segmentation fault):" in ended.stderr and "in deep" in ended.stderr


def test_exit_zero_early_is_no_failure(job: Job) -> None:
    ended = job("if rank == 0: sys.exit(0)\nif rank == 1: sys.exit()\ntime.sleep(0.5)\nprint('done')", 3)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_nothing_is_left_in_the_temporary_folder(job: Job, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    ended = job(
        "print(os.path.dirname(os.environ['HPCDL_RUN_DIR']), oct(os.stat(os.environ['HPCDL_RUN_DIR']).st_mode))",
        1,
        TMPDIR=str(tmp_path / "t"),
    )
    assert ended.stdout.split() == [str(tmp_path / "t"), "0o40700"]
    assert not list((tmp_path / "t").glob("hpcdl*"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-n", "0", "s.py"], "must be at least 1, got 0"),
        (["-n", "-2", "s.py"], "must be at least 1, got -2"),
        (["-n", "two", "s.py"], "must be a whole number, got 'two'"),
        (["s.py"], "required: -n/-np"),
        (["-n", "2"], "no script given"),
        (["-n", "2", "-m"], "-m needs the name of a module"),
        (["-n", "2", "nothing.py"], "no such script: 'nothing.py'"),
        (["-n", "2", "folder/nothing"], "no such script: 'folder/nothing'"),
        (["-n", "2", "."], "is a directory, not a script"),
        (["-n", "2", "--quick", "s.py"], "unknown option --quick; valid:"),
        (["--quick", "-n", "2", "s.py"], "unknown option --quick; valid:"),
    ],
)
def test_bad_calls(args: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("print('started')", encoding="utf-8")
    ended = cli("run", *args, cwd=tmp_path)
    assert ended.returncode == 2 and said in ended.stderr and "Traceback" not in ended.stderr and ended.stdout == ""
