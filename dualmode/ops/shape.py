"""Reshape, transpose, broadcast: ops that move elements and change none.

All of them lower to index maps, so compiled code pays nothing for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Expr, Reader
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.index import broadcast_index, ravel, unravel
from dualmode_compiler.spec import Spec, bool_, int64

from .. import sizes
from ..dispatch import view
from ..errors import DTypeError, Error, ShapeError
from ..op import Op, convert
from . import batch, rules

if TYPE_CHECKING:
    from ..tensor import Tensor

Shape = tuple[int, ...]
Index = tuple[Expr, ...]


# --- helpers ------------------------------------------------------------------------------------


def to_shape(shape: Any) -> Shape:
    """A size (or axis) or a sequence of them as a tuple of ints.

    Raises:
        DTypeError: one is no integer.
    """
    if isinstance(shape, int | float) or getattr(shape, "ndim", None) == 0:
        shape = (shape,)
    try:
        return tuple(map(sizes.index, shape))
    except TypeError as error:
        if isinstance(error, Error):  # a traced size
            raise
        raise DTypeError(f"sizes and axes are integers, got {shape!r}") from None


def clamp(i: Expr, size: int) -> Expr:
    """Index `i` moved into 0 .. size - 1, so that a load that a `select` drops stays in range."""
    known = i.span
    if known is None or known[0] < 0:
        i = expr.apply("maximum", i, expr.const(0, int64))
    if known is None or known[1] >= size:
        i = expr.apply("minimum", i, expr.const(max(size - 1, 0), int64))
    return i


def less(i: Expr, bound: int) -> Expr:
    """`i < bound`, decided at once where the range of `i` allows."""
    known = i.span
    if known is not None and (known[1] < bound or known[0] >= bound):
        return expr.const(known[1] < bound, bool_)
    if isinstance(i, expr.Affine):  # i + 5 < 8 and i < 3 are one expression
        i, bound = i - i.const, bound - i.const
    return expr.apply("lt", i, expr.const(bound, int64))


def real(lower: Callable[..., Expr | None]) -> Callable[..., Any]:
    """`lower` for real types; complex ones are left to the NumPy kernel."""

    def rule(i: Index, out: Spec, *xs: Reader, **attrs: Any) -> Expr | None:
        return None if out.dtype.is_complex else lower(i, out, *xs, **attrs)

    return rule


def unchanged(node: Node, graph: Graph) -> Node | None:
    """op(x) -> x where the op leaves its only input as it is."""
    return node.inputs[0] if node.spec is node.inputs[0].spec else None


# --- reshape ------------------------------------------------------------------------------------


def _reshape_infer(x: Spec, *, shape: Shape) -> Spec:
    if math.prod(shape) != x.size or any(n < 0 for n in shape):
        wanted = ",".join(map(str, shape))
        raise ShapeError(
            f"reshape: {x} has {x.size} elements, shape [{wanted}] has {math.prod(shape)}"
        )
    return x.with_shape(shape)


def _reshape_reshape(node: Node, graph: Graph) -> Node | None:
    """reshape(reshape(x)) -> reshape(x)"""
    inner = node.inputs[0]
    return graph.add(RESHAPE, inner.inputs, node.attrs) if inner.op is RESHAPE else None


@real
def _reshape_lower(i: Index, out: Spec, x: Reader, *, shape: Shape) -> Expr:
    return x(unravel(ravel(i, out.shape), x.spec.shape))


RESHAPE = Op(
    "reshape",
    infer=_reshape_infer,
    kernel=lambda x, shape: x.reshape(shape),
    vjp=lambda g, y, x, shape: (RESHAPE(g, shape=x.shape),),
    lower=_reshape_lower,
    simplify=(unchanged, _reshape_reshape),
    batch=batch.to_shape,
    arguments=("shape",),
    view=True,
)


def reshape(x: Any, shape: Any) -> Tensor:
    """`x` in row-major order with another shape; one size may be -1 and follows from the others.

    Raises:
        ShapeError: the number of elements differs.
    """
    x = convert(x)
    shape = to_shape(shape)
    if -1 in shape:
        rest = -math.prod(shape)
        if shape.count(-1) > 1 or rest == 0 or x.size % rest:
            raise ShapeError(f"reshape: {x.size} elements of {x.spec} do not fit {list(shape)}")
        shape = tuple(x.size // rest if n == -1 else n for n in shape)
    return RESHAPE(x, shape=shape)


def flatten(x: Any) -> Tensor:
    """All elements of `x` in row-major order, in one axis."""
    return reshape(x, (-1,))


def expand_dims(x: Any, axis: int | Sequence[int] = 0) -> Tensor:
    """`x` with new axes of size 1 at the positions `axis` of the result."""
    x = convert(x)
    axes = to_shape(axis)
    ndim = x.ndim + len(axes)
    new = rules.normalize_axes(axes, ndim, "expand_dims")
    sizes = iter(x.shape)
    return RESHAPE(x, shape=tuple(1 if k in new else next(sizes) for k in range(ndim)))


def squeeze(x: Any, axis: int | Sequence[int] | None = None) -> Tensor:
    """`x` without its axes of size 1: those in `axis`, or all.

    Raises:
        ShapeError: an axis in `axis` has another size.
    """
    x = convert(x)
    if axis is None:
        return RESHAPE(x, shape=tuple(n for n in x.shape if n != 1))
    drop = rules.normalize_axes(axis, x.ndim, "squeeze")
    for k in drop:
        if x.shape[k] != 1:
            raise ShapeError(f"squeeze: axis {k} of {x.spec} has size {x.shape[k]}, not 1")
    return RESHAPE(x, shape=tuple(n for k, n in enumerate(x.shape) if k not in drop))


# --- permute_dims -------------------------------------------------------------------------------


def _inverse(axes: Shape) -> Shape:
    return tuple(axes.index(k) for k in range(len(axes)))


def _permute_infer(x: Spec, *, axes: Shape) -> Spec:
    if sorted(axes) != list(range(x.ndim)):
        raise ShapeError(f"permute_dims: {list(axes)} is no permutation of the axes of {x}")
    return x.with_shape(x.shape[k] for k in axes)


def _permute_identity(node: Node, graph: Graph) -> Node | None:
    """permute_dims(x, 0, 1, 2, ...) -> x"""
    axes = node.attr("axes")
    return node.inputs[0] if axes == tuple(range(len(axes))) else None


def _permute_permute(node: Node, graph: Graph) -> Node | None:
    """permute_dims(permute_dims(x)) -> permute_dims(x)"""
    inner = node.inputs[0]
    if inner.op is not PERMUTE_DIMS:
        return None
    first = inner.attr("axes")
    axes = tuple(first[k] for k in node.attr("axes"))
    return graph.add(PERMUTE_DIMS, inner.inputs, {"axes": axes})


@real
def _permute_lower(i: Index, out: Spec, x: Reader, *, axes: Shape) -> Expr:
    return x([i[k] for k in _inverse(axes)])


PERMUTE_DIMS = Op(
    "permute_dims",
    infer=_permute_infer,
    kernel=lambda x, axes: x.transpose(axes),
    vjp=lambda g, y, x, axes: (PERMUTE_DIMS(g, axes=_inverse(axes)),),
    lower=_permute_lower,
    simplify=(_permute_identity, _permute_permute),
    batch=batch.permuted,
    arguments=("axes",),
    view=True,
)


@view(PERMUTE_DIMS)
def permute_dims(x: Any, axes: Sequence[int]) -> Tensor:
    """`x` with its axes in another order: axis k of the result is axis `axes[k]` of `x`."""
    x = convert(x)
    return PERMUTE_DIMS(x, axes=rules.normalize_axes(tuple(axes), x.ndim, "permute_dims"))


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """`x` with its axes in the order of `axes`, by default reversed."""
    x = convert(x)
    return permute_dims(x, tuple(range(x.ndim))[::-1] if axes is None else axes)


def swapaxes(x: Any, axis1: int, axis2: int) -> Tensor:
    """`x` with two axes exchanged."""
    x = convert(x)
    a, b = (rules.normalize_axes(k, x.ndim, "swapaxes")[0] for k in (axis1, axis2))
    axes = list(range(x.ndim))
    axes[a], axes[b] = b, a
    return PERMUTE_DIMS(x, axes=tuple(axes))


def matrix_transpose(x: Any) -> Tensor:
    """`x`, of at least two axes, with the last two exchanged."""
    x = convert(x)
    if x.ndim < 2:
        raise ShapeError(f"matrix_transpose: needs at least 2 axes, got {x.spec}")
    return swapaxes(x, -1, -2)


def moveaxis(x: Any, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """`x` with the axes `source` moved to the positions `destination`, the others in order."""
    x = convert(x)
    src = rules.normalize_axes(source, x.ndim, "moveaxis")
    dst = rules.normalize_axes(destination, x.ndim, "moveaxis")
    if len(src) != len(dst):
        raise ShapeError(f"moveaxis: {len(src)} source axes but {len(dst)} destinations")
    rest = iter(k for k in range(x.ndim) if k not in src)
    at = dict(zip(dst, src, strict=True))
    return PERMUTE_DIMS(x, axes=tuple(at[k] if k in at else next(rest) for k in range(x.ndim)))


# --- broadcast_to -------------------------------------------------------------------------------


def _broadcast_infer(x: Spec, *, shape: Shape) -> Spec:
    tail = shape[len(shape) - x.ndim :]
    if x.ndim > len(shape) or any(n not in (1, m) for n, m in zip(x.shape, tail, strict=True)):
        raise ShapeError(f"broadcast_to: {x} does not broadcast to {list(shape)}")
    if min(shape, default=0) < 0:
        raise ShapeError(f"a size is negative in the shape {list(shape)}")
    return x.with_shape(shape)


def _broadcast_kernel(x: np.ndarray[Any, Any], shape: Shape) -> np.ndarray[Any, Any]:
    # a real array, not a view with strides of 0: NumPy's matmul and the native entry want one
    if x.size == 1 and not any(x.tobytes()):
        return np.zeros(shape, x.dtype)  # takes no memory until something is written there
    out = np.empty(shape, x.dtype)
    out[...] = x
    return out


BROADCAST_TO = Op(
    "broadcast_to",
    infer=_broadcast_infer,
    kernel=_broadcast_kernel,
    vjp=lambda g, y, x, shape: (rules.unbroadcast(g, x.shape),),
    lower=real(lambda i, out, x, shape: x(broadcast_index(i, x.spec.shape))),
    simplify=(unchanged,),
    batch=batch.to_shape,
)


def broadcast_to(x: Any, shape: Any) -> Tensor:
    """`x` repeated along its axes of size 1 and new leading ones up to `shape`.

    Raises:
        ShapeError: an axis has neither size 1 nor the wanted size.
    """
    return BROADCAST_TO(convert(x), shape=to_shape(shape))


def broadcast_arrays(*xs: Any) -> list[Tensor]:
    """All of `xs` broadcast to their common shape."""
    tensors = [convert(x) for x in xs]
    shape = rules.broadcast_shapes("broadcast_arrays", *(x.spec for x in tensors))
    return [BROADCAST_TO(x, shape=shape) for x in tensors]
