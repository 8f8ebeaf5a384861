"""All cases in one process, since importing a backend takes longer than most of them."""

from __future__ import annotations

import own
import resuming
import sharing
import side
import telling
import training
import ways

if __name__ == "__main__":
    side.run(side.joined(training, ways, own, sharing, resuming, telling))
