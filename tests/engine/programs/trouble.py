"""What goes wrong, goes wrong alike on all ranks. Argument: which trouble."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import hpcdl
from hpcdl.errors import HpcdlError
from hpcdl.launch.env import place

here = place()
rank = 0 if here is None else here.rank
what = sys.argv[1]


def told(error: HpcdlError) -> None:
    print(f"@{rank} {type(error).__name__}: {error}".replace("\n", " "), flush=True)


if what == "missing":  # on one rank
    if rank == 1:
        (folder := Path(tempfile.mkdtemp()) / "horovod").mkdir()
        (folder / "__init__.py").touch()
        sys.path.insert(0, str(folder.parent))
    try:
        hpcdl.init(engine="horovod")
    except HpcdlError as error:
        told(error)
    world = hpcdl.init()  # and one goes on without
    assert world.engine == "hpcdl"
    assert world.allreduce(np.ones(1))[0] == world.size
elif what == "engines":
    try:
        hpcdl.init(engine="horovod" if rank else "hpcdl")
    except HpcdlError as error:
        told(error)
elif what == "unknown":
    try:
        hpcdl.init(engine="nccl")
    except HpcdlError as error:
        told(error)
else:
    world = hpcdl.init(engine="horovod")
    try:
        if what == "shapes":
            world.allreduce(np.ones(3 + rank, "f4"))
        elif what == "ends":
            if rank == 0:
                sys.exit()
            world.allreduce(np.ones(3, "f4"))
        else:
            order = ["a", "b"] if rank else ["b", "a"]
            for name in order:
                world.allreduce(np.ones(3, "f4"), name=name)
    except HpcdlError as error:
        told(error)
