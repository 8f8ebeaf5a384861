"""What a GPU's errors mean, and what to do about them."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

__all__ = ["elsewhere", "explained", "hint", "look", "mark"]

#: What an error's text contains -> what is to be said of it.
_MEANINGS = {
    "cudaErrorInsufficientDriver": "there is no NVIDIA driver, or it is older than CuPy's CUDA {runtime} needs; cure: load the driver, or "
    "install the CuPy of an older CUDA (cupy-cuda12x in place of -cuda13x)",
    "cudaErrorNoDevice": "no GPU is visible to this process; cure: look at CUDA_VISIBLE_DEVICES, and ask the batch system for one",
    "cudaErrorInvalidDevice": "there is no GPU of this number; cure: a number below {devices}, the GPUs that this process sees",
    "cudaErrorIllegalAddress": "device {device} is lost for this process: something before has read or written memory that is not its own; "
    "cure: start again, with CUDA_LAUNCH_BLOCKING=1 to see where",
    "cudaErrorECCUncorrectable": "the memory of device {device} is broken; cure: leave this node out, and tell who runs it",
    "cudaErrorDevicesUnavailable": "device {device} is busy with another process that has it for itself; cure: another GPU",
    "cudaErrorLaunchFailure": "device {device} is lost for this process after a kernel failed; cure: start again",
    "cudaErrorNvlinkUncorrectable": "a link between GPUs is broken; cure: leave this node out, and tell who runs it",
    "cudaErrorUnknown": "device {device} does not answer any more (nvidia-smi and the kernel's log say more); cure: start again elsewhere",
    "cudaErrorSystemDriverMismatch": "the driver's parts have different versions; cure: the node needs to be started anew",
    "NCCL_ERROR_INVALID_USAGE": "NCCL refuses (NCCL_DEBUG=WARN says why); cure: a GPU for each rank, or HPCDL_DEVICE_PATH=staged",
    "NCCL_ERROR_SYSTEM_ERROR": "NCCL cannot reach another rank (NCCL_DEBUG=WARN says why); cure: NCCL_SOCKET_IFNAME, or "
    "HPCDL_DEVICE_PATH=staged",
    "NCCL_ERROR_UNHANDLED_CUDA_ERROR": "NCCL cannot use a GPU (NCCL_DEBUG=WARN says why); cure: HPCDL_DEVICE_PATH=staged does without it",
    "NCCL_ERROR_REMOTE_ERROR": "another rank has left NCCL",
}


def explained(error: BaseException) -> str:
    """The error as a sentence, with what it means where that is known."""
    meant = hint(error)
    return f"{type(error).__name__}: {error}" + (f": {meant}" if meant else "")


def hint(error: BaseException) -> str:
    """What an error of a GPU means and its cure; "" for any other error. Asks the device nothing that could fail."""
    text = str(error)
    found = next((meaning for name, meaning in _MEANINGS.items() if name in text), "")
    return found.format(**_facts(getattr(error, "on_device", ""))) if found else ""


def look() -> tuple[str, int, str]:
    """CuPy's version, the devices that it sees, and what is wrong with them; "", 0, "" for what is not there. Imports CuPy."""
    version, devices = "", 0
    try:
        import cupy

        version = str(cupy.__version__)
        devices = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        return version, devices, explained(error)
    return version, devices, ""


def mark(error: BaseException, device: str) -> None:
    """Note on which device an error came up: the one that is current where it is told may be another."""
    with suppress(AttributeError):  # an exception of compiled code may have no room for it
        error.on_device = device  # type: ignore[attr-defined]


def elsewhere(x: Any) -> str:
    """What is wrong with the place of `x`, an array on a device: that another device is current; "" where it is right."""
    device = getattr(x, "device", None)
    cupy = sys.modules.get("cupy")
    if cupy is None or not isinstance(x, cupy.ndarray) or device is None or (current := cupy.cuda.Device().id) == device.id:
        return ""
    return f"the array is on cuda:{device.id}, where cuda:{current} is current; cure: `with cupy.cuda.Device({device.id}):`, or copy it"


def _facts(device: str) -> dict[str, str]:
    cupy = sys.modules.get("cupy")
    facts = {"runtime": "runtime", "device": device or "cuda:?", "devices": "that of"}
    for name, look in (("runtime", _runtime), ("devices", _devices)):
        try:
            facts[name] = look(cupy)
        except Exception:  # the driver that fails is the one that is asked
            continue
    return facts


def _runtime(cupy: Any) -> str:
    number = int(cupy.cuda.runtime.runtimeGetVersion())
    return f"{number // 1000}.{number % 1000 // 10}"


def _devices(cupy: Any) -> str:
    return str(int(cupy.cuda.runtime.getDeviceCount()))
