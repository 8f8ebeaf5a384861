"""Exponents that ranks agree on before they encode, in whatever order they come to their tensors."""

from __future__ import annotations

import numpy as np
import pytest

from hpcdl.codecs.common_exponent import CommonExponent, headroom
from hpcdl.horovod.agreement import Agreement


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_one_order(ranks, n) -> None:
    def body(world):
        agreement = Agreement(world)
        found = [agreement.exponent("a", 2.0**world.rank), agreement.exponent("a", 0.0)]
        return [*found, agreement.exponent("b", float("nan") if world.rank == 0 else 1.0), agreement.exponent("b", 1.0)]

    room = headroom(n)
    for found in ranks(n, body) or []:
        assert found == [n - 15 + room, -126, 0, 1 - 15 + room]  # a magnitude of 2^k lies below 2^(k + 1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_rank_in_an_order_of_its_own(ranks, n) -> None:
    """A tensor has one exponent on all ranks, in each of several steps, and the sum of the ranks that came later fits too."""

    def body(world):
        agreement = Agreement(world)
        steps = []
        for step in range(4):
            order = np.random.default_rng([step, world.rank]).permutation(6)
            found = {int(i): agreement.exponent(f"tensor {i}", 10.0**i * (1 + world.rank)) for i in order}
            steps.append([found[i] for i in range(6)])
        assert not agreement._settled
        return steps

    told = ranks(n, body)
    for steps in told or []:
        assert steps == told[0]
        for found in steps:
            for i, exponent in enumerate(found):
                assert n * n * 10.0**i <= 2.0 ** (15 + exponent)
                assert exponent <= np.log2(n * n * 10.0**i) - 15 + 8


def test_a_layer_that_the_first_rank_skips(ranks) -> None:
    """Zero says nothing about the others: a plain cast then."""

    def body(world):
        agreement = Agreement(world)
        peaks = {"skipped": 100.0 * world.rank, "used": 1.0}
        names = sorted(peaks, reverse=bool(world.rank))
        found = {name: agreement.exponent(name, peaks[name]) for name in names}
        return found["skipped"]

    assert ranks(2, body) in (None, [headroom(2)] * 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("scale", [0.0, 1e-44, 1e-30, 1.0, 65504.0, 3e38])
def test_blocks(size, scale) -> None:
    """Added up in float16 by whoever adds: no overflow, and the bound."""
    x = (np.random.default_rng(0).uniform(-1, 1, (size, 300)) * scale / size).astype("f4")
    shares = [CommonExponent(row, size) for row in x]
    agreed = np.max([share.exponents for share in shares], axis=0)
    total = np.zeros(300, "f2")
    for share in shares:
        share.exponents[:] = agreed
        total += share.encode()
    found = np.empty(300)
    shares[0].decode(total, found)
    peaks = [np.abs(x[:, i : i + 128]).max() for i in (0, 128, 256)]
    bound = size**2 * 2.0**-11 * np.repeat(peaks, [128, 128, 44])
    assert (np.abs(found - x.sum(axis=0, dtype="f8")) <= np.maximum(bound, size * 2.0**-149)).all()
