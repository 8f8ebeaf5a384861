"""One table: launcher -> the environment variables that tell a process its place.

Pure standard library and at the bottom of the import order, so that everything may ask `place()` without starting MPI.
Variables mean what their launcher says only inside a process that it started: a Slurm *batch script* bears SLURM_PROCID and
SLURM_NTASKS too, and a plain ``python`` there is rightly a world of one. Only what srun started bears SLURM_STEP_ID; or a batch script
that such a task has submitted, which inherits it. mpirun in a heterogeneous job knows of the job's first part only; srun tells the ranks
of ``srun --het-group=0,1 …`` their place among all parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import LaunchError

__all__ = ["LAUNCHERS", "Place", "Variables", "check_launcher", "check_world", "outside", "place"]

ALLOW_SINGLETON = "HPCDL_ALLOW_SINGLETON"


@dataclass(frozen=True)
class Place:
    """Where the launcher put this process. Local values are None where it does not tell them; node: its name in a Slurm job."""

    launcher: str
    rank: int
    size: int
    local_rank: int | None
    local_size: int | None
    node: str = ""

    @property
    def who(self) -> str:
        """What errors call it."""
        return f"rank {self.rank} of {self.size}" + (f" on {self.node}" if self.node else "")


@dataclass(frozen=True)
class Variables:
    """The variables of one launcher; a tuple lists alternatives, first wins. `marks` must all be set beside them.

    `libraries` is a regular expression over what the MPI libraries call themselves that this launcher can start; "" for any.
    """

    launcher: str
    rank: tuple[str, ...]
    size: tuple[str, ...]
    local_rank: tuple[str, ...] = ()
    local_size: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    libraries: str = ""


# Order matters: a launcher that starts its daemons by another one (mpirun inside sbatch uses srun) leaves both sets of variables
# behind, and the inner one is true. Hydra's own variables come before those that srun --mpi=pmi2 and Cray PALS share with it.
LAUNCHERS: tuple[Variables, ...] = (
    Variables(
        "Open MPI's mpirun",
        ("OMPI_COMM_WORLD_RANK",),
        ("OMPI_COMM_WORLD_SIZE",),
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
        libraries="Open MPI|Spectrum MPI",
    ),
    Variables(
        "MVAPICH's mpirun_rsh",
        ("MV2_COMM_WORLD_RANK", "MVP_COMM_WORLD_RANK"),
        ("MV2_COMM_WORLD_SIZE", "MVP_COMM_WORLD_SIZE"),
        ("MV2_COMM_WORLD_LOCAL_RANK", "MVP_COMM_WORLD_LOCAL_RANK"),
        ("MV2_COMM_WORLD_LOCAL_SIZE", "MVP_COMM_WORLD_LOCAL_SIZE"),
        libraries="MVAPICH",
    ),
    Variables(
        "mpiexec (Hydra: MPICH, Intel MPI)",
        ("PMI_RANK",),
        ("PMI_SIZE",),
        ("MPI_LOCALRANKID",),
        ("MPI_LOCALNRANKS",),
        marks=("MPI_LOCALRANKID",),
        libraries=r"MPICH|MVAPICH|Intel\(R\) MPI|ParaStation",
    ),
    Variables(
        "Cray PALS' mpiexec",
        ("PALS_RANKID",),
        ("PALS_SIZE", "PMI_SIZE"),
        ("PALS_LOCAL_RANKID", "PMI_LOCAL_RANK"),
        ("PALS_LOCAL_SIZE", "PMI_LOCAL_SIZE"),
    ),
    Variables("jsrun", ("JSM_NAMESPACE_RANK",), ("JSM_NAMESPACE_SIZE",), ("JSM_NAMESPACE_LOCAL_RANK",), ("JSM_NAMESPACE_LOCAL_SIZE",)),
    Variables("flux run", ("FLUX_TASK_RANK",), ("FLUX_JOB_SIZE",), ("FLUX_TASK_LOCAL_ID",)),
    Variables(
        "srun",
        ("SLURM_PROCID",),
        ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"),
        ("SLURM_LOCALID",),
        marks=("SLURM_STEP_ID",),
    ),
    Variables("a PMI launcher", ("PMI_RANK",), ("PMI_SIZE",), ("PMI_LOCAL_RANK",), ("PMI_LOCAL_SIZE",)),
    # PMIx itself hands out the size only over its socket; its launchers (mpirun 5, srun --mpi=pmix) are known by their rows above.
    Variables("a PMIx launcher", ("PMIX_RANK",), ("PMIX_SIZE", "PMIX_JOB_SIZE"), ("PMIX_LOCAL_RANK",), ("PMIX_LOCAL_SIZE",)),
)

# How MPICH tells that it was built without PMIx, and what it is given where it speaks PMI 1 or 2.
_MPICH_WITHOUT_PMIX = re.compile(r"MPICH Version:(?s:.*)MPICH configure:(?!.*pmix)", re.IGNORECASE)
_PMI_SOCKETS = {"PMI_FD", "PMI_PORT"}
_SLURM_RESERVED_STEP = 0xFFFFFFF0  # the batch script, the interactive shell and the external step have ids from here on


def place(environ: Mapping[str, str] = os.environ) -> Place | None:
    """This process's place as its launcher tells it, or None where no launcher started it.

    >>> place({"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"})
    Place(launcher='mpiexec (Hydra: MPICH, Intel MPI)', rank=1, size=4, local_rank=1, local_size=4, node='')
    >>> place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None        # a batch script, not a task of srun
    True
    """
    for row in LAUNCHERS:
        rank, size = _number(environ, row.rank), _number(environ, row.size)
        if rank is None or size is None or any(mark not in environ for mark in row.marks):
            continue
        if row.launcher == "srun" and not _in_step(environ):
            continue
        local_size = _slurm_local_size(environ) if row.launcher == "srun" else _number(environ, row.local_size)
        return Place(row.launcher, rank, size, _number(environ, row.local_rank), local_size, environ.get("SLURMD_NODENAME", ""))
    return None


def _number(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    for name in names:
        if environ.get(name, "").isdigit():
            return int(environ[name])
    return None


def _in_step(environ: Mapping[str, str]) -> bool:
    """Whether the marks of a step of srun's are this process's own: its node's tasks, which Slurm lists for every one, are as many."""
    if int(environ.get("SLURM_STEP_ID", "0") or 0) >= _SLURM_RESERVED_STEP:
        return False
    listed = environ.get("SLURM_GTIDS", "")
    return not listed or len(listed.split(",")) == (_slurm_local_size(environ) or len(listed.split(",")))


def _slurm_local_size(environ: Mapping[str, str]) -> int | None:
    """This node's entry in SLURM_STEP_TASKS_PER_NODE, e.g. "4(x2),3": two nodes of 4 tasks, then one of 3."""
    node, counts = environ.get("SLURM_NODEID", ""), environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    if not node.isdigit():
        return None
    per_node: list[int] = []
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        per_node += [int(tasks)] * int(times or 1)
    return per_node[int(node)] if int(node) < len(per_node) else None


def check_launcher(library: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise LaunchError where `library`, as it calls itself, cannot belong to the launcher. To be asked before MPI_Init.

    Why: MPICH's library under Open MPI's mpirun, or under srun --mpi=pmix if it was built without PMIx, does not start worlds of one:
    it ends the process inside MPI_Init.
    """
    here = place(environ)
    if here is None or here.size <= 1 or environ.get(ALLOW_SINGLETON, "") not in ("", "0"):
        return
    fits = next(row.libraries for row in LAUNCHERS if row.launcher == here.launcher)
    over = ""
    if "PMIX_NAMESPACE" in environ and not environ.keys() & _PMI_SOCKETS and _MPICH_WITHOUT_PMIX.match(library):
        over = " over PMIx, which it does not speak"
    if over or not re.search(fits, library, re.IGNORECASE):
        text = f"{here.launcher} started {here.size} ranks{over}, but mpi4py loads the library of another MPI ({_first_line(library)})"
        raise LaunchError(f"{here.who}: {text}.\n{_cause_and_cure(here, library)}")


def check_world(size: int, rank: int, library: str, environ: Mapping[str, str] = os.environ) -> None:
    """Raise LaunchError where the launcher started another number of ranks than MPI's COMM_WORLD (`size`, `rank`) has.

    A launcher of one MPI with the library of another starts N worlds of one rank, each of which trains alone and exits with 0.
    `library` is what the MPI library calls itself. HPCDL_ALLOW_SINGLETON=1 turns the check off.
    """
    here = place(environ)
    if here is None or here.size <= 1 or here.size == size or environ.get(ALLOW_SINGLETON, "") not in ("", "0"):
        return
    what = f"these are {here.size} worlds of one rank each, every one training alone" if size == 1 else "the two do not belong together"
    raise LaunchError(
        f"{here.who}: {here.launcher} started {here.size} ranks, but the MPI library that mpi4py loads"
        f" ({_first_line(library)}) has a world of {size} (rank {rank} of it): {what}.\n{_cause_and_cure(here, library)}"
    )


def _first_line(library: str) -> str:
    return (library.strip("\0\n ").splitlines() or ["unknown"])[0].split(", package:")[0].strip()


def _cause_and_cure(here: Place, library: str) -> str:
    return (
        f"Cause: the launcher belongs to another MPI than the library. Cure: {_cure(here.launcher, library, here.size)}."
        f" `hpcdl doctor` shows both. ({ALLOW_SINGLETON}=1 lets separate worlds run on purpose.)"
    )


def _cure(launcher: str, library: str, ranks: int) -> str:
    pmix = "open mpi" in library.lower()
    if launcher == "srun":
        plugin, own = ("--mpi=pmix", "mpirun") if pmix else ("--mpi=pmi2", "mpiexec")
        return f"`srun {plugin}` (`srun --mpi=list` names what this Slurm has), or {own} of that library in the batch script"
    theirs = "Open MPI's mpirun" if pmix else "the mpiexec of that MPI library"
    return f"`hpcdl run -n {ranks} …`, which takes the launcher that belongs to the library, or {theirs}"


_OF_LAUNCHERS = re.compile(
    r"OMPI_(COMM_)?WORLD_|OMPI_(UNIVERSE_SIZE|NUM_APP_CTX|FIRST_RANKS|APP_CTX|FILE_LOCATION|COMMAND|ARGV|TOOL_NAME|LIBDIR_LOC|VERSION)"
    r"|OMPI_MCA_(orte_|ess|pmix$|num_procs|initial_wdir|cpu_type|mpi_oversubscribe|shmem_RUNTIME|PREFIXES)"
    r"|PMIX_(?!MCA_)|PMIX_MCA_mca_base_component_show_load_errors|PRTE_(LAUNCHED|SHARED_FS)"
    r"|PMI_|HYDI_|HYDRA_|MPI_LOCAL|MV2_COMM|MVP_COMM|PALS_|JSM_|FLUX_TASK|SLURM_STEP|SLURM_(PROCID|LOCALID)$"
)


def outside(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environ` without what a launcher told this process, so that a new world can be started from inside a rank."""
    if place(environ) is None:
        return dict(environ)
    return {name: value for name, value in environ.items() if not _OF_LAUNCHERS.match(name)}
