"""`hpcdl.torch.init`: one world, threads, device, seeds."""

import sys
import textwrap
import threading

import pytest
from harness.parts import framework
from harness.programs import run

from hpcdl.errors import InvalidArgument

torch = framework("torch")

import hpcdl.torch as ht  # noqa: E402
from hpcdl import start as beginning  # noqa: E402
from hpcdl.torch import start  # noqa: E402


def job(tmp_path, program, *flags, n=2, **env):
    """What the ranks printed, sorted."""
    file = tmp_path / "program.py"
    file.write_text("import os, torch, hpcdl, hpcdl.torch as ht\n" + textwrap.dedent(program))
    ended = run(sys.executable, "-m", "hpcdl.cli", "run", "-n", n, *flags, file, **env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return sorted(line for line in ended.stdout.splitlines() if line.startswith("say "))


@pytest.mark.outer
def test_init(tmp_path, require):
    """One world for all doors; dropout differs between ranks; threads as OMP_NUM_THREADS says."""
    require("mpi")
    program = """
        import numpy as np, random
        try:
            ht.default_world()
        except hpcdl.errors.InvalidArgument as error:
            assert "init()" in str(error)
        else:
            raise AssertionError("a world before init")
        before = torch.get_rng_state()
        first = hpcdl.init()
        world = ht.init()
        assert world is first is ht.init() is ht.default_world()
        assert torch.equal(torch.get_rng_state(), before), "seeded unasked"
        assert world.device == ("cpu" if not torch.cuda.is_available() else f"cuda:{world.local_rank % torch.cuda.device_count()}")
        assert world.group([world.rank]).device == world.device
        ht.init(seed=3)
        kept = torch.nn.functional.dropout(torch.ones(32)).bool().int().tolist()
        os.write(1, f"say {world.rank} {torch.get_num_threads()} {kept} {np.random.rand()} {random.random()}\\n".encode())
    """
    lines = job(tmp_path, program, OMP_NUM_THREADS="3")
    assert [line.split()[1:3] for line in lines] == [["0", "3"], ["1", "3"]]
    assert len({line.split("[")[1] for line in lines}) == 2, "the ranks drop the same units"
    assert len({line.split()[-1] for line in lines}) == len({line.split()[-2] for line in lines}) == 2


@pytest.mark.parametrize(
    "masks,threads",
    [([range(7)] * 3, 2), ([range(3), range(3, 6), range(6, 9)], 3), ([range(2)] * 3, 1)],
    ids=["shared", "tied", "crowded"],
)
@pytest.mark.ways("threads")
def test_threads_are_shared_out(ranks, monkeypatch, masks, threads):
    """A rank tied to cores of its own uses them all; ranks that share cores share them out."""
    rank_of = threading.local()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(masks[rank_of.rank]), raising=False)
    monkeypatch.setattr(beginning, "cores", lambda: len(masks[rank_of.rank]))

    def body(world):
        rank_of.rank = world.rank
        return beginning.thread_share(world)

    assert ranks(3, body) == [threads] * 3


def test_seeds():
    def drawn(seed, rank):
        start.seed_rank(seed, rank)
        return torch.rand(3).tolist()

    state = torch.get_rng_state()
    try:
        assert drawn(0, 1) == drawn(0, 1)
        assert len({tuple(drawn(seed, rank)) for seed in range(3) for rank in range(3)}) == 9
    finally:
        torch.set_rng_state(state)
    for bad in (-1, "1", 0.5):
        with pytest.raises(InvalidArgument, match="seed"):
            ht.init(seed=bad)
