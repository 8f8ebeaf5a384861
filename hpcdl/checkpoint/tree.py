"""Nested values as JSON and arrays, and back. No pickle: to load a file runs no code that the file names."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .. import arrays
from ..arrays import Array
from ..errors import DataError, InvalidArgument

__all__ = ["Kind", "adopt", "copy", "kind_of", "pack", "unpack"]

_PLAIN = {"bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}
_LOOK = 1e-5  # seconds between looks whether a copy from a GPU has ended
_DICTS = {"Counter": Counter, "OrderedDict": OrderedDict}
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Kind(NamedTuple):
    """A kind of values that a framework adds: `known` tells whether one is. `plain` makes nested plain values of it, `made` the reverse;
    `fill` overwrites one in place by another of its shape and dtype.
    """

    name: str
    known: Callable[[Any], bool]
    plain: Callable[[Any], Any]
    made: Callable[[Any], Any]
    fill: Callable[[Any, Any], None]


_kinds: dict[str, Kind] = {}


def adopt(kind: Kind) -> None:
    """Let checkpoints hold values of `kind` from now on."""
    _kinds[kind.name] = kind


def kind_of(x: Any) -> Kind | None:
    """The added kind that `x` is of."""
    return next((kind for kind in _kinds.values() if kind.known(x)), None)


def pack(value: Any, found: dict[str, Array], path: tuple[str, ...] = ()) -> Any:
    """`value` for JSON; its arrays, as they are, go to `found` by their path. The order is that of the nesting.

    Dicts, lists, tuples, numbers, strings, bytes, None, arrays of NumPy and CuPy, and what `adopt` has added. Raises InvalidArgument that
    names the place of anything else. Of other tuples and mappings, as named tuples, only the items are kept.
    """
    if isinstance(value, np.generic) or arrays.is_array(value):  # first: NumPy's float64 is a float too
        return _array(value, found, path)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, Mapping):
        if type(value) in _DICTS.values():
            return {"$dict": type(value).__name__, "value": pack(dict(value), found, path)}
        packed = [(key, pack(each, found, (*path, str(key)))) for key, each in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(packed)
        return {"$map": [[pack(key, found, (*path, f"key {i}")), each] for i, (key, each) in enumerate(packed)]}
    if isinstance(value, (list, tuple)):
        items = [pack(each, found, (*path, str(i))) for i, each in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": _keep(np.frombuffer(bytes(value), np.uint8), found, path)}
    if kind := kind_of(value):
        return {"$kind": kind.name, "value": pack(kind.plain(value), found, path)}
    raise InvalidArgument(
        f"a checkpoint cannot hold {type(value).__name__} at {'/'.join(path) or 'the top'}; it holds numbers, strings, bytes, None, "
        "arrays, and dicts, lists and tuples of these; give it a state_dict() made of such"
    )


def unpack(value: Any, found: Mapping[str, Array]) -> Any:
    """What `pack` has packed. Arrays are NumPy's. Raises DataError for what it never makes."""
    if isinstance(value, list):
        return [unpack(each, found) for each in value]
    if not isinstance(value, dict):
        return value
    mark = next((key for key in value if key.startswith("$")), "")
    if not mark:
        return {key: unpack(each, found) for key, each in value.items()}
    try:
        return _READ[mark](value, found)
    except KeyError as missing:
        raise DataError(f"the checkpoint holds {mark} values that cannot be read here: no {missing}") from None


def _array(value: Any, found: dict[str, Array], path: tuple[str, ...]) -> Any:
    dtype = value.dtype
    if dtype.hasobject or dtype.names:
        what = "Python objects" if dtype.hasobject else "records"
        raise InvalidArgument(
            f"a checkpoint cannot hold the array of {what} at {'/'.join(path) or 'the top'}; use lists, or an array of each"
        )
    told: dict[str, Any] = {"scalar": True} if isinstance(value, np.generic) else {}
    if not _plain(dtype):
        told |= {"dtype": dtype.name if hasattr(ml_dtypes, dtype.name) else dtype.str, "shape": list(value.shape)}
    return {"$array": _keep(np.asarray(value) if isinstance(value, np.generic) else value, found, path), **told}


def copy(x: Array) -> Array:
    """A copy on the host of an array that `pack` has found, for a file: its bytes, where files do not know its dtype."""
    library, there = arrays.of(x), np.empty(x.shape, x.dtype)
    library.to_host(x, there)
    event = library.event()
    while not event.done():
        time.sleep(_LOOK)
    return there if _plain(x.dtype) else np.frombuffer(there.tobytes(), np.uint8)


def _plain(dtype: Any) -> bool:
    return dtype.name in _PLAIN and bool(dtype.isnative)


def _keep(x: Array, found: dict[str, Array], path: tuple[str, ...]) -> str:
    name = base = "/".join(path) or "value"
    count = 1
    while name in found:  # as of a key 1 beside a key "1"
        count += 1
        name = f"{base} ({count})"
    found[name] = x
    return name


def _read_array(value: dict[str, Any], found: Mapping[str, Array]) -> Any:
    x = found[value["$array"]]
    if "dtype" in value:
        dtype = np.dtype(getattr(ml_dtypes, value["dtype"], value["dtype"]))
        x = np.frombuffer(x.tobytes(), dtype).reshape(value["shape"]).copy()
    return x[()] if value.get("scalar") else x


def _read_kind(value: dict[str, Any], found: Mapping[str, Array]) -> Any:
    if value["$kind"] not in _kinds:
        raise DataError(f"the checkpoint holds values of kind {value['$kind']!r}; import the part of hpcdl that made them before")
    return _kinds[value["$kind"]].made(unpack(value["value"], found))


_READ: dict[str, Callable[[dict[str, Any], Mapping[str, Array]], Any]] = {
    "$float": lambda value, found: _FLOATS[value["$float"]],
    "$map": lambda value, found: {unpack(key, found): unpack(each, found) for key, each in value["$map"]},
    "$dict": lambda value, found: _DICTS[value["$dict"]](unpack(value["value"], found)),
    "$tuple": lambda value, found: tuple(unpack(each, found) for each in value["$tuple"]),
    "$bytes": lambda value, found: found[value["$bytes"]].tobytes(),
    "$array": _read_array,
    "$kind": _read_kind,
}
