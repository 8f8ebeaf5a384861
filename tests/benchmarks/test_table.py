"""benchmarks/table.py on results made up here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hpcdl

pytestmark = pytest.mark.outer

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "table.py"
CHECKOUT = Path(hpcdl.__file__).parents[1]


def line(ranks, milliseconds, mpi="Open MPI 5.0.11", cpu="Abacus"):
    """A line of all-reduce results: MPI's own takes 2 ms."""

    def found(collective, codec, seconds):
        return {
            "collective": collective,
            "codec": codec,
            "bytes": 1024,
            "min": seconds,
            "median": seconds,
            "max": seconds,
            "repetitions": 5,
        }

    return {
        "benchmark": "allreduce",
        "date": "2030-01-02",
        "versions": {"python": "3.12.1", "hpcdl": "1.0", "numpy": "2.9", "mpi4py": "4.9", "mpi": mpi},
        "host": {"cpu": cpu, "cores": 8, "system": "Linux", "load": 0.5},
        "ranks": ranks,
        "results": [found("MPI.Allreduce", "none", 2e-3), found("ring", "int8", milliseconds / 1e3), found("tree", "int8", 7e-3)],
    }


@pytest.fixture
def table(tmp_path):
    """`table(*words, lines=[…])`: the finished process; `lines` become the results first."""

    def run(*words, lines=None):
        if lines is not None:
            (tmp_path / "allreduce.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
        path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, str(PROGRAM), "--results", str(tmp_path), *map(str, words)]
        environ = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environ)

    return run


def test_newest_line_of_each_configuration(table):
    done = table("allreduce", lines=[line(4, 3), line(2, 5), line(2, 8), line(2, 6, mpi="MPICH 5.0.2"), line(2, 1, mpi="Open MPI 5.0.12")])
    assert done.returncode == 0, done.stderr
    captions = [text.split("ms per")[0] for text in done.stdout.splitlines() if text.startswith("**")]
    assert captions == ["**MPICH 5.0.2**: 2 ranks, ", "**Open MPI 5.0.11**: 4 ranks, ", "**Open MPI 5.0.12**: 2 ranks, "]
    rows = [text for text in done.stdout.splitlines() if text.startswith("| ring")]
    assert rows == ["| ring, int8 | 6 (3×) |", "| ring, int8 | 3 (1.5×) |", "| ring, int8 | 1 (0.5×) |"]
    for fact in ("hpcdl bench allreduce", "benchmarks/results/allreduce.jsonl", "Abacus, 8 cores", "2030-01-02", "numpy 2.9"):
        assert fact in done.stdout
    assert "tree" not in done.stdout and "| tree, int8 | 7 (3.5×) |" in table("allreduce-all").stdout


def test_write_then_check(table, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("# x\n\n<!-- results:allreduce -->\n<!-- end -->\n\nand more\n")
    assert table("--check", readme, lines=[line(2, 3)]).returncode == 1
    assert table("--write", readme).returncode == 0
    text = readme.read_text()
    assert text.startswith("# x\n\n<!-- results:allreduce -->\n**Open MPI") and text.endswith("|\n<!-- end -->\n\nand more\n")
    assert table("--check", readme).returncode == 0
    readme.write_text(text.replace("| 3 (1.5×) |", "| 2 (1.5×) |"))
    done = table("--check", readme)
    assert done.returncode == 1 and "-| ring, int8 | 2 (1.5×) |" in done.stderr and "+| ring, int8 | 3 (1.5×) |" in done.stderr
    assert "table.py --write" in done.stderr
    readme.write_text(text)
    assert table("--check", readme, lines=[line(2, 3), line(2, 4)]).returncode == 1, "newer results"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing here", "expected lines `<!-- results:NAME -->`"),
        ("<!-- results:allreduce -->\nand on", "expected lines"),
        ("<!-- results:allreduce -->\n<!-- results:allreduce -->\n<!-- end -->", "has no `<!-- end -->`"),
        ("<!-- results:speed -->\n<!-- end -->", "unknown table 'speed'; known: codecs"),
        ("<!-- results:demo -->\n<!-- end -->", "demo.jsonl: there are no such results"),
    ],
)
def test_bad_file(table, tmp_path, text, said):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    for option in ("--check", "--write"):
        done = table(option, readme, lines=[line(2, 3)])
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert readme.read_text() == text


def test_broken_results(table, tmp_path):
    (tmp_path / "allreduce.jsonl").write_text(json.dumps(line(2, 3)) + "\n{\n")
    done = table("allreduce")
    assert done.returncode == 2 and "line 2: not a line of results" in done.stderr


def test_committed_tables_say_what_the_committed_results_say(table):
    done = table("--check", PROGRAM.parent / "README.md", "--results", PROGRAM.parent / "results")
    assert done.returncode == 0, done.stderr
