"""Reading and writing at indices along an axis: the ops behind `take` and `x.at[key]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Expr, Reader
from dualmode_compiler.spec import Spec, int64

from ..errors import ShapeError
from ..op import Op
from . import batch, creation, logic, rules, shape
from .elementwise import ADD
from .shape import RESHAPE

if TYPE_CHECKING:
    from ..tensor import Tensor

_FEW = 4  # indices that compiled code compares every position with


def _take_infer(x: Spec, indices: Spec, *, axis: int) -> Spec:
    rules.require_kinds("take", "iu", indices)
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"take: {x} has no axis {axis}")
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@shape.real
def _take_lower(i: Sequence[Expr], out: Spec, x: Reader, indices: Reader, *, axis: int) -> Expr:
    n, rank = x.spec.shape[axis], indices.spec.ndim
    if n == 0:
        return expr.const(0, out.dtype)
    at = _safe_position_of(indices(i[axis : axis + rank]), n)
    return x([*i[:axis], at, *i[axis + rank :]])


def _position_of(index: Expr, n: int) -> Expr:
    """An element of `indices`, counted from the start of an axis of size `n`."""
    at = expr.cast(index, int64)
    return expr.select(shape.less(at, 0), at + n, at)


def _safe_position_of(index: Expr, n: int) -> Expr:
    """The same, and somewhere in the axis for an index out of range: loads and stores are safe
    until CHECK_INDICES has run, which promises that there is none."""
    at = expr.cast(index, int64)
    if at.span is not None:  # index arithmetic that is understood stays so
        return shape.clamp(_position_of(index, n), n)
    signed, unsigned = rules.index_types(index.dtype, n)
    if index.dtype.kind == "i":
        at = expr.cast(index, signed)
        below = expr.apply("lt", at, expr.const(0, signed))
        at = expr.select(below, expr.apply("add", at, expr.const(n, signed)), at)
    else:
        at = index
    # as an unsigned number, what is below 0 is beyond the last place
    last = expr.const(max(n - 1, 0), unsigned)
    return expr.cast(expr.apply("minimum", expr.cast(at, unsigned), last), int64)


def _take_vjp(
    g: Tensor, y: Tensor, x: Tensor, indices: Tensor, *, axis: int
) -> tuple[Callable[[], Tensor], None]:
    return lambda: SCATTER_ADD(creation.zeros_like(x), indices, g, axis=axis), None


# indices lie in -n .. n - 1: `take` sees to it
TAKE = Op(
    "take",
    infer=_take_infer,
    kernel=lambda x, indices, axis: np.take(x, indices.astype(np.int64), axis, mode="wrap"),
    vjp=_take_vjp,
    lower=_take_lower,
    batch=batch.take,
    arguments=("axis",),
    moves="take",
)


def _scatter_infer(x: Spec, indices: Spec, updates: Spec, *, axis: int) -> Spec:
    rules.require_kinds("scatter", "iu", indices)
    rules.require_one_dtype("scatter", x, updates)
    wanted = _take_infer(x, indices, axis=axis)
    if updates.shape != wanted.shape:
        raise ShapeError(f"scatter: updates of {x} at {indices} are {wanted}, got {updates}")
    return x


def _written(x: Any, indices: Any, updates: Any, axis: int) -> tuple[tuple[Any, ...], Any]:
    """Where the updates go, and these with one axis for all indices: NumPy goes through several in
    the order in which they lie in memory."""
    flat = indices.astype(np.int64).reshape(-1)
    rows = updates.reshape(*x.shape[:axis], flat.size, *x.shape[axis + 1 :])
    return (*(slice(None),) * axis, flat), rows


def _scattered(kind: str) -> Any:
    """A lower rule: `x` with `updates` combined in at `indices`, one after the other.

    Where there are few indices, each element looks whether it is at one of them: that fuses.
    """

    @shape.real
    def lower(
        i: Sequence[Expr], out: Spec, x: Reader, indices: Reader, updates: Reader, *, axis: int
    ) -> Expr:
        n, value = out.shape[axis], x(i)
        if indices.spec.size > _FEW:
            bound = [expr.Axis(size) for size in indices.spec.shape]
            here = expr.apply("eq", i[axis], _safe_position_of(indices(bound), n))
            return expr.fold(kind, bound, value, here, updates([*i[:axis], *bound, *i[axis + 1 :]]))
        for k in np.ndindex(*indices.spec.shape):
            at = tuple([expr.const(n, int64) for n in k])
            here = expr.apply("eq", i[axis], _position_of(indices(at), n))
            update = updates([*i[:axis], *at, *i[axis + 1 :]])
            value = expr.select(here, expr.combine(kind, value, update), value)
        return value

    return lower


def _scatter_add_kernel(x: Any, indices: Any, updates: Any, axis: int) -> Any:
    out = x.copy()
    np.add.at(out, *_written(x, indices, updates, axis))
    return out


def _scatter_add_vjp(
    g: Tensor, y: Tensor, x: Tensor, indices: Tensor, updates: Tensor, *, axis: int
) -> tuple[Tensor, None, Callable[[], Tensor]]:
    return g, None, lambda: TAKE(g, indices, axis=axis)


# `x` with `updates` added along `axis` at `indices`; equal indices add up
SCATTER_ADD = Op(
    "scatter_add",
    infer=_scatter_infer,
    kernel=_scatter_add_kernel,
    vjp=_scatter_add_vjp,
    lower=_scattered("add"),
    batch=batch.scatter,
    arguments=("axis",),
    moves="scatter",
    combines=ADD,
)


def _scatter_set_kernel(x: Any, indices: Any, updates: Any, axis: int) -> Any:
    out = x.copy()
    where, rows = _written(x, indices, updates, axis)
    out[where] = rows
    return out


def _scatter_set_vjp(
    g: Tensor, y: Tensor, x: Tensor, indices: Tensor, updates: Tensor, *, axis: int
) -> tuple[Callable[[], Tensor], None, Callable[[], Tensor]]:
    """Of updates at equal indices only the last one is in the result and has a gradient."""
    zeros = creation.zeros_like(updates)

    def of_updates() -> Tensor:
        positions = creation.ARANGE(start=0, step=1, size=indices.size, dtype=int64)
        order = RESHAPE(positions, shape=indices.shape)
        writer = SCATTER_SET(creation.full(x.shape[axis], -1, int64), indices, order, axis=0)
        last = logic.equal(TAKE(writer, indices, axis=0), order)
        last = RESHAPE(last, shape=(*indices.shape, *(1,) * (x.ndim - axis - 1)))
        return logic.where(last, TAKE(g, indices, axis=axis), zeros)

    return lambda: SCATTER_SET(g, indices, zeros, axis=axis), None, of_updates


# `x` with `updates` written along `axis` at `indices`; of equal indices the last one stays
SCATTER_SET = Op(
    "scatter_set",
    infer=_scatter_infer,
    kernel=_scatter_set_kernel,
    vjp=_scatter_set_vjp,
    lower=_scattered("last"),
    batch=batch.scatter,
    arguments=("axis",),
    moves="scatter",
)
