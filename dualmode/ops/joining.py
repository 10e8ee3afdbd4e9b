"""Join, split and repeat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Expr, Reader
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.spec import Spec

from .. import sizes
from ..dispatch import moved
from ..errors import DTypeError, ShapeError
from ..op import Op, convert, promote, state
from . import batch, rules, shape
from .shape import BROADCAST_TO, RESHAPE
from .slicing import SLICE

if TYPE_CHECKING:
    from ..tensor import Tensor


def _axis(axis: int, ndim: int, name: str) -> int:
    return rules.normalize_axes(axis, ndim, name)[0]


# --- concat -------------------------------------------------------------------------------------


def _concat_infer(*xs: Spec, axis: int) -> Spec:
    first = xs[0]
    for x in xs:
        if x.dtype is not first.dtype:
            raise DTypeError(f"concat: dtypes differ: {first} and {x}")
        rest = zip(first.shape, x.shape, strict=False)
        if x.ndim != first.ndim or any(a != b for k, (a, b) in enumerate(rest) if k != axis):
            raise ShapeError(f"concat: {first} and {x} differ in more than axis {axis}")
    sizes = list(first.shape)
    sizes[axis] = sum(x.shape[axis] for x in xs)
    return first.with_shape(sizes)


@shape.real
def _concat_lower(i: tuple[Expr, ...], out: Spec, *xs: Reader, axis: int) -> Expr:
    """Nested selects on the index; a load that is not selected is moved into range."""
    parts = [x for x in xs if x.spec.shape[axis]]
    starts = [0, *accumulate(x.spec.shape[axis] for x in parts)]
    result: Expr | None = None
    for x, start, stop in reversed(list(zip(parts, starts, starts[1:], strict=False))):
        here = shape.clamp(i[axis] - start, x.spec.shape[axis])
        value = x([*i[:axis], here, *i[axis + 1 :]])
        result = value if result is None else expr.select(shape.less(i[axis], stop), value, result)
    return result if result is not None else expr.const(0, out.dtype)


def _concat_vjp(g: Tensor, y: Tensor, *xs: Tensor, axis: int) -> tuple[Tensor, ...]:
    return tuple(_pieces(g, [x.shape[axis] for x in xs], axis))


def _concat_one(node: Node, graph: Graph) -> Node | None:
    """concat(x) -> x"""
    return node.inputs[0] if len(node.inputs) == 1 else None


CONCAT = Op(
    "concat",
    infer=_concat_infer,
    kernel=lambda *xs, axis: np.concatenate(xs, axis),
    vjp=_concat_vjp,
    lower=_concat_lower,
    simplify=(_concat_one,),
    batch=batch.along_axes,
    arguments=("axis",),
    moves="join",
)


def concat(arrays: Sequence[Any], axis: int | None = 0) -> Tensor:
    """The arrays joined along an existing axis (all flattened if `axis` is None).

    Raises:
        ShapeError: no array is given, or shapes differ in another axis.
    """
    if not len(arrays):
        raise ShapeError("concat: needs at least one array")
    out: Any = MISS if axis is None else moved(CONCAT, *arrays, axis)
    if out is not MISS:
        return out
    xs = promote(*arrays)
    if axis is None:
        return CONCAT(*(shape.flatten(x) for x in xs), axis=0)
    return CONCAT(*xs, axis=_axis(axis, xs[0].ndim, "concat"))


def stack(arrays: Sequence[Any], axis: int = 0) -> Tensor:
    """The arrays, all of one shape, joined along a new axis at position `axis` of the result."""
    if not len(arrays):
        raise ShapeError("stack: needs at least one array")
    xs = promote(*arrays)
    for x in xs:
        if x.shape != xs[0].shape:
            raise ShapeError(f"stack: shapes differ: {xs[0].shape} and {x.shape}")
    at = _axis(axis, xs[0].ndim + 1, "stack")
    whole = state.mode.whole(xs) if at == 0 else None
    return CONCAT(*(shape.expand_dims(x, at) for x in xs), axis=at) if whole is None else whole


# --- split --------------------------------------------------------------------------------------


def _pieces(x: Tensor, sizes: Sequence[int], axis: int) -> list[Tensor]:
    """Consecutive slices of `x` along `axis`."""
    out, first = [], 0
    for n in sizes:
        start, stop = [0] * x.ndim, list(x.shape)
        start[axis], stop[axis] = first, first + n
        out.append(SLICE(x, start=tuple(start), stop=tuple(stop), step=(1,) * x.ndim))
        first += n
    return out


def split(x: Any, num_or_size_splits: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """Consecutive parts of `x` along `axis`, as TensorFlow's `split`.

    Args:
        x: any array.
        num_or_size_splits: the number of equal parts, or the size of each part.
        axis: the axis to cut.

    Raises:
        ShapeError: the parts do not add up to the size of the axis.
    """
    x = convert(x)
    axis = _axis(axis, x.ndim, "split")
    n = x.shape[axis]
    parts: Any = num_or_size_splits
    if isinstance(parts, int) or getattr(parts, "ndim", None) == 0:
        parts = sizes.index(parts)
        if parts < 1 or n % parts:
            raise ShapeError(f"split: axis {axis} of size {n} has no {parts} equal parts")
        return _pieces(x, [n // parts] * parts, axis)
    if sum(parts) != n or min(parts, default=0) < 0:
        raise ShapeError(f"split: sizes {list(parts)} do not add up to axis {axis} of {x.spec}")
    return _pieces(x, parts, axis)


def unstack(x: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """The parts of `x` along `axis`, without that axis."""
    x = convert(x)
    axis = _axis(axis, x.ndim, "unstack")
    sizes = x.shape[:axis] + x.shape[axis + 1 :]
    return tuple(RESHAPE(p, shape=sizes) for p in _pieces(x, [1] * x.shape[axis], axis))


# --- roll, tile, repeat -------------------------------------------------------------------------


def roll(x: Any, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Tensor:
    """`x` with elements moved by `shift` along `axis`; those pushed out come in at the other end.

    Without `axis`, `x` is rolled as if flattened and keeps its shape.
    """
    x = convert(x)
    if axis is None:
        return RESHAPE(roll(shape.flatten(x), shift, 0), shape=x.shape)
    axes = shape.to_shape(axis)
    shifts = shape.to_shape(shift)
    shifts = shifts * len(axes) if len(shifts) == 1 else shifts
    for k, by in zip(axes, shifts, strict=True):
        k = _axis(k, x.ndim, "roll")
        n = x.shape[k]
        if n and by % n:
            head, tail = _pieces(x, [n - by % n, by % n], k)
            x = CONCAT(tail, head, axis=k)
    return x


def tile(x: Any, repetitions: Sequence[int]) -> Tensor:
    """`x` laid out `repetitions[k]` times along each axis k; the shorter one gets leading ones."""
    x = convert(x)
    times = shape.to_shape(repetitions)
    ndim = max(x.ndim, len(times))
    sizes = (1,) * (ndim - x.ndim) + x.shape
    times = (1,) * (ndim - len(times)) + times
    pairs = list(zip(times, sizes, strict=True))
    apart = RESHAPE(x, shape=tuple(n for size in sizes for n in (1, size)))
    wide = BROADCAST_TO(apart, shape=tuple(n for pair in pairs for n in pair))
    return RESHAPE(wide, shape=tuple(t * n for t, n in pairs))


def repeat(x: Any, repeats: int, axis: int | None = None) -> Tensor:
    """Every element of `x` `repeats` times in a row along `axis` (of `x` flattened if None)."""
    x = convert(x)
    if axis is None:
        x, axis = shape.flatten(x), 0
    axis, repeats = _axis(axis, x.ndim, "repeat"), sizes.index(repeats)
    head, n, tail = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    wide = BROADCAST_TO(shape.expand_dims(x, axis + 1), shape=(*head, n, repeats, *tail))
    return RESHAPE(wide, shape=(*head, n * repeats, *tail))
