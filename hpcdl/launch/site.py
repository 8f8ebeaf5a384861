"""Defaults of `hpcdl submit`: the user's file, the site's, and how one is written by asking Slurm.

    [submit]                                            # ~/.config/hpcdl/submit.toml, or what HPCDL_SITE names, or /etc/hpcdl/submit.toml
    partition = "gpu"
    setup = ["module load openmpi"]

The command line counts before the user's file, that before the site's, that before what is built in.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..errors import DataError, InvalidArgument
from . import queue
from .facts import plugins
from .slurm import Job

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["defaults", "files", "first_draft", "write"]

_NOT_HERE = ("command", "name", "sweep", "indices", "scaling", "test", "checkpoint")  # of one job, not of a site
_KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    tuple: ("a list of texts", lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value)),
}


def files(environ: Mapping[str, str] = os.environ) -> tuple[Path, Path]:
    """The user's file and the site's, whether or not they are there."""
    config = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return config / "hpcdl/submit.toml", Path(environ.get("HPCDL_SITE") or "/etc/hpcdl/submit.toml")


def defaults(environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Fields of `Job` as the files set them. Raises DataError that names the file, what is wrong and what is valid."""
    user, site = files(environ)
    if environ.get("HPCDL_SITE") and not site.is_file():
        raise DataError(f"HPCDL_SITE={site}: there is no such file")
    return {**_read(site), **_read(user)}


def _known() -> dict[str, type]:
    """The keys of a file, and of which type their values are."""
    found = {}
    for field in fields(Job):
        if field.name not in _NOT_HERE:
            default = field.default if field.default is not MISSING else ""
            found[field.name.replace("_", "-")] = type(default)
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from None
    known, wrong = _known(), [name for name in content if name != "submit"]
    if wrong or not isinstance(content.get("submit", {}), dict):
        raise DataError(f"{path}: {', '.join(wrong) or 'submit'} stands outside of the table [submit], which is all that is read")
    found = {}
    for key, value in content.get("submit", {}).items():
        if key not in known:
            raise DataError(f"{path}: unknown key {key!r}; valid: {', '.join(known)}")
        kind, fits = _KINDS[known[key]]
        if not fits(value):
            raise DataError(f"{path}: {key} must be {kind}, got {value!r}")
        found[key.replace("-", "_")] = tuple(value) if isinstance(value, list) else value
    return found


def first_draft() -> str:
    """A file for this cluster, as Slurm describes it: its partitions, its default one, GPUs, plug-ins for MPI. Raises LaunchError."""
    parts = queue.partitions()
    usual = next((part for part in parts if part.default), parts[0] if parts else None)
    lines = ["# Defaults of `hpcdl submit`; the command line counts before them.", "#"]
    lines += ["# This cluster has, as sinfo tells:"]
    lines += [f"#   {part}" for part in parts] or ["#   no partition that you may use"]
    lines += [f'# Plug-ins of srun for MPI: {", ".join(plugins()) or "none"}; mpi = "auto" finds which fits.', "", "[submit]"]
    if usual is not None:
        gpus = usual.gpus.rpartition(":")[2] if usual.gpus else ""
        lines += [
            f"{'# ' * ('partition' in _read(files()[1]))}partition = {json.dumps(usual.name)}"
        ]  # else it would count before the site's
        share = max(1, usual.cpus // int(gpus or usual.cpus or 1))
        lines += [f'# gpus-per-node = "{gpus}"  # of each job that does not say otherwise; one rank each'] if gpus else []
        lines += [f"# cpus-per-task = {share}  # a rank's share of a node"]
    lines += [
        '# time = "01:00:00"',
        '# mpi = "auto"  # or a plug-in of srun, or "mpirun"',
        '# account = "…"',
        '# mem = "0"  # all memory of each node',
        '# setup = ["module load openmpi", "source ~/venv/bin/activate"]  # commands that the job runs first',
        '# python = "python"  # in place of the one that submits',
        '# container = ["apptainer", "exec", "--nv", "image.sif"]  # words in front of the program',
        '# options = ["--exclusive", "--mail-type=END"]  # further lines of #SBATCH',
        '# output = "logs"  # folder of the logs',
    ]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    """Write a new file. Raises InvalidArgument where there is one already, or it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InvalidArgument(f"{path} is there already; cure: change it by hand, or remove it first") from None
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be written: {error.strerror}") from None
