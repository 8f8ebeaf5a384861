"""The worked examples of CONTRIBUTING.md are files; they run here, tests included, on threads and on MPI ranks."""

import subprocess
import sys

import pytest

from docs.blocks import ROOT, commands, environment, write_files

EXAMPLES = ("star", "cut24", "functional")
BREAKS = {
    "star": ("reduce=True", "reduce=False"),
    "cut24": ("[:, 1:] = wire", "[:, :3] = wire"),
    "functional": ("begin(len(x))", "begin(1)"),
}
TESTS = ROOT / "tests"


def run_examples(folder, *options):
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "harness.plugin", "--import-mode=importlib", "-ra", *options]
    return subprocess.run(command, cwd=folder, env=environment(TESTS), capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.outer
@pytest.mark.parametrize("way", ["not mpi", "mpi"])
def test_examples(tmp_path, require, way):
    if way == "mpi":
        require("mpi")
    names = write_files("CONTRIBUTING.md", tmp_path)
    assert names == [file for name in EXAMPLES for file in (f"{name}.py", f"test_{name}.py")]
    run = run_examples(tmp_path, "-m", way)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "skipped" not in run.stdout


@pytest.mark.outer
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_broken_example_is_seen(tmp_path, name):
    write_files("CONTRIBUTING.md", tmp_path)
    path = tmp_path / f"{name}.py"
    right, wrong = BREAKS[name]
    text = path.read_text(encoding="utf-8")
    assert right in text
    path.write_text(text.replace(right, wrong), encoding="utf-8")
    assert run_examples(tmp_path, "-x", "-m", "not mpi", f"test_{name}.py").returncode == 1


def test_commands():
    """The commands of its first block: CI's lint and test parts run them, from the extra that is named there."""
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert commands("CONTRIBUTING.md") == [
        'python3 -m venv .venv && .venv/bin/pip install -e ".[dev]"',
        ".venv/bin/pytest",
        ".venv/bin/ruff check .",
        ".venv/bin/mypy --strict -p hpcdl",
    ]
    for command in [*commands("CONTRIBUTING.md")[1:], '.venv/bin/pip install -q ".[dev]"']:
        assert command in script
