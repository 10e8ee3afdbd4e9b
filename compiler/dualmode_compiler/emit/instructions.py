"""Instruction selection: LLVM IR text of one core primitive, on scalars or vectors.

Values are SSA names or constant texts. Both half types are computed in float32 and rounded to
nearest even after every primitive. Nothing emitted here traps or gives poison, whatever the values:
integer division by zero is 0, oversized shifts shift everything out.
"""

from __future__ import annotations

from ..spec import DType, bool_, float32, int64
from .conversion import cast, flush, narrow
from .division import floating_floordiv, floating_mod, integer_divmod
from .native import lookup, scale
from .values import Writer, literal, literal_value, memory_type, register_type, splat

__all__ = ["Writer", "apply", "cast", "literal", "memory_type", "register_type", "splat"]

_FLOATING = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "fmod": "frem"}
_INTEGER = ("add", "sub", "mul", "and", "or", "xor")
_BOOL = {"add": "or", "mul": "and", "minimum": "and", "maximum": "or"}
_COMPARE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_INTRINSIC = {
    **{name: name for name in ("fma", "sqrt", "copysign", "floor", "ceil", "trunc")},
    "abs": "fabs",
    "rint": "roundeven",
}


def apply(
    w: Writer, fn: str, args: list[str], arg_dtypes: list[DType], dtype: DType, lanes: int
) -> str:
    """Emit `fn(*args)` and return the result's name.

    Args:
        fn: a core primitive of `expr.FUNCTIONS`; transcendental ones are expanded by `vmath` first.
        args: SSA names or literals, in registers, of `lanes` lanes each.
        arg_dtypes: their types.
        dtype: the result's type.

    Raises:
        TypeError: `fn` is no core primitive, or not defined on these types.
    """
    operand = arg_dtypes[0]
    if fn == "lookup":
        entries = [literal(literal_value(a), dtype, 1) for a in args[1:]]
        return lookup(w, args[0], entries, lanes)
    if fn == "select":
        kind = register_type(dtype, lanes)
        cond = f"{register_type(bool_, lanes)} {args[0]}"
        return w.emit(f"select {cond}, {kind} {args[1]}, {kind} {args[2]}")
    if fn == "cast":
        return cast(w, args[0], operand, dtype, lanes)
    if fn == "narrow":
        return narrow(w, args[0], lanes)
    if fn == "bitcast":
        source, target = register_type(operand, lanes), register_type(dtype, lanes)
        return args[0] if source == target else w.emit(f"bitcast {source} {args[0]} to {target}")
    if operand.is_floating and operand.itemsize == 2:
        wide = [cast(w, a, operand, float32, lanes) for a in args]
        result = float32 if dtype is operand else dtype
        out = apply(w, fn, wide, [float32] * len(args), result, lanes)
        return cast(w, out, result, dtype, lanes)
    kind = register_type(operand, lanes)
    if operand.is_floating:
        out = _floating(w, fn, args, operand, kind, lanes)
    elif operand is bool_:
        out = _boolean(w, fn, args, kind, lanes)
    elif operand.is_integer:
        out = _integer(w, fn, args, operand, kind, lanes)
    else:
        out = None
    if out is None:
        raise TypeError(f"{fn}({', '.join(d.name for d in arg_dtypes)}) has no instructions")
    return out


def _floating(
    w: Writer, fn: str, args: list[str], dtype: DType, kind: str, lanes: int
) -> str | None:
    if fn in _FLOATING:
        return w.emit(f"{_FLOATING[fn]} {kind} {args[0]}, {args[1]}")
    if fn in _COMPARE:
        return w.emit(f"fcmp {_COMPARE[fn]} {kind} {args[0]}, {args[1]}")
    if fn in _INTRINSIC:
        return w.call(_INTRINSIC[fn], kind, args)
    if fn == "neg":
        return w.emit(f"fneg {kind} {args[0]}")
    if fn == "flush":
        return flush(w, args[0], dtype, lanes)
    if fn == "scale":
        return scale(w, args[0], args[1], dtype, lanes)
    if fn in ("minimum", "maximum"):
        return _extreme(w, "olt" if fn == "minimum" else "ogt", *args, kind=kind, lanes=lanes)
    if fn == "floordiv":
        return floating_floordiv(w, args[0], args[1], dtype, lanes)
    if fn == "mod":
        return floating_mod(w, args[0], args[1], dtype, lanes)
    return None


def _extreme(w: Writer, order: str, a: str, b: str, *, kind: str, lanes: int) -> str:
    """NaN-propagating minimum or maximum.

    `select(a < b, a, b)` is one instruction on x86 and gives b where either is NaN: so only a NaN
    in `a` needs care, and none where `a` is a literal.
    """
    known = literal_value(b)
    if known is not None and known == known:
        a, b = b, a
    mask = register_type(bool_, lanes)
    better = w.emit(f"fcmp {order} {kind} {a}, {b}")
    out = w.emit(f"select {mask} {better}, {kind} {a}, {kind} {b}")
    known = literal_value(a)
    if known is not None and known == known:
        return out
    nan = w.emit(f"fcmp uno {kind} {a}, {a}")
    return w.emit(f"select {mask} {nan}, {kind} {a}, {kind} {out}")


def _boolean(w: Writer, fn: str, args: list[str], kind: str, lanes: int) -> str | None:
    fn = _BOOL.get(fn, fn)
    if fn in ("and", "or", "xor"):
        return w.emit(f"{fn} {kind} {args[0]}, {args[1]}")
    if fn == "not":
        return w.emit(f"xor {kind} {args[0]}, {literal(True, bool_, lanes)}")
    if fn in _COMPARE:
        order = fn if fn in ("eq", "ne") else f"u{fn}"
        return w.emit(f"icmp {order} {kind} {args[0]}, {args[1]}")
    if fn in ("shl", "lshr"):  # a shift by True shifts everything out
        kept = w.emit(f"xor {kind} {args[1]}, {literal(True, bool_, lanes)}")
        return w.emit(f"and {kind} {args[0]}, {kept}")
    return args[0] if fn in ("abs", "ashr") else None


def _integer(
    w: Writer, fn: str, args: list[str], dtype: DType, kind: str, lanes: int
) -> str | None:
    signed = dtype.kind == "i"
    if fn in _INTEGER:
        return w.emit(f"{fn} {kind} {args[0]}, {args[1]}")
    if fn in _COMPARE:
        order = fn if fn in ("eq", "ne") else f"{'s' if signed else 'u'}{fn}"
        return w.emit(f"icmp {order} {kind} {args[0]}, {args[1]}")
    if fn in ("minimum", "maximum"):
        return w.call(f"{'s' if signed else 'u'}{fn[:3]}", kind, args)
    if fn == "neg":
        return w.emit(f"sub {kind} {literal(0, dtype, lanes)}, {args[0]}")
    if fn == "not":
        return w.emit(f"xor {kind} {args[0]}, {literal(-1, dtype, lanes)}")
    if fn == "abs":
        return w.call("abs", kind, args, "i1 false") if signed else args[0]
    if fn in ("rint", "floor", "ceil", "trunc"):
        return args[0]
    if fn == "fma":
        product = w.emit(f"mul {kind} {args[0]}, {args[1]}")
        return w.emit(f"add {kind} {product}, {args[2]}")
    if fn in ("shl", "lshr", "ashr"):
        return _shift(w, fn, args[0], args[1], dtype, lanes)
    if fn == "mulhi":
        return _mulhi(w, args[0], args[1], dtype, lanes)
    if fn in ("floordiv", "mod", "fmod"):
        return integer_divmod(w, fn, args[0], args[1], dtype, lanes)
    return None


def _shift(w: Writer, fn: str, a: str, b: str, dtype: DType, lanes: int) -> str:
    """Shift `a` by `b`, read as unsigned; an amount of the width or more shifts everything out."""
    kind, bits = register_type(dtype, lanes), 8 * dtype.itemsize
    amount = literal_value(b)
    if amount is not None and 0 <= amount < bits:
        return w.emit(f"{fn} {kind} {a}, {b}")
    if fn == "ashr":
        least = w.call("umin", kind, [b, literal(bits - 1, dtype, lanes)])
        return w.emit(f"ashr {kind} {a}, {least}")
    fits = w.emit(f"icmp ult {kind} {b}, {literal(bits, dtype, lanes)}")
    out = w.emit(f"{fn} {kind} {a}, {b}")
    zero = literal(0, dtype, lanes)
    return w.emit(f"select {register_type(bool_, lanes)} {fits}, {kind} {out}, {kind} {zero}")


def _mulhi(w: Writer, a: str, b: str, dtype: DType, lanes: int) -> str:
    """High half of the unsigned product."""
    bits, kind = 8 * dtype.itemsize, register_type(dtype, lanes)
    if bits == 64 and lanes > 1:
        return _mulhi64(w, a, b, kind, lanes)
    wide = kind.replace(f"i{bits}", f"i{2 * bits}")
    x, y = (w.emit(f"zext {kind} {v} to {wide}") for v in (a, b))
    product = w.emit(f"mul {wide} {x}, {y}")
    by = str(bits) if lanes == 1 else f"splat (i{2 * bits} {bits})"
    high = w.emit(f"lshr {wide} {product}, {by}")
    return w.emit(f"trunc {wide} {high} to {kind}")


def _mulhi64(w: Writer, a: str, b: str, kind: str, lanes: int) -> str:
    """From four 32-bit products: vectors of i128 would be taken apart lane by lane."""
    low, half = literal(0xFFFFFFFF, int64, lanes), literal(32, int64, lanes)

    def op(name: str, x: str, y: str) -> str:
        return w.emit(f"{name} {kind} {x}, {y}")

    al, ah = op("and", a, low), op("lshr", a, half)
    bl, bh = op("and", b, low), op("lshr", b, half)
    cross = op("add", op("mul", ah, bl), op("lshr", op("mul", al, bl), half))
    middle = op("add", op("mul", al, bh), op("and", cross, low))
    return op(
        "add", op("add", op("mul", ah, bh), op("lshr", cross, half)), op("lshr", middle, half)
    )
