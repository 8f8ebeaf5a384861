"""All cases of several programs in one process, since PyTorch takes longer to import than most of them to run."""

from __future__ import annotations

import tensors
import training
from side import run

if __name__ == "__main__":
    run({**vars(tensors), **vars(training)})
