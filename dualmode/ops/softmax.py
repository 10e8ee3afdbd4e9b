"""softmax, log_softmax and logsumexp, shifted by the largest element so that nothing overflows.

Each is one op: its lower rule holds the reductions inside the elementwise expression, which the
compiler turns into one kernel that passes over a row while it stays in cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Axis, Expr, Reader
from dualmode_compiler.spec import Spec

from ..dispatch import along
from ..op import Agreement, Op
from . import batch, rules
from .logic import equal, where
from .math import exp
from .reduction import SUM

if TYPE_CHECKING:
    from ..tensor import Tensor

Array = np.ndarray[Any, Any]
Axes = tuple[int, ...]

TOLERANCE = Agreement(ulp=8, per_term=1)


def _argument(x: Any, axis: int | Axes | None, name: str) -> tuple[Tensor, Axes]:
    x = rules.floating(x, name)
    return x, tuple(sorted(rules.normalize_axes(axis, x.ndim, name)))


def _largest(x: Array, axis: Axes) -> Array:
    return np.maximum.reduce(x, axis=axis, keepdims=True, initial=-np.inf)


def _same_spec(name: str) -> Callable[..., Spec]:
    def infer(x: Spec, *, axis: Axes) -> Spec:
        rules.require_kinds(name, "f", x)
        return Spec(x.shape, x.dtype)

    return infer


class _Row:
    """The expressions that the three lower rules share, for the row around index `at` of `x`."""

    def __init__(self, x: Reader, bound: list[Axis], index: Sequence[Expr]) -> None:
        self.read = lambda i: rules.widen(x(i))
        self.bound, self.index = bound, index
        self.largest = expr.reduce("maximum", bound, self.read(index))

    def share(self, i: Sequence[Expr], scale: Expr | None = None) -> Expr:
        """The softmax at `i`, times `scale`. One division for each row, then products, which take
        far less time: the sum is at least 1, so that its inverse is as good."""
        total = self.total(self.largest)
        inverse = expr.const(1, total.dtype) / total
        if scale is not None:
            inverse = inverse * scale
        return expr.apply("exp", self.read(i) - self.largest) * inverse

    def total(self, shift: Expr) -> Expr:
        """The sum of `exp(x - shift)` over the row."""
        # with axes of its own: `shift` holds a reduction over `bound` and stands inside of this one
        own = {a: Axis(a.extent) for a in self.bound}
        row = self.read([own.get(e, e) if isinstance(e, Axis) else e for e in self.index])
        return expr.reduce("add", list(own.values()), expr.apply("exp", row - shift))


def row_of(i: Sequence[Expr], x: Reader, axis: Axes) -> _Row:
    """The row along `axis` that element `i` of `x` is in."""
    bound = {k: Axis(x.spec.shape[k]) for k in axis}
    return _Row(x, list(bound.values()), [bound.get(k, e) for k, e in enumerate(i)])


# --- softmax ------------------------------------------------------------------------------------


@rules.in_float32
def _softmax_kernel(x: Array, axis: Axes) -> Array:
    e = np.exp(x - _largest(x, axis))
    e /= np.add.reduce(e, axis=axis, keepdims=True)
    return e


def _softmax_lower(i: Sequence[Expr], out: Spec, x: Reader, *, axis: Axes) -> Expr:
    row = row_of(i, x, axis)
    return expr.cast(row.share(i), out.dtype)


SOFTMAX = Op(
    "softmax",
    infer=_same_spec("softmax"),
    kernel=_softmax_kernel,
    vjp=lambda g, y, x, axis: (y * (g - SUM(g * y, axis=axis, keepdims=True)),),
    lower=_softmax_lower,
    tolerance=TOLERANCE,
    batch=batch.along_axes,
    arguments=("axis",),
    along="f",
)


@along(SOFTMAX, -1, keepdims=False)
def softmax(x: Any, axis: int | Axes | None = -1) -> Tensor:
    """`exp(x) / sum(exp(x))` over `axis` (an int, a tuple, or None for all), in the shape of `x`.

    Raises:
        ShapeError: an axis is out of range or given twice.
        DTypeError: `x` is complex.
    """
    x, axes = _argument(x, axis, "softmax")
    return SOFTMAX(x, axis=axes)


@rules.in_float32
def _log_softmax_kernel(x: Array, axis: Axes) -> Array:
    shifted = x - _largest(x, axis)
    return shifted - np.log(np.add.reduce(np.exp(shifted), axis=axis, keepdims=True))


def _log_softmax_lower(i: Sequence[Expr], out: Spec, x: Reader, *, axis: Axes) -> Expr:
    row = row_of(i, x, axis)
    y = row.read(i) - row.largest - expr.apply("log", row.total(row.largest))
    return expr.cast(y, out.dtype)


LOG_SOFTMAX = Op(
    "log_softmax",
    infer=_same_spec("log_softmax"),
    kernel=_log_softmax_kernel,
    vjp=lambda g, y, x, axis: (g - exp(y) * SUM(g, axis=axis, keepdims=True),),
    lower=_log_softmax_lower,
    tolerance=TOLERANCE,
    batch=batch.along_axes,
    arguments=("axis",),
    along="f",
)


@along(LOG_SOFTMAX, -1, keepdims=False)
def log_softmax(x: Any, axis: int | Axes | None = -1) -> Tensor:
    """`log(softmax(x, axis))`, accurate where the softmax is close to 0 or 1."""
    x, axes = _argument(x, axis, "log_softmax")
    return LOG_SOFTMAX(x, axis=axes)


# --- logsumexp ----------------------------------------------------------------------------------


def _logsumexp_infer(x: Spec, *, axis: Axes, keepdims: bool) -> Spec:
    rules.require_kinds("logsumexp", "f", x)
    return Spec(rules.reduced_shape(x.shape, axis, keepdims), x.dtype)


@rules.in_float32
def _logsumexp_kernel(x: Array, axis: Axes, keepdims: bool) -> Any:
    shift = _largest(x, axis)
    shift = np.where(np.isfinite(shift), shift, x.dtype.type(0))  # no inf - inf
    total = np.log(np.add.reduce(np.exp(x - shift), axis=axis, keepdims=True)) + shift
    return total if keepdims else total.reshape(rules.reduced_shape(x.shape, axis, False))


def _logsumexp_lower(
    i: Sequence[Expr], out: Spec, x: Reader, *, axis: Axes, keepdims: bool
) -> Expr:
    row = _Row(x, *rules.reduction_axes(i, x.spec.shape, axis, keepdims))
    m = row.largest
    finite = expr.apply("lt", expr.apply("abs", m), expr.const(np.inf, m.dtype))
    shift = expr.select(finite, m, expr.const(0, m.dtype))
    return expr.cast(expr.apply("log", row.total(shift)) + shift, out.dtype)


def _logsumexp_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: Axes, keepdims: bool) -> tuple[Tensor]:
    g, y = (rules.keep_axes(t, axis, keepdims) for t in (g, y))
    # of a row of -inf the shares are 0, not exp(-inf + inf)
    return (g * exp(x - where(equal(y, -math.inf), 0, y)),)


LOGSUMEXP = Op(
    "logsumexp",
    infer=_logsumexp_infer,
    kernel=_logsumexp_kernel,
    vjp=_logsumexp_vjp,
    lower=_logsumexp_lower,
    tolerance=TOLERANCE,
    batch=batch.along_axes,
    arguments=("axis", "keepdims"),
    along="f",
)


@along(LOGSUMEXP, None)
def logsumexp(x: Any, axis: int | Axes | None = None, keepdims: bool = False) -> Tensor:
    """`log(sum(exp(x)))` over `axis`, without overflow; of none or only -inf, -inf."""
    x, axes = _argument(x, axis, "logsumexp")
    return LOGSUMEXP(x, axis=axes, keepdims=keepdims)
