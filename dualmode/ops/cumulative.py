"""Sums of the elements so far, along an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Expr, Reader
from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.spec import Spec

from ..dispatch import moved
from ..errors import ShapeError
from ..op import Op
from . import batch, rules
from .elementwise import ADD
from .reduction import SUMMED, summable, wide
from .shape import real
from .slicing import PAD

if TYPE_CHECKING:
    from ..tensor import Tensor

Array = np.ndarray[Any, Any]


def _cumulative_infer(x: Spec, *, axis: int, reverse: bool) -> Spec:
    rules.require_kinds("cumulative_sum", "iufc", x)
    return Spec(x.shape, x.dtype)


def _cumulative_kernel(x: Array, axis: int, reverse: bool) -> Array:
    ordered = np.flip(x, axis) if reverse else x
    total = np.add.accumulate(ordered, axis=axis, dtype=wide(x)).astype(x.dtype, copy=False)
    return np.ascontiguousarray(np.flip(total, axis)) if reverse else total


@real
def _cumulative_lower(i: Sequence[Expr], out: Spec, x: Reader, *, axis: int, reverse: bool) -> Expr:
    r, here = expr.Axis(out.shape[axis]), i[axis]
    body = rules.widen(x([*i[:axis], r, *i[axis + 1 :]]))
    before = expr.apply("ge" if reverse else "le", r, here)
    return expr.cast(expr.fold("add", [r], expr.const(0, body.dtype), before, body), out.dtype)


CUMULATIVE_SUM = Op(
    "cumulative_sum",
    infer=_cumulative_infer,
    kernel=_cumulative_kernel,
    lower=_cumulative_lower,
    vjp=lambda g, y, x, axis, reverse: (CUMULATIVE_SUM(g, axis=axis, reverse=not reverse),),
    tolerance=SUMMED,
    batch=batch.along_axes,
    arguments=("axis", "reverse"),
    moves="scan",
    combines=ADD,
)


def cumulative_sum(
    x: Any, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """The sums of the first 1, 2, ... elements along `axis`; dtypes as for `sum`.

    Args:
        x: an array of one axis or more.
        axis: needed unless `x` has one axis.
        dtype: convert `x` to it first.
        include_initial: start with 0, the sum of none, so the result is longer by one.

    Raises:
        ShapeError: the axis is missing or out of range.
    """
    as_it_is = dtype is None and getattr(getattr(x, "dtype", None), "is_inexact", False)
    if as_it_is and axis is not None and not include_initial:
        out = moved(CUMULATIVE_SUM, x, axis, False)
        if out is not MISS:
            return out
    x = summable(x, dtype)
    if axis is None and x.ndim != 1:
        raise ShapeError(f"cumulative_sum: give an axis, {Spec(x.shape, x.dtype)} has {x.ndim}")
    (k,) = rules.normalize_axes(0 if axis is None else axis, x.ndim, "cumulative_sum")
    if include_initial:
        low = tuple(int(a == k) for a in range(x.ndim))
        x = PAD(x, low=low, high=(0,) * x.ndim, interior=(0,) * x.ndim, value=0)
    return CUMULATIVE_SUM(x, axis=k, reverse=False)
