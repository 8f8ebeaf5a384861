"""Horovod's interface on this engine: `import hpcdl.horovod.torch as hvd` in place of `import horovod.torch as hvd`.

Operations are matched by name, in any order on different ranks: `named.Named`. Only this door negotiates.
"""

__version__ = "0.28.1"  # of the interface

__all__ = ["__version__"]
