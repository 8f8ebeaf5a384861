"""Arguments of torch's own wrapper, and what stands for them here."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import InvalidArgument

__all__ = ["refuse"]

_NEEDLESS = "there is no need for it here"
_HERE = {
    "device_ids": "init() has chosen the device, which is world.device",
    "output_device": "init() has chosen the device, which is world.device",
    "process_group": "pass world=",
    "device_mesh": "pass world=, a group of the ranks that hold the same model",
    "bucket_cap_mb": "pass bucket_bytes=",
    "dim": _NEEDLESS,
    "init_sync": _NEEDLESS,
    "check_reduction": _NEEDLESS,
    "static_graph": _NEEDLESS,
    "gradient_as_bucket_view": "gradients always are",
    "find_unused_parameters": "unused parameters are always found",
    "skip_all_reduce_unused_params": _NEEDLESS,
    "mixed_precision": "autocast works as on one process, and codec= has the gradients sent in fewer bits",
}


def refuse(given: Iterable[str]) -> None:
    """Raise InvalidArgument for what only torch's own wrapper knows, with what to do; TypeError for what nobody knows."""
    for name in given:
        if name in _HERE:
            raise InvalidArgument(f"{name} is an argument of torch's own DistributedDataParallel; leave it out: {_HERE[name]}")
        raise TypeError(f"DistributedDataParallel() got an unexpected keyword argument {name!r}")
