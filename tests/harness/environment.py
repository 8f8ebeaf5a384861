"""The environment of a test run: defaults, where we are, the time limit."""

from __future__ import annotations

import os

from hpcdl.launch.env import outside, place

WORLD = 4  # ranks of the MPI job that the outer process starts
EXIT_HUNG = 86  # exit status of a rank ended by the watchdog

DEFAULTS = {
    # Two cores and four ranks: one thread each.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Less than the watchdog's 120 s: hpcdl's own error says who waits for whom, which is more than stacks do.
    "HPCDL_TIMEOUT": "60",
    # Open MPI: as root, more ranks than cores, no line about a one-sided component that is not used.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_osc": "^ucx",
}


def set_defaults() -> None:
    """Set each default that the user has not set."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def launched_size() -> int:
    """How many ranks the launcher says it has started; 1 without a launcher."""
    here = place()
    return 1 if here is None else here.size


def inside_ranks() -> bool:
    """Whether this process is one rank of a job (True) or the process that starts jobs (False)."""
    return os.environ.get("HPCDL_IN_RANKS") == "1" or launched_size() > 1


def time_limit() -> float:
    """Seconds that one test may take before it counts as hung (HPCDL_TEST_TIMEOUT, default 120)."""
    return float(os.environ.get("HPCDL_TEST_TIMEOUT", "120"))


def for_children() -> dict[str, str]:
    """An environment without the marks of the launcher and of the harness that started us, for starting a job of our own."""
    return {name: value for name, value in outside().items() if name not in ("HPCDL_IN_RANKS", "HPCDL_TEST_JOB")}
