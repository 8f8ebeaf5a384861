"""README.md: its programs run, its commands are tested, its tables say what the registries say."""

import re
import subprocess
import sys
from fractions import Fraction

import pytest
from harness.job import command as launched

from docs.blocks import ROOT, blocks, commands, environment, write_files
from hpcdl import errors
from hpcdl.codecs import codecs
from hpcdl.collectives.collective import collectives
from hpcdl.collectives.ops import ops

README = (ROOT / "README.md").read_text(encoding="utf-8")
TRUTH = "[1. 2. 3. 4. 5. 6. 7. 8.]"
# How this file runs a command of the README: the same words with this Python, this launcher.
HERE = {
    ".venv/bin/hpcdl run -n 4 train.py": ("4 ranks: " + TRUTH, lambda: [sys.executable, "-m", "hpcdl.cli", "run", "-n", "4", "train.py"]),
    "mpirun -n 2 .venv/bin/python train.py": ("2 ranks: " + TRUTH, lambda: launched([sys.executable, "train.py"], 2)),
    ".venv/bin/python train.py": ("1 ranks: " + TRUTH, lambda: [sys.executable, "train.py"]),
}


BENCH = [sys.executable, "-m", "hpcdl.cli", "bench"]
SMALL = {
    "allreduce": ["--sizes", "4KiB", "--repeat", "2"],
    "overlap": ["--size", "64KiB", "--bucket", "16KiB", "--repeat", "2", "--no-ddp"],
    "train": ["--data", "synthetic", "--epochs", "1", "--repeat", "1"],
    "codecs": ["--sizes", "4KiB", "--repeat", "2"],
}
# The commands of "Measure it on your cluster", with less to do.
BENCHES = {
    ".venv/bin/hpcdl bench allreduce -n 2 --plot allreduce.png": lambda: [*BENCH, "allreduce", "-n", "2", "--plot", "allreduce.png"],
    "mpirun -n 2 .venv/bin/hpcdl bench overlap --json overlap.jsonl": lambda: launched([*BENCH, "overlap", "--json", "overlap.jsonl"], 2),
    ".venv/bin/hpcdl bench train -n 2": lambda: [*BENCH, "train", "-n", "2"],
    ".venv/bin/hpcdl bench codecs": lambda: [*BENCH, "codecs"],
}


def run(argv, folder):
    child = subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, timeout=100, check=False)
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


@pytest.fixture
def folder(tmp_path, require):
    require("mpi")
    assert write_files("README.md", tmp_path) == ["digits_torch.py", "distributed.py", "digits_keras.py", "train.py", "tour.py"]
    return tmp_path


@pytest.mark.outer
@pytest.mark.parametrize("command", HERE)
def test_training_loop(folder, command):
    wanted, argv = HERE[command]
    assert run(argv(), folder).splitlines() == [wanted]


@pytest.mark.outer
@pytest.mark.parametrize("command", BENCHES)
def test_benches(folder, command):
    argv = BENCHES[command]()
    what = next(word for word in SMALL if word in argv)
    assert len(run([*argv, *SMALL[what]], folder).splitlines()) > 4


@pytest.mark.outer
def test_tour(folder):
    with (folder / "tour.py").open("a", encoding="utf-8") as tour:
        tour.write("assert (mean == 2.5).all() and len(rows) == 6 and len(part) == 250 and half.size == 2 and len(turned) == 4\n")
        tour.write("assert (total == 40).all() and (x == 20).all(), (total[0], x[0])\n")
    run([sys.executable, "-m", "hpcdl.cli", "run", "-n", "4", "tour.py"], folder)


def test_ten_lines():
    loop = next(block.text for block in blocks("README.md") if block.name == "train.py")
    assert sum(bool(re.search("hpcdl|world|reducer", line)) for line in loop.splitlines()) <= 10


def test_keras_is_the_job():
    block = next(block.text for block in blocks("README.md") if block.name == "digits_keras.py")
    assert block == (ROOT / "jobs/digits_keras.py").read_text(encoding="utf-8")


def test_commands():
    """Each command runs here or, word by word, in .ci/run."""
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    in_ci = [(document or "README.md", begins) for begins, document in re.findall(r"\$\(readme '(.*?)'(?: (\S+))?\)", script)]
    on_slurm = (ROOT / "tests/slurm/test_submit.py").read_text(encoding="utf-8")
    for command in commands("README.md"):
        run_there = any(command.startswith(begins) for document, begins in in_ci if document == "README.md")
        run_there |= f'"{command}",\n' in on_slurm
        assert command in HERE or command in BENCHES or run_there, f"nobody runs: {command}"
    for document, begins in in_ci:
        assert sum(command.startswith(begins) for command in commands(document)) == 1, begins
    assert {*HERE, *BENCHES} <= set(commands("README.md"))


def test_table_of_codecs():
    table = README.split("**Codecs**")[1].split("**Compressors**")[0]
    rows = re.findall(r"^\| `([\w-]+)` \| ([^|]+) \| ([^|]+) \|", table, re.MULTILINE)
    assert {name for name, _, _ in rows} == set(codecs)
    for name, size, error in rows:
        codec, n = codecs.get(name), 128 * 40
        terms = [re.fullmatch(r"(\d*)n(?:/(\d+))?", term.strip()) for term in size.split("+")]
        assert codec.nbytes(n) == sum(Fraction(int(term[1] or 1) * n, int(term[2] or 1)) for term in terms), name
        power = re.fullmatch(r"2\^(-\d+)", error.strip())
        assert codec.error == pytest.approx(2.0 ** int(power[1]) if power else float(Fraction(error.strip())), rel=1e-4), name


@pytest.mark.parametrize(
    "name", [*ops, *collectives, "auto", *(name for name in errors.__all__ if isinstance(getattr(errors, name), type))]
)
def test_names_are_there(name):
    assert f"`{name}`" in README


def test_links():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_places_for_results():
    benchmarks = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    for table in ("targets", "codecs", "allreduce-all", "demo", "convergence", "horovod-ops", "train-torch"):
        text = README if table == "targets" else benchmarks
        assert len(re.findall(rf"<!-- results:{table} -->\n.*?<!-- end -->", text, re.DOTALL)) == 1
