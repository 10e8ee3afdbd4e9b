"""Arrays from nothing: constants and ranges.

`full` and its kin are a scalar constant that is broadcast, so that compiled code folds them into
their users; everything with a pattern starts from `arange`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler import spec as specs
from dualmode_compiler.expr import Expr
from dualmode_compiler.spec import DType, Spec

from .. import sizes
from ..errors import ShapeError
from ..op import Op, convert, promote
from . import conversion, logic
from . import elementwise as ew
from .rules import no_gradient
from .shape import BROADCAST_TO, RESHAPE, expand_dims, real, to_shape

if TYPE_CHECKING:
    from ..tensor import Tensor


# --- from values --------------------------------------------------------------------------------


def asarray(x: Any, dtype: Any = None) -> Tensor:
    """`x` as a tensor.

    Args:
        x: a tensor, a variable, a NumPy array, anything with `__array__` or `__dlpack__`, a Python
            number or nested lists of them. Arrays keep their dtype; Python numbers become float32,
            int32 or bool.
        dtype: the dtype of the result.
    """
    tensor = convert(x, None if dtype is None else specs.dtype(dtype))
    return convert(tensor, specs.default(tensor.dtype)) if tensor.weak else tensor


# --- full ---------------------------------------------------------------------------------------


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """A tensor of `shape` whose elements all equal `fill_value`, a number or a scalar tensor."""
    return BROADCAST_TO(asarray(fill_value, dtype), shape=to_shape(shape))


def zeros(shape: Any, dtype: Any = specs.float32) -> Tensor:
    """A tensor of zeros."""
    return full(shape, 0.0, dtype)


def ones(shape: Any, dtype: Any = specs.float32) -> Tensor:
    """A tensor of ones."""
    return full(shape, 1.0, dtype)


def empty(shape: Any, dtype: Any = specs.float32) -> Tensor:
    """A tensor of `shape`; tensors are immutable, so it has a value: zeros."""
    return full(shape, 0.0, dtype)


def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """A tensor of the shape (and dtype) of `x` whose elements all equal `fill_value`."""
    x = convert(x)
    return full(x.shape, fill_value, x.dtype if dtype is None else dtype)


def zeros_like(x: Any, dtype: Any = None) -> Tensor:
    """Zeros of the shape (and dtype) of `x`."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: Any = None) -> Tensor:
    """Ones of the shape (and dtype) of `x`."""
    return full_like(x, 1, dtype)


def empty_like(x: Any, dtype: Any = None) -> Tensor:
    """Zeros of the shape (and dtype) of `x`."""
    return full_like(x, 0, dtype)


# --- ranges -------------------------------------------------------------------------------------


def _arange_infer(*, start: float, step: float, size: int, dtype: DType) -> Spec:
    if size < 0:
        raise ShapeError(f"arange: a negative number of elements, {size}")
    return Spec((size,), dtype)


def _arange_kernel(start: float, step: float, size: int, dtype: DType) -> np.ndarray[Any, Any]:
    work = np.float64 if dtype.is_inexact else np.int64
    return (np.arange(size, dtype=work) * work(step) + work(start)).astype(dtype.numpy)


@real
def _arange_lower(
    i: Sequence[Expr], out: Spec, *, start: float, step: float, size: int, dtype: DType
) -> Expr:
    work = specs.float64 if dtype.is_floating else specs.int64
    position = expr.cast(i[0], work)
    return expr.cast(position * expr.const(step, work) + expr.const(start, work), dtype)


# element k is start + k * step, formed in float64 or int64 and then converted
ARANGE = Op(
    "arange",
    infer=_arange_infer,
    kernel=_arange_kernel,
    vjp=no_gradient,
    lower=_arange_lower,
)


def _number(x: Any) -> int | float:
    if isinstance(x, int | float):
        return x
    return float(x) if convert(x).dtype.is_floating else int(x)


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """The numbers from `start` up to but without `stop`, in steps of `step`; one axis.

    With one argument they run from 0 to it. The dtype is int32 if all arguments are integers, else
    float32, unless given.

    Raises:
        ShapeError: `step` is 0.
        OverflowError: a number does not fit into the integer dtype.
    """
    if stop is None:
        start, stop = 0, start
    a, b, s = _number(start), _number(stop), _number(step)
    if s == 0:
        raise ShapeError("arange: step is 0")
    if dtype is None:
        integral = all(isinstance(x, int) for x in (a, b, s))
        kind = specs.int32 if integral else specs.float32
    else:
        kind = specs.dtype(dtype)
    if isinstance(a, int) and isinstance(b, int) and isinstance(s, int):
        size = sizes.follow("range length", a, b, s)
    else:
        size = max(math.ceil((b - a) / s), 0)
    if kind.is_integer and size:
        limits = np.iinfo(kind.numpy)
        for x in (a, a + (size - 1) * s):
            if not limits.min <= x <= limits.max:
                raise OverflowError(f"arange: {x} does not fit into {kind}; give a wider dtype")
    return ARANGE(start=a, step=s, size=size, dtype=kind)


def linspace(
    start: Any, stop: Any, num: int, dtype: Any = specs.float32, endpoint: bool = True
) -> Tensor:
    """`num` numbers in equal steps from `start` to `stop` (inclusive, unless `endpoint` is False).

    Returns:
        A tensor of one axis. The last element is exactly `stop` if `endpoint`.
    """
    a, b, num = sizes.floating(start), sizes.floating(stop), sizes.index(num)
    step = (b - a) / max(num - 1 if endpoint else num, 1)
    y = ARANGE(start=a, step=step, size=num, dtype=specs.float64)
    if endpoint and num > 1:
        position = ARANGE(start=0, step=1, size=num, dtype=specs.int64)
        y = logic.where(logic.equal(position, num - 1), b, y)
    return conversion.cast(y, dtype)


# --- patterns -----------------------------------------------------------------------------------


def _diagonal(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Row numbers [rows,1] and column numbers [columns]."""
    rows, columns = sizes.index(rows), sizes.index(columns)
    row = ARANGE(start=0, step=1, size=rows, dtype=specs.int32)
    return expand_dims(row, 1), ARANGE(start=0, step=1, size=columns, dtype=specs.int32)


def eye(n_rows: int, n_cols: int | None = None, k: int = 0, dtype: Any = specs.float32) -> Tensor:
    """A matrix with ones on diagonal `k` (above the main one if positive) and zeros elsewhere."""
    row, column = _diagonal(n_rows, n_rows if n_cols is None else n_cols)
    return conversion.cast(logic.equal(ew.add(row, k), column), dtype)


def tri(n_rows: int, n_cols: int | None = None, k: int = 0, dtype: Any = specs.float32) -> Tensor:
    """A matrix with ones at and below diagonal `k` and zeros above."""
    row, column = _diagonal(n_rows, n_rows if n_cols is None else n_cols)
    return conversion.cast(logic.less_equal(column, ew.add(row, k)), dtype)


def _lower_triangle(x: Tensor, k: int, name: str) -> Tensor:
    if x.ndim < 2:
        raise ShapeError(f"{name}: needs at least 2 axes, got {x.spec}")
    return tri(*x.shape[-2:], k=k, dtype=specs.bool_)


def tril(x: Any, k: int = 0) -> Tensor:
    """`x` (of at least two axes) with zeros above diagonal `k` of its last two axes."""
    x = convert(x)
    return logic.where(_lower_triangle(x, k, "tril"), x, zeros((), x.dtype))


def triu(x: Any, k: int = 0) -> Tensor:
    """`x` (of at least two axes) with zeros below diagonal `k` of its last two axes."""
    x = convert(x)
    return logic.where(_lower_triangle(x, k - 1, "triu"), zeros((), x.dtype), x)


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Tensor]:
    """Coordinate matrices from coordinate vectors.

    Args:
        arrays: tensors of at most one axis.
        indexing: "ij" for matrix order, "xy" for Cartesian order (the first two axes swapped).

    Raises:
        ShapeError: an array has more than one axis.
        ValueError: `indexing` is neither "xy" nor "ij".
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing is 'xy' or 'ij', not {indexing!r}")
    xs = promote(*arrays) if arrays else ()
    for x in xs:
        if x.ndim > 1:
            raise ShapeError(f"meshgrid: takes vectors, got {x.spec}")
    order = list(range(len(xs)))
    if indexing == "xy" and len(xs) > 1:
        order[:2] = 1, 0
    sizes = [0] * len(xs)
    for k, x in zip(order, xs, strict=True):
        sizes[k] = x.size
    out = []
    for k, x in zip(order, xs, strict=True):
        column = RESHAPE(x, shape=tuple(x.size if j == k else 1 for j in range(len(xs))))
        out.append(BROADCAST_TO(column, shape=tuple(sizes)))
    return out
