"""The table of launchers, and the check of the world against it."""

from __future__ import annotations

import pytest

from hpcdl.errors import LaunchError
from hpcdl.launch.env import LAUNCHERS, Place, check_launcher, check_world, outside, place

ENVIRONMENTS = {
    "Open MPI": (
        {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
         "PMIX_RANK": "3"},
        Place("Open MPI's mpirun", 3, 8, 1, 2),
    ),
    "MPICH": (
        {"PMI_RANK": "3", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
        Place("mpiexec (Hydra: MPICH, Intel MPI)", 3, 8, 1, 2),
    ),
    "MVAPICH": (
        {"MV2_COMM_WORLD_RANK": "3", "MV2_COMM_WORLD_SIZE": "8", "MV2_COMM_WORLD_LOCAL_RANK": "1", "MV2_COMM_WORLD_LOCAL_SIZE": "2"},
        Place("MVAPICH's mpirun_rsh", 3, 8, 1, 2),
    ),
    "PALS": (
        {"PALS_RANKID": "3", "PMI_RANK": "3", "PMI_SIZE": "8", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "2"},
        Place("Cray PALS' mpiexec", 3, 8, 1, 2),
    ),
    "jsrun": (
        {"JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_SIZE": "8", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_LOCAL_SIZE": "2"},
        Place("jsrun", 3, 8, 1, 2),
    ),
    "flux": ({"FLUX_TASK_RANK": "3", "FLUX_JOB_SIZE": "8", "FLUX_TASK_LOCAL_ID": "1"}, Place("flux run", 3, 8, 1, None)),
    "srun": (
        {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0",
         "SLURM_NODEID": "1",
         "SLURM_STEP_TASKS_PER_NODE": "2(x3),1(x2)", "SLURMD_NODENAME": "n17"},
        Place("srun", 3, 8, 1, 2, "n17"),
    ),
    "srun --mpi=pmi2": (
        {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "PMI_RANK": "3", "PMI_SIZE": "8"},
        Place("srun", 3, 8, 1, None),
    ),
    "srun --mpi=pmix": (
        {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "PMIX_RANK": "3"},
        Place("srun", 3, 8, 1, None),
    ),
    "PMI": ({"PMI_RANK": "3", "PMI_SIZE": "8", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "2"}, Place("a PMI launcher", 3, 8, 1, 2)),
    "PMIx": ({"PMIX_RANK": "3", "PMIX_SIZE": "8"}, Place("a PMIx launcher", 3, 8, None, None)),
}  # fmt: skip
BATCH_SHELL = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_place(name: str) -> None:
    environ, expected = ENVIRONMENTS[name]
    assert place(environ) == expected


def test_every_launcher_is_tested() -> None:
    assert {row.launcher for row in LAUNCHERS} == {expected.launcher for _, expected in ENVIRONMENTS.values()}


@pytest.mark.parametrize(
    "environ", [{}, BATCH_SHELL, {**BATCH_SHELL, "SLURM_STEP_ID": "4294967290"}, {"PMIX_RANK": "0"}, {"PMI_RANK": "x"}]
)
def test_no_launcher(environ: dict[str, str]) -> None:
    assert place(environ) is None
    check_world(1, 0, "Open MPI 5.0.11", environ)


def test_batch_script_that_a_step_has_submitted() -> None:
    """It inherits the step's variables, and has some of its own."""
    inherited = {"SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_GTIDS": "0"}
    assert place({**BATCH_SHELL, **inherited}) is None
    assert place({**BATCH_SHELL, **inherited, "SLURM_GTIDS": "0,1"}) == Place("srun", 0, 4, 0, 2)


def test_mpirun_in_a_batch_script_wins() -> None:
    step_of_the_daemons = {**BATCH_SHELL, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    for name in ("Open MPI", "MPICH"):
        environ, expected = ENVIRONMENTS[name]
        assert place({**step_of_the_daemons, **environ}) == expected


@pytest.mark.parametrize("name", [name for name in ENVIRONMENTS if name != "PMIx"])
def test_outside_forgets_the_launcher(name: str) -> None:
    environ = {"HOME": "/h", "OMPI_MCA_btl": "self,tcp", "OMPI_ALLOW_RUN_AS_ROOT": "1", "SLURM_JOB_ID": "7", **ENVIRONMENTS[name][0]}
    left = outside(environ)
    assert place(left) is None
    assert set(left) >= {"HOME", "OMPI_MCA_btl", "OMPI_ALLOW_RUN_AS_ROOT", "SLURM_JOB_ID"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_worlds_of_one(name: str) -> None:
    environ, expected = ENVIRONMENTS[name]
    check_world(8, 3, "MPICH 5.0.2", environ)
    with pytest.raises(LaunchError) as error:
        check_world(1, 0, "MPICH 5.0.2", environ)
    text = str(error.value)
    assert (
        "rank 3 of 8" in text and expected.launcher in text and "8 worlds of one rank" in text and "MPICH 5.0.2" in text and "Cure:" in text
    )
    assert ("srun --mpi=pmi2" if expected.launcher == "srun" else "hpcdl run -n 8") in text
    check_world(1, 0, "MPICH 5.0.2", {**environ, "HPCDL_ALLOW_SINGLETON": "1"})


def test_cure_for_open_mpi_under_slurm() -> None:
    with pytest.raises(LaunchError, match="srun --mpi=pmix"):
        check_world(1, 0, "Open MPI v5.0.11", ENVIRONMENTS["srun"][0])


def test_world_of_another_size() -> None:
    with pytest.raises(LaunchError, match="has a world of 4"):
        check_world(4, 1, "MPICH 5.0.2", ENVIRONMENTS["MPICH"][0])


OPEN_MPI, MPICH = "Open MPI v5.0.11, package: …", "MPICH Version:      5.0.2\n…"


@pytest.mark.parametrize(("name", "library"), [("Open MPI", MPICH), ("MPICH", OPEN_MPI), ("MVAPICH", MPICH)])
def test_library_that_cannot_belong_to_the_launcher(name: str, library: str) -> None:
    environ = ENVIRONMENTS[name][0]
    with pytest.raises(LaunchError, match=r"rank 3 of 8: .* started 8 ranks, but mpi4py loads the library of another MPI"):
        check_launcher(library, environ)
    check_launcher(library, {**environ, "HPCDL_ALLOW_SINGLETON": "1"})


def test_mpich_without_pmix() -> None:
    """It would end the process inside MPI_Init."""
    environ = {**ENVIRONMENTS["srun --mpi=pmix"][0], "PMIX_NAMESPACE": "slurm.pmix.1.0"}
    built = "MPICH Version:      5.0.2\nMPICH Device:       ch4:ofi\nMPICH configure:    --with-device=ch4:ofi {}\nMPICH CC: cc\n"
    with pytest.raises(LaunchError, match=r"rank 3 of 8: srun started 8 ranks over PMIx(?s:.*)Cure: `srun --mpi=pmi2`"):
        check_launcher(built.format("--with-pm=hydra"), environ)
    check_launcher(built.format("--with-pmix=/usr"), environ)
    check_launcher(built.format("--with-pm=hydra"), {**environ, "PMI_FD": "9"})
    check_launcher(OPEN_MPI, environ)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("Open MPI", OPEN_MPI),
        ("MPICH", MPICH),
        ("MPICH", "Intel(R) MPI Library 2021.13"),
        ("srun", MPICH),
        ("srun", OPEN_MPI),
        ("PALS", MPICH),
    ],
)
def test_library_that_may_belong_to_the_launcher(name: str, library: str) -> None:
    check_launcher(library, ENVIRONMENTS[name][0])
    check_launcher(library, {})
