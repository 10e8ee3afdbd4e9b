"""Pages of memory for generated code: written first, then executable and no longer writable."""

from __future__ import annotations

import ctypes
import mmap
import weakref
from functools import cache

SIZE = mmap.PAGESIZE


class Pages:
    """`size` bytes of memory, all zeros, which go with this object.

    Attributes:
        address: where they start; a multiple of `SIZE`.
    """

    def __init__(self, size: int) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = _libc().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if address is None or address == ctypes.c_void_p(-1).value:
            raise MemoryError(f"no memory for {size} bytes of machine code")
        self.address: int = address
        # not at exit, when other threads may still run the code
        weakref.finalize(self, _libc().munmap, address, size).atexit = False

    def write(self, data: bytes | bytearray) -> None:
        """`data` to the start of the pages."""
        ctypes.memmove(self.address, bytes(data), len(data))

    def make_executable(self, start: int, end: int) -> None:
        self._protect(start, end, mmap.PROT_READ | mmap.PROT_EXEC)

    def make_constant(self, start: int, end: int) -> None:
        self._protect(start, end, mmap.PROT_READ)

    def _protect(self, start: int, end: int, access: int) -> None:
        if end > start and _libc().mprotect(self.address + start, end - start, access):
            raise OSError(ctypes.get_errno(), "the system does not let generated code run")


def rounded(size: int) -> int:
    """`size`, rounded up to whole pages."""
    return -(-size // SIZE) * SIZE


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
