"""Layer normalization as one op: one pass over each row while it stays in cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Axis, Expr, Reader
from dualmode_compiler.spec import Spec

from ..errors import ShapeError
from ..op import Agreement, Op, alike, convert
from . import batch, rules
from .creation import ones, zeros
from .elementwise import square
from .math import rsqrt
from .reduction import MEAN

if TYPE_CHECKING:
    from ..tensor import Tensor

Array = np.ndarray[Any, Any]


def _infer(x: Spec, scale: Spec, offset: Spec, *, epsilon: float) -> Spec:
    rules.require_kinds("layer_norm", "f", x, scale, offset)
    rules.require_one_dtype("layer_norm", x, scale, offset)
    if not x.shape:
        raise ShapeError(f"layer_norm: it is over the last axis, and {x} has none")
    for what, y in (("scale", scale), ("offset", offset)):
        if y.shape != x.shape[-1:]:
            raise ShapeError(f"layer_norm: the {what} of {x} is [{x.shape[-1]}], not {y}")
    return x


@rules.in_float32
def _kernel(x: Array, scale: Array, offset: Array, epsilon: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return centred * (1 / np.sqrt(variance + x.dtype.type(epsilon))) * scale + offset


def _lower(
    i: Sequence[Expr], out: Spec, x: Reader, scale: Reader, offset: Reader, *, epsilon: float
) -> Expr:
    *outer, column = i
    n = out.shape[-1]

    def mean(of: Any) -> Expr:
        r = Axis(n)
        return expr.reduce("add", [r], of(rules.widen(x([*outer, r])))) / n

    first = mean(lambda e: e)
    variance = mean(lambda e: (e - first) * (e - first))
    inverse = 1 / expr.apply("sqrt", variance + epsilon)
    normal = (rules.widen(x(i)) - first) * inverse
    y = normal * rules.widen(scale([column])) + rules.widen(offset([column]))
    return expr.cast(y, out.dtype)


def _vjp(
    g: Tensor, y: Tensor, x: Tensor, scale: Tensor, offset: Tensor, *, epsilon: float
) -> tuple[Any, ...]:
    def mean(of: Tensor) -> Tensor:
        return MEAN(of, axis=(x.ndim - 1,), keepdims=True)

    centred = x - mean(x)
    inverse = rsqrt(mean(square(centred)) + epsilon)
    normal = centred * inverse

    def of_x() -> Tensor:
        slope = g * scale
        return inverse * (slope - mean(slope) - normal * mean(slope * normal))

    return (
        of_x,
        lambda: rules.unbroadcast(g * normal, scale.shape),
        lambda: rules.unbroadcast(g, offset.shape),
    )


LAYER_NORM = Op(
    "layer_norm",
    infer=_infer,
    kernel=_kernel,
    vjp=_vjp,
    lower=_lower,
    tolerance=Agreement(ulp=8, per_term=1),
    batch=batch.normalized,
    rows=("row", "shared", "shared", "row"),
)


def layer_norm(x: Any, scale: Any = None, offset: Any = None, epsilon: float = 1e-5) -> Tensor:
    """`(x - mean) / sqrt(variance + epsilon) * scale + offset` over the last axis (Ba, Kiros and
    Hinton 2016), in the shape of `x`.

    Args:
        x: floating [..., n].
        scale, offset: [n], in the dtype of `x`; ones and zeros unless given.
        epsilon: keeps the divisor away from 0.

    Raises:
        ShapeError: `x` is a scalar, or the others are not of the size of its last axis.
        DTypeError: `x` is complex.
    """
    if not (alike((x, scale, offset)) and x.dtype.is_floating):
        x = rules.floating(x, "layer_norm")
        last = x.shape[-1:]
        scale = ones(last, x.dtype) if scale is None else convert(scale, x.dtype)
        offset = zeros(last, x.dtype) if offset is None else convert(offset, x.dtype)
    return LAYER_NORM(x, scale, offset, epsilon=float(epsilon))
