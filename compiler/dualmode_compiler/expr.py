"""The scalar language that ops lower to: one element of a result as an expression of its index.

Expressions are immutable and interned, so equal ones are one object and common subexpressions cost
nothing. Arithmetic on int64 is kept in a normal form (`Affine`), with division and remainder
simplified by the known ranges of the axes: that is what makes reshape, slice, transpose and pad
free index maps, and what tells the emitter the stride of every load.

A lower rule reads `def lower(i, out, x, y, **attrs) -> Expr`: `i` is the index of the wanted
element (one int64 expression per output axis), `out` the output `Spec`, `x` and `y` are `Reader`s.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .spec import DType, Spec, bool_, float16, float32, int64

# Every function that an expression may apply, with the type of its result: that of the arguments
# ("same"), "bool", or "given" by the caller. Floating minimum and maximum pass NaN on; integer
# division and remainder round to minus infinity as in Python, and x // 0 == x % 0 == 0 as in NumPy.
FUNCTIONS: dict[str, str] = {
    **dict.fromkeys(["add", "sub", "mul", "div", "neg", "abs", "minimum", "maximum"], "same"),
    **dict.fromkeys(["floordiv", "mod", "fmod", "pow"], "same"),
    **dict.fromkeys(["fma", "sqrt", "rint", "floor", "ceil", "trunc", "copysign"], "same"),
    **dict.fromkeys(["exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "erf"], "same"),
    **dict.fromkeys(["log2", "log10", "sinh", "cosh", "atan", "atan2"], "same"),
    **dict.fromkeys(["sigmoid", "softplus"], "same"),
    **dict.fromkeys(["and", "or", "xor", "not", "shl", "lshr", "ashr", "mulhi"], "same"),
    **dict.fromkeys(["eq", "ne", "lt", "le", "gt", "ge"], "bool"),
    **dict.fromkeys(["select", "cast", "bitcast", "rarely"], "given"),
}
REDUCTIONS = ("add", "mul", "maximum", "minimum", "and", "or", "argmax", "argmin")
FOLDS = ("add", "mul", "maximum", "minimum", "last")  # "last": the newer value stays

_table: dict[tuple[Any, ...], Expr] = {}
_lock = threading.RLock()
_serial = itertools.count()


@contextmanager
def fresh() -> Iterator[None]:
    """A new intern table for the length of one compilation; expressions do not outlive it.

    One thread at a time has it; others wait.
    """
    global _table
    with _lock:
        saved, _table = _table, {}
        try:
            yield
        finally:
            _table = saved


@dataclass(frozen=True, eq=False, slots=True)
class Buffer:
    """A row-major array in memory that kernels load from and store to. Compared by identity."""

    name: str
    spec: Spec

    def __repr__(self) -> str:
        return self.name


class Expr:
    """Base of all expressions.

    Attributes:
        dtype: type of the value.
        axes: the free axes, i.e. those not bound by a `Reduce` inside.
        uid: creation order; gives sums a deterministic order.
        span: the least and greatest value of an int64 expression, None if unknown.
    """

    __slots__ = ("axes", "dtype", "span", "uid")

    dtype: DType
    axes: frozenset[Axis]
    uid: int
    span: tuple[int, int] | None

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


class Const(Expr):
    """A literal; `value` is a Python bool, int or float."""

    __slots__ = ("value",)
    value: Any


class Affine(Expr):
    """`const + sum(coef * atom for atom, coef in terms)` in int64, in normal form."""

    __slots__ = ("const", "terms")
    terms: tuple[tuple[Expr, int], ...]
    const: int


class Load(Expr):
    """The element of `buffer` at `index` (one int64 expression per axis of the buffer)."""

    __slots__ = ("buffer", "index")
    buffer: Buffer
    index: tuple[Expr, ...]


class Apply(Expr):
    """`fn(*args)`, with `fn` a key of `FUNCTIONS`."""

    __slots__ = ("args", "fn")
    fn: str
    args: tuple[Expr, ...]


class Reduce(Expr):
    """`body` combined by `kind` (one of `REDUCTIONS`) over `bound` axes, in row-major order.

    argmax and argmin give the flat int64 position of the first extreme (of the first NaN if any).
    """

    __slots__ = ("body", "bound", "kind")
    kind: str
    bound: tuple[Axis, ...]
    body: Expr


class Fold(Expr):
    """`start`, combined by `kind` with `body` at each value of the `bound` axes where `when` holds.

    The values of the bound axes come in row-major order, and each step is rounded to the dtype.
    `kind` is one of `FOLDS`. Prefix sums and writes at indices are folds; the axes of the result
    occur in `when` (`r <= i`, `index[r] == i`), which is what makes one pass over `body` enough for
    all elements of the result (`folds`).
    """

    __slots__ = ("body", "bound", "kind", "start", "when")
    kind: str
    bound: tuple[Axis, ...]
    start: Expr
    when: Expr
    body: Expr


class Reader(Protocol):
    """How a lower rule reads an input: call it with an index of the input's rank."""

    spec: Spec

    def __call__(self, index: Sequence[Expr]) -> Expr: ...


LowerRule = Callable[..., Expr | None]  # None declines: the kernel is called back


def _intern(cls: type[Any], key: tuple[Any, ...], dtype: DType, axes: Any, **fields: Any) -> Any:
    full = (cls, dtype, *key)
    found = _table.get(full)
    if found is None:
        found = object.__new__(cls)
        found.dtype, found.axes, found.uid = dtype, axes, next(_serial)
        for k, v in fields.items():
            setattr(found, k, v)
        found.span = span(found) if dtype is int64 else None
        _table[full] = found
    return found


_NONE: frozenset[Axis] = frozenset()


def _free(args: Iterable[Expr]) -> frozenset[Axis]:
    out = _NONE
    for a in args:
        if a.axes and not a.axes <= out:
            out = out | a.axes if out else a.axes
    return out


# --- constructors -----------------------------------------------------------------------------


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
    return _intern(Const, key, dtype, _NONE, value=value)


def _like(x: Any, other: Expr) -> Expr:
    return x if isinstance(x, Expr) else const(x, other.dtype)


def load(buffer: Buffer, index: Sequence[Expr]) -> Expr:
    index = tuple(index)
    return _intern(
        Load, (buffer, index), buffer.spec.dtype, _free(index), buffer=buffer, index=index
    )


def apply(fn: str, *args: Expr, dtype: DType | None = None) -> Expr:
    """`fn(*args)`. `dtype` is needed only where `FUNCTIONS[fn]` is "given"."""
    rule = FUNCTIONS[fn]
    if dtype is None:
        if rule == "given":
            raise TypeError(f"{fn} needs a dtype")
        dtype = bool_ if rule == "bool" else args[0].dtype
    return _intern(Apply, (fn, args), dtype, _free(args), fn=fn, args=args)


def reduce(kind: str, bound: Sequence[Axis], body: Expr) -> Expr:
    """`body` combined over the `bound` axes; without axes, `body` itself (or position 0)."""
    bound = tuple(bound)
    position = kind in ("argmax", "argmin")
    if not bound:
        return const(0, int64) if position else body
    dtype = int64 if position else body.dtype
    axes = body.axes - frozenset(bound)
    return _intern(Reduce, (kind, bound, body), dtype, axes, kind=kind, bound=bound, body=body)


def fold(kind: str, bound: Sequence[Axis], start: Expr, when: Expr, body: Expr) -> Expr:
    """`start` combined with `body`, of the same dtype, where `when` holds."""
    bound = tuple(bound)
    if not bound:
        return select(when, combine(kind, start, body), start)
    axes = _free((start, when, body)) - frozenset(bound)
    fields = {"kind": kind, "bound": bound, "start": start, "when": when, "body": body}
    return _intern(Fold, (kind, bound, start, when, body), start.dtype, axes, **fields)


def combine(kind: str, old: Expr, new: Expr) -> Expr:
    """One step of a fold: half types are computed in float32, and rounded."""
    if kind == "last":
        return new
    wide = accumulator(old.dtype)
    return cast(apply(kind, cast(old, wide), cast(new, wide)), old.dtype)


def select(cond: Expr, a: Expr, b: Expr) -> Expr:
    if isinstance(cond, Const):
        return a if cond.value else b
    return a if a is b else apply("select", cond, a, b, dtype=a.dtype)


def cast(x: Expr, dtype: DType) -> Expr:
    """Value conversion. Floating to integer truncates, saturating; to bool means `x != 0`."""
    if x.dtype is dtype:
        return x
    if isinstance(x, Const) and dtype.is_floating and x.dtype.is_floating:
        return const(x.value, dtype)
    if isinstance(x, Const) and math.isfinite(x.value):
        known = const(x.value, dtype)
        if known.value == x.value:  # else the instruction decides how to round or saturate
            return known
    return apply("cast", x, dtype=dtype)


def bitcast(x: Expr, dtype: DType) -> Expr:
    return apply("bitcast", x, dtype=dtype)


# --- int64 index algebra ------------------------------------------------------------------------


def linear_terms(x: Expr) -> tuple[tuple[tuple[Expr, int], ...], int]:
    if isinstance(x, Const):
        return (), x.value
    if isinstance(x, Affine):
        return x.terms, x.const
    return ((x, 1),), 0


def affine(terms: Iterable[tuple[Expr, int]], constant: int = 0) -> Expr:
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
    kept = tuple(sorted(((a, c) for a, c in total.items() if c), key=lambda t: t[0].uid))
    if not kept:
        return const(constant, int64)
    if constant == 0 and len(kept) == 1 and kept[0][1] == 1:
        return kept[0][0]
    return _intern(
        Affine, (kept, constant), int64, _free(a for a, _ in kept), terms=kept, const=constant
    )


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


def substitute(x: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """`x` with the given subexpressions replaced; axes that a reduction binds are left alone."""
    memo: dict[Expr, Expr] = dict(mapping)
    moved = frozenset(a for a in mapping if isinstance(a, Axis))
    whole = len(moved) == len(mapping)  # then parts without these axes stay as they are
    stack = [x]
    while stack:
        e = stack[-1]
        if e not in memo and whole and e.axes.isdisjoint(moved):
            memo[e] = e
        if e in memo:
            stack.pop()
            continue
        children = operands(e)
        missing = [c for c in children if c not in memo]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        memo[e] = rebuild(e, [memo[c] for c in children]) if children else e
    return memo[x]


def operands(x: Expr) -> tuple[Expr, ...]:
    if isinstance(x, Apply):
        return x.args
    if isinstance(x, Affine):
        return tuple(a for a, _ in x.terms)
    if isinstance(x, Load):
        return x.index
    if isinstance(x, Reduce):
        return (x.body,)
    if isinstance(x, Fold):
        return x.start, x.when, x.body
    return ()


def walk(roots: Iterable[Expr]) -> Iterator[Expr]:
    """Every distinct subexpression of `roots`, operands first."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(r, False) for r in roots]
    while stack:
        e, ready = stack.pop()
        if ready:
            yield e
        elif e not in seen:
            seen.add(e)
            stack.append((e, True))
            stack.extend((c, False) for c in operands(e) if c not in seen)


def rebuild(x: Expr, args: Sequence[Expr]) -> Expr:
    """`x` with other operands, in the order of `operands(x)`."""
    if isinstance(x, Apply):
        if x.fn in ("floordiv", "mod"):
            return (floordiv if x.fn == "floordiv" else mod)(*args)
        return apply(x.fn, *args, dtype=x.dtype)
    if isinstance(x, Affine):
        total: Expr = const(x.const, int64)
        for a, (_, c) in zip(args, x.terms, strict=True):
            total = total + a * c
        return total
    if isinstance(x, Load):
        return load(x.buffer, args)
    if isinstance(x, Fold):
        return fold(x.kind, x.bound, *args)
    assert isinstance(x, Reduce)
    return reduce(x.kind, x.bound, args[0])


def accumulator(dtype: DType) -> DType:
    """The type in which sums and products of `dtype` are formed: half types widen to float32."""
    return float32 if dtype.is_floating and dtype.itemsize == float16.itemsize else dtype


# The index algebra is a file of its own that builds on this one, and the operators here use it.
from .index import (  # noqa: E402
    bounds,
    broadcast_index,
    floordiv,
    mod,
    ravel,
    span,
    unravel,
)

__all__ = [
    "FOLDS",
    "FUNCTIONS",
    "REDUCTIONS",
    "Affine",
    "Apply",
    "Axis",
    "Buffer",
    "Const",
    "Expr",
    "Fold",
    "Load",
    "LowerRule",
    "Reader",
    "Reduce",
    "accumulator",
    "add",
    "affine",
    "apply",
    "bitcast",
    "bounds",
    "broadcast_index",
    "cast",
    "combine",
    "const",
    "floordiv",
    "fold",
    "fresh",
    "load",
    "mod",
    "mul",
    "operands",
    "ravel",
    "rebuild",
    "reduce",
    "select",
    "sub",
    "substitute",
    "unravel",
]
