"""One rank of `hpcdl bench`: ``python -m hpcdl.bench allreduce …``, which `hpcdl bench -n 4` starts and any launcher may."""

import sys

from .cli import join

if __name__ == "__main__":
    sys.exit(join(sys.argv[1:]))
