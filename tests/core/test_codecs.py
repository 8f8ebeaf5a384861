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
from hpcdl.codecs import BLOCK, FOR_BUCKETS, Codec, by_name, codecs, encoder, noise
from hpcdl.codecs.sign import Sign
from hpcdl.codecs.topk import TopK
from hpcdl.errors import InvalidArgument, UnknownName

GOLDEN = Path(__file__).parent / "golden"
FORMATS = {**{name: by_name(name) for name in codecs}, "sign": Sign(), "topk": TopK(0.05)}  # those that go through compressors, too
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


@pytest.mark.parametrize("name", FORMATS)
def test_golden_wire(name: str) -> None:
    """Law 5. A changed wire format fails here: ranks of two versions could not talk to each other."""
    codec = FORMATS[name]
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
    wanted |= {"int8-stochastic": wanted["int8"], "sign": 4 * 32 + 4 * blocks, "topk": 8 * 50}
    assert {name: codec.nbytes(n) for name, codec in FORMATS.items()} == wanted
    assert all(codec.nbytes(0) == 0 for codec in FORMATS.values())


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
    with pytest.raises(UnknownName, match="unknown codec 'fp8'; known: bf16, fp16, int8, int8-stochastic, none"):
        by_name("fp8")
    with pytest.raises(InvalidArgument, match="int8:bits=3"):
        by_name("int8:bits=3")


@pytest.mark.parametrize("name", FOR_BUCKETS)
def test_what_is_for_reducers_says_so(name: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"codec '{name}' needs memory .* use hpcdl.Reducer\(codec='{name}:a=1'\)"):
        by_name(f"{name}:a=1")


def test_stochastic_rounding_is_right_on_average() -> None:
    """The mean of many encodings, by step, rank and place: within 5 standard errors, where nearest rounding is far off."""
    n, times = 64 * BLOCK, 400
    x = (np.random.default_rng(0).uniform(-1, 1, n) * np.repeat(10.0 ** np.arange(-32, 32), BLOCK)).astype(np.float32)
    levels = block_peaks(x) / 127
    codec, total = by_name("int8-stochastic"), np.zeros(n)
    for time in range(times):
        total += through(encoder(codec, time, time % 3, 2 * n * time), x)
    off = (total / times - x) / levels  # in levels; a single error has a standard deviation of at most 1/2
    assert np.abs(off).max() < 6 * 0.5 / np.sqrt(times)
    assert abs(off.mean()) < 5 * 0.5 / np.sqrt(times * n)
    assert np.abs((through(by_name("int8"), x) - x) / levels).max() > 0.49


def test_stochastic_rounding_depends_on_its_place_alone() -> None:
    x = np.random.default_rng(1).normal(size=4 * BLOCK).astype(np.float32)
    codec = by_name("int8-stochastic")
    whole, half = (through(encoder(codec, 5, 1, at), part) for at, part in ((1000, x), (1000 + 2 * BLOCK, x[2 * BLOCK :])))
    assert (whole[2 * BLOCK :] == half).all()
    others = [through(encoder(c, *at), x) for c, at in ((codec, (5, 2, 1000)), (codec, (6, 1, 1000)), (codec, (5, 1, 0)))]
    others.append(through(encoder(by_name("int8-stochastic:seed=1"), 5, 1, 1000), x))
    assert all((other != whole).any() for other in others)
    assert encoder(by_name("int8"), 5, 1, 1000) is by_name("int8")


def test_random_bits() -> None:
    """Pinned: a GPU, and every later version, makes the same."""
    stream = noise.key(1, 2, 3)
    assert stream == 0xEFD4666D3F5B4599
    assert noise.bits(np, stream, 2**32 - 2, 4).tolist() == [0xB0AA7948, 0x448B8985, 0xB8F10E46, 0xF5C594E5]
    drawn = np.stack([noise.uniform(np, noise.key(0, step), 0, 1 << 16) for step in range(4)]).astype(np.float64)
    assert abs(drawn.mean() - 0.5) < 0.003 and abs(drawn.var() - 1 / 12) < 0.002
    related = np.corrcoef(np.concatenate([drawn[:, :-1], drawn[:, 1:]]))
    assert np.abs(related - np.eye(8)).max() < 0.02


@pytest.mark.parametrize("n", [1, 2, 100, 5000, 100_000])
@pytest.mark.parametrize("kind", ["normal", "ties", "clustered", "bad"])
def test_the_largest(n: int, kind: str) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(size=n).astype(np.float32)
    if kind == "ties":
        x = rng.integers(-3, 4, n).astype(np.float32)
    elif kind == "clustered":
        x[n // 2 : n // 2 + n // 50] *= 1000
        x[::24] *= 0  # what a sample of every so many would see
    elif kind == "bad":
        x[rng.integers(0, n, 3)] = [np.nan, -np.inf, np.inf]
    size = np.where(np.isnan(x), np.inf, np.abs(x))
    for k in {0, 1, n // 100, n // 3, n}:
        wanted = np.sort(np.lexsort((np.arange(n), ~np.isnan(x), -size))[:k])
        assert HOST.largest(x, k).tolist() == wanted.tolist()
