"""Floor division and remainder with Python's and NumPy's meaning, as LLVM IR text."""

from __future__ import annotations

from ..spec import DType, bool_, float32, float64
from .conversion import cast
from .values import Writer, literal, literal_value, register_type


def integer_divmod(w: Writer, fn: str, a: str, b: str, dtype: DType, lanes: int) -> str:
    """`floordiv` and `mod` (rounding to minus infinity) or `fmod` (the remainder of truncation).

    x // 0 == x % 0 == 0, and the least integer divided by -1 is itself, as in NumPy.
    """
    known = literal_value(b)
    if isinstance(known, int) and known > 0:
        if known & (known - 1) == 0 and (fn != "fmod" or dtype.kind == "u"):
            return _by_power_of_two(w, fn, a, known, dtype, lanes)
        return _divide(w, fn, a, b, dtype, lanes, constant=True)
    kind, mask = register_type(dtype, lanes), register_type(bool_, lanes)
    zero = literal(0, dtype, lanes)
    none = w.emit(f"icmp eq {kind} {b}, {zero}")
    if dtype.kind == "u":
        traps, exact = none, zero
    else:
        minus = w.emit(f"icmp eq {kind} {b}, {literal(-1, dtype, lanes)}")
        traps = w.emit(f"or {mask} {none}, {minus}")
        negated = w.emit(f"sub {kind} {zero}, {a}")
        exact = w.emit(f"select {mask} {none}, {kind} {zero}, {kind} {negated}")
    divisor = w.emit(f"select {mask} {traps}, {kind} {literal(1, dtype, lanes)}, {kind} {b}")
    out = _divide(w, fn, a, divisor, dtype, lanes, constant=known is not None)
    if fn != "floordiv":
        return out  # the remainder by 1 is the 0 that is wanted
    return w.emit(f"select {mask} {traps}, {kind} {exact}, {kind} {out}")


def _by_power_of_two(w: Writer, fn: str, a: str, b: int, dtype: DType, lanes: int) -> str:
    kind = register_type(dtype, lanes)
    if fn != "floordiv":
        return w.emit(f"and {kind} {a}, {literal(b - 1, dtype, lanes)}")
    by = literal(b.bit_length() - 1, dtype, lanes)
    return w.emit(f"{'ashr' if dtype.kind == 'i' else 'lshr'} {kind} {a}, {by}")


def _divide(w: Writer, fn: str, a: str, b: str, dtype: DType, lanes: int, *, constant: bool) -> str:
    """`integer_divmod` for a divisor that cannot trap."""
    kind, mask = register_type(dtype, lanes), register_type(bool_, lanes)
    q = _quotient(w, a, b, dtype, lanes, constant=constant)
    r = w.emit(f"sub {kind} {a}, {w.emit(f'mul {kind} {q}, {b}')}")
    if dtype.kind == "u" or fn == "fmod":
        return q if fn == "floordiv" else r
    # one step down where the remainder is not zero and has not the divisor's sign
    zero = literal(0, dtype, lanes)
    crossed = w.emit(f"icmp slt {kind} {w.emit(f'xor {kind} {r}, {b}')}, {zero}")
    some = w.emit(f"icmp ne {kind} {r}, {zero}")
    fix = w.emit(f"and {mask} {crossed}, {some}")
    if fn == "floordiv":
        return w.emit(f"add {kind} {q}, {w.emit(f'sext {mask} {fix} to {kind}')}")
    moved = w.emit(f"add {kind} {r}, {b}")
    return w.emit(f"select {mask} {fix}, {kind} {moved}, {kind} {r}")


def _quotient(w: Writer, a: str, b: str, dtype: DType, lanes: int, *, constant: bool) -> str:
    """`a / b` truncated. Vectors of up to 32 bits divide in floating point: no SIMD set divides
    integers, and a quotient that is no integer is too far from one to round to it."""
    kind, signed = register_type(dtype, lanes), dtype.kind == "i"
    if lanes == 1 or constant or dtype.itemsize == 8:
        return w.emit(f"{'sdiv' if signed else 'udiv'} {kind} {a}, {b}")
    real = float32 if dtype.itemsize <= 2 else float64
    wide = register_type(real, lanes)
    x, y = (cast(w, v, dtype, real, lanes) for v in (a, b))
    ratio = w.emit(f"fdiv {wide} {x}, {y}")
    return w.emit(f"{'fptosi' if signed else 'fptoui'} {wide} {ratio} to {kind}")


def floating_mod(w: Writer, a: str, b: str, dtype: DType, lanes: int) -> str:
    """`a - floor(a / b) * b` with the divisor's sign, as `numpy.remainder`."""
    return _divmod(w, a, b, dtype, lanes)[1]


def floating_floordiv(w: Writer, a: str, b: str, dtype: DType, lanes: int) -> str:
    """The integral quotient that goes with `floating_mod`, as `numpy.floor_divide`."""
    kind, mask = register_type(dtype, lanes), register_type(bool_, lanes)
    zero, one = literal(0, dtype, lanes), literal(1, dtype, lanes)
    div, _ = _divmod(w, a, b, dtype, lanes)
    ratio = w.emit(f"fdiv {kind} {a}, {b}")
    low = w.call("floor", kind, [div])
    over = w.emit(f"fsub {kind} {div}, {low}")
    short = w.emit(f"fcmp ogt {kind} {over}, {literal(0.5, dtype, lanes)}")
    more = w.emit(f"fadd {kind} {low}, {one}")
    whole = w.emit(f"select {mask} {short}, {kind} {more}, {kind} {low}")
    none = w.emit(f"fcmp oeq {kind} {div}, {zero}")
    signed = w.call("copysign", kind, [zero, ratio])
    whole = w.emit(f"select {mask} {none}, {kind} {signed}, {kind} {whole}")
    infinite = w.emit(f"fcmp oeq {kind} {b}, {zero}")
    return w.emit(f"select {mask} {infinite}, {kind} {ratio}, {kind} {whole}")


def _divmod(w: Writer, a: str, b: str, dtype: DType, lanes: int) -> tuple[str, str]:
    """The quotient, up to rounding, and the exact remainder; division by zero gives NaN."""
    kind, mask = register_type(dtype, lanes), register_type(bool_, lanes)
    zero = literal(0, dtype, lanes)
    rest = w.emit(f"frem {kind} {a}, {b}")
    div = w.emit(f"fdiv {kind} {w.emit(f'fsub {kind} {a}, {rest}')}, {b}")
    below = [w.emit(f"fcmp olt {kind} {x}, {zero}") for x in (b, rest)]
    crossed = w.emit(f"xor {mask} {below[0]}, {below[1]}")
    some = w.emit(f"fcmp une {kind} {rest}, {zero}")
    fix = w.emit(f"and {mask} {crossed}, {some}")
    signed = w.call("copysign", kind, [zero, b])
    mod = w.emit(f"select {mask} {some}, {kind} {rest}, {kind} {signed}")
    moved = w.emit(f"fadd {kind} {rest}, {b}")
    mod = w.emit(f"select {mask} {fix}, {kind} {moved}, {kind} {mod}")
    less = w.emit(f"fsub {kind} {div}, {literal(1, dtype, lanes)}")
    return w.emit(f"select {mask} {fix}, {kind} {less}, {kind} {div}"), mod
