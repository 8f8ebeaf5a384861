"""The CUDA sources themselves, run on this processor: bit for bit what the host's code does, in one pass each."""

import ml_dtypes
import numpy as np
import pytest

from device.places import same
from device.test_codecs import FORMATS
from hpcdl.codecs.on_device import block_kernels
from hpcdl.codecs.topk import TopK

BLOCKWISE = [name for name, codec in FORMATS.items() if hasattr(codec, "kernels")]


def any_floats(n, seed=0):
    """All kinds of float32: every bit pattern is as likely, but NaN, which has too many."""
    bits = np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32)
    x = bits.view("f4")
    x[np.isnan(x)] = np.inf
    return x


def kernels_run(cupy):
    return [record.name for record in cupy.machine.log if record.kind == "kernel"]


@pytest.mark.parametrize("name", BLOCKWISE)
@pytest.mark.parametrize("n", [128 * 40, 128 * 40 + 1, 128 * 41 - 1, *range(1, 128, 9), 126, 127])
def test_any_bits(cupy, name, n):
    codec = FORMATS[name]
    for x in (any_floats(n), any_floats(n) * np.float32(1e-20), np.random.default_rng(n).normal(size=n).astype("f4")):
        wire, out = np.empty(codec.nbytes(n), "u1"), np.empty(n, "f4")
        codec.encode(x, wire)
        codec.decode(wire, out)
        on_device, back = cupy.empty(wire.size, "u1"), cupy.empty(n, "f4")
        codec.encode(cupy.asarray(x), on_device)
        codec.decode(on_device, back)
        assert on_device.get().tobytes() == wire.tobytes()
        same(back.get(), out)


@pytest.mark.parametrize("name", BLOCKWISE)
def test_memory_that_is_not_aligned(cupy, name):
    """A user's slice may begin anywhere: then nothing is read in longer words."""
    codec, x = FORMATS[name], any_floats(700)
    wire, out = np.empty(codec.nbytes(699), "u1"), np.zeros(700, "f4")
    codec.encode(x[1:], wire)
    codec.decode(wire, out[1:])
    there, back = cupy.empty(wire.size + 4, "u1")[4:], cupy.zeros(700, "f4")
    codec.encode(cupy.asarray(x)[1:], there)
    codec.decode(there, back[1:])
    assert there.get().tobytes() == wire.tobytes()
    same(back.get(), out)


@pytest.mark.parametrize("name", BLOCKWISE)
def test_one_kernel_each_and_nobody_waits(cupy, name):
    codec, n = FORMATS[name], 3000
    x, old = any_floats(n), np.random.default_rng(1).normal(size=n).astype("f4")
    wire, out = np.empty(codec.nbytes(n), "u1"), np.empty(n, "f4")
    codec.encode(x, wire)
    codec.decode(wire, out)
    there, sum_, rest = cupy.empty(wire.size, "u1"), cupy.asarray(old), cupy.asarray(old)
    mine = cupy.asarray(x)
    cupy.machine.log.clear()
    kernels = block_kernels(codec, mine)
    kernels.encode(mine, there)
    kernels.add(there, sum_)
    kernels.take_off(there, rest)
    assert kernels_run(cupy) == ["encode", "decode", "decode"]
    assert not cupy.machine.waits
    with np.errstate(all="ignore"):
        same(sum_.get(), old + out)
        same(rest.get(), old - out)


@pytest.mark.parametrize("scale", [None, 0.25, 1 / 3, 0.0])
@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize("name", BLOCKWISE)
def test_encoding_with_feedback_is_one_kernel(cupy, name, settle, scale):
    codec, n = FORMATS[name], 1000
    x, residual = np.random.default_rng(2).normal(size=(2, n)).astype("f4")
    x[7] = np.nan
    x[300] = np.inf if scale != 0 else 0  # infinity times zero is a NaN with a sign here, and without one on a GPU
    wire, out = np.empty(codec.nbytes(n), "u1"), np.empty(n, "f4")
    with np.errstate(all="ignore"):
        whole = x + residual
        codec.encode(whole if scale is None else whole * np.float32(scale), wire)
        codec.decode(wire, out)
        left = whole - (out / np.float32(scale) if scale else out)
    left[~np.isfinite(left)] = 0
    mine, memory, there = cupy.asarray(x), cupy.asarray(residual), cupy.empty(wire.size, "u1")
    cupy.machine.log.clear()
    block_kernels(codec, mine).encode_with_feedback(mine, memory, scale, settle, there)
    assert kernels_run(cupy) == ["encode_with_feedback"]
    assert there.get().tobytes() == wire.tobytes()
    same(memory.get(), left)
    same(mine.get(), out if settle else x)


def large(kind, n):
    random = np.random.default_rng(n)
    if kind == "ties":
        return random.integers(-3, 4, n).astype("f4")
    if kind == "equal":
        return np.full(n, -2.5, "f4")
    x = any_floats(n) if kind == "any" else random.normal(size=n).astype("f4")
    x[[5, n // 2]] = np.nan
    return x


@pytest.mark.parametrize("kind", ["normal", "any", "ties", "equal"])
@pytest.mark.parametrize(("n", "ratio"), [(33_000, 0.01), (50_001, 0.3), (33_000, 1.0), (32_768, 0.5), (1000, 0.999), (1, 1.0)])
def test_top_k_of_many(cupy, kind, n, ratio):
    codec, x = TopK(ratio), large(kind, max(n, 8))[:n]
    wire, there = np.empty(codec.nbytes(n), "u1"), cupy.empty(codec.nbytes(n), "u1")
    codec.encode(x, wire)
    codec.encode(cupy.asarray(x), there)
    assert not cupy.machine.waits
    assert there.get().tobytes() == wire.tobytes()
    out, mine = np.ones(n, "f4"), cupy.ones(n, "f4")
    with np.errstate(all="ignore"):
        codec.add(wire, out)
        codec.add(there, mine)
        same(mine.get(), out)
        codec.take_off(wire, out)
        codec.take_off(there, mine)
    same(mine.get(), out)


def test_a_broken_wire_writes_nowhere_else(cupy):
    codec, memory = TopK(0.1), cupy.zeros(300, "f4")
    wire = np.full(codec.nbytes(100), 0xFF, "u1")
    codec.decode(cupy.asarray(wire), memory[100:200])
    assert not memory.get().any()


@pytest.mark.parametrize("short", [np.dtype("f2"), np.dtype(ml_dtypes.bfloat16)])
def test_casts_of_all_bits(cupy, short):
    from hpcdl.arrays.device import DEVICE

    narrow = np.arange(2**16, dtype="u2").view(short)
    wide = cupy.empty(narrow.size, "f4")
    DEVICE.cast(cupy.asarray(narrow), wide)
    with np.errstate(invalid="ignore"):
        same(wide.get(), narrow.astype("f4"))
    x = any_floats(100_003)
    back = cupy.empty(x.size, short)
    DEVICE.cast(cupy.asarray(x), back)
    with np.errstate(over="ignore"):
        same(back.get(), x.astype(short))
    DEVICE.cast(cupy.asarray(x)[3:], back[1:-2])
    with np.errstate(over="ignore"):
        same(back[1:-2].get(), x[3:].astype(short))
    for dtype in ("f8", "i4"):  # by way of float32, where CuPy does not know the dtype
        value, there = np.arange(-5, 5).astype(dtype), cupy.empty(10, short)
        DEVICE.cast(cupy.asarray(value), there)
        again = cupy.empty(10, dtype)
        DEVICE.cast(there, again)
        assert (again.get() == value).all()


# --- the machine that runs them is as strict as it says

RUN = 'extern "C" __global__ void run(unsigned int* out, int wrong) { unsigned t = threadIdx.x; %s }'
FAULTS = {
    "barrier": ("if (t != 3 || !wrong) __syncthreads(); out[t] = 1;", "ended before a barrier"),
    "exchange": (
        "out[t] = wrong && t < 16 ? __shfl_xor_sync(0xffffffffu, t, 1) : __ballot_sync(0xffffffffu, 1) & 1;",
        "exchange in different places",
    ),
    "lanes": ("if (t == 3 && wrong) return; __syncwarp(); out[t] = 1;", "while others exchange"),
    "mask": ("__syncwarp(wrong ? 1u : 0xffffffffu); out[t] = 1;", "all lanes only"),
}


def kernel(cupy, body):
    code = "typedef unsigned int u32;\n" + (RUN % body).replace("unsigned int* out", "u32* out")
    module = cupy.cuda.Module()
    module.load(cupy.cuda.compiler.compile_using_nvrtc(code, ("--fmad=false",))[0])
    return module.get_function("run")


@pytest.mark.parametrize(("body", "told"), FAULTS.values(), ids=FAULTS)
def test_faults_of_kernels_are_found(cupy, body, told):
    run, out = kernel(cupy, body), cupy.zeros(64, "u4")
    run((1,), (64,), (out, np.int32(0)))
    assert out.get().all()
    run((1,), (64,), (out, np.int32(1)))
    with pytest.raises(RuntimeError, match=told):
        out.get()


def test_a_missing_barrier_is_noticed(cupy):
    """Threads take turns in an order that changes: what another thread has not written yet is not there."""
    body = "__shared__ u32 s[64]; s[t] = wrong; %s out[t] = s[63 - t];"
    racing, safe = kernel(cupy, body % ""), kernel(cupy, body % "__syncthreads();")
    out, found = cupy.zeros(64, "u4"), []
    for number in range(1, 20):
        safe((1,), (64,), (out, np.int32(number)))
        assert (out.get() == number).all()
        racing((1,), (64,), (out, np.int32(number)))
        found.append((out.get() == number).all())
    assert not any(found)


def test_arguments_have_the_parameters_types(cupy):
    run = kernel(cupy, "out[t] = wrong;")
    out = cupy.zeros(32, "u4")
    for args in ((out, 1), (out, np.int64(1)), (out, np.float32(1)), (np.zeros(32, "u4"), np.int32(1)), (out,)):
        with pytest.raises(TypeError):
            run((1,), (32,), args)
