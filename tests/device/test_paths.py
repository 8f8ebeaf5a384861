"""Which path arrays on devices take: chosen by all ranks alike, forced by one word, refused with the reason and the cure."""

import re
import sys
from pathlib import Path

import pytest
from harness.job import command
from harness.programs import run

from hpcdl import device_path
from hpcdl.collectives.devices import DevicePath
from hpcdl.errors import InvalidArgument, LaunchError, Mismatch, UnknownName
from hpcdl.launch.device_facts import path_row, path_rows
from hpcdl.transport import awareness

PROGRAM = str(Path(__file__).parent / "programs/path.py")

JOBS = {
    "nothing": ("", {}, r"staged \(NCCL: ranks 0-1: CuPy finds no NCCL library.*\); copies"),
    "aware": ("", {"HPCDL_GPU_AWARE": "1"}, r"aware \(NCCL: .*\); no copies"),
    "forced": ("", {"HPCDL_GPU_AWARE": "1", "HPCDL_DEVICE_PATH": "staged"}, "staged; copies"),
    "one rank": ("one", {}, r"staged \(NCCL"),
    "not aware": ("", {"HPCDL_DEVICE_PATH": "aware"}, r"LaunchError: device path 'aware' cannot be: .*of ranks 0-1 .*HPCDL_GPU_AWARE=1"),
    "no nccl": ("", {"HPCDL_DEVICE_PATH": "nccl"}, r"LaunchError: device path 'nccl' cannot be: ranks 0-1: CuPy finds no NCCL.*=auto"),
    "driver": (
        "driver",
        {"HPCDL_DEVICE_PATH": "nccl"},
        r"LaunchError: device path 'nccl' cannot be: .*there is no NVIDIA driver, or it is old",
    ),
    "differ": ("differ", {"HPCDL_GPU_AWARE": "1"}, r"Mismatch: ranks disagree on the device path: rank 0: 'staged'; rank 1: 'aware'"),
    "late": ("late", {}, r"InvalidArgument: the world has the device path 'staged' already"),
}


@pytest.mark.outer
@pytest.mark.parametrize("name", JOBS)
def test_jobs(require, name):
    require("mpi")
    what, environ, wanted = JOBS[name]
    ended = run(*command([sys.executable, PROGRAM, what], 2), **environ)
    told = dict(re.findall(r"^@(\d) (.*)", ended.stdout, re.MULTILINE))
    assert sorted(told) == ["0", "1"], ended.stdout + ended.stderr
    assert told["0"] == told["1"]
    assert re.match(wanted, told["0"]), told["0"]


def told(asked="", named="auto", aware=1, trouble=""):
    return "\t".join([asked, named, str(aware), trouble])


@pytest.mark.ways("threads")
@pytest.mark.parametrize(
    ("rows", "path"),
    [
        ([told(), told()], DevicePath("auto", True)),
        ([told(), told(aware=0)], DevicePath("auto", False)),
        ([told(named="staged"), told(named="nccl")], DevicePath("staged", True)),  # rank 0's environment decides
        ([told("aware", "nccl"), told("aware")], DevicePath("aware", True)),  # a program goes before it
        ([told("aware"), told()], DevicePath("aware", True)),
    ],
)
def test_all_ranks_take_the_same(ranks, rows, path):
    def body(world):
        device_path.take(world, rows)
        inner = world.group(range(2))
        return world._group.devices.path, inner._group.devices.path

    assert ranks(2, body) == [(path, path)] * 2


@pytest.mark.ways("threads")
@pytest.mark.parametrize(
    ("rows", "kind", "text"),
    [
        ([told("mpi"), told()], UnknownName, "unknown device path 'mpi'; known: auto, nccl, aware, staged"),
        ([told(), told("nccl")], Mismatch, "rank 0: 'auto'; rank 1: 'nccl'"),
        ([told("aware"), told(aware=0)], LaunchError, "the MPI library of rank 1 does not say"),
        ([told(), told(trouble="HPCDL_GPU_AWARE must be 1 or 0")], LaunchError, "rank 1 of 2: HPCDL_GPU_AWARE must be 1 or 0"),
    ],
)
def test_refused_alike_on_all_ranks(ranks, rows, kind, text):
    def body(world):
        with pytest.raises(kind, match=re.escape(text)):
            device_path.take(world, rows)
        world.barrier()

    ranks(2, body)


def test_the_sites_word():
    assert awareness.takes_device_memory({awareness.OVERRIDE: "1"})
    assert awareness.takes_device_memory({}, ["CUDA"])
    assert not awareness.takes_device_memory({awareness.OVERRIDE: "off"}, ["CUDA"])
    with pytest.raises(InvalidArgument, match="must be 1 or 0, got 'maybe'"):
        awareness.takes_device_memory({awareness.OVERRIDE: "maybe"})


@pytest.mark.ways("mpi")
def test_the_library_is_asked(ranks):
    """No library here takes device memory; what a library without the question is asked, is no."""

    def body(world):
        assert awareness._loaded(), "no MPI library found in this process"
        assert not awareness.query("MPIX_No_such_question")
        return awareness.kinds()

    assert ranks(2, body) == [[], []]


TWO = {"cupy": "14", "devices": 2, "trouble": "", "nccl": "2.23.4", "why_not": ""}
NONE = {**TWO, "nccl": "none", "why_not": "CuPy finds no NCCL library"}


@pytest.mark.parametrize(
    ("found", "aware", "environ", "state", "text"),
    [
        (TWO, [], {}, "ok", "nccl, where each rank has a GPU of its own; all else staged"),
        ({**TWO, "devices": 1}, ["CUDA"], {}, "ok", "two ranks here share it; all else aware"),
        (NONE, ["CUDA"], {}, "ok", "aware: addresses to MPI (NCCL: CuPy finds no NCCL library)"),
        (NONE, [], {}, "ok", "staged"),
        (NONE, [], {awareness.OVERRIDE: "1"}, "ok", "aware"),
        (TWO, ["CUDA"], {device_path.VARIABLE: "staged"}, "ok", "HPCDL_DEVICE_PATH=staged: staged"),
        (TWO, [], {device_path.VARIABLE: "aware"}, "bad", "does not say that it takes device memory"),
        (NONE, [], {device_path.VARIABLE: "nccl"}, "bad", "CuPy finds no NCCL library"),
        (TWO, [], {device_path.VARIABLE: "rdma"}, "bad", "HPCDL_DEVICE_PATH=rdma"),
        (TWO, [], {awareness.OVERRIDE: "maybe"}, "bad", "must be 1 or 0"),
        ({**NONE, "devices": 0}, [], {}, "absent", "no GPU for CuPy"),
    ],
)
def test_the_doctors_row(found, aware, environ, state, text):
    row = path_row(found, aware, environ)
    assert (row.state, text in row.value) == (state, True), row
    assert bool(row.cure) == (state == "bad")


def test_the_doctor_here():
    """With CuPy and without it; no test machine without a GPU is called ill for that."""
    rows = list(path_rows([], gpus=False, environ={}))
    assert rows[-1].name == "path"
    assert all(row.state in ("ok", "absent") for row in rows), rows
