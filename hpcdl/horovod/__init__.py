"""Horovod's interface on this engine: `import hpcdl.horovod.torch as hvd` in place of `import horovod.torch as hvd`.

Operations are matched by name, in any order on different ranks: `named.Named`. Only this door negotiates.

And for those who have a real Horovod: `compression` for its own optimizers, and its build, `python -m hpcdl.horovod.build`.
"""

from .compression import compression

__version__ = "0.28.1"  # of the interface

__all__ = ["__version__", "compression"]
