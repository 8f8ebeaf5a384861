"""Batch normalisation over the samples of all ranks, under Horovod's name; on the host too."""

from __future__ import annotations

from typing import Any

from ...torch.sync_batchnorm import SyncBatchNorm as _SyncBatchNorm
from ..basics import is_initialized, named

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(_SyncBatchNorm):
    """See `hpcdl.torch.SyncBatchNorm`; over the ranks of `init`."""

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True, track_running_stats: bool = True
    ) -> None:
        world: Any = named().world if is_initialized() else None
        super().__init__(num_features, eps, momentum, affine, track_running_stats, world=world)
