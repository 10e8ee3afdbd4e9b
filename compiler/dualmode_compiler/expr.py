"""The scalar language that ops lower to: one element of a result as an expression of its index.

Numbers, axes, functions and index arithmetic (`arithmetic`) are joined here by what reads memory
and by what combines elements.

A lower rule reads `def lower(i, out, x, y, **attrs) -> Expr`: `i` is the index of the wanted
element (one int64 expression per output axis), `out` the output `Spec`, `x` and `y` are `Reader`s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

from . import arithmetic
from .arithmetic import FUNCTIONS, Affine, Apply, Axis, Const, Expr, apply, const, fresh
from .records import dataclass
from .spec import DType, Spec, float16, float32, int64

__all__ = [
    "FOLD",
    "FOLDS",
    "FUNCTIONS",
    "LOAD",
    "REDUCE",
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
    "apply",
    "bitcast",
    "cast",
    "combine",
    "const",
    "fold",
    "fresh",
    "load",
    "reduce",
    "select",
]

REDUCTIONS = ("add", "mul", "maximum", "minimum", "and", "or", "argmax", "argmin")
FOLDS = ("add", "mul", "maximum", "minimum", "last")  # "last": the newer value stays
LOAD, REDUCE, FOLD = 1, 2, 4  # bits of `Expr.holds`


@dataclass(frozen=True, eq=False, slots=True)
class Buffer:
    """A row-major array in memory that kernels load from and store to. Compared by identity."""

    name: str
    spec: Spec

    def __repr__(self) -> str:
        return self.name


class Load(Expr):
    """The element of `buffer` at `index` (one int64 expression per axis of the buffer)."""

    __slots__ = ("buffer", "index")
    buffer: Buffer
    index: tuple[Expr, ...]


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


def load(buffer: Buffer, index: Sequence[Expr]) -> Expr:
    index = tuple(index)
    key = (Load, buffer, index)
    found = arithmetic.table.get(key)
    if found is None:
        found = arithmetic.new(Load, key, buffer.spec.dtype, index, bit=LOAD)
        found.buffer, found.index = buffer, index
    return found


def reduce(kind: str, bound: Sequence[Axis], body: Expr) -> Expr:
    """`body` combined over the `bound` axes; without axes, `body` itself (or position 0)."""
    bound = tuple(bound)
    position = kind in ("argmax", "argmin")
    if not bound:
        return const(0, int64) if position else body
    dtype = int64 if position else body.dtype
    key = (Reduce, dtype, kind, bound, body)
    found = arithmetic.table.get(key)
    if found is None:
        found = arithmetic.new(Reduce, key, dtype, (body,), bound, REDUCE)
        found.kind, found.bound, found.body = kind, bound, body
    return found


def fold(kind: str, bound: Sequence[Axis], start: Expr, when: Expr, body: Expr) -> Expr:
    """`start` combined with `body`, of the same dtype, where `when` holds."""
    bound = tuple(bound)
    if not bound:
        return select(when, combine(kind, start, body), start)
    key = (Fold, kind, bound, start, when, body)
    found = arithmetic.table.get(key)
    if found is None:
        found = arithmetic.new(Fold, key, start.dtype, (start, when, body), bound, FOLD)
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
