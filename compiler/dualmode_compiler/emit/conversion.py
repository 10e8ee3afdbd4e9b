"""Conversions between element types, as LLVM IR text."""

from __future__ import annotations

import numpy as np

from ..halves import multiplies_pairs
from ..spec import DType, bfloat16, bool_, float16, float32, float64
from .values import Writer, literal, register_type


def cast(w: Writer, x: str, source: DType, target: DType, lanes: int) -> str:
    """`x` converted by value: floating to integer truncates and saturates (NaN gives 0), integers
    wrap, and anything to bool is `x != 0` (True for NaN)."""
    if source is target:
        return x
    if source.is_complex or target.is_complex:
        raise TypeError(f"cast({source.name}) to {target.name} has no instructions")
    if source.is_floating and source.itemsize == 2:
        return cast(w, _widen(w, x, source, lanes), float32, target, lanes)
    here, there = register_type(source, lanes), register_type(target, lanes)
    if target is bool_:
        test = "fcmp une" if source.is_floating else "icmp ne"
        return w.emit(f"{test} {here} {x}, {literal(0, source, lanes)}")
    if target.is_floating and target.itemsize == 2:
        if source is float64:
            return _narrow(w, _round_to_odd(w, x, lanes), target, lanes)
        return _narrow(w, cast(w, x, source, float32, lanes), target, lanes)
    if source.is_floating:
        if target.is_integer:
            return _saturate(w, x, source, target, lanes)
        return w.emit(f"{'fpext' if target is float64 else 'fptrunc'} {here} {x} to {there}")
    signed = source.kind == "i"
    if target.is_floating:
        return w.emit(f"{'sitofp' if signed else 'uitofp'} {here} {x} to {there}")
    if source is not bool_ and source.itemsize >= target.itemsize:
        return x if here == there else w.emit(f"trunc {here} {x} to {there}")
    return w.emit(f"{'sext' if signed else 'zext'} {here} {x} to {there}")


def _saturate(w: Writer, x: str, source: DType, target: DType, lanes: int) -> str:
    """Clamped after the conversion: its poison in lanes out of range is never selected.

    (The saturating intrinsics are taken apart lane by lane on x86.)
    """
    signed, bits = target.kind == "i", 8 * target.itemsize
    low = -(1 << (bits - 1)) if signed else 0
    high = (1 << (bits - 1 if signed else bits)) - 1
    here, there = register_type(source, lanes), register_type(target, lanes)
    out = w.emit(f"{'fptosi' if signed else 'fptoui'} {here} {x} to {there}")
    # high + 1 is a power of two, so exact; not (x >= low) holds for NaN too
    for order, bound, value in (("oge", float(high + 1), high), ("ult", float(low), low)):
        beyond = w.emit(f"fcmp {order} {here} {x}, {literal(bound, source, lanes)}")
        out = _choose(w, beyond, literal(value, target, lanes), out, there, lanes)
    if low:
        nan = w.emit(f"fcmp uno {here} {x}, {x}")
        out = _choose(w, nan, literal(0, target, lanes), out, there, lanes)
    return out


def _choose(w: Writer, cond: str, a: str, b: str, kind: str, lanes: int) -> str:
    return w.emit(f"select {register_type(bool_, lanes)} {cond}, {kind} {a}, {kind} {b}")


def _words(lanes: int) -> tuple[str, str, str]:
    """Register types of 16-bit and 32-bit integers and of float32."""
    if lanes == 1:
        return "i16", "i32", "float"
    return f"<{lanes} x i16>", f"<{lanes} x i32>", f"<{lanes} x float>"


def _bits(value: int, lanes: int) -> str:
    return str(value) if lanes == 1 else f"splat (i32 {value})"


def _widen(w: Writer, x: str, source: DType, lanes: int) -> str:
    short, word, real = _words(lanes)
    if source is float16:
        return w.emit(f"fpext {register_type(source, lanes)} {x} to {real}")
    high = w.emit(f"shl {word} {w.emit(f'zext {short} {x} to {word}')}, {_bits(16, lanes)}")
    return w.emit(f"bitcast {word} {high} to {real}")


def _narrow(w: Writer, x: str, target: DType, lanes: int) -> str:
    """float32 to a half type, to nearest even."""
    short, word, real = _words(lanes)
    if target is float16:
        return w.emit(f"fptrunc {real} {x} to {register_type(target, lanes)}")
    bits = w.emit(f"bitcast {real} {x} to {word}")
    top = w.emit(f"lshr {word} {bits}, {_bits(16, lanes)}")
    odd = w.emit(f"and {word} {top}, {_bits(1, lanes)}")
    near = w.emit(f"add {word} {w.emit(f'add {word} {bits}, {_bits(0x7FFF, lanes)}')}, {odd}")
    rounded = w.emit(f"lshr {word} {near}, {_bits(16, lanes)}")
    quiet = w.emit(f"or {word} {top}, {_bits(0x40, lanes)}")
    nan = w.emit(f"fcmp uno {real} {x}, {x}")
    return w.emit(f"trunc {word} {_choose(w, nan, quiet, rounded, word, lanes)} to {short}")


def flush(w: Writer, x: str, dtype: DType, lanes: int) -> str:
    """Zero for a subnormal number of float32 or float64, else `x`."""
    kind = register_type(dtype, lanes)
    least = literal(np.finfo(dtype.numpy).smallest_normal, dtype, lanes)
    small = w.emit(f"fcmp olt {kind} {w.call('fabs', kind, [x])}, {least}")
    return _choose(w, small, literal(0.0, dtype, lanes), x, kind, lanes)


def narrow(w: Writer, x: str, lanes: int) -> str:
    """float32 to bfloat16, to nearest even, subnormal numbers to zero."""
    if w.host is None or not multiplies_pairs(w.host) or lanes not in (8, 16):
        return _narrow(w, flush(w, x, float32, lanes), bfloat16, lanes)
    short, _, real = _words(lanes)
    kind, name = f"<{lanes} x bfloat>", f"@llvm.x86.avx512bf16.cvtneps2bf16.{32 * lanes}"
    w.declarations.add(f"declare {kind} {name}({real})")
    return w.emit(f"bitcast {kind} {w.emit(f'call {kind} {name}({real} {x})')} to {short}")


def _round_to_odd(w: Writer, x: str, lanes: int) -> str:
    """float64 to float32, rounded to odd, so that rounding once more cannot round twice.

    Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums" (2008).
    """
    _, word, real = _words(lanes)
    wide = register_type(float64, lanes)
    near = w.emit(f"fptrunc {wide} {x} to {real}")
    back = w.emit(f"fpext {real} {near} to {wide}")
    up = w.emit(f"fcmp ogt {wide} {w.call('fabs', wide, [back])}, {w.call('fabs', wide, [x])}")
    inexact = w.emit(f"fcmp une {wide} {back}, {x}")
    bits = w.emit(f"bitcast {real} {near} to {word}")
    mask = register_type(bool_, lanes)
    down = w.emit(f"sub {word} {bits}, {w.emit(f'zext {mask} {up} to {word}')}")
    odd = w.emit(f"or {word} {down}, {w.emit(f'zext {mask} {inexact} to {word}')}")
    return w.emit(f"bitcast {word} {odd} to {real}")
