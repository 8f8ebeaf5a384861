"""Loads the harness: what each test may use is in tests/harness/plugin.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

pytest_plugins = ["harness.plugin"]
