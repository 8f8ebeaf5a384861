"""Says so where PyTorch is missing. Imported before all that would stumble over it."""

from __future__ import annotations

__all__: list[str] = []

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError('hpcdl.torch needs PyTorch, which is not installed; cure: pip install "hpcdl[torch]"', name="torch") from None
