"""Cross-entropy of a softmax with class labels, as one op: the last step of most classifiers.

Kernels and lower rules share the shift of `softmax`. A label outside of the classes gives NaN, in
the loss and in its gradients of any order, as TensorFlow's op of the same name does on GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Axis, Expr, Reader
from dualmode_compiler.spec import Spec, int64

from ..dispatch import rows
from ..errors import DTypeError, ShapeError
from ..op import Op, convert
from . import batch, rules
from .conversion import cast
from .creation import ones
from .logic import greater_equal, less, logical_and, where
from .reduction import SUM
from .shape import RESHAPE, clamp
from .softmax import TOLERANCE, row_of, softmax

if TYPE_CHECKING:
    from ..tensor import Tensor

Array = np.ndarray[Any, Any]
_NAME = "sparse_softmax_cross_entropy"


def _check(logits: Spec, labels: Spec) -> None:
    rules.require_kinds(_NAME, "f", logits)
    if not labels.dtype.is_integer:
        raise DTypeError(f"{_NAME}: labels are integers, not {labels}")
    if logits.shape[:-1] != labels.shape or not logits.shape:
        raise ShapeError(
            f"{_NAME}: labels {labels} do not fit logits {logits}; "
            "logits have one more axis, the classes, at the end"
        )


def _wide(logits: Array) -> Array:
    return logits.astype(np.float32) if logits.dtype.itemsize == 2 else logits


def _shifted(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Logits less their largest, positions of the labels' classes in them, and which labels fit."""
    x = _wide(logits)
    x = x - np.maximum.reduce(x, axis=-1, keepdims=True, initial=-np.inf)
    classes = x.shape[-1]
    fits = (labels >= 0) & (labels < classes)
    rows = np.arange(labels.size).reshape(labels.shape) * classes
    return x, rows + np.where(fits, labels, 0).astype(np.int64), fits


# --- the loss -----------------------------------------------------------------------------------


def _loss_infer(logits: Spec, labels: Spec) -> Spec:
    _check(logits, labels)
    return Spec(labels.shape, logits.dtype)


def _loss_kernel(logits: Array, labels: Array) -> Array:
    if logits.shape[-1] == 0:
        return np.full(labels.shape, np.nan, logits.dtype)
    x, at, fits = _shifted(logits, labels)
    total = np.log(np.add.reduce(np.exp(x), axis=-1))
    loss = total - x.ravel()[at]
    return np.where(fits, loss, loss.dtype.type(np.nan)).astype(logits.dtype)


def _label(labels: Reader, i: Sequence[Expr], classes: int) -> tuple[Expr, Expr]:
    """The label at `i` as an index, and whether it is one of the classes."""
    label = labels(i)
    index = expr.cast(label, int64)
    inside = expr.apply("lt", index, expr.const(classes, int64))
    if label.dtype.kind == "u" and label.dtype.itemsize == 8:
        inside = expr.apply("lt", label, expr.const(classes, label.dtype))
    return index, expr.apply("and", expr.apply("ge", index, expr.const(0, int64)), inside)


def _loss_lower(i: Sequence[Expr], out: Spec, logits: Reader, labels: Reader) -> Expr:
    classes = logits.spec.shape[-1]
    label, fits = _label(labels, i, classes)
    if classes == 0:
        return expr.const(math.nan, out.dtype)
    row = row_of([*i, Axis(classes)], logits, (len(i),))
    picked = row.read([*i, clamp(label, classes)])
    loss = expr.apply("log", row.total(row.largest)) - (picked - row.largest)
    return expr.cast(expr.select(fits, loss, expr.const(math.nan, loss.dtype)), out.dtype)


SPARSE_SOFTMAX_CROSS_ENTROPY = Op(
    _NAME,
    infer=_loss_infer,
    kernel=_loss_kernel,
    vjp=lambda g, y, logits, labels: (
        SPARSE_SOFTMAX_CROSS_ENTROPY_GRADIENT(logits, g, labels),
        None,
    ),
    lower=_loss_lower,
    tolerance=TOLERANCE,
    batch=batch.leading,
    rows=("row", "one", "one"),
)


@rows(SPARSE_SOFTMAX_CROSS_ENTROPY)
def sparse_softmax_cross_entropy(logits: Any, labels: Any) -> Tensor:
    """-log of the softmax of `logits` at `labels`: floating [..., classes], integer [...] to [...].

    A label outside of 0 .. classes - 1 gives NaN.

    Raises:
        ShapeError: `labels.shape` is not `logits.shape[:-1]`.
        DTypeError: the logits are not floating or the labels not integers.
    """
    logits, labels = rules.floating(logits, _NAME), convert(labels)
    _check(logits.spec, labels.spec)
    return SPARSE_SOFTMAX_CROSS_ENTROPY(logits, labels)


# --- its gradient by the logits -------------------------------------------------------------------


def _gradient_infer(logits: Spec, g: Spec, labels: Spec) -> Spec:
    _check(logits, labels)
    if g is not Spec(labels.shape, logits.dtype):
        raise ShapeError(f"{_NAME}: the gradient {g} of a loss for labels {labels}")
    return logits


def _gradient_kernel(logits: Array, g: Array, labels: Array) -> Array:
    if logits.size == 0:
        return logits.copy()
    x, at, fits = _shifted(logits, labels)
    p = np.exp(x, order="C")  # so that `ravel` is a view, whatever the layout of the logits
    p /= np.add.reduce(p, axis=-1, keepdims=True)
    p.ravel()[at] -= 1
    p *= _wide(g)[..., None]
    if not fits.all():
        p[~fits] = np.nan
    return p.astype(logits.dtype, copy=False)


def _gradient_lower(
    i: Sequence[Expr], out: Spec, logits: Reader, g: Reader, labels: Reader
) -> Expr:
    *outer, j = i
    label, fits = _label(labels, outer, logits.spec.shape[-1])
    row = row_of(i, logits, (len(outer),))
    scale = rules.widen(g(outer))  # what concerns the whole row is computed once for it
    scale = expr.select(fits, scale, expr.const(math.nan, scale.dtype))
    slope = row.share(i, scale)
    return expr.cast(expr.select(expr.apply("eq", label, j), slope - scale, slope), out.dtype)


def _where_fits(x: Tensor, labels: Tensor, classes: int) -> Tensor:
    """`x`, one number for each label, and NaN where that is none of the classes."""
    label = cast(labels, int64)
    fits = logical_and(greater_equal(label, 0), less(label, classes))
    return where(fits, x, math.nan)


def _gradient_vjp(
    u: Tensor, y: Tensor, logits: Tensor, g: Tensor, labels: Tensor
) -> tuple[Any, Any, None]:
    last = (logits.ndim - 1,)

    def by_logits() -> Tensor:
        scale = _where_fits(g, labels, logits.shape[-1])
        p, v = softmax(logits), u * RESHAPE(scale, shape=(*g.shape, 1))
        return p * (v - SUM(v * p, axis=last, keepdims=True))

    def by_g() -> Tensor:
        slope = SPARSE_SOFTMAX_CROSS_ENTROPY_GRADIENT(logits, ones(g.shape, g.dtype), labels)
        return SUM(u * slope, axis=last, keepdims=False)

    return by_logits, by_g, None


SPARSE_SOFTMAX_CROSS_ENTROPY_GRADIENT = Op(
    f"{_NAME}_gradient",
    infer=_gradient_infer,
    kernel=_gradient_kernel,
    vjp=_gradient_vjp,
    lower=_gradient_lower,
    tolerance=TOLERANCE,
    batch=batch.leading,
    rows=("row", "one", "one", "row"),
)
