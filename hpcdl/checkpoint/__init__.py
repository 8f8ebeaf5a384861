"""Checkpoints: atomic, checked, in the background, restored on any number of ranks. Safetensors and JSON, no pickle.

checkpoint = hpcdl.checkpoint.Checkpoint("runs/digits", world, {"model": model, "optimizer": optimizer})
for step in range(checkpoint.restore() or 0, steps):
    ...
    if (step + 1) % 100 == 0:
        checkpoint.save(step + 1)
checkpoint.close()
"""

from .checkpoint import Checkpoint
from .random_states import RandomStates
from .stop import Preemption, preemption
from .tree import Kind, adopt

__all__ = ["Checkpoint", "Kind", "Preemption", "RandomStates", "adopt", "preemption"]
