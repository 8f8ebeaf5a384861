"""PyTorch over MPI: `DistributedDataParallel` for the plain training script, and a backend for `torch.distributed`."""

from __future__ import annotations

from .tensors import as_array, as_tensor

__all__ = ["as_array", "as_tensor"]
