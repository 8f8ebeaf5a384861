"""Elastic training with PyTorch: state that is committed and restored, and a sampler that remembers what was processed."""

from __future__ import annotations

from ...elastic import run
from .sampler import ElasticSampler
from .state import TorchState

__all__ = ["ElasticSampler", "TorchState", "run"]
