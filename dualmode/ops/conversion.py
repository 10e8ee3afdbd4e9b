"""Conversion between dtypes, and ops that give a tensor as it is: elementwise, without arithmetic.

Functions follow the array API standard 2024.12.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler import spec as specs
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.spec import DType, Spec

from ..errors import DTypeError
from ..op import Op, convert
from . import batch
from .parts import real
from .rules import keeps, pointwise

if TYPE_CHECKING:
    from ..tensor import Tensor


def _cast_infer(x: Spec, *, dtype: DType) -> Spec:
    if x.dtype.is_complex and dtype.kind not in "cb":
        raise DTypeError(f"cast: {x} to {dtype} would drop the imaginary part; use dm.real(x)")
    return Spec(x.shape, dtype)


def _cast_kernel(x: np.ndarray[Any, Any], dtype: DType) -> np.ndarray[Any, Any]:
    if x.dtype.kind == "c" and dtype.kind not in "cb":
        raise TypeError("cast: complex to real")
    if not dtype.is_integer or x.dtype.kind in "biu":
        return x.astype(dtype.numpy)
    # out of range values are undefined in C and differ between machines: saturate, NaN to 0
    wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
    info = np.iinfo(dtype.numpy)
    low, high = float(info.min), float(info.max)
    inside = (wide >= low) & (wide < high)
    limit = np.where(wide >= high, info.max, np.where(wide < low, info.min, 0))
    whole = np.where(inside, wide, 0).astype(dtype.numpy)
    return np.where(inside, whole, limit.astype(dtype.numpy))


def _cast_again(node: Node, graph: Graph) -> Node | None:
    """cast(cast(x)) --> cast(x) where the inner cast keeps every value; to its own dtype --> x"""
    x, dtype = node.inputs[0], node.spec.dtype
    if x.spec is node.spec:
        return x
    if x.op is not CAST:
        return None
    first, middle = x.inputs[0].spec.dtype, x.spec.dtype
    exact = first.kind == middle.kind and specs.promote(first, middle) is middle
    return graph.add(CAST, x.inputs, {"dtype": dtype}, node.site, node.spec) if exact else None


def _cast_vjp(g: Tensor, z: Tensor, x: Tensor, *, dtype: DType) -> tuple[Tensor | None]:
    if not (x.dtype.is_inexact and dtype.is_inexact):
        return (None,)
    return (CAST(g if x.dtype.is_complex else real(g), dtype=x.dtype),)


CAST = Op(
    "cast",
    infer=_cast_infer,
    kernel=_cast_kernel,
    vjp=_cast_vjp,
    lower=pointwise(lambda a, dtype: expr.cast(a, dtype)),
    simplify=(_cast_again,),
    batch=batch.elementwise,
)


def cast(x: Any, dtype: Any) -> Tensor:
    """`x` as `dtype` (a DType, a name, a Python or NumPy type).

    Floating to integer drops the fraction and saturates; NaN gives 0. To bool: whether x != 0.

    Raises:
        DTypeError: `x` is complex, `dtype` is not (nor bool); use `real` or `abs`.
    """
    x, dtype = convert(x), specs.dtype(dtype)
    return x if x.dtype is dtype and not x.weak else CAST(x, dtype=dtype)


astype = cast


def strong(x: Any) -> Tensor:
    """`x` as a tensor; a traced Python number takes the dtype that it has by itself."""
    x = convert(x)
    return CAST(x, dtype=specs.default(x.dtype)) if x.weak else x


def _identity_is_nothing(node: Node, graph: Graph) -> Node | None:
    """identity(x) --> x"""
    return keeps(node.inputs[0], node)


IDENTITY = Op(
    "identity",
    infer=lambda x: x,
    kernel=lambda x: x,
    vjp=lambda g, z, x: (g,),
    lower=lambda i, out, x: x(i),
    simplify=(_identity_is_nothing,),
    batch=batch.elementwise,
)


def identity(x: Any) -> Tensor:
    """`x`."""
    return IDENTITY(convert(x))


STOP_GRADIENT = Op(
    "stop_gradient",
    infer=lambda x: x,
    kernel=lambda x: x,
    lower=lambda i, out, x: x(i),
    batch=batch.elementwise,
)


def stop_gradient(x: Any) -> Tensor:
    """`x`, through which no gradient flows back."""
    return STOP_GRADIENT(convert(x))


# the value of a variable, which may have been assigned since its start: `source`, of the same spec,
# stands for the variable itself, to which gradients go
READ_VARIABLE = Op(
    "read_variable",
    infer=lambda x, source: x,
    kernel=lambda x, source: x,
    vjp=lambda g, y, x, source: (None, g),
    lower=lambda i, out, x, source: x(i),
    simplify=(_identity_is_nothing,),
    batch=batch.leading,
)
