"""Before the first step: the costs, from the environment, the cache or a measurement, and the plan that rank 0 makes of them."""

from __future__ import annotations

import json
import os
import platform
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..codecs import codecs
from ..errors import HpcdlError
from ..transport.metered import Metered
from . import cost_cache, moves
from .calibrate import calibrate, share
from .costs import ASSUMED, Costs, Layout
from .group import Group
from .plan import Plan, make, usable

__all__ = ["settle"]


def settle(group: Group, aside: Group, library: str) -> None:
    """Give `group` its costs and the plan made of them, the same on every rank: rank 0's. Collective.

    aside: a group of the same ranks to measure in; it is closed. library: the MPI library's version; costs measured with another one are
    not used. HPCDL_CALIBRATE=0, where rank 0 runs, turns measuring off, and the costs are those that are assumed.
    """
    group.engine.library = library
    first, layout, shared = group.transport.rank == 0, Layout(group.transport.nodes), group.buffers.board is not None
    names = usable(group.transport, shared)
    about = {
        "hpcdl": __version__,
        "numpy": np.__version__,
        "mpi": library,
        "nodes": list(layout.nodes),
        "machines": [int(number) for number in moves.all_gather(aside, np.array(_machine())).wait()],
        "collectives": list(names),
        "codecs": _lossy(),
    }
    file = cost_cache.file_for(about, os.environ) if first else None
    known = _known(file, about, names, layout) if first else None
    told = json.loads(share(aside, json.dumps([names, about["codecs"], known and known.to_json()]) if first else None))
    costs = Costs.from_json(told[2]) if told[2] else calibrate(aside, layout, tuple(told[0]), told[1])
    if first and known is None:
        cost_cache.write(file, about, costs)
    plan = json.dumps(make(costs, layout, costs.names).to_lists()) if first else None
    group.follow(costs, Plan.from_lists(json.loads(share(aside, plan))))
    aside.leave()
    aside.wait_for_all_to_leave()
    aside.close()
    if isinstance(group.transport, Metered):
        group.transport.traffic.forget()


def _known(file: Path | None, about: dict[str, Any], names: tuple[str, ...], layout: Layout) -> Costs | None:
    """Costs that need no measurement."""
    if os.environ.get("HPCDL_CALIBRATE", "").lower() in cost_cache.OFF:
        return Costs(**{**vars(ASSUMED), "names": names, "nodes": layout.nodes})
    return cost_cache.read(file, about)


def _lossy() -> list[str]:
    """Codecs that can be made without parameters."""
    found = []
    for name in codecs:
        try:
            if not codecs.get(name).exact:
                found.append(name)
        except HpcdlError:
            continue
    return found


def _machine() -> int:
    """A number that tells this host and its processor from others."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line for line in lines if line.startswith("model name")), platform.machine())
    return zlib.crc32(f"{platform.node()} {model} {os.cpu_count()}".encode())
