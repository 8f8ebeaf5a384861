"""Hangs and crashes: never green, never silent, never for ever."""

import pytest

pytestmark = pytest.mark.outer

HANG = """
    def test_before(ranks):
        ranks(4, lambda world: None)

    def test_hang(ranks):
        def stuck_here(world):
            if world.rank == 1:
                raise ValueError("rank 1 was ill")
            if world.rank == 2:
                while True:
                    time.sleep(0.1)
        ranks(4, stuck_here)

    def test_after(ranks):
        ranks(4, lambda world: None)
"""


def test_hang_of_a_rank(suite, require):
    require("mpi")
    run = suite(HANG).run("-m", "mpi", HPCDL_TEST_TIMEOUT="1")
    assert run.status == 1
    run.has("no end after 1 s", "in stuck_here", *(f"==== rank {rank} of 4 ====" for rank in range(4)))
    run.has("ValueError: rank 1 was ill", "not run: the ranks died in test_it.py::test_hang[mpi]", "2 failed, 1 passed")


def test_hang_by_hand(suite, require):
    require("mpi")
    run = suite(HANG).run(by_hand=True, HPCDL_TEST_TIMEOUT="1")
    assert run.status != 0
    run.has("no end after 1 s", "in stuck_here", *(f"==== rank {rank} of 4 ====" for rank in range(4)))


def test_hang_of_a_thread(suite):
    run = suite(HANG).run("-m", "not mpi", HPCDL_TEST_TIMEOUT="1")
    assert run.status == 1
    run.has("no end after 1 s", "---- rank 2 of 4 ----", "in stuck_here", "ValueError: rank 1 was ill", "1 failed, 2 passed")


def test_hang_of_a_pure_test(suite):
    run = suite("def test_slow(): time.sleep(30)").run(HPCDL_TEST_TIMEOUT="1")
    assert run.status == 1
    run.has("no end after 1 s", "1 failed")


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_death_of_a_rank(suite, require, end):
    require("mpi")
    run = suite(f"""
        def test_before(ranks):
            ranks(4, lambda world: None)

        def test_death(ranks):
            def body(world):
                if world.rank == 2:
                    {end}
            ranks(4, body)

        def test_after(ranks):
            ranks(4, lambda world: None)
    """).run("-m", "mpi", HPCDL_TEST_TIMEOUT="3")
    assert run.status == 1
    run.has("the ranks died in test_it.py::test_death[mpi]", "not run: the ranks died in", "2 failed, 1 passed")


def test_death_after_the_last_test(suite, require):
    require("mpi")
    run = suite("""
        import atexit

        def test_it(ranks):
            ranks(4, lambda world: atexit.register(os._exit, 7) and None)
    """).run("-m", "mpi")
    assert run.status == 1
    run.has("after their last test")
