"""Law 4: what a codec loses is carried over, on every rank and at every hop; nothing drifts away."""

from __future__ import annotations

import numpy as np
import pytest

import hpcdl
from hpcdl.codecs import by_name, codecs
from hpcdl.collectives.collective import collectives

LOSSY = [name for name in codecs if not by_name(name).exact]
SIZE = 3000
LOSES_NOTHING = ("shared-memory", "two-level")  # within a node


@pytest.mark.parametrize("op", ["sum", "mean"])
@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("collective", list(collectives))
def test_nothing_is_lost(ranks, collective, codec, op) -> None:
    """Over all ranks: inputs + old residuals == applied sum + new residuals, within p ulp of the largest term."""

    def body(world) -> None:
        rng = np.random.default_rng(world.rank)
        residual = np.zeros(SIZE, np.float32)
        for _ in range(4):
            x = rng.standard_normal(SIZE).astype(np.float32)
            before = world.allgather(np.stack([x, residual])[None]).astype(np.float64).sum(axis=(0, 1))
            world.allreduce(x, op=op, codec=codec, collective=collective, error_feedback=residual)
            applied = x.astype(np.float64) * (world.size if op == "mean" else 1)
            after = applied + world.allgather(residual[None]).astype(np.float64).sum(axis=0)
            assert np.abs(before - after).max() <= 3 * world.size * np.spacing(np.float32(np.abs(before).max() + 4))
        assert (np.abs(residual).max() > 0) == (collective not in LOSES_NOTHING)

    ranks(3, body)


@pytest.mark.parametrize("collective", list(collectives))
def test_sums_of_many_steps_do_not_drift(ranks, collective) -> None:
    """The same gradient again and again: without feedback the error grows with each step, with feedback it stays."""

    def body(world) -> None:
        steps, x = 60, (np.random.default_rng(world.rank).standard_normal(SIZE) * 0.01).astype(np.float32)
        exact = world.allgather(x[None]).astype(np.float64).mean(axis=0) * steps
        errors = []
        for residual in (None, np.zeros(SIZE, np.float32)):
            total = np.zeros(SIZE)
            for _ in range(steps):
                total += world.allreduce(x, op="mean", codec="int8", collective=collective, out=np.empty_like(x), error_feedback=residual)
            errors.append(np.abs(total - exact).max())
        assert errors[1] < errors[0] / 5 or collective in LOSES_NOTHING
        assert errors[1] < 4 * np.abs(x).max() / 127

    ranks(4, body)


def test_float64(ranks) -> None:
    def body(world) -> None:
        x, residual = np.full(300, 1 / 3), np.zeros(300)
        before = 3 * x
        world.allreduce(x, codec="fp16", collective="ring", error_feedback=residual)
        total = x + world.allgather(residual[None]).sum(axis=0)
        assert np.allclose(before, total, rtol=1e-7)

    ranks(3, body)


def test_short_floats(ranks) -> None:
    def body(world) -> None:
        x, residual = np.full(300, 1 / 3, np.float16), np.zeros(300, np.float32)
        world.allreduce(x, codec="int8", error_feedback=residual)
        assert np.allclose(x.astype(np.float32), 1, atol=1e-2)

    ranks(3, body)


def test_no_weight_anywhere_keeps_the_residual_finite(ranks) -> None:
    def body(world) -> None:
        x, residual = np.ones(300, np.float32), np.full(300, 0.25, np.float32)
        world.allreduce(x, op="mean", weight=0, codec="int8", collective="ring", error_feedback=residual)
        assert (x == 0).all()
        assert np.isfinite(residual).all()
        assert np.allclose(world.allgather(residual[None]).sum(axis=0), 0.5)

    ranks(2, body)


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("collective", list(collectives))
def test_a_bad_step_does_not_come_back(ranks, collective, codec) -> None:
    def body(world) -> None:
        residual = np.zeros(300, np.float32)
        bad = np.full(300, np.nan if world.rank else 1, np.float32)
        world.allreduce(bad, codec=codec, collective=collective, error_feedback=residual)
        for _ in range(3):
            x = world.allreduce(np.ones(300, np.float32), codec=codec, collective=collective, error_feedback=residual)
        assert np.allclose(x, 2, rtol=0.02)

    ranks(2, body)


def test_residuals_belong_to_parameters(ranks) -> None:
    """They survive another bucket layout: a run goes on with other bucket sizes as if nothing had happened."""

    def body(world) -> None:
        shapes = [(40, 7), (300,), (5,)]
        first = hpcdl.Reducer(world, shapes, codec="int8", collective="ring", error_feedback=True, bucket_bytes=1 << 20)
        second = hpcdl.Reducer(world, shapes, codec="int8", collective="ring", error_feedback=True, bucket_bytes=600)
        assert first.residuals is not None and second.residuals is not None
        rng = np.random.default_rng(world.rank)
        for i, view in enumerate(first.views):
            view[...] = rng.standard_normal(view.shape)
            first.ready(i)
        first.wait()
        for mine, theirs in zip(second.residuals, first.residuals, strict=True):
            assert np.abs(theirs).max() > 0
            mine[...] = theirs
        held = world.allgather(np.concatenate([r.ravel() for r in second.residuals])[None]).sum(axis=0)
        for i, view in enumerate(second.views):
            view[...] = 0
            second.ready(i)
        second.wait()
        applied = 3 * np.concatenate([view.ravel() for view in second.views])
        left = world.allgather(np.concatenate([r.ravel() for r in second.residuals])[None]).sum(axis=0)
        assert np.allclose(applied + left, held, atol=1e-6)

    ranks(3, body)
