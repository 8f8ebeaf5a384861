"""What the outer process's mpirun runs on every rank: `python -m harness.inside`, with HPCDL_TEST_JOB naming the order."""

import json
import os
import sys
import threading
import time
from pathlib import Path

EXIT_ORPHANED = 87


def _end_with(pid: int) -> None:
    """End this rank when the outer process is gone without having stopped the job (killed, say)."""
    while True:
        time.sleep(1)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            os._exit(EXIT_ORPHANED)


def main() -> int:
    """Run pytest on the ordered items. Status 0 if it came to its end, whatever the tests said: the journal has that."""
    order = json.loads(Path(os.environ["HPCDL_TEST_JOB"]).read_text(encoding="utf-8"))
    os.environ["HPCDL_IN_RANKS"] = "1"
    sys.path[:] = order["path"]  # the same hpcdl as in the outer process
    threading.Thread(target=_end_with, args=(order["outer"],), name="harness outer watch", daemon=True).start()
    import pytest

    status = int(pytest.main(order["args"]))
    return 0 if status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else status


if __name__ == "__main__":
    sys.exit(main())
