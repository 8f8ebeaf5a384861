"""Memory whose owner goes, and which stays readable where it was."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

__all__ = ["keep"]

_ONLY_IF_FREE = 0x100000  # MAP_FIXED_NOREPLACE of Linux 4.17; older kernels take the address as a wish
_FAILED = ctypes.c_void_p(-1).value


def keep(address: int, nbytes: int) -> Callable[[], None]:
    """Copy `nbytes` at `address`; the result, called once that memory has been unmapped, puts the copy back at the same address.

    Arrays that look there then go on to work, as plain memory. It stays until the process ends. Without Linux nothing is put back.
    """
    if not nbytes or sys.platform != "linux":
        return lambda: None
    content = ctypes.string_at(address, nbytes)
    begin = address // mmap.PAGESIZE * mmap.PAGESIZE
    length = -(-(address + nbytes - begin) // mmap.PAGESIZE) * mmap.PAGESIZE
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def put_back() -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _ONLY_IF_FREE
        found = libc.mmap(begin, length, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if found == begin:
            ctypes.memmove(address, content, nbytes)
        elif found != _FAILED:
            libc.munmap(found, length)

    return put_back
