"""Slice and pad, which are gradients of each other, and flip.

Both lower to index maps, so compiled code pays nothing for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Expr, Reader
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.spec import Spec, bool_, int64

from .. import sizes, tree
from ..errors import ShapeError
from ..op import Op, convert
from . import batch, rules
from .shape import Index, Shape, clamp, less, real, unchanged

if TYPE_CHECKING:
    from ..tensor import Tensor


def _slices(start: Shape, stop: Shape, step: Shape) -> tuple[slice, ...]:
    # a stop of -1 is "before the first element", which a Python slice writes as None
    return tuple(
        slice(a, None if b < 0 else b, s) for a, b, s in zip(start, stop, step, strict=True)
    )


def _slice_infer(x: Spec, *, start: Shape, stop: Shape, step: Shape) -> Spec:
    return x.with_shape(len(range(*r)) for r in zip(start, stop, step, strict=True))


def _slice_kernel(x: Any, start: Shape, stop: Shape, step: Shape) -> Any:
    return x[_slices(start, stop, step)] if start else x


@real
def _slice_lower(i: Index, out: Spec, x: Reader, *, start: Shape, stop: Shape, step: Shape) -> Expr:
    return x([a + k * s for k, a, s in zip(i, start, step, strict=True)])


def _slice_vjp(
    g: Tensor, y: Tensor, x: Tensor, *, start: Shape, stop: Shape, step: Shape
) -> tuple[Tensor]:
    back = tuple(k for k, s in enumerate(step) if s < 0)
    if back:
        g = flip(g, back)
    low, high = [], []
    for n, r in zip(x.shape, zip(start, stop, step, strict=True), strict=True):
        taken = range(*r)
        low.append(min(taken, default=n))
        high.append(n - 1 - max(taken, default=n - 1))
    gap = tuple(abs(s) - 1 for s in step)
    return (PAD(g, low=tuple(low), high=tuple(high), interior=gap, value=0),)


def _slice_all(node: Node, graph: Graph) -> Node | None:
    """x[:, :] -> x"""
    forward = all(s > 0 for s in node.attr("step"))
    return node.inputs[0] if forward and node.spec is node.inputs[0].spec else None


SLICE = Op(
    "slice",
    infer=_slice_infer,
    kernel=_slice_kernel,
    vjp=_slice_vjp,
    lower=_slice_lower,
    simplify=(_slice_all,),
    batch=batch.sliced,
)


def _pad_infer(x: Spec, *, low: Shape, high: Shape, interior: Shape, value: Any) -> Spec:
    if len(low) != x.ndim or min((*low, *high), default=0) < 0:
        raise ShapeError(f"pad: {x} needs one non-negative (before, after) for each axis")
    widths = zip(x.shape, low, high, interior, strict=True)
    return x.with_shape(a + b + n + max(n - 1, 0) * gap for n, a, b, gap in widths)


def _pad_kernel(
    x: np.ndarray[Any, Any], low: Shape, high: Shape, interior: Shape, value: Any
) -> np.ndarray[Any, Any]:
    widths = zip(x.shape, low, high, interior, strict=True)
    shape = [a + b + n + max(n - 1, 0) * gap for n, a, b, gap in widths]
    out = np.full(shape, value, x.dtype)
    where = zip(x.shape, low, interior, strict=True)
    out[tuple(slice(a, a + n * (gap + 1), gap + 1) for n, a, gap in where)] = x
    return out


def _both(a: Expr, b: Expr) -> Expr:
    """`a and b`, without the parts that are known."""
    if isinstance(a, expr.Const):
        return b if a.value else a
    if isinstance(b, expr.Const):
        return a if b.value else b
    return expr.apply("and", a, b)


def _negate(a: Expr) -> Expr:
    if isinstance(a, expr.Const):
        return expr.const(not a.value, bool_)
    return expr.apply("not", a)


@real
def _pad_lower(
    i: Index, out: Spec, x: Reader, *, low: Shape, high: Shape, interior: Shape, value: Any
) -> Expr:
    inside: Expr = expr.const(True, bool_)
    index = []
    for k, n, a, gap in zip(i, x.spec.shape, low, interior, strict=True):
        offset = k - a
        inside = _both(inside, _negate(less(offset, 0)))
        inside = _both(inside, less(offset, n + max(n - 1, 0) * gap))
        if gap:
            on_grid = expr.apply("eq", offset % (gap + 1), expr.const(0, int64))
            inside = _both(inside, on_grid)
        index.append(clamp(offset // (gap + 1), n))
    outside = expr.const(value, out.dtype)
    return expr.select(inside, x(index), outside) if x.spec.size else outside


def _pad_vjp(
    g: Tensor, y: Tensor, x: Tensor, *, low: Shape, high: Shape, interior: Shape, value: Any
) -> tuple[Tensor]:
    step = tuple(gap + 1 for gap in interior)
    stop = tuple(a + n * s for a, n, s in zip(low, x.shape, step, strict=True))
    return (SLICE(g, start=low, stop=stop, step=step),)


# `low` and `high` elements of `value` around every axis and `interior` between neighbours
PAD = Op(
    "pad",
    infer=_pad_infer,
    kernel=_pad_kernel,
    vjp=_pad_vjp,
    lower=_pad_lower,
    simplify=(unchanged,),
    batch=batch.padded,
)


def _widths(pad_width: Any, ndim: int) -> list[list[int]]:
    """(before, after) for each axis."""
    numbers, form = tree.flatten(pad_width)
    if not any(type(n) is sizes.Size for n in numbers):
        return np.broadcast_to(np.asarray(pad_width), (ndim, 2)).tolist()
    places = np.asarray(tree.unflatten(form, range(len(numbers))))
    return [[numbers[k] for k in row] for row in np.broadcast_to(places, (ndim, 2)).tolist()]


def pad(x: Any, pad_width: Any, constant_values: float = 0) -> Tensor:
    """`x` with elements equal to `constant_values` added around it.

    Args:
        x: any array.
        pad_width: (before, after) for each axis; one pair or one number holds for all axes.
        constant_values: a number; it is converted to the dtype of `x`.

    Raises:
        ShapeError: `pad_width` does not fit the axes, or is negative.
    """
    x = convert(x)
    try:
        width = _widths(pad_width, x.ndim)
    except ValueError:
        raise ShapeError(
            f"pad: {x.spec} needs (before, after) for each axis, got {pad_width!r}"
        ) from None
    low, high = (tuple(sizes.whole(w[k]) for w in width) for k in (0, 1))
    return PAD(x, low=low, high=high, interior=(0,) * x.ndim, value=constant_values)


def flip(x: Any, axis: int | Sequence[int] | None = None) -> Tensor:
    """`x` with the order of elements reversed along `axis` (all axes by default)."""
    x = convert(x)
    axes = rules.normalize_axes(axis, x.ndim, "flip")
    turned = [(n - 1, -1, -1) if k in axes and n else (0, n, 1) for k, n in enumerate(x.shape)]
    start, stop, step = zip(*turned, strict=True) if turned else ((), (), ())
    return SLICE(x, start=start, stop=stop, step=step)
