"""Loads the relocatable object files that LLVM makes: a linker for one process, x86-64 Linux.

All objects of a library go into one mapping of three parts: code (which may be executed, not
written), constants (neither) and variables. Calls to functions outside go through stubs and a
table of addresses, as they may be further away than an instruction reaches. After "System V ABI,
AMD64 Architecture Processor Supplement", section 4.4, "Relocation".
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cache

from ..records import dataclass
from .pages import Pages, rounded

supported = sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 1 << 32

_WRITE, _ALLOCATE, _EXECUTE = 1, 2, 4  # section flags
_SYMBOLS, _RELOCATIONS, _ZEROS, _UNWIND = 2, 4, 8, 0x70000001  # section types
_UNDEFINED, _ABSOLUTE = 0, 0xFFF1  # section numbers of symbols

_CALL = 4  # PLT32: 32 bits, from the place, to a function that may be anywhere
_RELATIVE = {2, _CALL}  # PC32: the same, to what is near
_TABLE = {
    9,
    41,
    42,
}  # GOTPCREL, GOTPCRELX, REX_GOTPCRELX: the same, to a symbol's address in memory
_WIDE = {1}  # 64 bits, absolute
_DISTANT = {24}  # 64 bits, from the place

_STUB = 8
_JUMP = b"\xff\x25"  # jmp *displacement(%rip)


class LinkError(RuntimeError):
    """Object code that this loader cannot put into the process."""


@dataclass(slots=True)
class _Section:
    kind: int
    flags: int
    data: memoryview
    size: int
    align: int
    link: int
    info: int
    at: int = 0  # in the mapping


@dataclass(slots=True)
class _Symbol:
    name: str
    section: int
    value: int
    public: bool


@dataclass(slots=True)
class _Object:
    sections: list[_Section]
    symbols: list[_Symbol]


@dataclass(slots=True)
class _Layout:
    """Where all lies in the mapping: bytes where the code, the constants and the variables end."""

    code: int = 0
    constants: int = 0
    end: int = 0
    stubs: int = 0
    table: int = 0
    numbers: dict[str, int] = field(default_factory=dict)  # of public symbols, in stubs and table


class Library:
    """Loaded machine code. Keep it alive for as long as its addresses are in use."""

    def __init__(
        self, objects: Sequence[bytes], exports: Sequence[str], imports: Mapping[str, int]
    ) -> None:
        parts = [_parse(memoryview(o)) for o in objects]
        layout = _arrange(parts)
        self._pages = Pages(layout.end)
        base = self._pages.address
        public = _public(parts, base)
        image = bytearray(layout.end)
        _fill(image, base, parts, layout, public, imports)
        self._pages.write(image)
        self._pages.make_executable(0, layout.code)
        self._pages.make_constant(layout.code, layout.constants)
        try:
            self.addresses = {name: public[name] for name in exports}
        except KeyError as missing:
            raise LinkError(f"the object code does not define {missing}") from None

    def __getitem__(self, symbol: str) -> int:
        return self.addresses[symbol]


def _parse(data: memoryview) -> _Object:
    """The sections and symbols of an ELF file (64 bits, little-endian, relocatable, x86-64)."""
    if bytes(data[:6]) != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", data, 16) != (1, 62):
        raise LinkError("this is no relocatable object file for x86-64")
    (start,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    sections = [_section(data, start + 64 * k) for k in range(count)]
    symbols: list[_Symbol] = []
    for s in sections:
        if s.kind == _SYMBOLS:
            names = bytes(sections[s.link].data)
            symbols = [_symbol(names, e) for e in struct.iter_unpack("<IBBHQQ", s.data)]
    return _Object(sections, symbols)


def _section(data: memoryview, at: int) -> _Section:
    _, kind, flags, _, offset, size, link, info, align, _ = struct.unpack_from(
        "<IIQQQQIIQQ", data, at
    )
    content = data[:0] if kind == _ZEROS else data[offset : offset + size]
    return _Section(kind, flags, content, size, max(align, 1), link, info)


def _symbol(names: bytes, entry: tuple[int, ...]) -> _Symbol:
    name, info, _, section, value, _ = entry
    text = names[name : names.index(b"\0", name)].decode()
    return _Symbol(text, section, value, info >> 4 != 0)


def _arrange(parts: list[_Object]) -> _Layout:
    """Give every section that is needed its place, and every public symbol a stub."""
    layout = _Layout()
    for part in parts:
        for symbol in part.symbols:
            if symbol.public and symbol.name:
                layout.numbers.setdefault(symbol.name, len(layout.numbers))
    layout.stubs = _round(_place(parts, 0, _EXECUTE), _STUB)
    layout.code = layout.table = rounded(layout.stubs + _STUB * len(layout.numbers))
    layout.constants = rounded(_place(parts, layout.table + 8 * len(layout.numbers), 0))
    layout.end = max(rounded(_place(parts, layout.constants, _WRITE)), rounded(1))
    return layout


def _place(parts: list[_Object], at: int, kind: int) -> int:
    for part in parts:
        for s in part.sections:
            if _kept(s) and s.flags & (_WRITE | _EXECUTE) == kind:
                s.at = at = _round(at, s.align)
                at += s.size
    return at


def _kept(s: _Section) -> bool:
    """Nothing unwinds the stack through generated code: its tables for that are left out."""
    return bool(s.flags & _ALLOCATE) and s.kind != _UNWIND


def _round(n: int, to: int) -> int:
    return -(-n // to) * to


def _public(parts: list[_Object], base: int) -> dict[str, int]:
    """Addresses of the functions and variables that all parts may refer to."""
    found: dict[str, int] = {}
    for part in parts:
        for symbol in part.symbols:
            if not symbol.public or symbol.section == _UNDEFINED:
                continue
            if symbol.name in found:
                raise LinkError(f"{symbol.name} is defined twice")
            found[symbol.name] = _address(part, symbol, base)
    return found


def _address(part: _Object, symbol: _Symbol, base: int) -> int:
    if symbol.section == _ABSOLUTE:
        return symbol.value
    if symbol.section >= len(part.sections):
        raise LinkError(f"{symbol.name} is in no section")
    return base + part.sections[symbol.section].at + symbol.value


def _fill(
    image: bytearray,
    base: int,
    parts: list[_Object],
    layout: _Layout,
    public: dict[str, int],
    imports: Mapping[str, int],
) -> None:
    """Copy the sections into `image`, which will be at the address `base`, and relocate them."""
    for name, k in layout.numbers.items():
        address = public.get(name) or imports.get(name) or _in_process(name)
        slot, stub = layout.table + 8 * k, layout.stubs + _STUB * k
        struct.pack_into("<Q", image, slot, address)
        struct.pack_into("<2si", image, stub, _JUMP, slot - stub - 6)
    for part in parts:
        for s in part.sections:
            if _kept(s):
                image[s.at : s.at + len(s.data)] = s.data
        for s in part.sections:
            if s.kind == _RELOCATIONS and _kept(part.sections[s.info]):
                _relocate(image, base, part, s, layout, public)


def _relocate(
    image: bytearray,
    base: int,
    part: _Object,
    relocations: _Section,
    layout: _Layout,
    public: dict[str, int],
) -> None:
    start = part.sections[relocations.info].at
    for offset, info, addend in struct.iter_unpack("<QQq", relocations.data):
        symbol, kind, at = part.symbols[info >> 32], info & 0xFFFFFFFF, start + offset
        if kind in _TABLE and symbol.name in layout.numbers:
            target = base + layout.table + 8 * layout.numbers[symbol.name]
        elif symbol.section != _UNDEFINED:
            target = _address(part, symbol, base)
        elif symbol.name in public:
            target = public[symbol.name]
        elif kind == _CALL:
            target = base + layout.stubs + _STUB * layout.numbers[symbol.name]
        else:
            raise LinkError(f"{symbol.name}: its address is asked for in the code itself")
        if kind in _RELATIVE or kind in _TABLE:
            struct.pack_into("<i", image, at, target + addend - base - at)
        elif kind in _WIDE:
            struct.pack_into("<Q", image, at, target + addend)
        elif kind in _DISTANT:
            struct.pack_into("<q", image, at, target + addend - base - at)
        else:
            raise LinkError(f"{symbol.name}: relocation type {kind} is not supported")


@cache
def _in_process(name: str) -> int:
    """The address of a function of the C library and the like."""
    for library in (None, "libm.so.6", "libgcc_s.so.1"):
        try:
            found = getattr(ctypes.CDLL(library), name)
        except (OSError, AttributeError):
            continue
        return ctypes.cast(found, ctypes.c_void_p).value or 0
    raise LinkError(f"the process has no symbol {name}")
