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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from .records import dataclass
from .spec import DType, Spec, bool_, float16, float32, int64

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
REDUCTIONS = ("add", "mul", "maximum", "minimum", "and", "or", "argmax", "argmin")
FOLDS = ("add", "mul", "maximum", "minimum", "last")  # "last": the newer value stays
LOAD, REDUCE, FOLD = 1, 2, 4  # bits of `Expr.holds`

_table: dict[tuple[Any, ...], Any] = {}  # expressions by what they are made of
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
        return index.add(self, _like(other, self))

    def __radd__(self, other: Any) -> Expr:
        return index.add(_like(other, self), self)

    def __sub__(self, other: Any) -> Expr:
        return index.sub(self, _like(other, self))

    def __rsub__(self, other: Any) -> Expr:
        return index.sub(_like(other, self), self)

    def __mul__(self, other: Any) -> Expr:
        return index.mul(self, _like(other, self))

    def __rmul__(self, other: Any) -> Expr:
        return index.mul(_like(other, self), self)

    def __truediv__(self, other: Any) -> Expr:
        return apply("div", self, _like(other, self))

    def __rtruediv__(self, other: Any) -> Expr:
        return apply("div", _like(other, self), self)

    def __floordiv__(self, other: Any) -> Expr:
        return index.floordiv(self, _like(other, self))

    def __mod__(self, other: Any) -> Expr:
        return index.mod(self, _like(other, self))

    def __neg__(self) -> Expr:
        return index.mul(self, const(-1, int64)) if self.dtype is int64 else apply("neg", self)

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


_NONE: frozenset[Axis] = frozenset()


def _new(
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
    _table[key] = found
    return found


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
    full = (Const, dtype, *key)
    found = _table.get(full)
    if found is None:
        found = _new(Const, full, dtype, ())
        found.value = value
        found.span = index.span(found) if dtype is int64 else None
    return found


def _like(x: Any, other: Expr) -> Expr:
    return x if isinstance(x, Expr) else const(x, other.dtype)


def load(buffer: Buffer, index: Sequence[Expr]) -> Expr:
    index = tuple(index)
    key = (Load, buffer, index)
    found = _table.get(key)
    if found is None:
        found = _new(Load, key, buffer.spec.dtype, index, bit=LOAD)
        found.buffer, found.index = buffer, index
    return found


def apply(fn: str, *args: Expr, dtype: DType | None = None) -> Expr:
    """`fn(*args)`. `dtype` is needed only where `FUNCTIONS[fn]` is "given"."""
    rule = FUNCTIONS[fn]
    if dtype is None:
        if rule == "given":
            raise TypeError(f"{fn} needs a dtype")
        dtype = bool_ if rule == "bool" else args[0].dtype
    key = (fn, dtype, args)
    found = _table.get(key)
    if found is None:
        found = _new(Apply, key, dtype, args)
        found.fn, found.args = fn, args
        found.span = index.span(found) if dtype is int64 else None
    return found


def combination(terms: tuple[tuple[Expr, int], ...], constant: int) -> Affine:
    """`constant + sum(coef * atom)`, which has to be in normal form: ask `affine`."""
    key = (Affine, terms, constant)
    found = _table.get(key)
    if found is None:
        found = _new(Affine, key, int64, tuple([a for a, _ in terms]))
        found.terms, found.const = terms, constant
        found.span = index.span(found)
    return found


def reduce(kind: str, bound: Sequence[Axis], body: Expr) -> Expr:
    """`body` combined over the `bound` axes; without axes, `body` itself (or position 0)."""
    bound = tuple(bound)
    position = kind in ("argmax", "argmin")
    if not bound:
        return const(0, int64) if position else body
    dtype = int64 if position else body.dtype
    key = (Reduce, dtype, kind, bound, body)
    found = _table.get(key)
    if found is None:
        found = _new(Reduce, key, dtype, (body,), bound, REDUCE)
        found.kind, found.bound, found.body = kind, bound, body
    return found


def fold(kind: str, bound: Sequence[Axis], start: Expr, when: Expr, body: Expr) -> Expr:
    """`start` combined with `body`, of the same dtype, where `when` holds."""
    bound = tuple(bound)
    if not bound:
        return select(when, combine(kind, start, body), start)
    key = (Fold, kind, bound, start, when, body)
    found = _table.get(key)
    if found is None:
        found = _new(Fold, key, start.dtype, (start, when, body), bound, FOLD)
        found.kind, found.bound = kind, bound
        found.start, found.when, found.body = start, when, body
    return found


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


def accumulator(dtype: DType) -> DType:
    """The type in which sums and products of `dtype` are formed: half types widen to float32."""
    return float32 if dtype.is_floating and dtype.itemsize == float16.itemsize else dtype


# Last, as it is built on all of the above, and the operators of `Expr` need it: their results on
# int64 are in its normal form.
from . import index  # noqa: E402
