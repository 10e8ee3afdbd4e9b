"""Products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Axis, Expr, Reader
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.index import broadcast_index
from dualmode_compiler.spec import Spec, bfloat16

from ..dispatch import product
from ..errors import ShapeError
from ..op import Agreement, Op
from . import batch, reduction, rules, shape
from . import elementwise as ew
from .parts import conj
from .shape import PERMUTE_DIMS, RESHAPE

if TYPE_CHECKING:
    from ..tensor import Tensor


def _rows_inner(x: Spec | Tensor, transposed: bool) -> tuple[int, int]:
    """Sizes of the last two axes of `x`, exchanged if `transposed`."""
    m, n = x.shape[-2:]
    return (n, m) if transposed else (m, n)


def _matmul_infer(a: Spec, b: Spec, *, transpose_a: bool, transpose_b: bool) -> Spec:
    rules.require_kinds("matmul", "iufc", a, b)
    rules.require_one_dtype("matmul", a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(f"matmul: each operand needs at least 2 axes: {a} @ {b}")
    m, inner = _rows_inner(a, transpose_a)
    other, n = _rows_inner(b, transpose_b)
    if inner != other:
        flags = f" (transpose_a={transpose_a}, transpose_b={transpose_b})"
        note = flags if transpose_a or transpose_b else ""
        raise ShapeError(f"matmul: inner sizes differ: {a} @ {b} ({inner} vs {other}){note}")
    rows = a.with_shape(a.shape[:-2]), b.with_shape(b.shape[:-2])
    batch = rules.broadcast_shapes(f"matmul: {a} @ {b}: the batch", *rows)
    return a.with_shape((*batch, m, n))


def _matmul_kernel(a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> Any:
    dtype = a.dtype
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        a, b = a.astype(np.float32), b.astype(np.float32)
    if dtype.name == "bfloat16":
        # to CPUs that multiply bfloat16, subnormal numbers are zeros
        y = _product(_flushed(a), _flushed(b), transpose_a, transpose_b)
        return _flushed(y).astype(dtype)
    return _product(a, b, transpose_a, transpose_b).astype(dtype, copy=False)


def _flushed(x: Any) -> Any:
    return np.where(np.abs(x) < np.finfo(np.float32).smallest_normal, np.float32(0), x)


def _product(a: Any, b: Any, transpose_a: bool, transpose_b: bool) -> Any:
    if transpose_a:
        a = a.swapaxes(-1, -2)
    if transpose_b:
        b = b.swapaxes(-1, -2)
    return np.matmul(a, b)


def _matmul_vjp(
    g: Tensor, y: Tensor, a: Tensor, b: Tensor, *, transpose_a: bool, transpose_b: bool
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """dA = g Bᵀ and dB = Aᵀ g (of the conjugates), with every transpose in the flags."""

    def of_a() -> Tensor:
        if transpose_a:
            da = MATMUL(conj(b), g, transpose_a=transpose_b, transpose_b=True)
        else:
            da = MATMUL(g, conj(b), transpose_a=False, transpose_b=not transpose_b)
        return rules.unbroadcast(da, a.shape)

    def of_b() -> Tensor:
        if transpose_b:
            db = MATMUL(g, conj(a), transpose_a=True, transpose_b=transpose_a)
        else:
            db = MATMUL(conj(a), g, transpose_a=not transpose_a, transpose_b=False)
        return rules.unbroadcast(db, b.shape)

    return of_a, of_b


@shape.real
def _matmul_lower(
    i: Sequence[Expr], out: Spec, a: Reader, b: Reader, *, transpose_a: bool, transpose_b: bool
) -> Expr:
    *batch, row, column = i
    k = Axis(_rows_inner(a.spec, transpose_a)[1])
    left = (k, row) if transpose_a else (row, k)
    right = (column, k) if transpose_b else (k, column)
    x = a([*broadcast_index(batch, a.spec.shape[:-2]), *left])
    y = b([*broadcast_index(batch, b.spec.shape[:-2]), *right])
    x, y = rules.widen(x), rules.widen(y)
    if out.dtype is bfloat16:
        total = expr.reduce("add", [k], expr.apply("flush", x) * expr.apply("flush", y))
        return expr.apply("narrow", total, dtype=bfloat16)
    return expr.cast(expr.reduce("add", [k], x * y), out.dtype)


def _fold_transpose(node: Node, graph: Graph) -> Node | None:
    """matmul(permute_dims(a, ..., -1, -2), b) -> matmul(a, b, transpose_a), and for b."""
    inputs, attrs = list(node.inputs), dict(node.attrs)
    for k, flag in enumerate(("transpose_a", "transpose_b")):
        x = inputs[k]
        n = x.spec.ndim
        if x.op is PERMUTE_DIMS and x.attr("axes") == (*range(n - 2), n - 1, n - 2):
            inputs[k], attrs[flag] = x.inputs[0], not attrs[flag]
    return graph.add(MATMUL, inputs, attrs) if inputs != list(node.inputs) else None


MATMUL = Op(
    "matmul",
    infer=_matmul_infer,
    kernel=_matmul_kernel,
    vjp=_matmul_vjp,
    lower=_matmul_lower,
    simplify=(_fold_transpose,),
    tolerance=Agreement(ulp=1, per_term=1, underflow=2.0**-126),
    batch=batch.matmul,
    arguments=("transpose_a", "transpose_b"),
)


@product(MATMUL)
def matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """The matrix product over the last axis of `a` and the last but one of `b`.

    Args:
        a, b: numeric tensors of at least one axis (bool counts as int32); leading axes broadcast. A
            vector on the left is a row, one on the right a column, and its axis of size 1 is
            dropped from the result.
        transpose_a, transpose_b: take that operand with its last two axes exchanged.

    Raises:
        ShapeError: inner sizes differ, an operand is a scalar, or leading axes do not broadcast.
    """
    a, b = rules.numeric(a, b)
    if a.ndim == 2 and b.ndim == 2:
        return MATMUL(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul: an operand is a scalar: {a.spec} @ {b.spec}; use multiply")
    drop = []
    if a.ndim == 1:
        a, transpose_a = shape.expand_dims(a, 0), False
        drop.append(-2)
    if b.ndim == 1:
        b, transpose_b = shape.expand_dims(b, 1), False
        drop.append(-1)
    fits = a.shape[-1] == b.shape[-1 if transpose_b else -2]
    if b.ndim == 2 and a.ndim > 2 and not transpose_a and fits and a.size:
        # one large product instead of a batch of small ones
        rows = RESHAPE(a, shape=(a.size // a.shape[-1], a.shape[-1]))
        y = MATMUL(rows, b, transpose_a=False, transpose_b=transpose_b)
        y = RESHAPE(y, shape=(*a.shape[:-1], y.shape[-1]))
    else:
        y = MATMUL(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
    return shape.squeeze(y, tuple(drop)) if drop else y


def vecdot(a: Any, b: Any, axis: int = -1) -> Tensor:
    """The sum of products (with complex `a` conjugated) along `axis`; the other axes broadcast."""
    a, b = rules.numeric(a, b)
    y = ew.multiply(conj(a), b)
    return reduction.sum(y, axis=rules.normalize_axes(axis, y.ndim, "vecdot"), dtype=y.dtype)


def outer(a: Any, b: Any) -> Tensor:
    """The products of every element of vector `a` with every one of vector `b`: [n,m]."""
    a, b = rules.numeric(a, b)
    return ew.multiply(RESHAPE(a, shape=(a.size, 1)), RESHAPE(b, shape=(1, b.size)))


def tensordot(a: Any, b: Any, axes: int | Sequence[Sequence[int]] = 2) -> Tensor:
    """The sum of products over pairs of axes.

    Args:
        a, b: numeric tensors.
        axes: two equally long sequences of axes, of `a` and of `b`; or the number n of last axes of
            `a` that pair with the first of `b`, in order.

    Returns:
        A tensor of the axes of `a` that are left, then those of `b`.

    Raises:
        ShapeError: paired axes differ in size.
    """
    a, b = rules.numeric(a, b)
    if isinstance(axes, int):
        axes = (range(a.ndim - axes, a.ndim), range(axes))
    left, right = (
        rules.normalize_axes(tuple(k), x.ndim, "tensordot")
        for k, x in zip(axes, (a, b), strict=True)
    )
    inner = [a.shape[k] for k in left]
    if inner != [b.shape[k] for k in right]:
        raise ShapeError(f"tensordot: axes {left} of {a.spec} do not match {right} of {b.spec}")
    rows = [k for k in range(a.ndim) if k not in left]
    columns = [k for k in range(b.ndim) if k not in right]
    outer_a, outer_b = [a.shape[k] for k in rows], [b.shape[k] for k in columns]
    size = math.prod(inner)
    x = RESHAPE(PERMUTE_DIMS(a, axes=(*rows, *left)), shape=(math.prod(outer_a), size))
    y = RESHAPE(PERMUTE_DIMS(b, axes=(*right, *columns)), shape=(size, math.prod(outer_b)))
    z = MATMUL(x, y, transpose_a=False, transpose_b=False)
    return RESHAPE(z, shape=(*outer_a, *outer_b))
