"""Reductions over axes: sums, products, extremes, positions, statistics.

All take `axis` (None for all axes, an int, or a tuple of ints; negative ones count from the end)
and `keepdims`. An axis out of range or given twice raises ShapeError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler import spec as specs
from dualmode_compiler.expr import Expr, Reader
from dualmode_compiler.spec import DType, Spec

from ..dispatch import along
from ..errors import ShapeError
from ..op import Agreement, Op, convert
from . import batch, rules
from .conversion import astype
from .elementwise import square, subtract
from .logic import EQUAL, where
from .math import sqrt
from .shape import BROADCAST_TO, PERMUTE_DIMS, RESHAPE
from .slicing import PAD, SLICE

if TYPE_CHECKING:
    from ..tensor import Tensor

Array = np.ndarray[Any, Any]
Axes = tuple[int, ...]
Axis = int | tuple[int, ...] | None

SUMMED = Agreement(ulp=4, per_term=1)


def _axes(x: Tensor, axis: Axis, name: str) -> Axes:
    return tuple(sorted(rules.normalize_axes(axis, x.ndim, name)))


def _infer(
    name: str, kinds: str = "biufc", result: DType | None = None, empty: bool = True
) -> Callable[..., Spec]:
    """Inference for a reduction to dtype `result`; without `empty`, some element is needed."""

    def infer(x: Spec, *, axis: Axes, keepdims: bool) -> Spec:
        rules.require_kinds(name, kinds, x)
        if not empty and 0 in (x.shape[k] for k in axis):
            raise ShapeError(f"{name}: no elements to choose from in {x} along axis {axis}")
        return Spec(rules.reduced_shape(x.shape, axis, keepdims), result or x.dtype)

    return infer


# --- sum, mean, prod ----------------------------------------------------------------------------


def wide(x: Array) -> Any:
    """The dtype in which NumPy sums and products of `x` are formed."""
    return np.float32 if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x.dtype


def _spread(g: Tensor, x: Tensor, axis: Axes, keepdims: bool) -> Tensor:
    """`g` of the reduced shape, repeated to the shape of `x`."""
    if axis != tuple(range(len(axis))):  # those in front are put back by broadcasting
        g = rules.keep_axes(g, axis, keepdims)
    return g if g.shape == x.shape else BROADCAST_TO(g, shape=x.shape)


def _sum_kernel(x: Array, axis: Axes, keepdims: bool) -> Any:
    total = np.add.reduce(x, axis=axis, dtype=wide(x), keepdims=keepdims)
    return total if total.dtype == x.dtype else total.astype(x.dtype)


SUM = Op(
    "sum",
    infer=_infer("sum", "iufc"),
    kernel=_sum_kernel,
    vjp=lambda g, y, x, axis, keepdims: (_spread(g, x, axis, keepdims),),
    lower=rules.reduced("add"),
    tolerance=SUMMED,
    batch=batch.along_axes,
    arguments=("axis", "keepdims"),
    along="f",
)


def summable(x: Any, dtype: Any) -> Tensor:
    """`x` as `dtype`, or in the type that its sums have: int64 and uint64 for integers."""
    x = convert(x)
    if dtype is not None:
        return astype(x, dtype)
    if x.dtype.is_inexact and not x.weak:
        return x
    wide = {"u": specs.uint64, "b": specs.int64, "i": specs.int64}
    return astype(x, wide.get(x.dtype.kind, specs.float32))


@along(SUM, None)
def sum(x: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
    """The sum of elements; of none, 0. Bool and integers sum as int64, unsigned ones as uint64.

    Args:
        x: any array.
        axis, keepdims: see the module.
        dtype: convert `x` to it first; the result has it.
    """
    x = summable(x, dtype)
    return SUM(x, axis=_axes(x, axis, "sum"), keepdims=keepdims)


def _count(x: Any, axis: Axes) -> int:
    n = 1
    for k in axis:
        n *= x.shape[k]
    return n


def _mean_kernel(x: Array, axis: Axes, keepdims: bool) -> Any:
    total = np.add.reduce(x, axis=axis, dtype=wide(x), keepdims=keepdims)
    return (total / total.dtype.type(_count(x, axis))).astype(x.dtype)


def _mean_lower(i: Sequence[Expr], out: Spec, x: Reader, *, axis: Axes, keepdims: bool) -> Any:
    if out.dtype.is_complex:
        return None
    bound, index = rules.reduction_axes(i, x.spec.shape, axis, keepdims)
    total = expr.reduce("add", bound, rules.widen(x(index)))
    return expr.cast(total / _count(x.spec, axis), out.dtype)


MEAN = Op(
    "mean",
    infer=_infer("mean", "fc"),
    kernel=_mean_kernel,
    vjp=lambda g, y, x, axis, keepdims: (_spread(g / _count(x, axis), x, axis, keepdims),),
    lower=_mean_lower,
    tolerance=SUMMED,
    batch=batch.along_axes,
    arguments=("axis", "keepdims"),
    along="f",
)


@along(MEAN, None)
def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean of elements; of none, NaN. Integers become float32."""
    x = rules.inexact(x)
    return MEAN(x, axis=_axes(x, axis, "mean"), keepdims=keepdims)


def _prod_kernel(x: Array, axis: Axes, keepdims: bool) -> Any:
    total = np.multiply.reduce(x, axis=axis, dtype=wide(x), keepdims=keepdims)
    return total if total.dtype == x.dtype else total.astype(x.dtype)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of a matrix along axis 0, the second filled up with ones."""
    n, m = x.shape
    h = (n + 1) // 2
    first = SLICE(x, start=(0, 0), stop=(h, m), step=(1, 1))
    second = SLICE(x, start=(h, 0), stop=(n, m), step=(1, 1))
    return first, PAD(second, low=(0, 0), high=(2 * h - n, 0), interior=(0, 0), value=1)


def _prod_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: Axes, keepdims: bool) -> tuple[Tensor]:
    # products of all the other elements without a division, so zeros are harmless: multiply
    # halves pairwise up to one product, then hand every factor the product of its partners
    rest = tuple(k for k in range(x.ndim) if k not in axis)
    moved = PERMUTE_DIMS(x, axes=(*axis, *rest))
    n = _count(x, axis)
    if n == 0:
        return (_spread(g, x, axis, keepdims),)
    level = RESHAPE(moved, shape=(n, x.size // n))
    levels = []
    while level.shape[0] > 1:
        levels.append((level.shape[0], *_halves(level)))
        level = levels[-1][1] * levels[-1][2]
    g = RESHAPE(g, shape=(1, x.size // n))
    for size, first, second in reversed(levels):
        g = _stack(g * second, g * first, size)
    back = tuple(int(k) for k in np.argsort((*axis, *rest)))
    return (PERMUTE_DIMS(RESHAPE(g, shape=moved.shape), axes=back),)


def _stack(first: Tensor, second: Tensor, rows: int) -> Tensor:
    """The first `rows` rows of the two matrices on top of each other."""
    h, m = first.shape
    below = SLICE(second, start=(0, 0), stop=(rows - h, m), step=(1, 1))
    parts = ((first, 0, rows - h), (below, h, 0))
    top, bottom = (
        PAD(p, low=(low, 0), high=(high, 0), interior=(0, 0), value=0) for p, low, high in parts
    )
    return top + bottom


PROD = Op(
    "prod",
    infer=_infer("prod", "iufc"),
    kernel=_prod_kernel,
    vjp=_prod_vjp,
    lower=rules.reduced("mul"),
    tolerance=SUMMED,
    batch=batch.along_axes,
    arguments=("axis", "keepdims"),
    along="f",
)


@along(PROD, None)
def prod(x: Any, axis: Axis = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
    """The product of elements; of none, 1. Dtypes as for `sum`; the gradient is right at zeros."""
    x = summable(x, dtype)
    return PROD(x, axis=_axes(x, axis, "prod"), keepdims=keepdims)


# --- extremes and positions ---------------------------------------------------------------------


def _extreme_vjp(g: Tensor, y: Tensor, x: Tensor, *, axis: Axes, keepdims: bool) -> tuple[Tensor]:
    y, g = (rules.keep_axes(t, axis, keepdims) for t in (y, g))
    best = EQUAL(x, y)
    ties = SUM(astype(best, x.dtype), axis=axis, keepdims=True)
    return (where(best, g / ties, 0),)


def _extreme(name: str, kernel: Callable[..., Any], kind: str, for_bool: str) -> Op:
    def lower(i: Sequence[Expr], out: Spec, x: Reader, **attrs: Any) -> Any:
        return rules.reduced(for_bool if out.dtype.kind == "b" else kind)(i, out, x, **attrs)

    return Op(
        name,
        infer=_infer(name, empty=False),
        kernel=lambda x, axis, keepdims: kernel(x, axis=axis, keepdims=keepdims),
        vjp=_extreme_vjp,
        lower=lower,
        batch=batch.along_axes,
        arguments=("axis", "keepdims"),
        along="biuf",
    )


MAX = _extreme("max", np.maximum.reduce, "maximum", for_bool="or")
MIN = _extreme("min", np.minimum.reduce, "minimum", for_bool="and")


@along(MAX, None)
def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element; NaN if any is NaN. Ties share the gradient evenly.

    Raises:
        ShapeError: there are no elements.
    """
    x = convert(x)
    return MAX(x, axis=_axes(x, axis, "max"), keepdims=keepdims)


@along(MIN, None)
def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element; NaN if any is NaN. Ties share the gradient evenly.

    Raises:
        ShapeError: there are no elements.
    """
    x = convert(x)
    return MIN(x, axis=_axes(x, axis, "min"), keepdims=keepdims)


def _position(name: str, kernel: Callable[..., Any]) -> Op:
    def compute(x: Array, axis: Axes, keepdims: bool) -> Any:
        if len(axis) == 1:
            return kernel(x, axis=axis[0], keepdims=keepdims)
        return kernel(x, keepdims=keepdims) if x.ndim else np.asarray(kernel(x))

    def lower(i: Sequence[Expr], out: Spec, x: Reader, *, axis: Axes, keepdims: bool) -> Any:
        if x.spec.dtype.is_complex:
            return None
        bound, index = rules.reduction_axes(i, x.spec.shape, axis, keepdims)
        return expr.reduce(name, bound, rules.widen(x(index)))

    return Op(
        name,
        infer=_infer(name, result=specs.int64, empty=False),
        kernel=compute,
        lower=lower,
        batch=batch.position,
        arguments=("axis", "keepdims"),
        along="biuf",
    )


ARGMAX = _position("argmax", np.argmax)
ARGMIN = _position("argmin", np.argmin)


@along(ARGMAX, None)
def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position (int64) of the first largest element, or of the first NaN, along `axis`.

    Without `axis`, the position in row-major order among all elements.

    Raises:
        ShapeError: there are no elements.
    """
    x = convert(x)
    return ARGMAX(x, axis=_axes(x, axis, "argmax"), keepdims=keepdims)


@along(ARGMIN, None)
def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position (int64) of the first smallest element, or of the first NaN; see `argmax`."""
    x = convert(x)
    return ARGMIN(x, axis=_axes(x, axis, "argmin"), keepdims=keepdims)


def _quantifier(name: str, kernel: Callable[..., Any], kind: str) -> Op:
    return Op(
        name,
        infer=_infer(name, "b"),
        kernel=lambda x, axis, keepdims: kernel(x, axis=axis, keepdims=keepdims),
        lower=rules.reduced(kind),
        batch=batch.along_axes,
        arguments=("axis", "keepdims"),
        along="b",
    )


ANY = _quantifier("any", np.logical_or.reduce, "or")
ALL = _quantifier("all", np.logical_and.reduce, "and")


@along(ANY, None)
def any(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether any element is true (not zero): bool; of none, False."""
    x = astype(x, specs.bool_)
    return ANY(x, axis=_axes(x, axis, "any"), keepdims=keepdims)


@along(ALL, None)
def all(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements are true (not zero): bool; of none, True."""
    x = astype(x, specs.bool_)
    return ALL(x, axis=_axes(x, axis, "all"), keepdims=keepdims)


# --- statistics ---------------------------------------------------------------------------------


def var(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The mean squared distance from the mean, divided by n - `correction` instead of n."""
    x = rules.inexact(x)
    axes = _axes(x, axis, "var")
    n = _count(x, axes)
    squares = square(subtract(x, MEAN(x, axis=axes, keepdims=True)))
    if not correction:
        return MEAN(squares, axis=axes, keepdims=keepdims)
    return SUM(squares, axis=axes, keepdims=keepdims) / (n - correction)


def std(x: Any, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """The square root of `var`. Where it is 0, so is its gradient."""
    v = var(x, axis, correction, keepdims)
    spread = v > 0
    return where(spread, sqrt(where(spread, v, 1)), v)
