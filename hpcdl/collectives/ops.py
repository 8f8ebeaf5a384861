"""Reduction operations: how two values become one, for which dtypes, and what each is called in MPI."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays import Array, Arrays, kind_of
from ..errors import InvalidArgument
from ..registry import Registry

__all__ = ["Op", "by_name", "ops"]


@dataclass(frozen=True)
class Op:
    """An associative, commutative operation. `ufunc` names the NumPy-like function; `kinds` the kinds of dtype it makes sense for."""

    name: str
    ufunc: str
    kinds: frozenset[str]
    identity: Any  # a number, or "lowest"/"highest" of the dtype, or "ones" for all bits set
    mpi: str | None  # the same operation of MPI, where results agree in all cases
    averages: bool = False

    @property
    def adds(self) -> bool:
        """Whether two values become their sum."""
        return self.ufunc == "add"

    def combine(self, library: Arrays, into: Array, other: Array) -> None:
        """into = into op other, element by element, in place."""
        getattr(library.xp, self.ufunc)(into, other, out=into)

    def by_mpi(self, dtype: np.dtype[Any]) -> str | None:
        """MPI's name of the operation, where it gives what NumPy gives. Open MPI 5 adds short integers up to their limits; NumPy wraps."""
        return None if self.mpi == "SUM" and dtype.kind in "iu" and dtype.itemsize < 4 else self.mpi

    def check(self, dtype: np.dtype[Any]) -> None:
        """Raise InvalidArgument unless the operation means something for `dtype`."""
        if kind_of(dtype) not in self.kinds:
            hint = "; use op='sum' and divide, or a floating dtype" if self.averages else ""
            raise InvalidArgument(f"op {self.name!r} is not defined for {dtype}; valid: {', '.join(sorted(self.kinds))} dtypes{hint}")

    def neutral(self, dtype: np.dtype[Any]) -> Any:
        """The value that changes nothing: x op neutral == x."""
        if self.identity == "ones":
            return dtype.type(True) if dtype.kind == "b" else ~dtype.type(0)
        if self.identity in ("lowest", "highest"):
            if kind_of(dtype) == "floating":
                return dtype.type(-np.inf if self.identity == "lowest" else np.inf)
            if dtype.kind == "b":
                return dtype.type(self.identity == "highest")
            info = np.iinfo(dtype)
            return dtype.type(info.min if self.identity == "lowest" else info.max)
        return dtype.type(self.identity)


_NUMBERS = frozenset({"floating", "integer"})
_ALL = _NUMBERS | {"bool"}
_BITS = frozenset({"integer", "bool"})

ops: Registry[Op] = Registry("op")
for _op in (
    Op("sum", "add", _NUMBERS, 0, "SUM"),
    Op("mean", "add", frozenset({"floating"}), 0, "SUM", averages=True),
    Op("product", "multiply", _NUMBERS, 1, "PROD"),
    # No MPI counterpart for max and min: MPI leaves open what becomes of NaN, and replicas would differ.
    Op("max", "maximum", _ALL, "lowest", None),
    Op("min", "minimum", _ALL, "highest", None),
    Op("bit_and", "bitwise_and", _BITS, "ones", "BAND"),
    Op("bit_or", "bitwise_or", _BITS, 0, "BOR"),
    Op("bit_xor", "bitwise_xor", _BITS, 0, "BXOR"),
    Op("logical_and", "logical_and", _BITS, 1, None),
    Op("logical_or", "logical_or", _BITS, 0, None),
    Op("logical_xor", "logical_xor", _BITS, 0, None),
):
    ops.register(_op.name, lambda op=_op: op)


@lru_cache(maxsize=256)
def by_name(op: Op | str) -> Op:
    """The operation that a user means. Raises UnknownName."""
    return ops.get(op) if isinstance(op, str) else op
