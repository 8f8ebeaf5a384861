"""The doctor: its rows, its JSON, its exit code; and what a wrong launcher gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpcdl.collectives.costs import ASSUMED, SEGMENTS, Layout, Link
from hpcdl.collectives.plan import Choice, Plan
from hpcdl.errors import LaunchError
from hpcdl.launch import doctor, facts, mpiexec, report
from hpcdl.launch.mpi_facts import _fabric
from hpcdl.launch.plan_facts import plan_rows

from .conftest import HANG, environment

pytestmark = pytest.mark.outer

Job = Callable[..., "subprocess.CompletedProcess[str]"]
DOCTOR = [sys.executable, "-m", "hpcdl.cli", "doctor"]


def call(command: list[str], cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=HANG, check=False)


def test_healthy(require: Callable[..., object], tmp_path: Path) -> None:
    require("mpi")
    ended = call([*DOCTOR, "--json", "report.json"], tmp_path)
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert ended.returncode == 0 and found["healthy"], ended.stdout + ended.stderr
    rows = {(row["topic"], row["name"]): row for row in found["rows"]}
    for name in (
        "library",
        "loaded from",
        "launcher",
        "thread level",
        "shared-memory windows",
        "fabric",
        "GPU awareness",
        "ULFM (survives dead ranks)",
    ):
        assert ("MPI", name) in rows
    for name in ("NumPy", "CuPy", "PyTorch", "Keras", "TensorFlow", "JAX", "Horovod"):
        assert ("software", name) in rows
    for name in ("cores", "memory", "GPUs"):
        assert ("machine", name) in rows
    assert any(topic == "Slurm" for topic, _ in rows)
    assert rows["self-test", "all-reduce on 2 ranks"]["state"] == "ok"
    assert rows["plan", "measured on"]["value"] == "2 ranks on 1 node"
    for name in ("messages inside a node", "memory", "MPI's own all-reduce"):
        assert ("costs", name) in rows
    for name in ("bf16", "fp16", "int8"):
        assert "pays on networks below" in rows["codecs", name]["value"]
    assert all(row["cure"] for row in found["rows"] if row["state"] in ("note", "bad"))
    for row in found["rows"]:
        assert row["value"] in ended.stdout
    assert "Training works here." in ended.stdout


def test_no_mpi_is_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py/__init__.py").write_text("raise RuntimeError('cannot load MPI library')", encoding="utf-8")
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    ended = call([*DOCTOR, "--json", "-"], tmp_path, env)
    found = json.loads(ended.stdout)
    assert ended.returncode == 1 and not found["healthy"]
    library = found["rows"][0]
    assert library["state"] == "bad" and "cannot load MPI library" in library["value"] and "hpcdl[mpi]" in library["cure"]
    assert found["rows"][-1]["value"].startswith("not tried")


def test_no_launcher_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> None:
        raise LaunchError("no launcher that belongs to X; tried:\n  a\nCure: load its module.")

    monkeypatch.setattr(mpiexec, "library", lambda: mpiexec.recognise("Open MPI v5.0.1"))
    monkeypatch.setattr(mpiexec, "launcher", none)
    rows = doctor.gather()
    row = next(row for row in rows if row.name == "launcher")
    assert (row.state, row.cure) == ("bad", "load its module.")


def test_folder_of_the_json_file_must_exist(tmp_path: Path) -> None:
    ended = call([*DOCTOR, "--json", "nowhere/report.json"], tmp_path)
    assert ended.returncode == 2 and "there is no folder" in ended.stderr


def test_under_a_launcher_one_rank_reports(require: Callable[..., object], tmp_path: Path) -> None:
    require("mpi")
    launcher = mpiexec.launcher(mpiexec.library())
    ended = call([*launcher.command(2), *DOCTOR], tmp_path, launcher.environment(environment()))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("Training works here.") == 1 and "rank 0 of 2" in ended.stdout and "1: " in ended.stdout


def test_calibration_off_is_said_in_one_line(require: Callable[..., object], tmp_path: Path) -> None:
    require("mpi")
    launcher = mpiexec.launcher(mpiexec.library())
    env = launcher.environment({**environment(), "HPCDL_CALIBRATE": "0"})
    ended = call([*launcher.command(2), *DOCTOR, "--json", "report.json"], tmp_path, env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["rows"]
    told = [row for row in rows if row["name"] == "measured on"]
    assert [row["state"] for row in told] == ["note", "note"] and "unset HPCDL_CALIBRATE" in told[0]["cure"], told
    assert told[0]["value"] == "nothing: calibration is off; assumed for 2 ranks on 1 node"
    assert not any(row["topic"] in ("costs", "codecs") for row in rows)


def test_plan_in_words() -> None:
    piece = SEGMENTS[0]
    tables = (((1 << 12, Choice("native", 0)), (1 << 20, Choice("tree", piece)), (1 << 30, Choice("ring", piece))),) * 4
    link = Link(2e-6, 1e-9, ((piece, 1e-9),))
    costs = replace(ASSUMED, measured=True, nodes=(0, 1), names=("native",), node=link, network=Link(40e-6, 40e-9, ((piece, 41e-9),)))
    rows = {row.name: row.value for row in plan_rows(Plan(True, piece, tables), costs, Layout((0, 1)))}
    assert rows["measured on"] == "2 ranks on 2 nodes"
    assert rows["all arrays"] == "up to 4 KiB native, up to 1 MiB tree in pieces of 48 KiB, above ring in pieces of 48 KiB"
    assert rows["messages between nodes"] == "40 µs per message, 200 Mbit/s one way, both ways at once 195 Mbit/s in pieces of 48 KiB"
    assert rows["memory"] == "copy 10 GB/s, add 10 GB/s, all ranks at once" and "messages inside a node" not in rows


def test_ping_pong(job: Job) -> None:
    source = """
    from mpi4py import MPI
    from hpcdl.launch.link import _ping_pong
    small, large = _ping_pong(MPI.COMM_WORLD, [1, 2], 8, 100), _ping_pong(MPI.COMM_WORLD, [1, 2], 1 << 20, 5)
    print(0 < small < large < 1)
    """
    ended = job(source, 3)
    assert (ended.returncode, ended.stdout) == (0, "True\n" * 3), ended.stderr


def test_launcher_of_another_mpi(require: Callable[..., object], tmp_path: Path) -> None:
    require("mpi")
    library = mpiexec.library()
    if library.family.name.startswith("Open MPI"):
        names, family = ("mpiexec.hydra", "mpirun.mpich"), "MPICH"
    else:
        names, family = ("mpirun.openmpi",), "Open MPI"
    other = next(filter(None, map(shutil.which, names)), None)
    if other is None:
        pytest.skip(f"no launcher of {family} in PATH beside {library}")
    env = {**dict(mpiexec.FAMILIES[-1].env), **environment()}
    flags = ["--oversubscribe"] if family == "Open MPI" else []
    ended = call([other, *flags, "-n", "2", sys.executable, "-c", "import hpcdl; hpcdl.init()"], tmp_path, env)
    # MPICH's library ends the process inside MPI_Init under Open MPI's launcher; the other way round there are worlds of one.
    assert ended.returncode != 0 and (
        "Cause: the launcher belongs to another MPI" in ended.stderr or "unsupported PMI version" in ended.stderr
    )
    ended = call([other, *flags, "-n", "2", *DOCTOR], tmp_path, env)
    assert ended.returncode != 0 and ended.stdout.count("Training would fail here") == 1
    assert "BAD" in ended.stdout and "hpcdl run -n 2" in ended.stdout


@pytest.mark.parametrize(
    ("text", "fabric"),
    [
        (
            "select: init of component sm returned success\nselect: init of component tcp returned success\nselect: component ob1 selected",
            "ob1: sm, tcp",
        ),
        ("[h:1] select: component ucx selected", "UCX"),
        ("==== UCX netmod Capability ====", "UCX"),
        ("==== OFI netmod Capability ====\nprov_name: tcp", "OFI"),
        ("", "the library does not say"),
    ],
)
def test_fabric(text: str, fabric: str) -> None:
    assert _fabric(text).value.startswith(fabric)


def test_rows_of_a_machine_without_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(facts, "_version", lambda names: None)
    assert {row.name: row.state for row in facts.packages()}["NumPy"] == "bad"
    assert {row.name: row.state for row in facts.packages()}["PyTorch"] == "absent"
    assert {row.name: row.state for row in facts.machine()}["GPUs"] == "absent"
    assert [row.state for row in facts.slurm("MPICH 5.0.2")] == ["absent"]


@pytest.mark.parametrize(("numbers", "text"), [([3], "rank 3"), ([1, 0], "ranks 0-1"), ([5, 0, 1, 2, 7], "ranks 0-2, 5, 7")])
def test_ranks_text(numbers: list[int], text: str) -> None:
    assert report.ranks_text(numbers) == text
