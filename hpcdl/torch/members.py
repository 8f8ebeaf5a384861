"""The tensors of a module: which they are, whether they can be distributed, and whether others have come since."""

from __future__ import annotations

import torch

from ..errors import InvalidArgument
from ..world import World

__all__ = ["Members", "check_tensors", "everything"]


def everything(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers, with names."""
    return [*module.named_parameters(), *module.named_buffers()]


def check_tensors(world: World, module: torch.nn.Module) -> None:
    """Raise InvalidArgument where the model is on several devices, on the GPU of another rank, or its tensors cannot be overwritten."""
    for name, x in everything(module):
        if torch.nn.parameter.is_lazy(x):
            raise InvalidArgument(f"{name!r} has no shape yet; run a batch through the model before it is distributed")
        if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
            raise InvalidArgument(f"{name!r} is expanded, several elements in one place, and cannot be overwritten; cure: a clone() of it")
    devices = sorted({str(x.device) for _, x in everything(module)})
    here = f"rank {world.rank} of {world.size}"
    if len(devices) > 1:
        raise InvalidArgument(f"{here}: the model is on {' and '.join(devices)}; cure: model.to(world.device), which is {world.device}")
    for device in devices:
        if device.startswith("cuda") and device != world.device:
            raise InvalidArgument(f"{here}: the model is on {device}, this rank's device is {world.device}; cure: model.to(world.device)")
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise InvalidArgument(f"{here}: the model is on {device}; valid: cpu, cuda")


class Members:
    """Remembers the parameters of `module`, so that one that came later is noticed: nobody would reduce its gradient."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._parameters = dict(module.named_parameters())
        self._look()

    def check(self) -> None:
        """Raise InvalidArgument where the module has a parameter that it did not have. Takes a microsecond for each of its parts."""
        if any(list(map(id, part.values())) != seen for part, seen in self._parts):
            known = {id(p) for p in self._parameters.values()}
            new = [name for name, p in self._module.named_parameters() if id(p) not in known]
            if new:
                raise InvalidArgument(
                    f"parameter {new[0]!r} is not one of those that were distributed, so no rank would hear of its gradient: it was added "
                    "or replaced afterwards (load_state_dict(…, assign=True) replaces all); cure: do so before DistributedDataParallel is "
                    "made, load with assign=False, or distribute model.module anew"
                )
            self._look()

    def _look(self) -> None:
        modules = list(self._module.modules())
        self._kept = modules  # so that no other comes to the same address
        self._parts = [(part, list(map(id, part.values()))) for module in modules for part in (module._parameters, module._modules)]
