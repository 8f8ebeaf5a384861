"""Become a program that sees one GPU of its node: this rank's own. Before Python, MPI and CUDA start in it.

    LAUNCHER … python -m hpcdl.launch.one_gpu PROGRAM ARGS…

Why not `srun --gpus-per-task=1`: mpirun knows nothing of the kind, and where Slurm fences the GPUs of each task off, neighbours cannot copy
from GPU to GPU any more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NoReturn

from ..errors import LaunchError
from .env import place

__all__ = ["become", "visible"]

_ROCM = "ROCR_VISIBLE_DEVICES"
_OTHERS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")  # Slurm sets several alike


def visible(environ: Mapping[str, str], amd: bool = False) -> dict[str, str]:
    """`environ` with the one GPU of this rank; as it is where the node has one or none for us. Ranks beyond the GPUs share them in turn.

    amd: AMD's, where ROCm's own variable hides GPUs from what reads the others: then they would number within one.
    Raises LaunchError where the launcher does not tell the local rank.

    >>> rank = {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    >>> visible({**rank, "CUDA_VISIBLE_DEVICES": "2,3"})["CUDA_VISIBLE_DEVICES"]
    '3'
    """
    here = place(environ)
    several = {name: environ[name].split(",") for name in (_ROCM, *_OTHERS) if "," in environ.get(name, "")}
    if here is None or here.size == 1 or not several:
        return dict(environ)
    if here.local_rank is None:
        raise LaunchError(
            f"rank {here.rank} of {here.size}: {here.launcher} does not tell which rank of its node this is: no GPU to choose"
        )
    own = {name: gpus[here.local_rank % len(gpus)] for name, gpus in several.items()}
    hidden = _OTHERS if amd and _ROCM in own else ()
    return {name: own.get(name, value) for name, value in environ.items() if name not in hidden}


def become(command: list[str]) -> NoReturn:
    """Replace this process by `command`."""
    try:
        os.execvpe(command[0], command, visible(os.environ, amd=os.path.exists("/dev/kfd")))
    except (OSError, LaunchError) as error:
        sys.exit(f"hpcdl: error: {command[0]!r} cannot be started: {error}")


if __name__ == "__main__":
    become(sys.argv[1:])
