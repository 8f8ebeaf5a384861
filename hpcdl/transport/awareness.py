"""Whether the MPI library takes device memory: what it says itself, or what the site says in its place. Nothing is tried."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

from ..errors import InvalidArgument

__all__ = ["OVERRIDE", "kinds", "query", "takes_device_memory"]

OVERRIDE = "HPCDL_GPU_AWARE"
_WORDS = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}
_OWN = {"CUDA": ("MPIX_Query_cuda_support", 0), "ROCm": ("MPIX_Query_rocm_support", 2)}  # Open MPI, MPICH; and MPICH's number for it


def takes_device_memory(environ: Mapping[str, str] = os.environ, known: list[str] | None = None) -> bool:
    """Whether addresses of device memory may be handed to the MPI library of this process. After MPI_Init.

    ``HPCDL_GPU_AWARE=1`` or ``0`` is the site's word for a library that does not say, or says too much; else the library is asked, in this
    process: a call that reads a flag, which the libraries define after MPI_Init only. known: what it has said already. Raises
    InvalidArgument for another word.
    """
    word = environ.get(OVERRIDE, "").strip().lower()
    if word and word not in _WORDS:
        raise InvalidArgument(f"{OVERRIDE} must be 1 or 0, got {word!r}")
    return _WORDS[word] if word else bool(kinds() if known is None else known)


def kinds() -> list[str]:
    """Which memory the library says that it takes: CUDA, ROCm."""
    return [kind for kind, (name, number) in _OWN.items() if query(name) or _says(number)]


def query(name: str) -> bool:
    """Ask one of the library's extensions, where it has it. Why not by the process's own symbols: mpi4py may have loaded it as local."""
    for path in _loaded():
        try:
            return bool(getattr(ctypes.CDLL(path), name)())
        except (OSError, AttributeError):
            continue
    return False


def _says(number: int) -> bool:
    """MPICH 4 and what derives from it: MPIX_GPU_query_support(kind, &flag)."""
    for path in _loaded():
        flag = ctypes.c_int(0)
        try:
            return ctypes.CDLL(path).MPIX_GPU_query_support(number, ctypes.byref(flag)) == 0 and bool(flag.value)
        except (OSError, AttributeError):
            continue
    return False


def _loaded() -> list[str]:
    """The files of MPI libraries in this process."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            found = {line.split(None, 5)[5].strip() for line in maps if "libmpi" in line.rsplit("/", 1)[-1]}
    except OSError:
        return []
    return sorted(found)
