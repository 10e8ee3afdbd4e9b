"""What this CPU says of itself, without LLVM: two machines that say the same can run the same code.

The answers are those of the instruction `cpuid` (Intel, "Software Developer's Manual", volume 2A;
AMD, "Architecture Programmer's Manual", volume 3, appendix E) that LLVM bases its own choice on,
and which registers the system saves (`xgetbv`).
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache

from . import elf
from .pages import SIZE, Pages

# void cpuid(u32 leaf, u32 subleaf, u32 out[4])
_CPUID = bytes.fromhex(
    "53"  # push %rbx
    "4989d0"  # mov %rdx, %r8
    "89f8"  # mov %edi, %eax
    "89f1"  # mov %esi, %ecx
    "0fa2"  # cpuid
    "418900"  # mov %eax, (%r8)
    "41895804"  # mov %ebx, 4(%r8)
    "41894808"  # mov %ecx, 8(%r8)
    "4189500c"  # mov %edx, 12(%r8)
    "5b"  # pop %rbx
    "c3"  # ret
)
# void xgetbv(u32 out[2])
_XGETBV = bytes.fromhex(
    "31c9"  # xor %ecx, %ecx
    "0f01d0"  # xgetbv
    "8907"  # mov %eax, (%rdi)
    "895704"  # mov %edx, 4(%rdi)
    "c3"  # ret
)
_APART = 64  # bytes from one to the other

# (leaf, subleaf, registers that tell of the CPU rather than of this core or this boot)
_LEAVES = [
    (0x0, 0, "abcd"),
    (0x1, 0, "acd"),
    (0x7, 0, "abcd"),
    (0x7, 1, "abcd"),
    (0xD, 1, "a"),
    (0x14, 0, "b"),
    (0x19, 0, "b"),
    (0x1E, 1, "a"),
    (0x24, 0, "b"),
    (0x80000001, 0, "cd"),
    (0x80000008, 0, "b"),
    (0x80000021, 0, "a"),
]
_SAVES_REGISTERS = 1 << 27  # OSXSAVE, in register c of leaf 1


@cache
def identity() -> bytes | None:
    """The answers; None where they cannot be asked for."""
    if not elf.supported:
        return None
    pages = Pages(SIZE)
    pages.write(_CPUID.ljust(_APART, b"\xcc") + _XGETBV)
    pages.make_executable(0, SIZE)
    out = (ctypes.c_uint32 * 4)()
    number = ctypes.c_uint32
    cpuid = ctypes.PYFUNCTYPE(None, number, number, ctypes.c_void_p)(pages.address)

    def ask(leaf: int, subleaf: int) -> dict[str, int]:
        cpuid(leaf, subleaf, ctypes.addressof(out))
        return dict(zip("abcd", out, strict=True))

    last = {0: ask(0, 0)["a"], 0x80000000: ask(0x80000000, 0)["a"]}
    said: list[int] = []
    for leaf, subleaf, registers in _LEAVES:
        if leaf <= last[leaf & 0x80000000]:
            answer = ask(leaf, subleaf)
            said += [leaf, subleaf, *(answer[r] for r in registers)]
    if ask(1, 0)["c"] & _SAVES_REGISTERS:
        ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(pages.address + _APART)(ctypes.addressof(out))
        said += out[:2]
    return struct.pack(f"<{len(said)}I", *said)
