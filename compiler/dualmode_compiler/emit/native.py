"""Primitives that some CPUs have an instruction for: scaling by a power of two, and short tables.

With the instruction and without it, the digits are the same.
"""

from __future__ import annotations

from collections.abc import Callable

from ..runtime.cache import digest
from ..spec import DType, int32
from .values import Writer, literal, register_type

FRACTION = 4  # bits that the exponent of `scale` may have after its point
_FORMATS = {4: (23, 127, "i32", "ps"), 8: (52, 1023, "i64", "pd")}  # fraction bits, bias, ...


def scale(w: Writer, p: str, n: str, dtype: DType, lanes: int) -> str:
    """p * 2**floor(n), rounded once, for a normal p.

    n is a multiple of 1/16 from -2 * bias to bias + 1. Where p is NaN, n may be anything.
    """
    if _has_masks(w) and lanes * dtype.itemsize in (16, 32, 64):
        return _scalef(w, p, n, dtype, lanes)
    fraction, bias, word, _ = _FORMATS[dtype.itemsize]
    kind = register_type(dtype, lanes)
    bits = word if lanes == 1 else f"<{lanes} x {word}>"

    def shifted(opcode: str, a: str, by: int) -> str:
        amount = str(by) if lanes == 1 else f"splat ({word} {by})"
        return w.emit(f"{opcode} {bits} {a}, {amount}")

    # the sum with a large number holds n + 2 * bias in its low bits
    large = literal(1.5 * 2.0 ** (fraction - FRACTION) + 2 * bias, dtype, lanes)
    total = w.emit(f"fadd {kind} {n}, {large}")
    i = shifted("lshr", w.emit(f"bitcast {kind} {total} to {bits}"), FRACTION)
    low = shifted("lshr", i, 1)
    high = w.emit(f"sub {bits} {i}, {low}")
    for half in (low, high):  # 2**half is a normal number, also where p * 2**n is none
        power = w.emit(f"bitcast {bits} {shifted('shl', half, fraction)} to {kind}")
        p = w.emit(f"fmul {kind} {p}, {power}")
    return p


def _scalef(w: Writer, p: str, n: str, dtype: DType, lanes: int) -> str:
    kind, size = register_type(dtype, lanes), 8 * lanes * dtype.itemsize
    typed = [f"{kind} {p}", f"{kind} {n}", f"{kind} zeroinitializer", f"i{max(lanes, 8)} -1"]
    declared = [kind, kind, kind, f"i{max(lanes, 8)}"]
    if size == 512:
        typed.append("i32 4")  # round as all other instructions do
        declared.append("i32 immarg")
    name = f"@llvm.x86.avx512.mask.scalef.{_FORMATS[dtype.itemsize][3]}.{size}"
    w.declarations.add(f"declare {kind} {name}({', '.join(declared)})")
    return w.emit(f"call {kind} {name}({', '.join(typed)})")


def lookup(w: Writer, i: str, entries: list[str], lanes: int) -> str:
    """entries[i mod 16], for 16 scalar literals of float32 and integers i of 32 bits."""
    width = 0 if w.host is None or not w.host.triple.startswith("x86_64") else w.host.vector_bytes
    native = {64: 16, 32: 8}.get(width, 1)
    if lanes == 1:
        return _one(w, i, entries)
    if lanes > native:
        return _by_halves(w, i, lanes, lambda part, n: lookup(w, part, entries, n))
    if lanes < native:
        more = _lanes_of(w, i, "i32", lanes, range(native), lanes)
        out = lookup(w, more, entries, native)
        return _lanes_of(w, out, "float", native, range(lanes), native)
    table = [f"float {e}" for e in entries]
    if native == 16:
        return _permute(w, "avx512.permvar.sf.512", table, i, 16)
    low, high = (_permute(w, "avx2.permps", part, i, 8) for part in (table[:8], table[8:]))
    bit = w.emit(f"and <8 x i32> {i}, {literal(8, int32, 8)}")
    upper = w.emit(f"icmp ne <8 x i32> {bit}, zeroinitializer")
    return w.emit(f"select <8 x i1> {upper}, <8 x float> {high}, <8 x float> {low}")


def _permute(w: Writer, name: str, table: list[str], i: str, lanes: int) -> str:
    kind, index = f"<{lanes} x float>", f"<{lanes} x i32>"
    w.declarations.add(f"declare {kind} @llvm.x86.{name}({kind}, {index})")
    return w.emit(f"call {kind} @llvm.x86.{name}({kind} <{', '.join(table)}>, {index} {i})")


def _one(w: Writer, i: str, entries: list[str]) -> str:
    values = ", ".join(f"float {e}" for e in entries)
    name = f"@table_{digest(values)[:16]}"
    w.declarations.add(f"{name} = internal constant [16 x float] [{values}], align 64")
    at = w.emit(f"and i32 {i}, 15")
    place = w.emit(f"getelementptr float, ptr {name}, i32 {at}")
    return w.emit(f"load float, ptr {place}, align 4")


def _by_halves(w: Writer, i: str, lanes: int, do: Callable[[str, int], str]) -> str:
    half = lanes // 2
    if half == 1:
        pair = [w.emit(f"extractelement <2 x i32> {i}, i64 {k}") for k in range(2)]
        first, second = (do(one, 1) for one in pair)
        both = w.emit(f"insertelement <2 x float> poison, float {first}, i64 0")
        return w.emit(f"insertelement <2 x float> {both}, float {second}, i64 1")
    parts = (_lanes_of(w, i, "i32", lanes, range(k, k + half), lanes) for k in (0, half))
    low, high = (do(part, half) for part in parts)
    order = ", ".join(f"i32 {k}" for k in range(lanes))
    kind = f"<{half} x float>"
    return w.emit(f"shufflevector {kind} {low}, {kind} {high}, <{lanes} x i32> <{order}>")


def _lanes_of(w: Writer, x: str, element: str, lanes: int, wanted: range, known: int) -> str:
    """The `wanted` lanes of a vector; those from `known` on may hold anything."""
    kind = f"<{lanes} x {element}>"
    order = ", ".join(f"i32 {k % known}" for k in wanted)
    return w.emit(f"shufflevector {kind} {x}, {kind} poison, <{len(wanted)} x i32> <{order}>")


def _has_masks(w: Writer) -> bool:
    return w.host is not None and w.host.has_masks and w.host.triple.startswith("x86_64")
