"""Every codec writes the same bytes from device memory as from host memory, and reads the same values."""

import numpy as np
import pytest

from device.places import same
from hpcdl.codecs import by_name, codecs
from hpcdl.codecs.sign import Sign
from hpcdl.codecs.topk import TopK

FORMATS = {**{name: by_name(name) for name in codecs.names()}, "sign": Sign(), "topk": TopK(0.1)}
LOSSY = [name for name, codec in FORMATS.items() if not codec.exact]


def inputs():
    random = np.random.default_rng(1)
    normal = random.normal(size=1000).astype("f4")
    wide = (random.normal(size=700) * 10.0 ** random.integers(-38, 38, 700)).astype("f4")
    ties = np.arange(-300, 300).astype("f4") * np.float32(2.0**-12) + 1
    special = normal[:520].copy()
    special[[0, 130, 131, 300, 519]] = [np.nan, np.inf, -np.inf, -0.0, np.nan]
    yield from {
        **{"normal": normal, "wide": wide, "ties": ties, "special": special},
        **{"zeros": np.zeros(257, "f4"), "minus zero": -np.zeros(5, "f4")},
        **{"tiny": normal * np.float32(1e-30), "huge": normal * np.float32(1e30), "subnormal": normal[:300] * np.float32(1e-40)},
        **{"beside": np.where(np.arange(512) < 256, np.float32(1e-30), np.float32(1e30)) * normal[:512], "one": normal[:1]},
        **{"largest": np.full(130, np.float32(3.3e38)), "smallest": np.full(130, np.float32(1e-45)), "empty": normal[:0]},
        **{"short": normal[:127], "block": normal[:128], "longer": normal[:129], "bounds": np.float32(2) ** np.arange(-30, 30, dtype="f4")},
    }.items()


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("x", [pytest.param(x, id=label) for label, x in inputs()])
def test_same_wire_and_same_values(cupy, name, x):
    codec = FORMATS[name]
    x = np.ascontiguousarray(x, "f4")
    wire, out = np.empty(codec.nbytes(x.size), "u1"), np.empty(x.size, "f4")
    codec.encode(x, wire)
    codec.decode(wire, out)
    device_wire, device_out = cupy.empty(wire.size, "u1"), cupy.empty(x.size, "f4")
    codec.encode(cupy.asarray(x), device_wire)
    codec.decode(device_wire, device_out)
    assert not cupy.machine.waits
    assert device_wire.get().tobytes() == wire.tobytes()
    same(device_out.get(), out)


@pytest.mark.parametrize("name", LOSSY)
def test_any_nan_stays_nan(cupy, name):
    """NaNs with a sign or a payload: their bits may become others, but they stay NaN, alone."""
    codec = FORMATS[name]
    x = np.ones(300, "f4")
    x.view("u4")[[1, 2, 140]] = [0x7FFFFFFF, 0xFFC00000, 0x7F800001]
    wire, out = cupy.empty(codec.nbytes(300), "u1"), cupy.empty(300, "f4")
    codec.encode(cupy.asarray(x), wire)
    codec.decode(wire, out)
    expected = np.empty(300, "f4")
    codec.decode(wire.get(), expected)
    same(out.get(), expected)
    assert np.isnan(expected[[1, 2, 140]]).all()
