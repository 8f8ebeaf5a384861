"""What every codec promises: its bound, its size, and its bits."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as np_arrays

from hpcdl.arrays import HOST
from hpcdl.codecs import BLOCK, Codec, by_name, codecs
from hpcdl.errors import InvalidArgument, UnknownName

GOLDEN = Path(__file__).parent / "golden"
LOSSY = [name for name in codecs if not by_name(name).exact]


def through(codec: Codec, x: np.ndarray) -> np.ndarray:
    wire, out = np.full(codec.nbytes(x.size), 0xAA, np.uint8), np.full_like(x, 7)
    with np.errstate(all="ignore"):  # as the progress loop does
        codec.encode(x, wire)
        codec.decode(wire, out)
    return out


def block_peaks(x: np.ndarray) -> np.ndarray:
    """The largest magnitude of each element's block."""
    padded = np.pad(np.abs(x.astype(np.float64)), (0, -x.size % BLOCK)).reshape(-1, BLOCK)
    return np.repeat(padded.max(axis=1), BLOCK)[: x.size]


@pytest.mark.parametrize("name", list(codecs))
@pytest.mark.parametrize("n", [0, 1, 2, 127, 128, 129, 1000, 70_001])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e30, 3.3e38, 1e-34, 1e-6, 6e4])
def test_bound(name: str, n: int, size: float) -> None:
    x = (np.random.default_rng(n).uniform(-1, 1, n) * size).astype(np.float32)
    error = np.abs(through(by_name(name), x).astype(np.float64) - x)
    assert (error <= by_name(name).error * block_peaks(x)).all()


@pytest.mark.parametrize("name", list(codecs))
@given(x=np_arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bound_of_anything(name: str, x: np.ndarray) -> None:
    x[np.abs(x) < 1e-35] = 0
    x = x.clip(-3.3e38, 3.3e38)
    error = np.abs(through(by_name(name), x).astype(np.float64) - x)
    assert (error <= by_name(name).error * block_peaks(x)).all()


@pytest.mark.parametrize("name", LOSSY)
def test_tiny_beside_huge_blocks(name: str) -> None:
    x = np.repeat(np.array([1e-30, 1e30, 0, -1e-30, 3.0], np.float32), BLOCK)
    assert np.allclose(through(by_name(name), x), x, rtol=by_name(name).error, atol=0)


@pytest.mark.parametrize("name", list(codecs))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.uint32(0x7FFFFFFF).view(np.float32), np.uint32(0xFF800001).view(np.float32)])
def test_what_is_not_finite_never_becomes_finite(name: str, bad: float) -> None:
    x = np.full(3 * BLOCK, 0.5, np.float32)
    x[BLOCK + 5] = bad
    out = through(by_name(name), x)
    assert not np.isfinite(out[BLOCK + 5])
    neighbours = [out[:BLOCK], out[2 * BLOCK :]]
    assert all(np.allclose(part, 0.5, rtol=by_name(name).error) for part in neighbours)


def golden_input() -> np.ndarray:
    """A vector that meets every branch: usual values, tiny, huge, zeros, ties, a short last block."""
    rng = np.random.default_rng(20261121)
    ties = np.array([1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 0.5, 1.5, 2.5, -0.0] * 16, np.float32)
    usual = rng.integers(-(2**20), 2**20, BLOCK).astype(np.float32) / 2**20
    return np.concatenate([usual, ties, usual * 2.0**-90, usual * 2.0**100, usual[:3] * 2.0**-140, usual[:40]]).astype(np.float32)


@pytest.mark.parametrize("name", list(codecs))
def test_golden_wire(name: str) -> None:
    """Law 5. A changed wire format fails here: ranks of two versions could not talk to each other."""
    codec = by_name(name)
    x = golden_input()
    wire = np.empty(codec.nbytes(x.size), np.uint8)
    codec.encode(x, wire)
    file = GOLDEN / f"{name}.bin"
    assert file.exists(), f"no golden wire for codec {name}: write it with wire.tofile({file.name!r}) once the format is settled"
    assert wire.tobytes() == file.read_bytes()


def test_size_is_what_the_docstring_says() -> None:
    n = 1000
    blocks = -(-n // BLOCK)
    wanted = {"none": 4000, "fp16": 2000 + blocks, "bf16": 2000, "int8": 1000 + 4 * blocks}
    assert {name: by_name(name).nbytes(n) for name in codecs} == wanted


def test_casts_equal_numpys_bit_for_bit() -> None:
    bits = np.concatenate([np.arange(0, 2**32, 65_521, dtype=np.uint64).astype(np.uint32), np.arange(2**16, dtype=np.uint32) << 16])
    x = bits.view(np.float32)
    number = ~np.isnan(x)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        got, back = np.empty(x.size, dtype), np.empty(2**16, np.float32)
        HOST.cast(x, got)
        with np.errstate(all="ignore"):
            wanted = x.astype(dtype)
        assert (got.view(np.uint16)[number] == wanted.view(np.uint16)[number]).all()
        assert np.isnan(got.astype(np.float32)[~number]).all()
        every = np.arange(2**16, dtype=np.uint16).view(dtype)
        HOST.cast(every, back)
        same = back.view(np.uint32) == every.astype(np.float32).view(np.uint32)
        assert (same | np.isnan(back)).all()


def test_casts_of_odd_memory() -> None:
    raw = np.zeros(401, np.uint8)
    unaligned = raw[1:].view(np.float32)
    unaligned[:] = 1.5
    out = np.empty(100, np.float16)
    HOST.cast(unaligned, out)
    assert (out == 1.5).all()


def test_names() -> None:
    assert by_name(None).exact
    assert by_name(by_name("fp16")).name == "fp16"
    with pytest.raises(UnknownName, match="unknown codec 'fp8'; known: bf16, fp16, int8, none"):
        by_name("fp8")
    with pytest.raises(InvalidArgument, match="int8:bits=3"):
        by_name("int8:bits=3")
