"""All cases of several programs in one process, since PyTorch takes longer to import than most of them to run."""

from __future__ import annotations

import checkpoints
import collectives
import ddp
import edges
import messages
import sharded
import side

if __name__ == "__main__":
    side.run(side.joined(collectives, messages, ddp, sharded, checkpoints, edges))
