"""What a test sees of the harness.

    @pytest.mark.parametrize("n", [1, 2, 3, 4])
    def test_sum(ranks, n):                                # two items each: [n-threads] and [n-mpi]
        def body(world):                                   # runs on each of the n ranks
            return float(world.allreduce(np.ones(5))[0])

        assert ranks(n, body) in (None, [n] * n)           # the return values, in rank order

Inside the ranks, what stands around `ranks(…)` runs on every rank, also on those that are no member of the n:
it must not depend on the rank.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import environment, parts
from .in_mpi import InMPI
from .in_threads import InThreads

environment.set_defaults()

WAYS = {"threads": pytest.param("threads", id="threads"), "mpi": pytest.param("mpi", id="mpi", marks=pytest.mark.mpi)}


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Take the part of one rank, or of the outer process."""
    config.addinivalue_line("markers", "outer: starts jobs itself; runs outside of the ranks only")
    config.addinivalue_line("markers", "ways(*names): restricts the fixture `ranks` to 'threads' or 'mpi'")
    config.addinivalue_line("markers", "mpi: given by the harness to each [mpi] item")
    _tame_hypothesis()
    stderr = os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace")  # the real one: pytest captures 2 during tests
    if environment.inside_ranks():
        from .step import InStep

        config.pluginmanager.register(InStep(config, stderr), "harness-step")
    else:
        from .relay import Relay

        config.pluginmanager.register(Relay(config, stderr), "harness-relay")


def pytest_report_header() -> str:
    """Which hpcdl is under test: the checkout's or an installed one."""
    found = importlib.util.find_spec("hpcdl")
    return f"hpcdl: {Path(found.origin).parent if found and found.origin else 'not found'}"


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of `ranks` becomes [threads] and [mpi]; inside the ranks only the latter, if it has it."""
    if "ranks" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("ways")
    ways = list(mark.args) if mark else list(WAYS)
    if environment.inside_ranks() and "mpi" in ways:
        ways = ["mpi"]
    metafunc.parametrize("ranks", [WAYS[way] for way in ways], indirect=True)


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> InThreads | InMPI:
    """`ranks(n, body, *args, **kw)`: runs `body(world, *args, **kw)` on n ranks, raises if any raised; the return values in rank order.

    On MPI the values are pickled; None in place of the list if one of them cannot be.
    """
    return InThreads() if request.param == "threads" else _in_mpi(request.config)


@pytest.fixture
def require() -> Callable[..., Any]:
    """`require("sklearn")`: the module, or a skip; a failure if HPCDL_REQUIRE names it. Also "mpi", "slurm", "gpu"."""
    return parts.require


@pytest.fixture
def shared_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An empty folder, the same one on every rank."""
    if environment.inside_ranks() and request.node.get_closest_marker("mpi"):
        return Path(_in_mpi(request.config).share(str(tmp_path)))
    return tmp_path


def _in_mpi(config: pytest.Config) -> InMPI:
    step: Any = config.pluginmanager.getplugin("harness-step")
    return step.in_mpi  # type: ignore[no-any-return]


def _tame_hypothesis() -> None:
    """The same examples on every rank and in every run; slowness is no failure; `ranks` may serve many examples."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import HealthCheck, settings

    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.differing_executors]
    settings.register_profile("hpcdl", derandomize=True, database=None, deadline=None, suppress_health_check=quiet)
    settings.load_profile("hpcdl")
