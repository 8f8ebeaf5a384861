"""The plan: formulas that equal the simulation, costs that survive JSON, tables that are the same on every rank and never lossy."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpcdl.collectives import cost_cache
from hpcdl.collectives.collective import collectives, schedules
from hpcdl.collectives.costs import ASSUMED, SEGMENTS, Coding, Costs, Layout, Link, Memory, Native, Shared, Timing
from hpcdl.collectives.model import FORMULAS, Way, price, ways
from hpcdl.collectives.plan import KINDS, Plan, make
from hpcdl.collectives.simulate import Network
from hpcdl.collectives.simulate import price as simulated
from hpcdl.collectives.worth import worth
from hpcdl.errors import UnknownName

NETWORK = Network(alpha=3e-6, beta=2e-9, gamma=1e-10)
SLOW = Link(80e-6, 40e-9, ((SEGMENTS[0], 41e-9), (SEGMENTS[1], 80e-9), (SEGMENTS[2], 80e-9)))
SIZES = [1, 4, 1000, 1 << 10, 1 << 16, 1 << 22, 1 << 28, 1 << 34]


@pytest.mark.parametrize("schedule", [s for s in schedules if s.kind == "allreduce"], ids=lambda s: s.name)
@pytest.mark.parametrize("size", [*range(1, 18), 64, 100])
@pytest.mark.parametrize("nbytes", [0, 1 << 10, 1 << 26])
def test_formula_equals_the_simulation(schedule, size: int, nbytes: int) -> None:
    assert FORMULAS[schedule.name](size, nbytes, NETWORK) == pytest.approx(simulated(schedule, size, nbytes, NETWORK))


def test_every_collective_of_the_package_has_a_price() -> None:
    for layout in (Layout((0, 0, 0)), Layout((0, 0, 1, 1)), Layout((0, 1, 2))):
        for way in ways(ASSUMED, layout, tuple(collectives)):
            assert 0 < price(way, 1 << 20, layout, ASSUMED) < price(way, 1 << 24, layout, ASSUMED) < 10
    named = {way.collective for layout in (Layout((0, 0)), Layout((0, 0, 1))) for way in ways(ASSUMED, layout, tuple(collectives))}
    assert named == set(collectives) - {"nccl"}  # for devices, where `auto` takes it wherever it can be


@pytest.mark.parametrize(
    ("nodes", "count", "widest", "crossings"),
    [((0, 0, 0), 1, 3, 0), ((0, 0, 1, 1), 2, 2, 1), ((0, 1, 0, 1), 2, 2, 2), ((0, 1, 2), 3, 1, 1), ((0, 0, 0, 1), 2, 3, 1)],
)
def test_layout(nodes, count: int, widest: int, crossings: int) -> None:
    layout = Layout(nodes)
    assert (layout.size, layout.count, layout.widest, layout.crossings) == (len(nodes), count, widest, crossings)


def test_a_price_is_what_was_timed() -> None:
    timings = (Timing("ring", 0, False, 1 << 10, 50e-6), Timing("ring", 0, False, 1 << 20, 3e-3))
    costs, layout = replace(ASSUMED, measured=True, timings=timings), Layout(ASSUMED.nodes)
    found = [price(Way("ring", 0), 1 << power, layout, costs) for power in range(8, 31)]
    assert found[2] == pytest.approx(50e-6) and found[12] == pytest.approx(3e-3)
    assert found == sorted(found), "a larger array is never cheaper here"
    guess = price(Way("tree", 0), 1 << 20, layout, ASSUMED)
    assert price(Way("tree", 0), 1 << 20, layout, costs) == pytest.approx(1.5 * guess), "a guess counts for more where others were timed"


def measured() -> Costs:
    coding = (("fp16", Coding(1e-10, 1e-10 / 3, 0.502)),)
    timings = (Timing("ring", 1 << 15, True, 1 << 10, 1e-4 / 3),)
    return replace(ASSUMED, measured=True, nodes=(0, 1), network=SLOW, codecs=coding, timings=timings)


@pytest.mark.parametrize("costs", [ASSUMED, measured()])
def test_json_round_trip(costs: Costs) -> None:
    assert Costs.from_json(costs.to_json()) == costs
    plan = make(costs, Layout((0, 0, 1)), costs.names)
    assert Plan.from_lists(json.loads(json.dumps(plan.to_lists()))) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", ASSUMED.to_json()[:-30], ASSUMED.to_json().replace("message", "massage")])
def test_what_is_no_costs_is_refused(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Costs.from_json(text)


def test_segments_suit_the_slowest_link() -> None:
    costs = measured()
    assert make(costs, Layout((0, 1)), costs.names).segment == SEGMENTS[0]
    assert make(costs, Layout((0, 0)), costs.names).segment == SEGMENTS[2]
    assert SLOW.per_byte(1) == SLOW.per_byte(64 << 10) == 41e-9 and SLOW.per_byte(1 << 30) == 80e-9


def test_a_slow_network_wants_few_bytes_and_a_slow_start_few_steps() -> None:
    costs = replace(measured(), native=Native(1e-3, 1e-7), timings=())
    plan = make(costs, Layout(tuple(range(16))), ("direct", "halving-doubling", "native", "ring", "tree"))
    assert plan.choose(256).collective in ("tree", "halving-doubling")
    assert plan.choose(1 << 28).collective in ("ring", "halving-doubling")


def test_choices_hold_to_the_ends() -> None:
    plan = make(ASSUMED, Layout((0, 0, 0)), ("native", "ring", "tree"))
    for windowed in (False, True):
        for nbytes in SIZES:
            assert plan.choose(nbytes, True, windowed).collective in ("native", "ring", "tree")
            assert plan.choose(nbytes, False, windowed).collective in ("ring", "tree")
    assert len(plan.tables) == len(KINDS)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_equal_on_all_ranks_and_every_choice_works(ranks, n: int) -> None:
    def body(world):
        world.settle_costs()
        for nbytes in (4, 1 << 12, 1 << 17, 1 << 20):
            x = np.full(nbytes // 4, world.rank + 1, np.float32)
            assert (world.allreduce(x) == world.size * (world.size + 1) / 2).all()
        half = world.group(range(world.size - world.size // 2)) if world.rank < world.size - world.size // 2 else None
        if half is not None:
            half.allreduce(np.ones(1000))
        return repr(world.plan), world.costs.to_json(), world.bytes_sent >= 0

    results = ranks(n, body)
    assert results is None or len(set(results)) == 1


@pytest.mark.parametrize("n", [2, 4])
def test_auto_is_never_lossy(ranks, n: int) -> None:
    """Exact sums come out exact at every size; the plan itself holds no codec."""

    def body(world):
        world.settle_costs()
        for power in range(2, 21):
            x = np.full((1 << power) // 4, 1 + 2**-20 * world.rank, np.float32)
            assert (world.allreduce(x) == np.float32(world.size + 2**-20 * sum(range(world.size)))).all()

    ranks(n, body)


def test_rank_0_decides(ranks, monkeypatch) -> None:
    """The environments of the ranks differ; the plan does not."""

    def body(world):
        if world.rank == 0:
            monkeypatch.setenv("HPCDL_CALIBRATE", "0")
        elif os.environ.get("HPCDL_CALIBRATE") != "0":  # ranks as threads share one environment
            monkeypatch.setenv("HPCDL_CALIBRATE", "1")
        world.barrier()
        world.settle_costs()
        assert not world.plan.measured and not world.costs.measured and not world.costs.timings
        return repr(world.plan)

    results = ranks(3, body)
    assert results is None or len(set(results)) == 1


def test_a_codec_pays_on_a_slow_network_only() -> None:
    costs = measured()
    plan = make(costs, Layout((0, 1)), costs.names)
    over_network = worth("fp16", costs, plan, Layout((0, 1)))
    assert over_network is not None and over_network.pays and 1.9 < over_network.speedup < 2
    assert str(over_network).startswith("fp16 pays: 2 times faster over 195 Mbit/s; it pays on networks below ")
    fast = replace(costs, network=Link(1e-6, 1e-11, ((SEGMENTS[0], 1e-11),)))
    over_fast = worth("fp16", fast, make(fast, Layout((0, 1)), costs.names), Layout((0, 1)))
    assert over_fast is not None and not over_fast.pays and over_fast.break_even == pytest.approx(over_network.break_even)
    assert "does not pay: the link has 800 Gbit/s" in str(over_fast)
    near = replace(costs, shared=Shared(1e-6, 1e-12), memory=Memory(1e-12, 1e-12))
    shared = worth("fp16", near, make(near, Layout((0, 0)), ("ring", "shared-memory")), Layout((0, 0)))
    assert shared is not None and not shared.pays and "share memory" in str(shared)


def test_the_break_even_is_where_both_cost_the_same() -> None:
    costs, layout = measured(), Layout(tuple(range(4)))
    plan = make(costs, layout, costs.names)
    first = worth("fp16", costs, plan, layout)
    assert first is not None
    there = replace(costs, network=Link(1e-6, 1 / first.break_even, ((SEGMENTS[0], 1 / first.break_even),)))
    second = worth("fp16", there, plan, layout)
    assert second is not None and second.speedup == pytest.approx(1)


def test_nothing_is_said_of_codecs_that_were_not_measured() -> None:
    costs = measured()
    assert worth("none", costs, make(costs, Layout((0, 1)), costs.names), Layout((0, 1))) is None
    with pytest.raises(UnknownName, match="unknown codec 'fp8'; known: "):
        worth("fp8", costs, make(costs, Layout((0, 1)), costs.names), Layout((0, 1)))
    assert worth("fp16", costs, make(costs, Layout((0,)), costs.names), Layout((0,))) is None


ABOUT = {"hpcdl": "1", "nodes": [0, 0]}


def test_cache_is_read_back(tmp_path: Path) -> None:
    file = cost_cache.file_for(ABOUT, {"HPCDL_CACHE": str(tmp_path / "a" / "b")})
    assert file is not None and cost_cache.read(file, ABOUT) is None, "missing"
    cost_cache.write(file, ABOUT, measured())
    assert cost_cache.read(file, ABOUT) == measured()
    assert cost_cache.read(file, {**ABOUT, "hpcdl": "2"}) is None, "another version"
    assert cost_cache.file_for({**ABOUT, "hpcdl": "2"}, {"HPCDL_CACHE": str(tmp_path)}) != cost_cache.file_for(
        ABOUT, {"HPCDL_CACHE": str(tmp_path)}
    )
    assert [path.name for path in file.parent.iterdir()] == [file.name], "drafts are left behind"


def test_where_the_cache_is() -> None:
    assert cost_cache.file_for(ABOUT, {"HOME": "/home/somebody"}) is None
    for off in ("0", "off", "no", "False"):
        assert cost_cache.file_for(ABOUT, {"HPCDL_CACHE": off, "XDG_CACHE_HOME": "/x"}) is None
    common = cost_cache.file_for(ABOUT, {"XDG_CACHE_HOME": "/x"})
    named = cost_cache.file_for(ABOUT, {"XDG_CACHE_HOME": "/x", "HPCDL_CACHE": "/y"})
    assert common is not None and named is not None
    assert common.parent == Path("/x/hpcdl") and named.parent == Path("/y")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "\x00" * 100,
        lambda text: text.replace('"message": ', '"message": -'),
        lambda text: text.replace('"message": ', '"message": NaN, "was": '),
        lambda text: text.replace('"both_ways"', '"both"'),
        lambda text: '{"about": 1}',
    ],
)
def test_a_damaged_cache_is_no_error_and_is_replaced(tmp_path: Path, damage) -> None:
    file = tmp_path / "costs.json"
    cost_cache.write(file, ABOUT, measured())
    file.write_text(damage(file.read_text()))
    assert cost_cache.read(file, ABOUT) is None
    cost_cache.write(file, ABOUT, measured())
    assert cost_cache.read(file, ABOUT) == measured()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for file in (tmp_path / "file" / "costs.json", tmp_path / "file" / "deeper" / "costs.json"):
        cost_cache.write(file, ABOUT, measured())
        assert cost_cache.read(file, ABOUT) is None
    (tmp_path / "folder").mkdir()
    cost_cache.write(tmp_path / "folder", ABOUT, measured())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_many_write_the_cache_at_once(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    readings = []

    def one() -> None:
        for _ in range(20):
            cost_cache.write(file, ABOUT, measured())
            readings.append(cost_cache.read(file, ABOUT))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(readings) == 160 and all(costs == measured() for costs in readings)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_second_world_takes_the_costs_from_the_cache(ranks, monkeypatch, tmp_path: Path) -> None:
    def body(world):
        if world.rank == 0:
            monkeypatch.setenv("HPCDL_CACHE", str(tmp_path))
        world.barrier()
        world.settle_costs()
        first = world.costs
        world.settle_costs()
        again = world.costs
        world.barrier()
        assert first == again and first.measured, "two measurements would differ"
        return len(list(tmp_path.iterdir())) if world.rank == 0 else 1

    ranks(2, body)
