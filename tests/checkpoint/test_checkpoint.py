"""Checkpoints of several ranks: saved, damaged, restored on other numbers of ranks."""

from __future__ import annotations

import resource
import signal
import warnings
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import pytest

from hpcdl.checkpoint import Checkpoint
from hpcdl.errors import CommunicationError, DataError, InvalidArgument, Mismatch


class Own:
    """What differs between ranks."""

    def __init__(self, world) -> None:
        self.x = np.arange(world.rank + 1.0)
        self.all = None

    def rank_state_dict(self):
        return {"x": self.x}

    def load_rank_state_dict(self, state) -> None:
        self.x = state["x"]


class Merging(Own):
    def load_all_rank_state_dicts(self, states) -> None:
        self.all = [len(state["x"]) for state in states]


def model(value: float = 0.0):
    return {
        "w": [np.full((3, 2), value, np.float32), np.full(1000, value, np.float64)],
        "half": np.full(4, value, np.float16),
        "epoch": int(value),
    }


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_there_and_back(ranks, shared_path, n, spread, background) -> None:
    def body(world) -> None:
        def checkpoint(here, own):
            return Checkpoint(shared_path, world, {"model": here, "own": own}, keep=2, spread=spread, background=background)

        with checkpoint(here := model(), own := Own(world)) as one:
            assert one.restore() is None
            for step in range(1, 5):
                here["w"][0][...] = here["w"][1][...] = here["half"][...] = step
                here["epoch"], own.x = step, own.x + 1
                one.save(step)
                here["w"][0][...] = -1  # at once: what is saved is of before
            one.wait()
            assert one.saved == 4
        assert sorted(path.name for path in shared_path.iterdir()) == ["step-000000000003", "step-000000000004"]
        with checkpoint(again := model(), other := Own(world)) as two:
            first = again["w"][0]
            assert two.restore() == 4 and two.saved == 4
            assert again["w"][0] is first and (first == 4).all() and (again["half"] == 4).all() and again["epoch"] == 4
            assert (other.x == np.arange(world.rank + 1) + 4).all()
        world.barrier()

    ranks(n, body)


def test_on_another_number_of_ranks(ranks, shared_path) -> None:
    """What is the same on all ranks is there; of what differs, each gets all, or is left alone and told of."""

    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": model(7), "own": Merging(world)}, spread=True) as one:
            one.save(7)
        fewer = world.group([0, 1, 2]) if world.rank < 3 else None
        if fewer is not None:
            for own in (Merging(fewer), Own(fewer)):
                with (
                    Checkpoint(shared_path, fewer, {"model": (here := model()), "own": own}) as two,
                    warnings.catch_warnings(record=True) as told,
                ):
                    warnings.simplefilter("always")
                    assert two.restore() == 7
                assert (here["w"][1] == 7).all() and here["epoch"] == 7
                if isinstance(own, Merging):
                    assert own.all == [1, 2, 3, 4]
                elif told:  # caught by one of the threads
                    assert str(told[0].message) == "'own' was saved by each of 4 ranks; on 3 it stays as it is"
        world.barrier()

    ranks(4, body)


@pytest.mark.ways("mpi")
def test_damage(ranks, shared_path) -> None:
    """Whatever rank's file it is, all go back to the one before; rank 0 names both. With none left all raise the same."""

    def body(world) -> str:
        with Checkpoint(shared_path, world, {"model": (here := model()), "own": Own(world)}, spread=True) as one:
            for step in (1, 2, 3):
                here["epoch"] = step
                one.save(step)
            one.wait()
            if world.rank == 0:
                file = shared_path / "step-000000000003" / "rank-00002-of-00003.safetensors"
                file.write_bytes(file.read_bytes()[:-1])
                (shared_path / "step-000000000002" / "manifest.json").unlink()
            world.barrier()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                assert one.restore() == 1 and here["epoch"] == 1
            assert len(told) == (world.rank == 0)
            if told:
                text = str(told[0].message)
                assert "step-000000000003 is damaged (rank-00002-of-00003.safetensors has" in text
                assert "step-000000000002 is damaged (its manifest cannot be read" in text
                assert text.endswith(f"passed over for {shared_path / 'step-000000000001'}")
            assert one.restore() == 1  # the damaged are out of the way, not deleted
            names = sorted(path.name.split("-")[0] for path in shared_path.iterdir())
            assert names == ["damaged", "damaged", "step"]
            world.barrier()
            if world.rank == 0:
                (shared_path / "step-000000000001" / "shared-00001-of-00003.safetensors").write_bytes(b"")
            world.barrier()
            with pytest.raises(
                DataError, match=r"no checkpoint in .* is whole: .*step-000000000001 is damaged .*; cure: remove them"
            ) as error:
                one.restore()
        return str(error.value)

    texts = ranks(3, body)
    assert texts is None or len(set(texts)) == 1


def test_of_another_model(ranks, shared_path) -> None:
    """Shapes and names that differ are listed, the same on all ranks, and nothing has changed."""

    def body(world) -> str:
        with Checkpoint(shared_path, world, {"model": {"a": np.zeros((2, 3)), "b": np.zeros(1), "c": [np.zeros(1)]}}) as one:
            one.save(1)
        other = {"a": np.ones((2, 4)), "d": np.ones(1, np.float32), "c": [np.ones(1)]}
        with Checkpoint(shared_path, world, {"model": other}) as two, pytest.raises(DataError) as error:
            two.restore()
        assert (other["c"][0] == 1).all()
        with (
            Checkpoint(shared_path, world, {"net": other}) as three,
            pytest.raises(DataError, match="holds 'model', and the parts here are 'net'"),
        ):
            three.restore()
        return str(error.value)

    texts = ranks(2, body)
    if texts is not None:
        assert len(set(texts)) == 1
        assert "model/a is float64 of shape [2, 4] here, and float64 of shape [2, 3] was saved" in texts[0]
        assert "model/d was not saved" in texts[0] and "model/b was saved, and is not here" in texts[0]


@contextmanager
def full_disk(nbytes: int):
    """Files cannot grow beyond so many bytes."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), None
    try:
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.ways("mpi")
@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk(ranks, shared_path, background) -> None:
    """Of one rank: no rank has the checkpoint, training goes on, the last good one stays, and a later one succeeds."""

    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": (here := model())}, spread=True, background=background) as one:
            one.save(1)
            one.wait()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                if world.rank == 1:
                    with full_disk(2000):
                        one.save(2)
                        one.wait()
                else:
                    one.save(2)
                    one.wait()
            assert one.saved == 1 and len(told) == (world.rank == 0)
            if told:
                text = str(told[0].message)
                assert "the checkpoint of step 2 could not be written: rank 1 of 2: OSError" in text
                assert text.endswith(f"training goes on, and the last good one is {shared_path / 'step-000000000001'}")
                assert [path.name for path in shared_path.iterdir()] == ["step-000000000001"]
            one.save(3)
            one.wait()
            assert one.saved == 3 and one.restore() == 3 and here["epoch"] == 0

    ranks(2, body)


def test_a_folder_that_cannot_be(ranks, shared_path) -> None:
    def body(world) -> None:
        file = shared_path / "file"
        if world.rank == 0:
            file.write_text("")
        world.barrier()
        with Checkpoint(file / "runs", world, {"model": model()}, background=False) as one, warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            one.save(1)
            assert one.saved is None

    ranks(2, body)


def test_ranks_that_save_different_steps(ranks, shared_path) -> None:
    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": model()}, spread=True) as one, warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            one.save(5 + world.rank)
            one.wait()
            assert one.saved is None and one.restore() is None
        for each in told:
            assert "rank 0 saves step 5, and rank 1 step 6; all must save the same" in str(each.message)

    ranks(3, body)


def test_ranks_that_disagree(ranks, shared_path) -> None:
    """On the folder, on how to write, on what."""

    def body(world) -> None:
        for parts, more, said in (
            ({"model": model()}, {"spread": world.rank == 1}, "'spread' is False on rank 0 and True on rank 1"),
            ({f"model {world.rank}": model()}, {}, "\"part 'model 0'\" is on rank 0, but not on rank 1"),
        ):
            with pytest.raises(Mismatch, match="the arguments of Checkpoint differ between the 2 ranks") as error:
                Checkpoint(shared_path, world, parts, **more)
            assert said in str(error.value)
        with pytest.raises(Mismatch, match="'folder' is "):
            Checkpoint(shared_path / str(world.rank), world, {"model": model()})

    ranks(2, body)


@pytest.mark.parametrize("background", [False, True])
def test_steps_of_numpy(ranks, shared_path, background) -> None:
    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": model()}, background=background) as one:
            one.save(np.int64(5))
            one.wait()
            assert one.saved == 5 and one.restore() == 5

    ranks(2, body)


def test_what_can_be_overwritten(ranks, shared_path) -> None:
    """Lists that grow, tuples, other types, arrays that are read-only."""

    def body(world) -> None:
        values = {"history": [[1, 2]], "pair": (np.zeros(2), 5), "x": np.zeros(2)}
        with Checkpoint(shared_path, world, {"values": values}) as one:
            values["history"].append([3])
            one.save(1)
            one.wait()
            values |= {"history": [], "pair": (np.ones(2), 6)}
            assert one.restore() == 1
            assert values["history"] == [[1, 2], [3]] and values["pair"][1] == 5 and (values["pair"][0] == 0).all()
            values["x"].flags.writeable = False
            with pytest.raises(DataError, match="values/x is read-only here"):
                one.restore()
            for other in ({"a": 1}, 5):
                with pytest.raises(DataError, match="of another model"):
                    values["x"] = other
                    one.restore()

    ranks(2, body)


def test_a_reader_that_fails_for_a_moment(ranks, shared_path, monkeypatch) -> None:
    """Nothing is given up because of it."""

    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": model()}, background=False) as one:
            one.save(1)
            one.save(2)
            read = one._folder.read

            def failing(step, entry):
                raise OSError(5, "Input/output error")

            if world.rank == 0:
                one._folder.read = failing
            with pytest.raises(DataError, match=r"step-0*2 cannot be read: rank 0: .*Input/output error; cure: mend that"):
                one.restore()
            one._folder.read = read
            assert one.restore() == 2

    ranks(2, body)


def test_bad_arguments(ranks, shared_path) -> None:
    def body(world) -> None:
        with pytest.raises(InvalidArgument, match="keep must be at least 1, got 0"):
            Checkpoint(shared_path, world, {}, keep=0)
        with pytest.raises(InvalidArgument, match=r"cannot hold 'net', a object: it needs state_dict\(\)"):
            Checkpoint(shared_path, world, {"net": object()})
        with pytest.raises(InvalidArgument, match="a mappingproxy: it needs"):
            Checkpoint(shared_path, world, {"net": MappingProxyType({})})
        with Checkpoint(shared_path, world, {}) as one, pytest.raises(InvalidArgument, match="step must not be negative"):
            one.save(-1)

    ranks(2, body)


def test_a_part_that_one_rank_cannot_save(ranks, shared_path) -> None:
    """All hear of it, and none stands still."""

    def body(world) -> None:
        values = {"x": object() if world.rank == 1 else 1.0}
        with Checkpoint(shared_path, world, {"model": values}, spread=True) as one:
            with pytest.raises(InvalidArgument, match="step 1 cannot be saved: rank 1 of 2: a checkpoint cannot hold object at model/x"):
                one.save(1)
            values["x"] = 1.0
            one.save(2)
            one.wait()
            assert one.saved == 2

    ranks(2, body)


def test_a_save_that_only_one_rank_calls(ranks, shared_path) -> None:
    """It ends where the others go on, and says so."""

    def body(world) -> None:
        with Checkpoint(shared_path, world, {"model": model()}) as one:
            with pytest.raises(CommunicationError, match="rank 0") as error:
                one.save(1) if world.rank == 0 else world.allreduce(np.zeros(3))
            assert "allgather" in str(error.value) and "allreduce" in str(error.value)

    ranks(2, body)
