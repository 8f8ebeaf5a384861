"""Facts about arrays on GPUs, as rows: CuPy, NCCL, and the path that sums would take. ``python -m hpcdl.launch.device_facts`` asks CUDA.

Apart, in its own process: a broken driver crashes or hangs there, not in the doctor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..arrays import nccl
from ..arrays.trouble import look
from ..collectives.devices import PATHS
from ..device_path import VARIABLE
from ..errors import InvalidArgument
from ..transport.awareness import OVERRIDE, takes_device_memory
from .facts import Row

__all__ = ["main", "path_row", "path_rows"]

TOPIC = "GPU arrays"
_MARK = "hpcdl-devices:"
_TIMEOUT = 60.0  # seconds that CUDA gets to start


def main() -> None:
    """Print what CuPy and NCCL say, as one line of JSON."""
    version, devices, wrong = look()
    found = {"cupy": version, "devices": devices, "trouble": wrong, "nccl": nccl.version_text(), "why_not": nccl.why_not()}
    print(_MARK + json.dumps(found), flush=True)


def path_rows(aware: list[str], gpus: bool, environ: Mapping[str, str] = os.environ) -> Iterator[Row]:
    """CuPy, NCCL and the path. aware: the memory that the MPI library says it takes; gpus: whether the driver's tool sees any."""
    if find_spec("cupy") is None:
        asked = environ.get(VARIABLE, "")
        cure = "pip install cupy-cuda12x, or -cuda13x"
        yield Row(TOPIC, "path", "none: CuPy is not installed", *(("note", cure) if gpus or asked else ("absent", "")))
        return
    found = _ask()
    if found["trouble"]:
        what, _, cure = found["trouble"].partition("; cure: ")
        yield Row(
            TOPIC, "CuPy", f"{found['cupy']} {what}".strip(), *(("note", cure or "arrays on the host work") if gpus else ("absent", ""))
        )
    else:
        yield Row(TOPIC, "CuPy", f"{found['cupy']} sees {found['devices']} GPU{'s' if found['devices'] > 1 else ''}")
    yield Row(TOPIC, "NCCL", found["nccl"], "absent" if found["nccl"] == "none" else "ok")
    yield path_row(found, aware, environ)


def path_row(found: Mapping[str, Any], aware: list[str], environ: Mapping[str, str]) -> Row:
    """Which path the sums of arrays on GPUs would take here, and why."""
    asked = environ.get(VARIABLE, "").strip() or PATHS[0]
    if asked not in PATHS:
        return Row(TOPIC, "path", f"{VARIABLE}={asked}", "bad", f"one of {', '.join(PATHS)}")
    try:
        takes = takes_device_memory(environ, aware)
    except InvalidArgument as error:
        return Row(TOPIC, "path", str(error), "bad", f"unset {OVERRIDE}, or set it to 1 or 0")
    why = f"{VARIABLE}={asked}: " if asked != PATHS[0] else ""
    if asked == "aware" and not takes:
        cure = f"an MPI built for CUDA, {OVERRIDE}=1 where the site knows better, or {VARIABLE}=staged"
        return Row(TOPIC, "path", f"{why}the MPI library does not say that it takes device memory", "bad", cure)
    if asked == "nccl" and found["why_not"]:
        what, _, cure = found["why_not"].partition("; cure: ")
        return Row(TOPIC, "path", f"{why}{what}", "bad", f"{cure or 'mend that'}; or {VARIABLE}=auto")
    if not found["devices"]:
        return Row(TOPIC, "path", f"{why}none: there is no GPU for CuPy", "absent")
    messages = "aware: addresses to MPI" if takes and asked != "staged" else "staged: through pinned host memory"
    if asked in ("auto", "nccl") and not found["why_not"]:
        shared = "" if found["devices"] > 1 else ", of which this machine has one: two ranks here share it"
        return Row(TOPIC, "path", f"{why}nccl, where each rank has a GPU of its own{shared}; all else {messages}")
    return Row(TOPIC, "path", why + messages + (f" (NCCL: {found['why_not']})" if found["why_not"] and asked == "auto" else ""))


def _ask() -> dict[str, Any]:
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    nothing = {"cupy": "", "devices": 0, "nccl": "none"}
    try:
        command = [sys.executable, "-m", "hpcdl.launch.device_facts"]
        child = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False, stdin=subprocess.DEVNULL, env=env)
    except subprocess.TimeoutExpired:
        why = f"CUDA has not started within {_TIMEOUT:.0f} s: look at nvidia-smi"
        return {**nothing, "trouble": why, "why_not": why}
    line = next((line for line in child.stdout.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        why = f"asking CuPy fails: {last[:200]}"
        return {**nothing, "trouble": why, "why_not": why}
    found: dict[str, Any] = json.loads(line[len(_MARK) :])
    return found


if __name__ == "__main__":
    main()
