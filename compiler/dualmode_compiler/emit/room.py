"""Memory that a chunk computes in: a little of the stack, or its thread's block; LLVM IR text."""

from __future__ import annotations

from collections.abc import Mapping

from ..runtime.workspace import SYMBOL
from .values import Writer

LINE = 64  # bytes; each piece begins at such a boundary
STACK = 1 << 14  # bytes that a chunk takes of the stack at the most


def reserve(w: Writer, sizes: Mapping[str, int]) -> int:
    """Make room for so many bytes under each name: a register, where they begin. To be written at
    the start of a function, once.

    Returns:
        How many bytes of the thread's block that takes; 0 where the stack has room.
    """
    lengths = {name: -(-size // LINE) * LINE for name, size in sizes.items()}
    total = sum(lengths.values())
    if total <= STACK:
        for name, length in lengths.items():
            w.line(f"  {name} = alloca [{length} x i8], align {LINE}")
        return 0
    memory, start = asked(w, total), 0
    for name, length in lengths.items():
        w.line(f"  {name} = getelementptr i8, ptr {memory}, i64 {start}")
        start += length
    return total


def asked(w: Writer, size: int) -> str:
    """The thread's block, of at least `size` bytes."""
    return w.emit(f"call ptr @{SYMBOL}(i64 {size})")
