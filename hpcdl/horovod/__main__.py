"""``python -m hpcdl.horovod train.py …`` is ``python train.py …`` in which `import horovod` finds this package; under any launcher."""

import os
import sys

from .alias import as_horovod

if __name__ == "__main__":
    if not sys.argv[1:]:
        raise SystemExit("usage: python -m hpcdl.horovod (script.py | -m module) [its own arguments …]")
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], {**os.environ, **as_horovod(os.environ)})
