"""What passes, fails and skips in the ranks does so in the outer run, too."""

import pytest

from harness.nested import make_suite

pytestmark = pytest.mark.outer

SOURCE = """
    HERE = os.path.dirname(__file__)

    def trace(text):
        with open(os.path.join(HERE, "trace"), "a") as file:
            file.write(text + chr(10))

    @pytest.mark.parametrize("n", [1, 2, 3, 4])
    def test_values(ranks, n):
        assert ranks(n, lambda world, k: k * world.rank + world.size, 10) == [10 * rank + n for rank in range(n)]

    def test_guilty(ranks):
        def body(world):
            trace("guilty")
            assert world.rank != 3, "the guilty one"
        ranks(4, body)

    def test_absent(ranks):
        def body(world):
            if world.rank == 1:
                pytest.skip("not today")
        ranks(2, body)

    @pytest.mark.xfail(strict=True)
    def test_known(ranks):
        ranks(2, lambda world: 1 / 0)

    def test_unpicklable(ranks, request):
        values = ranks(2, lambda world: (lambda: world.rank))
        assert values is None or "threads" in request.node.name

    @pytest.mark.ways("threads")
    def test_many(ranks):
        assert ranks(17, lambda world: world.rank) == list(range(17))

    def test_shared(ranks, shared_path):
        ranks(3, lambda world: (shared_path / str(world.rank)).touch())
        assert len(list(shared_path.iterdir())) == 3

    def test_pure():
        trace("pure")

    @pytest.mark.outer
    def test_outer():
        trace("outer")

    def test_apart(ranks, request):
        ranks(2, lambda world: None)
        if "threads" not in request.node.name:
            from mpi4py import MPI
            assert MPI.COMM_WORLD.rank != 2, "apart"
            ranks(4, lambda world: None)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The suite and one run of all of it."""
    tests = make_suite(tmp_path_factory.mktemp("suite"), SOURCE)
    return tests, tests.run()


def test_outer_run(whole, require):
    require("mpi")
    _, run = whole
    assert run.status == 1
    run.has("FAILED test_it.py::test_guilty[threads]", "FAILED test_it.py::test_guilty[mpi]", "FAILED test_it.py::test_apart[mpi]")
    run.has("rank 3 of 4: AssertionError: the guilty one", "assert world.rank != 3", "rank 0: passed", "rank 1: not today")
    run.has("this is rank 2 of 4", "AssertionError: apart", "3 failed, 16 passed, 2 skipped, 2 xfailed")


def test_selection(whole, require):
    """Only selected items run in the ranks; --lf knows the [mpi] items."""
    require("mpi")
    tests, _ = whole
    (tests.folder / "trace").unlink()
    run = tests.run("--lf", "-x", "-k", "test_apart or test_values")
    run.has("1 failed", "FAILED test_it.py::test_apart[mpi]")
    assert "passed" not in run.out.splitlines()[-1]
    assert not (tests.folder / "trace").exists()


def test_run_by_hand(suite, require):
    require("mpi")
    tests = suite(SOURCE)
    run = tests.run(by_hand=True)
    assert run.status == 1
    run.has("FAILED test_it.py::test_guilty[mpi]", "rank 3 of 4: AssertionError: the guilty one", "starts jobs itself")
    run.has("this is rank 2 of 4", "AssertionError: apart", "2 failed, 8 passed, 2 skipped, 1 xfailed")
    assert run.out.count("test session starts") == 1
    trace = (tests.folder / "trace").read_text().split()
    assert (trace.count("pure"), trace.count("outer"), trace.count("guilty")) == (1, 0, 4)


def test_no_job_without_an_mpi_item(suite):
    run = suite(SOURCE).run("test_it.py::test_values[3-threads]", "test_it.py::test_pure", PATH="")
    assert run.status == 0
    run.has("2 passed")


def test_ranks_that_collect_differently(suite, require):
    require("mpi")
    run = suite("""
        from mpi4py import MPI

        @pytest.mark.parametrize("k", range(2 + (MPI.COMM_WORLD.rank == 3)))
        def test_k(ranks, k):
            pass
    """).run(by_hand=True)
    assert run.status != 0
    run.has("the ranks collected different tests", "rank 3: 3 tests")
