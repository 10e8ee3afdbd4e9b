"""Memory that a process does not need for now, back to the system. It imports little: see `worker`.

Most of what LLVM takes is pages of its library, mapped as its code is run and read: those that are
never written lie in the system's cache of files as well, from which they come back when they are
next used, in some milliseconds for all.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_DONTNEED = 4  # MADV_DONTNEED
_OWN = (b"Anonymous:", b"Swap:")  # kB of pages that are no longer as they are in the file


def trim(file: str) -> None:
    """Give back what is free in the heap, and the pages of the library `file` that are as they are
    on disk. Other threads may go on."""
    libc = ctypes.CDLL(None)
    for address, size in _unwritten(file):
        libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), _DONTNEED)
    trim_heap()


def trim_heap() -> None:
    """Give back whole pages that are free in the heap, wherever they lie there."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # only GNU's C library has it
        libc.malloc_trim(ctypes.c_size_t(0))


def _unwritten(file: str, maps: str = "/proc/self/smaps") -> Iterator[tuple[int, int]]:
    """The mappings of `file` that cannot be written and have no page that was, as relocated ones
    have: address and size. See proc_pid_smaps(5)."""
    path = b" " + os.fsencode(file)
    found: tuple[int, int] | None = None
    try:
        with open(maps, "rb") as lines:  # paths may be in any encoding
            for line in lines:
                first, _, rest = line.partition(b" ")
                if first in _OWN:
                    found = found if rest.split()[0] == b"0" else None
                elif not first.endswith(b":"):
                    if found:
                        yield found
                    found = None
                    if rest[1:2] == b"-" and rest.rstrip().endswith(path):
                        start, end = (int(x, 16) for x in first.split(b"-"))
                        found = start, end - start
            if found:
                yield found
    except OSError:  # another system
        pass
