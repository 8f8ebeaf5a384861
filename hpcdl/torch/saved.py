"""Tensors in checkpoints, as arrays on the host; and PyTorch's random states. Known to `hpcdl.checkpoint` once this is imported."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..checkpoint.random_states import add_source
from ..checkpoint.tree import Kind, adopt
from ..errors import InvalidArgument
from .tensors import as_array, as_tensor

__all__ = ["KIND"]


def _plain(x: torch.Tensor) -> Any:
    """A tensor's array; of a dtype that NumPy lacks, its bytes. Strides, and whether a gradient is wanted, are not kept."""
    if hasattr(x, "placements"):
        raise InvalidArgument(
            "a checkpoint cannot hold a tensor that lies in pieces on the ranks; give it hpcdl.torch.sharded(model, optimizer)"
        )
    if x.layout != torch.strided or x.is_quantized or x.device.type == "meta":
        raise InvalidArgument(f"a checkpoint cannot hold the {x.layout} tensor of {x.dtype} on {x.device}; give it dense ones")
    x = x.detach().resolve_conj().resolve_neg().contiguous()
    if x.is_complex() or (x.dtype.itemsize == 1 and x.dtype.is_floating_point):
        return [str(x.dtype).removeprefix("torch."), list(x.shape), as_array(x.reshape(-1).view(torch.uint8))]
    return as_array(x)


def _made(saved: Any) -> torch.Tensor:
    if isinstance(saved, np.ndarray):
        return as_tensor(saved)
    name, shape, data = saved
    made = torch.empty(shape, dtype=getattr(torch, name))
    made.view(-1).view(torch.uint8)[:] = torch.from_numpy(data) if data.size else 0
    return made


def _random() -> dict[str, Any]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def _set_random(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def _fill(x: torch.Tensor, saved: torch.Tensor) -> None:
    with torch.no_grad():
        x.copy_(saved)


KIND = Kind("torch tensor", lambda x: isinstance(x, torch.Tensor), _plain, _made, _fill)
adopt(KIND)
add_source("torch", _random, _set_random)
