"""Nested values, there and back through a file's bytes."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcdl.checkpoint import Kind, adopt
from hpcdl.checkpoint.bundle import dump, load, merged, snapshot
from hpcdl.errors import DataError, InvalidArgument


def there_and_back(values, parts=1):
    return merged([load(dump(snapshot(values, part, parts))) for part in reversed(range(parts))])


def same(a, b) -> bool:
    if isinstance(a, dict):
        return type(b) is dict and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (np.ndarray, np.generic)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)))


keys = st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.none(), st.sampled_from(["$array", "$map", "a/b", "1"]))
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5))
trees = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3), st.tuples(inner, inner))
)


@given(trees)
def test_plain_values(tree) -> None:
    assert same(there_and_back({"it": tree}), {"it": tree})


NAMES = [
    "bool",
    "int8",
    "uint16",
    "int64",
    "float16",
    "float32",
    "float64",
    "complex64",
    ">f4",
    "<U3",
    "S4",
    "M8[s]",
    "bfloat16",
    "float8_e4m3fn",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 2), (2, 0, 3)])
def test_arrays(name, shape) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    x = np.frombuffer(np.random.default_rng(0).bytes(dtype.itemsize * math.prod(shape)), np.uint8) % 2
    values = {"a": {"x": x.view(dtype).reshape(shape)}, "1": np.int64(5), 1: dtype.type(1) if dtype.kind in "biufc" else None}
    assert same(there_and_back(values), values)


def test_layouts() -> None:
    """What is not contiguous; and arrays that are read can be written."""
    x = np.arange(24.0).reshape(4, 6)
    found = there_and_back({"t": x.T, "s": x[::2, ::3]})
    assert (found["t"] == x.T).all() and (found["s"] == x[::2, ::3]).all()
    found["t"][0] = 1


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_in_parts(parts) -> None:
    """Each array in one of them, all of about as many bytes."""
    values = {f"w{i}": np.full((i % 3 + 1) * 100, i, np.float32) for i in range(20)}
    bundles = [snapshot(values, part, parts) for part in range(parts)]
    names = [name for bundle in bundles for name in bundle.arrays]
    assert sorted(names) == sorted(values)
    nbytes = [sum(x.nbytes for x in bundle.arrays.values()) for bundle in bundles]
    assert max(nbytes) - min(nbytes) <= 1200
    assert same(there_and_back(values, parts), values)
    with pytest.raises(DataError, match="the part that says how its values nest is missing"):
        merged(bundles[1:])


def test_a_snapshot_is_a_copy() -> None:
    x = np.zeros(3)
    bundle = snapshot({"x": x})
    x += 1
    assert (merged([bundle])["x"] == 0).all()


def test_dicts_of_other_kinds() -> None:
    found = there_and_back({"o": OrderedDict(b=1, a=2), "c": Counter("abb"), "p": defaultdict(list, {3: [1]})})
    assert type(found["o"]) is OrderedDict and list(found["o"]) == ["b", "a"] and type(found["c"]) is Counter and found["c"]["z"] == 0
    assert same(found["p"], {3: [1]})


def test_what_cannot_be_held() -> None:
    with pytest.raises(InvalidArgument, match=r"cannot hold object at model/2/f; it holds numbers, .* give it a state_dict\(\)"):
        snapshot({"model": [1, 2, {"f": object()}]})
    with pytest.raises(InvalidArgument, match="array of Python objects at a; use lists"):
        snapshot({"a": np.array([None, {}])})


def test_kinds_of_other_libraries() -> None:
    """Added by whoever knows them; without that a clear error, not a guess."""
    kind = Kind(
        "complex number", lambda x: isinstance(x, complex), lambda x: [x.real, x.imag], lambda parts: complex(*parts), lambda x, saved: None
    )
    adopt(kind)
    data = dump(snapshot({"z": [1 + 2j]}))
    assert merged([load(data)]) == {"z": [1 + 2j]}
    with pytest.raises(DataError, match="values of kind 'another number'; import the part"):
        merged([load(data.replace(b"complex number", b"another number"))])


def test_foreign_bytes() -> None:
    import safetensors.numpy

    for data in (b"", b"abc", b"\\xff" * 64, safetensors.numpy.save({"x": np.ones(3)}), bytes(100)):
        with pytest.raises(DataError, match="no safetensors file of this package"):
            load(data)
