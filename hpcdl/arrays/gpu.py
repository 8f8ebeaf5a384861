"""This rank's GPU: whether there is one, and the place on it where all of the rank's work goes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from ..errors import InvalidArgument
from .trouble import look

__all__ = ["Gpu", "why_no_gpu"]

_INSTALL = "pip install 'hpcdl[cuda12]' or 'hpcdl[cuda13]', by the CUDA version of the driver (nvidia-smi says it)"


def why_no_gpu() -> str:
    """Why CuPy has no GPU here, with the cure; "" if it has one. Imports CuPy."""
    version, devices, wrong = look()
    if not version:
        return f"CuPy is missing ({wrong}); cure: {_INSTALL}"
    if wrong:  # no driver, one too old, no GPU: it says which
        return f"CuPy {version} finds no GPU ({wrong}); cure: a node with one and a driver that is new enough, or {_INSTALL}"
    return "" if devices else f"CuPy {version} finds no GPU; cure: a node with one, or CUDA_VISIBLE_DEVICES that names one"


class Gpu:
    """The GPU of a local rank; several ranks may have the same one. As a context: all work goes to it, into a stream of its own.

    number: among the `count` that this process sees. address: where it sits in its node, whatever number a process knows it by. name: as
    its maker calls it. xp: the NumPy-like module. Raises InvalidArgument without one.
    """

    def __init__(self, local_rank: int) -> None:
        if trouble := why_no_gpu():
            raise InvalidArgument(trouble)
        import cupy

        self.xp: Any = cupy
        self.count = int(cupy.cuda.runtime.getDeviceCount())
        self.number = local_rank % self.count
        name = cupy.cuda.runtime.getDeviceProperties(self.number)["name"]
        self.name = name.decode() if isinstance(name, bytes) else str(name)
        self.address = str(cupy.cuda.Device(self.number).pci_bus_id)
        self._within: list[ExitStack] = []

    def __enter__(self) -> Gpu:
        stack = ExitStack()
        stack.enter_context(self.xp.cuda.Device(self.number))
        stack.enter_context(self.xp.cuda.Stream(non_blocking=True))
        self._within.append(stack)
        return self

    def __exit__(self, *error: object) -> None:
        self._within.pop().close()

    def versions(self) -> dict[str, str]:
        """Of what computes there."""
        runtime = self.xp.cuda.runtime
        found = {"cupy": self.xp.__version__, "CUDA runtime": runtime.runtimeGetVersion(), "CUDA driver": runtime.driverGetVersion()}
        return {name: str(version) for name, version in found.items()}
