"""Expressions of numbers, axes and functions, and the arithmetic of those that are int64.

Expressions are immutable and interned, so equal ones are one object and common subexpressions cost
nothing. Arithmetic on int64 is kept in a normal form (`Affine`), with division and remainder
simplified by the known ranges of the axes: that is what makes reshape, slice, transpose and pad
free index maps, and what tells the emitter the stride of every load.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .spec import DType, bool_, float32, int64

# Every function that an expression may apply, with the type of its result: that of the arguments
# ("same"), "bool", or "given" by the caller. Floating minimum and maximum pass NaN on; integer
# division and remainder round to minus infinity as in Python, and x // 0 == x % 0 == 0 as in NumPy.
FUNCTIONS: dict[str, str] = {
    **dict.fromkeys(["add", "sub", "mul", "div", "neg", "abs", "minimum", "maximum"], "same"),
    **dict.fromkeys(["floordiv", "mod", "fmod", "pow"], "same"),
    **dict.fromkeys(["fma", "sqrt", "rint", "floor", "ceil", "trunc", "copysign"], "same"),
    "flush": "same",  # zero for a number that is subnormal in the type in which it is computed
    "narrow": "given",  # a float32 as a bfloat16: `cast(flush(x))`
    "scale": "same",
    **dict.fromkeys(["exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "erf"], "same"),
    **dict.fromkeys(["log2", "log10", "sinh", "cosh", "atan", "atan2"], "same"),
    **dict.fromkeys(["sigmoid", "softplus"], "same"),
    **dict.fromkeys(["and", "or", "xor", "not", "shl", "lshr", "ashr", "mulhi"], "same"),
    **dict.fromkeys(["eq", "ne", "lt", "le", "gt", "ge"], "bool"),
    **dict.fromkeys(["select", "cast", "bitcast", "rarely", "lookup"], "given"),
}

_LIMIT = 1 << 63  # int64 holds -_LIMIT .. _LIMIT - 1
table: dict[tuple[Any, ...], Any] = {}  # expressions by what they are made of; `fresh` swaps it
_lock = threading.RLock()
_serial = itertools.count()


@contextmanager
def fresh() -> Iterator[None]:
    """A new intern table for the length of one compilation; expressions do not outlive it.

    One thread at a time has it; others wait.
    """
    global table
    with _lock:
        saved, table = table, {}
        try:
            yield
        finally:
            table = saved


class Expr:
    """Base of all expressions.

    Attributes:
        dtype: type of the value.
        axes: the free axes, i.e. those not bound by a `Reduce` inside.
        uid: creation order; gives sums a deterministic order.
        span: the least and greatest value of an int64 expression, None if unknown.
        operands: the expressions that it is made of.
        holds: which of `LOAD`, `REDUCE` and `FOLD` there are in it, itself included.
        parts: what `walk` gives for it, once that was asked.
    """

    __slots__ = ("axes", "dtype", "holds", "operands", "parts", "span", "uid")

    dtype: DType
    axes: frozenset[Axis]
    uid: int
    span: tuple[int, int] | None
    operands: tuple[Expr, ...]
    holds: int
    parts: tuple[Expr, ...] | None

    def __add__(self, other: Any) -> Expr:
        return add(self, _like(other, self))

    def __radd__(self, other: Any) -> Expr:
        return add(_like(other, self), self)

    def __sub__(self, other: Any) -> Expr:
        return sub(self, _like(other, self))

    def __rsub__(self, other: Any) -> Expr:
        return sub(_like(other, self), self)

    def __mul__(self, other: Any) -> Expr:
        return mul(self, _like(other, self))

    def __rmul__(self, other: Any) -> Expr:
        return mul(_like(other, self), self)

    def __truediv__(self, other: Any) -> Expr:
        return apply("div", self, _like(other, self))

    def __rtruediv__(self, other: Any) -> Expr:
        return apply("div", _like(other, self), self)

    def __floordiv__(self, other: Any) -> Expr:
        return floordiv(self, _like(other, self))

    def __mod__(self, other: Any) -> Expr:
        return mod(self, _like(other, self))

    def __neg__(self) -> Expr:
        return mul(self, const(-1, int64)) if self.dtype is int64 else apply("neg", self)

    def __repr__(self) -> str:
        from .text import show_expr

        return show_expr(self)


class Axis(Expr):
    """A loop index running over 0 .. extent - 1. Every Axis object is distinct."""

    __slots__ = ("extent",)

    def __init__(self, extent: int) -> None:
        self.extent = extent
        self.dtype = int64
        self.axes = frozenset((self,))
        self.span = 0, max(extent - 1, 0)
        self.uid = next(_serial)
        self.operands = ()
        self.holds = 0
        self.parts = None


class Const(Expr):
    """A literal; `value` is a Python bool, int or float."""

    __slots__ = ("value",)
    value: Any


class Affine(Expr):
    """`const + sum(coef * atom for atom, coef in terms)` in int64, in normal form."""

    __slots__ = ("const", "terms")
    terms: tuple[tuple[Expr, int], ...]
    const: int


class Apply(Expr):
    """`fn(*args)`, with `fn` a key of `FUNCTIONS`."""

    __slots__ = ("args", "fn")
    fn: str
    args: tuple[Expr, ...]


_NONE: frozenset[Axis] = frozenset()


def new(
    cls: type[Any],
    key: tuple[Any, ...],
    dtype: DType,
    operands: tuple[Expr, ...],
    bound: tuple[Axis, ...] = (),
    bit: int = 0,
) -> Any:
    """A new expression, which the table holds by `key`; its own fields are still to be set."""
    found = object.__new__(cls)
    axes, holds = _NONE, bit
    for x in operands:
        holds |= x.holds
        if x.axes and not x.axes <= axes:
            axes = axes | x.axes if axes else x.axes
    found.dtype, found.axes = dtype, axes.difference(bound) if bound else axes
    found.uid, found.operands, found.holds = next(_serial), operands, holds
    found.span = found.parts = None
    table[key] = found
    return found


def const(value: Any, dtype: DType) -> Const:
    """A literal of type `dtype`; `value` is rounded or wrapped to it as NumPy would."""
    if dtype.kind == "f":
        value = float(value)
        if dtype is float32 or dtype.itemsize == 2:
            with np.errstate(over="ignore"):
                value = float(dtype.numpy.type(value))
        key = (value.hex(),)
    elif dtype.kind == "b":
        value = bool(value)
        key = (value,)
    else:
        bits = 8 * dtype.itemsize
        value = int(value) & ((1 << bits) - 1)
        if dtype.kind == "i" and value >> (bits - 1):
            value -= 1 << bits
        key = (value,)
    full = (Const, dtype, *key)
    found = table.get(full)
    if found is None:
        found = new(Const, full, dtype, ())
        found.value = value
        found.span = _span(found) if dtype is int64 else None
    return found


def _like(x: Any, other: Expr) -> Expr:
    return x if isinstance(x, Expr) else const(x, other.dtype)


def apply(fn: str, *args: Expr, dtype: DType | None = None) -> Expr:
    """`fn(*args)`. `dtype` is needed only where `FUNCTIONS[fn]` is "given"."""
    rule = FUNCTIONS[fn]
    if dtype is None:
        if rule == "given":
            raise TypeError(f"{fn} needs a dtype")
        dtype = bool_ if rule == "bool" else args[0].dtype
    key = (fn, dtype, args)
    found = table.get(key)
    if found is None:
        found = new(Apply, key, dtype, args)
        found.fn, found.args = fn, args
        found.span = _span(found) if dtype is int64 else None
    return found


# --- int64: ranges, sums in normal form, division ------------------------------------------------


def _span(x: Expr) -> tuple[int, int] | None:
    """The `span` of a new int64 expression: None where the arithmetic may wrap."""
    if isinstance(x, Const):
        return x.value, x.value
    if isinstance(x, Affine):
        lo = hi = x.const
        for atom, c in x.terms:
            b = atom.span
            if b is None:
                return None
            lo, hi = lo + min(c * b[0], c * b[1]), hi + max(c * b[0], c * b[1])
        return (lo, hi) if -_LIMIT <= lo and hi < _LIMIT else None
    if isinstance(x, Apply) and x.fn in ("floordiv", "mod") and isinstance(x.args[1], Const):
        b, d = x.args[0].span, x.args[1].value
        if b is None or d <= 0:
            return None
        return (0, d - 1) if x.fn == "mod" else (b[0] // d, b[1] // d)
    if isinstance(x, Apply) and x.fn in ("minimum", "maximum", "select"):
        parts = [a.span for a in x.args[-2:]]
        known = [p for p in parts if p is not None]
        if len(known) < 2:
            return None
        (a, b), (c, d) = known
        if x.fn == "select":
            return min(a, c), max(b, d)
        pick = min if x.fn == "minimum" else max
        return pick(a, c), pick(b, d)
    return None


def linear_terms(x: Expr) -> tuple[tuple[tuple[Expr, int], ...], int]:
    """(terms, constant) with x == constant + sum(coef * atom), of any int64 expression."""
    if isinstance(x, Const):
        return (), x.value
    if isinstance(x, Affine):
        return x.terms, x.const
    return ((x, 1),), 0


def affine(terms: Iterable[tuple[Expr, int]], constant: int) -> Expr:
    """The int64 expression `constant + sum(coef * atom)`, in normal form."""
    total: dict[Expr, int] = {}
    for atom, coef in terms:
        total[atom] = total.get(atom, 0) + coef
    for remainder, c in total.items():
        if c and isinstance(remainder, Apply) and remainder.fn == "mod":
            x, d = remainder.args
            step, quotient = d.value if isinstance(d, Const) else 0, floordiv(x, d)
            if step > 0 and total.get(quotient) == c * step:  # d * (x // d) + x % d --> x
                rest = [t for t in total.items() if t[0] is not remainder and t[0] is not quotient]
                parts, k = linear_terms(x)
                return affine([*rest, *((a, c * n) for a, n in parts)], constant + c * k)
    kept = tuple(sorted([(a, c) for a, c in total.items() if c], key=_creation))
    if not kept:
        return const(constant, int64)
    if constant == 0 and len(kept) == 1 and kept[0][1] == 1:
        return kept[0][0]
    key = (Affine, kept, constant)
    found = table.get(key)
    if found is None:
        found = new(Affine, key, int64, tuple([a for a, _ in kept]))
        found.terms, found.const = kept, constant
        found.span = _span(found)
    return found


def _creation(term: tuple[Expr, int]) -> int:
    return term[0].uid


def add(a: Expr, b: Expr) -> Expr:
    if a.dtype is not int64:
        return apply("add", a, b)
    (ta, ca), (tb, cb) = linear_terms(a), linear_terms(b)
    return affine((*ta, *tb), ca + cb)


def sub(a: Expr, b: Expr) -> Expr:
    if a.dtype is not int64:
        return apply("sub", a, b)
    (ta, ca), (tb, cb) = linear_terms(a), linear_terms(b)
    return affine((*ta, *((x, -c) for x, c in tb)), ca - cb)


def mul(a: Expr, b: Expr) -> Expr:
    if a.dtype is not int64:
        return apply("mul", a, b)
    if isinstance(a, Const):
        a, b = b, a
    if not isinstance(b, Const):
        return apply("mul", a, b)
    terms, c = linear_terms(a)
    return affine(((x, k * b.value) for x, k in terms), c * b.value)


def _split(x: Expr, divisor: int) -> tuple[Expr, Expr, bool] | None:
    """(q, r, done) with x == divisor * q + r, where q takes all parts whose coefficients divide.

    Done says that 0 <= r < divisor. None where a part may wrap: division does not distribute then.
    """
    terms, c = linear_terms(x)
    quotient = affine(((a, k // divisor) for a, k in terms if k % divisor == 0), c // divisor)
    rest = affine(((a, k) for a, k in terms if k % divisor), c % divisor)
    if x.span is None or rest.span is None:
        return None
    return quotient, rest, 0 <= rest.span[0] and rest.span[1] < divisor


def _factor(rest: Expr, divisor: int) -> tuple[Expr, Expr, int]:
    """(a, b, g) with rest == g * a + b and 0 <= b < g for the largest g that divides `divisor`.

    Then b cannot carry: (5*i + j) // 15 == i // 3 for j < 5. If nothing fits, g is 1.
    """
    terms, c = linear_terms(rest)
    for g in sorted({abs(k) for _, k in terms if divisor % k == 0}, reverse=True):
        if g == 1:
            break
        low = affine(((a, k) for a, k in terms if k % g), c % g)
        b = low.span
        if b is not None and b[0] >= 0 and b[1] < g:
            return affine(((a, k // g) for a, k in terms if k % g == 0), c // g), low, g
    return rest, const(0, int64), 1


def floordiv(a: Expr, b: Expr) -> Expr:
    if a.dtype is int64 and isinstance(b, Const) and b.value > 0:
        d = b.value
        if isinstance(a, Const):
            return const(a.value // d, int64)
        if d == 1:
            return a
        parts = _split(a, d)
        if parts is not None:
            quotient, rest, done = parts
            if done:
                return quotient
            rest, _, g = _factor(rest, d)
            if g > 1:
                return quotient + floordiv(rest, const(d // g, int64))
            if isinstance(rest, Apply) and rest.fn == "floordiv":
                inner = rest.args[1]
                if isinstance(inner, Const) and inner.value > 0:
                    return quotient + floordiv(rest.args[0], const(inner.value * d, int64))
            return quotient + apply("floordiv", rest, const(d, int64))
    return apply("floordiv", a, b)


def mod(a: Expr, b: Expr) -> Expr:
    if a.dtype is int64 and isinstance(b, Const) and b.value > 0:
        d = b.value
        if isinstance(a, Const):
            return const(a.value % d, int64)
        parts = _split(a, d)
        if parts is not None:
            _, rest, done = parts
            if done:
                return rest
            high, low, g = _factor(rest, d)
            if g > 1:
                return mod(high, const(d // g, int64)) * g + low
            return apply("mod", rest, const(d, int64))
    return apply("mod", a, b)
