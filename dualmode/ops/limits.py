"""The larger and the smaller of two values, and values within limits: elementwise.

Functions follow the array API standard 2024.12. Operands broadcast and promote as in arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr

from ..dispatch import binary
from ..op import Op, promote
from . import batch
from .logic import (
    EQUAL,
    GREATER,
    GREATER_EQUAL,
    LESS,
    LESS_EQUAL,
    logical_and,
    logical_not,
    where,
)
from .rules import broadcasting, either, idempotent, numeric, pointwise, unbroadcast

if TYPE_CHECKING:
    from ..tensor import Tensor


def _extreme_vjp(wins: Op) -> Callable[..., Any]:
    """A gradient rule: all goes to the operand that wins over the other, half to each at a tie."""

    def vjp(g: Tensor, z: Tensor, x: Tensor, y: Tensor) -> tuple[Any, Any]:
        def share(a: Tensor, b: Tensor) -> Tensor:
            return unbroadcast(where(wins(a, b), g, where(EQUAL(a, b), g * 0.5, 0)), a.shape)

        return lambda: share(x, y), lambda: share(y, x)

    return vjp


MAXIMUM = Op(
    "maximum",
    infer=broadcasting("maximum"),
    kernel=np.maximum,
    vjp=_extreme_vjp(GREATER),
    lower=either(partial(expr.apply, "maximum"), for_bool="or"),
    simplify=(idempotent,),
    batch=batch.elementwise,
)


@binary(MAXIMUM)
def maximum(x: Any, y: Any) -> Tensor:
    """The larger of `x` and `y`; NaN where either is. A tie splits the gradient evenly."""
    return MAXIMUM(*promote(x, y))


MINIMUM = Op(
    "minimum",
    infer=broadcasting("minimum"),
    kernel=np.minimum,
    vjp=_extreme_vjp(LESS),
    lower=either(partial(expr.apply, "minimum"), for_bool="and"),
    simplify=(idempotent,),
    batch=batch.elementwise,
)


@binary(MINIMUM)
def minimum(x: Any, y: Any) -> Tensor:
    """The smaller of `x` and `y`; NaN where either is. A tie splits the gradient evenly."""
    return MINIMUM(*promote(x, y))


def _clip_vjp(g: Tensor, z: Tensor, x: Tensor, low: Tensor, high: Tensor) -> tuple[Any, ...]:
    def part(mask: Tensor, of: Tensor) -> Tensor:
        return unbroadcast(where(mask, g, 0), of.shape)

    above = GREATER(MAXIMUM(x, low), high)
    return (
        lambda: part(logical_and(GREATER_EQUAL(x, low), LESS_EQUAL(x, high)), x),
        lambda: part(logical_and(LESS(x, low), logical_not(above)), low),
        lambda: part(above, high),
    )


CLIP = Op(
    "clip",
    infer=broadcasting("clip", "iuf"),
    kernel=lambda x, low, high: np.minimum(np.maximum(x, low), high),
    vjp=_clip_vjp,
    lower=pointwise(lambda x, a, b: expr.apply("minimum", expr.apply("maximum", x, a), b)),
    batch=batch.elementwise,
)


def clip(x: Any, min: Any = None, max: Any = None) -> Tensor:
    """`x` limited to min .. max, where None is no limit; `max` wins where min > max.

    The gradient passes to `x` inside the limits and on them, else to the limit.
    """
    (x,) = numeric(x)
    info = np.iinfo(x.dtype.numpy) if x.dtype.is_integer else None
    low = (info.min if info else -math.inf) if min is None else min
    high = (info.max if info else math.inf) if max is None else max
    return CLIP(*promote(x, low, high))
