"""Facts about this machine and its software, as rows of data. Nothing here imports a framework or starts MPI."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import __version__
from .env import place
from .machine import cores, memory_bytes

__all__ = ["Row", "machine", "output", "packages", "plugins", "slurm"]


@dataclass(frozen=True)
class Row:
    """One line of the doctor's table.

    `state`: "ok"; "absent" (not here, and not needed); "note" (works, but not as well as it could); "bad" (training would fail).
    `cure` says how to mend what is a note or bad.
    """

    topic: str
    name: str
    value: str
    state: str = "ok"
    cure: str = ""


def output(command: list[str], timeout: float = 20.0) -> str | None:
    """What a command prints, or None where there is no such command, it fails, or does not end in time."""
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return child.stdout.strip() if child.returncode == 0 else None


# Distribution names under which a package is found, and whether hpcdl cannot do without it.
_PACKAGES = (
    ("NumPy", ("numpy",), True),
    ("mpi4py", ("mpi4py",), True),
    ("ml_dtypes", ("ml_dtypes",), True),
    ("numkong", ("numkong",), True),
    ("scikit-learn", ("scikit-learn",), False),
    ("CuPy", ("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy-rocm-7-0", "cupy"), False),
    ("PyTorch", ("torch",), False),
    ("Keras", ("keras",), False),
    ("TensorFlow", ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-macos"), False),
    ("JAX", ("jax",), False),
    ("Horovod", ("horovod",), False),
)


def _version(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name) + (f" ({name})" if name != names[0] or len(names) > 1 else "")
        except metadata.PackageNotFoundError:
            continue
    return None


def packages() -> Iterator[Row]:
    """Python and the packages that matter, from their metadata."""
    topic = "software"
    yield Row(topic, "hpcdl", f"{__version__}, {Path(__file__).parents[1]}")
    yield Row(topic, "Python", f"{platform.python_version()}, {sys.executable}")
    for name, distributions, needed in _PACKAGES:
        version = _version(distributions)
        if version is None:
            yield Row(topic, name, "not installed", *(("bad", f"pip install {distributions[0]}") if needed else ("absent", "")))
        elif name == "Horovod" and (_version(("keras",)) or "").startswith("3"):
            yield Row(
                topic, name, version, "note", "with Keras 3 its optimizer does not synchronise: use tf-keras and TF_USE_LEGACY_KERAS=1"
            )
        else:
            yield Row(topic, name, version)


def machine() -> Iterator[Row]:
    """System, cores, memory, shared memory, GPUs."""
    topic = "machine"
    yield Row(topic, "system", f"{platform.node()}, {platform.system()} {platform.release()}, {platform.machine()}")
    usable, present = cores(), os.cpu_count() or 1
    yield Row(topic, "cores", f"{usable} usable" + (f" of {present}" if present != usable else ""))
    total = memory_bytes()
    yield Row(topic, "memory", f"{total / 2**30:.1f} GiB" if total else "unknown")
    if os.path.isdir("/dev/shm"):
        disk = os.statvfs("/dev/shm")
        free = disk.f_bavail * disk.f_frsize
        text = f"{free / 2**30:.1f} GiB free in /dev/shm"
        enough = free >= 256 * 2**20
        yield Row(
            topic,
            "shared memory",
            text,
            *(() if enough else ("note", "give the container more, e.g. `docker run --shm-size=2g`, or --ipc=host")),
        )
    found = output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    gpus = [line.strip() for line in (found or "").splitlines() if line.strip()]
    yield Row(topic, "GPUs", "; ".join(gpus) if gpus else "none seen by nvidia-smi", "ok" if gpus else "absent")
    if gpus and _version(("cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x", "cupy")) is None and _version(("torch",)) is None:
        yield Row(topic, "GPU software", "neither CuPy nor PyTorch", "note", "pip install cupy-cuda12x (or 13x), or torch, to use the GPUs")


def plugins() -> list[str]:
    """The names that `srun --mpi=` takes, sorted; none where there is no srun that answers."""
    listed = (output(["srun", "--mpi=list"]) or "").replace("specific pmix plugin versions available:", "")
    return sorted({word.strip() for word in re.split(r"[\n,]", listed) if word.strip() and " " not in word.strip()})


def slurm(library_name: str | None) -> Iterator[Row]:
    """Slurm, its MPI plugins, and whether one of them fits the library."""
    topic = "Slurm"
    if shutil.which("srun") is None:
        yield Row(topic, "Slurm", "not here", "absent")
        return
    yield Row(topic, "version", output(["srun", "--version"]) or "srun does not answer")
    listed = plugins()
    wanted = "pmix" if (library_name or "").startswith("Open MPI") else "pmi2"
    fits = any(plugin.startswith(wanted) or plugin.startswith("cray") for plugin in listed)
    cure = f"this library needs `srun --mpi={wanted}`, which is not there: start with its own launcher inside sbatch"
    value = ", ".join(listed) or "unknown"
    yield Row(topic, "MPI plugins", value, *(() if fits or not listed else ("note", cure)))
    job, here = os.environ.get("SLURM_JOB_ID"), place()
    if job:
        who = f"a task of {here.launcher}" if here else "not started by srun"
        yield Row(topic, "job", f"{job} on {os.environ.get('SLURM_JOB_NUM_NODES', '?')} nodes, {who}")
