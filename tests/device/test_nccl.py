"""NCCL on the double, whose ranks are threads with a fake GPU each: what it does, in which order, and what happens when it cannot."""

import numpy as np
import pytest

from device.conftest import installed
from device.fake_cupy import Machine
from device.places import gradient, own_stream, same, up
from hpcdl.collectives import calls
from hpcdl.collectives.devices import DevicePath
from hpcdl.errors import CommunicationError, InvalidArgument, Mismatch
from hpcdl.reduction.reducer import Reducer
from hpcdl.transport.threads import ThreadHub

pytestmark = pytest.mark.ways("threads")


@pytest.fixture
def cupy(mode):
    with installed(Machine(deferred=mode == "deferred", nccl=True)) as module:
        yield module
    assert not module.machine.implicit, module.machine.implicit


@pytest.fixture
def two_nodes(monkeypatch):
    monkeypatch.setattr("harness.in_threads.make_hub", lambda n: ThreadHub(n, nodes=2))


def fast(world, asked="auto"):
    """A world of the same ranks that takes the path."""
    here = world.group(range(world.size))
    here._group.devices.follow(DevicePath(asked))
    return here


def kinds(cupy):
    return {record.kind for record in cupy.machine.log}


def whole(rank, n, dtype):
    """Small whole numbers, which add up to the same in any order."""
    return np.random.default_rng((rank, n)).integers(1, 5, n).astype(dtype)


@pytest.mark.parametrize("mode", ["deferred", "eager"], indirect=True)
@pytest.mark.parametrize("op", ["sum", "product", "mean", "max"])
def test_all_reduce(ranks, cupy, op):
    def body(world):
        here = fast(world)
        for dtype in ("float32", "float64", "int32", "uint8", "int64", "float16", "int16"):
            for n in (0, 1, 1000):
                if op == "mean" and "int" in dtype:
                    continue
                x = whole(world.rank, n, dtype)
                expected = world.allreduce(x.copy(), op, collective="ring")
                with own_stream(cupy, world):
                    mine = up(cupy, x)
                    here.allreduce(mine, op)
                    same(mine.get(), expected)
        return here._group.devices.links.state()

    assert ranks(3, body) == ["nccl" if op != "none" else ""] * 3
    assert all(wait.startswith("get (") for wait in cupy.machine.waits), "somebody has waited for the device but the test"


def test_nothing_goes_to_the_host_and_one_call_does_it(ranks, cupy):
    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            mine = cupy.full(100_000, world.rank, "f4")
            for _ in range(3):
                here.allreduce(mine, "mean", codec="fp16")
        world.barrier()
        return mine

    arrays = ranks(4, body)
    assert kinds(cupy) & {"to host", "to device"} == set()
    assert sum(record.kind == "nccl" for record in cupy.machine.log) == 3 * 4
    for rank, array in enumerate(arrays):
        with cupy.cuda.Device(rank):
            cupy.cuda.Device(rank).synchronize()
            assert array.get()[77] == 1.5


@pytest.mark.parametrize("codec", ["none", "fp16", "int8", "bf16"])
def test_weights_and_error_feedback(ranks, cupy, codec):
    """Inside a node nothing is encoded: a residual goes in whole, and nothing is lost."""

    def body(world):
        here = fast(world)
        feedback = codec != "none"
        with own_stream(cupy, world):
            residual = cupy.full(500, 2, "f4") if feedback else None
            mine = cupy.full(500, world.rank, "f4")
            here.allreduce(mine, "mean", codec, "nccl", weight=world.rank + 1, error_feedback=residual)
            assert mine.get()[3] == pytest.approx((0 * 1 + 1 * 2 + 2 * 3 + 6 * feedback) / 6)
            if feedback:
                assert not residual.get().any()

    ranks(3, body)


@pytest.mark.parametrize("n", [1, 127, 1024, 70_000])
@pytest.mark.parametrize(("codec", "collective"), [("fp16", "auto"), ("int8", "auto"), ("none", "nccl:reach=node"), ("none", "auto")])
def test_several_nodes(ranks, cupy, two_nodes, codec, collective, n):
    def body(world):
        here = fast(world)
        x = whole(world.rank, n, "float32")
        expected = world.allreduce(x.copy(), "mean", collective="ring")
        with own_stream(cupy, world):
            mine = up(cupy, x)
            here.allreduce(mine, "mean", codec, collective)
            return mine.get(), expected

    got = ranks(4, body)
    for mine, expected in got:
        assert mine.tobytes() == got[0][0].tobytes(), "replicas differ"
        if codec == "none":
            same(mine, expected)
        else:
            assert np.abs(mine - expected).max() < 0.05
    names = {record.name for record in cupy.machine.log if record.kind == "nccl"}
    assert names == ({"allReduce"} if collective == codec or (codec, collective) == ("none", "auto") else {"reduceScatter", "allGather"})


def test_error_feedback_over_nodes_loses_nothing_in_the_long_run(ranks, cupy, two_nodes):
    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            residual, total = cupy.zeros(512, "f4"), cupy.zeros(512, "f4")
            for _ in range(20):
                mine = up(cupy, gradient(world.rank, 512) * np.float32(0.01))
                here.allreduce(mine, "sum", "int8", "nccl", error_feedback=residual)
                total += mine
            return total.get(), residual.get()

    got = ranks(4, body)
    exact = 20 * sum(gradient(rank, 512).astype("f8") * 0.01 for rank in range(4))
    left = sum(residual for _, residual in got)
    np.testing.assert_allclose(got[0][0] + left, exact, rtol=1e-3, atol=1e-3)


def test_operations_that_begin_in_another_order_on_each_rank(ranks, cupy):
    """A broadcast ends early on its root: there the first all-reduce begins before the second one, elsewhere after it."""

    def body(world):
        here = fast(world)
        for root in (0, 1, 2):
            early = here.broadcast_async(np.zeros(50_000), root)
            with own_stream(cupy, world):
                one, other = cupy.full(100, 1, "f4"), cupy.full(200, 2, "f4")
                first = calls.allreduce(here._group, one, "sum", after=[early])
                second = calls.allreduce(here._group, other, "sum")
                second.wait()
                first.wait()
                assert one.get()[5] == 3
                assert other.get()[5] == 6

    ranks(3, body)


def test_ranks_that_share_a_device_go_another_way(ranks, cupy):
    def body(world):
        here = fast(world)
        with cupy.cuda.Device(0), cupy.cuda.Stream(non_blocking=True):
            mine = cupy.full(100, 1, "f4")
            for _ in range(2):
                here.allreduce(mine)
            assert mine.get()[0] == 9
        return here._group.devices.links.state()

    assert ranks(3, body) == ["ranks 0-2 use one GPU, 0000:01:00.0: NCCL needs one for each rank"] * 3
    assert "nccl" not in kinds(cupy)


def test_forced_where_it_cannot_be_is_an_error_everywhere(ranks, cupy):
    def body(world):
        here = fast(world, "nccl")
        wanted = r"(?s)ranks 0-1 use one GPU.*HPCDL_DEVICE_PATH=auto"
        with cupy.cuda.Device(world.rank // 2), pytest.raises(CommunicationError, match=wanted):
            here.allreduce(cupy.zeros(5, "f4"))

    ranks(3, body)


@pytest.mark.parametrize("mode", ["deferred", "eager"], indirect=True)
def test_ranks_in_different_operations_are_told(ranks, cupy):
    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            here.allreduce(cupy.zeros(5, "f4"))
            with pytest.raises(Mismatch):
                here.allreduce(cupy.zeros(5 + (world.rank == 1), "f4"))
            world.barrier()

    ranks(3, body)
    assert all(made._over == "aborted" for made in cupy.machine.communicators)


def test_a_host_array_among_device_arrays_is_told(ranks, cupy):
    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            x = np.zeros(5, "f4") if world.rank == 0 else cupy.zeros(5, "f4")
            with pytest.raises(Mismatch, match="on devices"):
                here.allreduce(x)

    ranks(2, body)


def test_a_device_that_is_lost_ends_in_an_error_that_names_rank_and_device(ranks, cupy):
    """Rank 1's device fails after all have agreed: the others wait in NCCL for what never comes, until they hear of it."""

    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            mine = cupy.zeros(5, "f4")
            here.allreduce(mine)
            world.barrier()
            if world.rank == 1:
                cupy.machine.faults[1] = "cudaErrorIllegalAddress"
            with pytest.raises(CommunicationError, match=r"(?s)rank 1 of 3.*cudaErrorIllegalAddress.*cuda:1 is lost"):
                here.allreduce_async(mine).wait()
            world.barrier()

    ranks(3, body)
    assert all(made._over == "aborted" for made in cupy.machine.communicators)


def test_an_operation_whose_communicator_another_one_has_ended_has_no_result(ranks, cupy):
    """The second operation fails on rank 0 while the first is still under way there: what NCCL leaves of that is no sum."""

    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            mine, other = cupy.full(1000, 1, "f4"), cupy.zeros(500, "f4")
            here.allreduce(cupy.zeros(5, "f4"))
            world.barrier()
            made = next(made for made in cupy.machine.communicators if made.rank_id() == world.rank)
            queue = made.allReduce
            if world.rank == 0:
                made.allReduce = lambda *call: fail() if call[2] == 500 else queue(*call)
            else:  # its stream does not come to them
                made.allReduce = lambda *call: None
            handles = [here.allreduce_async(mine, "sum"), here.allreduce_async(other, "sum")]
            for handle in handles if world.rank == 0 else ():
                with pytest.raises(CommunicationError, match=r"(?s)rank 0 of 2 failed.*no room"):
                    handle.wait()
            world.barrier()

    def fail():
        raise MemoryError("no room")

    ranks(2, body)


def test_an_error_of_nccl_itself(ranks, cupy):
    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            mine = cupy.zeros(5, "f4")
            here.allreduce(mine)
            world.barrier()
            cupy.machine.communicators[0]._meeting.error = 6
            with pytest.raises(CommunicationError, match=r"NCCL_ERROR_REMOTE_ERROR.*another rank has left NCCL"):
                here.allreduce(mine)
            world.barrier()

    ranks(2, body)


def test_communicators_are_given_back(ranks, cupy):
    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            here.allreduce(cupy.zeros(5, "f4"))
        here.close()

    ranks(3, body)
    assert [made._over for made in cupy.machine.communicators] == ["destroyed"] * 3


def test_a_reducer(ranks, cupy):
    def body(world):
        here = fast(world)
        with own_stream(cupy, world):
            reducer = Reducer(here, [(300,), (40, 5), ()], like=cupy.empty(1), bucket_bytes=512)
            for step in range(3):
                for i, view in enumerate(reducer.views):
                    view[...] = world.rank + i + step
                    reducer.ready(i)
                reducer.wait()
            return [view.get().max() for view in reducer.views]

    assert ranks(3, body) == [[3.0, 4.0, 5.0]] * 3
    assert "nccl" in kinds(cupy)


def test_unknown_reach(cupy):
    with pytest.raises(InvalidArgument, match="known: everywhere, node"):
        calls.by_name("nccl:reach=far")
