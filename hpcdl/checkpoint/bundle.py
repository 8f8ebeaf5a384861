"""One file of a checkpoint: a safetensors file whose metadata say how its arrays nest, if they do. Made and read in memory."""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors import numpy as safetensors

from ..arrays import Array
from ..errors import DataError
from .tree import copy, pack, unpack

__all__ = ["Bundle", "dump", "load", "merged", "snapshot"]

_METADATA = "hpcdl"


class Bundle(NamedTuple):
    """Arrays by name, and packed values that refer to them by it; None where these are in another bundle."""

    packed: Any
    arrays: dict[str, Array]


def snapshot(values: dict[str, Any], part: int = 0, parts: int = 1) -> Bundle:
    """A copy of `values` on the host, or of one of so many parts of about as many bytes; the same parts wherever `values` have one form."""
    found: dict[str, Array] = {}
    packed = pack(values, found)
    load = [0] * parts
    mine = {}
    for name, x in found.items():
        least = load.index(min(load))
        load[least] += x.nbytes
        if least == part:
            mine[name] = copy(x)
    return Bundle(packed if part == 0 else None, mine)


def dump(bundle: Bundle) -> bytes:
    """The bytes of the file."""
    return safetensors.save(bundle.arrays, metadata={_METADATA: json.dumps(bundle.packed, allow_nan=False)})


def load(data: bytes) -> Bundle:
    """What was dumped. Raises DataError for what is no such file."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        packed = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_METADATA])
        return Bundle(packed, {name: x.copy() for name, x in safetensors.load(data).items()})  # copies: those that it gives are read-only
    except (SafetensorError, ValueError, KeyError, struct.error) as error:
        raise DataError(f"it is no safetensors file of this package: {type(error).__name__}: {error}") from None


def merged(bundles: list[Bundle]) -> dict[str, Any]:
    """The values whose parts these are. Raises DataError where some are missing."""
    found = {name: x for bundle in bundles for name, x in bundle.arrays.items()}
    values = next((bundle.packed for bundle in bundles if bundle.packed is not None), None)
    if not isinstance(values, dict):
        raise DataError("the part that says how its values nest is missing")
    values = unpack(values, found)
    assert isinstance(values, dict)
    return values
