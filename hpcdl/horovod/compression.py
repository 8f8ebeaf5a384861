"""This package's scaled float16 for a real Horovod: `hvd.DistributedOptimizer(…, compression=hpcdl.horovod.compression("fp16"))`."""

from __future__ import annotations

import gc
import sys
import weakref
from importlib import import_module
from typing import Any

from .. import start
from ..codecs import by_name as codec_by_name
from ..errors import InvalidArgument
from ..reduction.compressors import names
from ..world import World
from .agreement import Agreement

__all__ = ["ScaledFP16", "compression"]


def compression(codec: str = "fp16", world: World | None = None) -> Any:
    """What a real Horovod's `DistributedOptimizer`, `allreduce` and so on take as `compression`, for PyTorch. Collective.

    fp16: float16 of values that were divided by a power of two, which all ranks agree on for each tensor before they encode it, with room
    for the sum: nothing overflows, and nothing vanishes but what is some 2^38 / n times smaller than the tensor's largest magnitude.
    The mean of n ranks is within (n + 1) 2^-11 of the largest magnitude in the tensor. NaN and infinity stay. none: Horovod's.

    Made by all ranks, after hvd.init(), one for each optimizer. world: the ranks that reduce together, where that is a process set.
    Raises InvalidArgument for any other codec: Horovod adds up what is on the wire, element by element, and their wires are not numbers.
    """
    if codec == "none":
        return import_module("horovod.torch").Compression.none
    if codec != "fp16":
        if codec in names():
            raise InvalidArgument(
                f"Horovod cannot sum the wire of codec {codec!r}; valid: fp16, none; hpcdl.torch reduces by {codec!r} itself"
            )
        codec_by_name(codec)  # says what is known
        raise InvalidArgument(f"codec {codec!r} has no wire that Horovod can sum; valid: fp16, none")
    return ScaledFP16(world or start.init())


class ScaledFP16:
    """Compresses floating tensors of any dtype to float16 and back; others go as they are."""

    def __init__(self, world: World) -> None:
        self._agreement = Agreement(world)
        self._names = _Names(self)

    def compress(self, tensor: Any) -> tuple[Any, Any]:
        """`tensor` as float16, and what `decompress` needs to know. Waits for the other ranks to call it too."""
        torch = import_module("torch")
        if not tensor.dtype.is_floating_point or tensor.is_sparse:
            return tensor, None
        values = tensor.detach().to(torch.float32)
        peak = float(values.abs().max()) if values.numel() else 0.0
        exponent = self._agreement.exponent(self._names.find(tensor), peak)
        return (values * 2.0**-exponent).to(torch.float16), (tensor.dtype, exponent)

    def decompress(self, tensor: Any, ctx: Any) -> Any:
        """The sum or mean of what `compress` gave, in the dtype that came in."""
        if ctx is None:
            return tensor
        dtype, exponent = ctx
        wide = tensor.to(import_module("torch").float32) * 2.0**exponent
        return wide.to(dtype)


class _Names:
    """What the parameters are called whose gradients are compressed, the same on all ranks.

    Why through the garbage collector: Horovod gives `compress` a tensor and nothing else. The names are in the optimizer, which holds the
    compression; which optimizer that is, only its references tell. A tensor that is nobody's gradient is called by its dtype and shape,
    so these must come in the same order on all ranks.
    """

    def __init__(self, compression: ScaledFP16) -> None:
        self._compression = weakref.ref(compression)
        self._references = 0
        self._parameters: dict[Any, list[tuple[str, Any]]] = {}  # by shape

    def find(self, tensor: Any) -> str:
        """The name of the parameter whose gradient `tensor` is."""
        compression = self._compression()
        references = sys.getrefcount(compression)
        for _ in range(2):
            for name, parameter in self._parameters.get(tensor.shape, ()):
                if parameter.grad is tensor:
                    return name
            if references == self._references:
                break
            self._references = references
            self._collect(compression)
        return f"{tensor.dtype} {tuple(tensor.shape)}"

    def _collect(self, compression: Any) -> None:
        self._parameters = {}
        for holder in gc.get_referrers(compression):
            for owner in [holder, *(gc.get_referrers(holder) if isinstance(holder, dict) else ())]:
                if getattr(owner, "_compression", None) is compression and hasattr(owner, "_parameter_names"):
                    for parameter, name in owner._parameter_names.items():
                        self._parameters.setdefault(parameter.shape, []).append((name, parameter))
