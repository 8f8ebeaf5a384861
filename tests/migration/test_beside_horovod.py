"""Beside the real Horovod, where it is installed: the same names, the same signatures, the same results."""

from __future__ import annotations

import inspect
import json

import pytest
from harness.parts import framework

torch = framework("torch")

pytestmark = [pytest.mark.outer]

#: Names in Horovod's modules that are no part of its interface.
_INSIDE = {"check_extension", "torch"}
_MODULES = {"compression", "functions", "mpi_ops", "optimizer", "sync_batch_norm", "mpi_lib_v2"}


@pytest.fixture(scope="module")
def real():
    """The real one. Only the part that needs no ranks is called in this process."""
    return framework("horovod.torch")


def test_names(real) -> None:
    import hpcdl.horovod.torch as ours

    there = {name for name in vars(real) if not name.startswith("_")} - _INSIDE - _MODULES
    assert there - set(ours.__all__) == set()


def test_signatures(real) -> None:
    import hpcdl.horovod.torch as ours

    for name in ours.__all__:
        theirs = getattr(real, name, None)
        if not callable(theirs) or name in ("shutdown", "init", "Compression", "HorovodInternalError"):
            continue
        mine = getattr(ours, name)
        wanted = [(p.name, _told(p.default)) for p in inspect.signature(theirs).parameters.values()]
        found = [(p.name, _told(p.default)) for p in inspect.signature(mine).parameters.values()]
        assert found == wanted, name
    for name in ("State", "ObjectState"):
        from horovod.common import elastic as theirs

        from hpcdl.horovod import elastic as mine

        methods = {name for name in vars(getattr(theirs, name)) if not name.startswith("_")} - {"on_hosts_updated"}
        assert methods <= set(dir(getattr(mine, name)))


def _told(default: object) -> str:
    """A default, as far as it is a plain value."""
    if default is inspect.Parameter.empty:
        return "none given"
    return (
        repr(default)
        if isinstance(default, int | float | str | bool | type(None))
        else type(default).__name__.replace("_Compressions", "type")
    )


@pytest.mark.parametrize("n", [3])
def test_results(program, real, n) -> None:
    """Every call of semantics.py gives on each rank what the real one gives."""
    results = []
    for options in ((), ("--as-horovod",)):
        process = program("semantics", n=n, options=options)
        lines = [json.loads(line[1:]) for line in process.stdout.splitlines() if line.startswith("@[")]
        assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
        results.append({(name, rank): found for name, rank, found in lines})
    theirs, mine = results
    assert theirs.keys() == mine.keys() and len(mine) > 100 * n // 2
    different = {key: (theirs[key], mine[key]) for key in mine if mine[key] != theirs[key]}
    assert not different, different


def test_idioms(idioms, real) -> None:
    """The same weights, counters and rates, after each of them."""
    ours, theirs = idioms("--as-horovod"), idioms()
    assert ours.keys() == theirs.keys()
    for key, values in ours.items():
        assert values == pytest.approx(theirs[key], abs=1e-5), key
