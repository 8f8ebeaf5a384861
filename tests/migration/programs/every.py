"""All cases of several programs in one process, since PyTorch takes longer to import than most of them to run."""

from __future__ import annotations

import tensors
import training
from side import joined, run

if __name__ == "__main__":
    run(joined(tensors, training))
