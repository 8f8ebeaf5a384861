"""A double of the part of CuPy that hpcdl uses. It is stricter than CuPy, never more lenient.

- Nothing goes to the host implicitly: what converts, waits or mixes NumPy arrays in without being asked raises ImplicitConversion.
- Work is queued on streams and, in the deferred mode, runs only when somebody waits for it or has polled an event behind it. Until then
  its results are poison, so code that lacks an order between two streams, or between a copy and the network, reads poison.
- Every operation and every wait is recorded (`machine.Machine.log`, `waits`).
- What it does not have raises AttributeError and says that it is the double that lacks it.
- NaNs that arithmetic makes have the bits that a GPU gives them.
"""

from .machine import ImplicitConversion, Machine
from .module import build

__all__ = ["ImplicitConversion", "Machine", "build"]
