"""One rank: starts MPI, takes a device path and sums arrays of the fake device; prints which path it was, or the error.

First word: what is to be wrong, if anything.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from device.conftest import installed
from device.fake_cupy import Machine

what = sys.argv[1] if len(sys.argv) > 1 else ""
machine = Machine()
if what == "driver":
    machine.driver = "cudaErrorInsufficientDriver"

with installed(machine) as cupy:
    import hpcdl
    from hpcdl import device_path
    from hpcdl.launch.env import place

    rank = place().rank
    if what == "one":  # the ranks' environments differ
        os.environ["HPCDL_GPU_AWARE"] = str(rank)
    asked = {"differ": ["staged", "aware"][rank], "late": "staged"}.get(what)
    try:
        world = hpcdl.init(device_path=asked)
        with cupy.cuda.Device(rank), cupy.cuda.Stream(non_blocking=True):
            for codec in ("none", "fp16", "int8"):
                x = cupy.full(300_000, rank + 1, "f4")
                world.allreduce(x, "mean", codec)
                assert x.get()[299_999] == 1.5, codec
        if what == "late":
            hpcdl.init(device_path="aware")
        copied = sum(record.nbytes for record in machine.log if record.kind == "to host" and record.stream)
        told = f"{device_path.now(world)}; {'copies' if copied > 3 * 1_200_000 else 'no copies'}"
    except hpcdl.errors.HpcdlError as error:
        told = f"{type(error).__name__}: {error}"
    sys.stdout.write(f"@{rank} {told}\n")  # at once: ranks share the output
    sys.stdout.flush()
