"""HPCDL_REQUIRE turns the skip of a missing part into a failure."""

import pytest

pytestmark = pytest.mark.outer


@pytest.mark.parametrize("required", [False, True])
def test_module(suite, required):
    run = suite("""
        def test_part(require):
            require("no_such_module")

        def test_there(require):
            assert require("json").dumps(1) == "1"

        def test_reason(require):
            require("windows", missing="no shared memory")
    """).run(HPCDL_REQUIRE="no_such_module,windows" if required else "")
    run.has("2 failed, 1 passed" if required else "1 passed, 2 skipped", "no_such_module", "no shared memory")
    assert run.status == int(required)


@pytest.mark.parametrize("required", [False, True])
def test_mpi(suite, required):
    """[mpi] items where mpi4py finds no library."""
    tests = suite("""
        def test_it(ranks):
            ranks(2, lambda world: None)
    """)
    (tests.folder / "mpi4py.py").write_text("raise ImportError('no libmpi here')\n")
    run = tests.run("-p", "no:cacheprovider", HPCDL_REQUIRE="mpi" if required else "")
    run.has("1 failed, 1 passed" if required else "1 passed, 1 skipped", "no libmpi here")
    assert run.status == int(required)
