"""Elementwise functions: exponentials, trigonometry, rounding, activations.

Names and results follow the array API standard 2024.12, activations the deep learning frameworks'.
All but rounding convert integers and bool to float32. Special values (NaN, infinities, signed
zeros) follow C99 Annex F, as NumPy does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.expr import Expr

from ..dispatch import unary
from ..op import Agreement, Op, convert
from . import batch
from .elementwise import multiply, square
from .errorfunction import erf_kernel
from .logic import where
from .parts import conj
from .rules import (
    broadcasting,
    floating,
    function,
    in_float32,
    inexact,
    inexacts,
    pointwise,
    unbroadcast,
)

if TYPE_CHECKING:
    from ..tensor import Tensor

Array = np.ndarray[Any, Any]
Derivative = Callable[["Tensor", "Tensor"], Any]  # of the result and the argument

ULP4 = Agreement(ulp=4)
ULP8 = Agreement(ulp=8)


def _unary(
    name: str,
    kernel: Callable[..., Any],
    derivative: Derivative,
    lower: Callable[..., Any],
    tolerance: Agreement = ULP4,
    kinds: str = "fc",
) -> Op:
    return Op(
        name,
        infer=broadcasting(name, kinds),
        kernel=kernel,
        vjp=lambda g, y, x: (g * conj(derivative(y, x)),),
        lower=lower,
        tolerance=tolerance,
        batch=batch.elementwise,
    )


def _one(a: Expr) -> Expr:
    return expr.const(1, a.dtype)


# --- exponentials and roots ---------------------------------------------------------------------

EXP = _unary("exp", np.exp, lambda y, x: y, function("exp"))
EXPM1 = _unary("expm1", np.expm1, lambda y, x: y + 1, function("expm1"))
LOG = _unary("log", np.log, lambda y, x: 1 / x, function("log"))
LOG1P = _unary("log1p", np.log1p, lambda y, x: 1 / (1 + x), function("log1p"))


LOG2 = _unary("log2", np.log2, lambda y, x: 1 / (x * math.log(2)), function("log2"))
LOG10 = _unary("log10", np.log10, lambda y, x: 1 / (x * math.log(10)), function("log10"))
SQRT = _unary("sqrt", np.sqrt, lambda y, x: 0.5 / y, function("sqrt"), Agreement())
RSQRT = _unary(
    "rsqrt",
    in_float32(lambda x: 1 / np.sqrt(x)),
    lambda y, x: -0.5 * y / x,
    pointwise(lambda a: _one(a) / expr.apply("sqrt", a)),
    Agreement(),
)
RECIPROCAL = _unary(
    "reciprocal",
    np.reciprocal,
    lambda y, x: -square(y),
    pointwise(lambda a: _one(a) / a),
    Agreement(),
)


@unary(EXP)
def exp(x: Any) -> Tensor:
    """e to the power `x`."""
    return EXP(inexact(x))


@unary(EXPM1)
def expm1(x: Any) -> Tensor:
    """`exp(x) - 1`, accurate near 0."""
    return EXPM1(inexact(x))


@unary(LOG)
def log(x: Any) -> Tensor:
    """The natural logarithm: -inf at 0, NaN below."""
    return LOG(inexact(x))


@unary(LOG1P)
def log1p(x: Any) -> Tensor:
    """`log(1 + x)`, accurate near 0."""
    return LOG1P(inexact(x))


@unary(LOG2)
def log2(x: Any) -> Tensor:
    """The logarithm to base 2."""
    return LOG2(inexact(x))


@unary(LOG10)
def log10(x: Any) -> Tensor:
    """The logarithm to base 10."""
    return LOG10(inexact(x))


@unary(SQRT)
def sqrt(x: Any) -> Tensor:
    """The square root: NaN below 0; the gradient at 0 is infinite."""
    return SQRT(inexact(x))


@unary(RSQRT)
def rsqrt(x: Any) -> Tensor:
    """`1 / sqrt(x)`."""
    return RSQRT(inexact(x))


@unary(RECIPROCAL)
def reciprocal(x: Any) -> Tensor:
    """`1 / x`."""
    return RECIPROCAL(inexact(x))


# --- trigonometric and hyperbolic functions -----------------------------------------------------


SIN = _unary("sin", np.sin, lambda y, x: COS(x), function("sin"))
COS = _unary("cos", np.cos, lambda y, x: -SIN(x), function("cos"))
TAN = _unary("tan", np.tan, lambda y, x: 1 + square(y), function("tan"), ULP8)
ATAN = _unary("atan", np.arctan, lambda y, x: 1 / (1 + square(x)), function("atan"))
SINH = _unary("sinh", np.sinh, lambda y, x: COSH(x), function("sinh"))
COSH = _unary("cosh", np.cosh, lambda y, x: SINH(x), function("cosh"))
TANH = _unary("tanh", np.tanh, lambda y, x: 1 - square(y), function("tanh"))


def _atan2_vjp(g: Tensor, z: Tensor, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    r2 = square(x) + square(y)
    return unbroadcast(g * (x / r2), y.shape), unbroadcast(g * (-y / r2), x.shape)


ATAN2 = Op(
    "atan2",
    infer=broadcasting("atan2", "f"),
    kernel=np.arctan2,
    vjp=_atan2_vjp,
    lower=function("atan2"),
    tolerance=ULP4,
    batch=batch.elementwise,
)


@unary(SIN)
def sin(x: Any) -> Tensor:
    """The sine of `x` radians."""
    return SIN(inexact(x))


@unary(COS)
def cos(x: Any) -> Tensor:
    """The cosine of `x` radians."""
    return COS(inexact(x))


@unary(TAN)
def tan(x: Any) -> Tensor:
    """The tangent of `x` radians."""
    return TAN(inexact(x))


@unary(ATAN)
def atan(x: Any) -> Tensor:
    """The inverse tangent, in radians from -pi/2 to pi/2."""
    return ATAN(inexact(x))


def atan2(y: Any, x: Any) -> Tensor:
    """The angle of the point (x, y), in radians from -pi to pi. Real inputs only."""
    return ATAN2(*inexacts(y, x))


@unary(SINH)
def sinh(x: Any) -> Tensor:
    """The hyperbolic sine."""
    return SINH(inexact(x))


@unary(COSH)
def cosh(x: Any) -> Tensor:
    """The hyperbolic cosine."""
    return COSH(inexact(x))


@unary(TANH)
def tanh(x: Any) -> Tensor:
    """The hyperbolic tangent."""
    return TANH(inexact(x))


# --- rounding -----------------------------------------------------------------------------------


def _rounding(name: str, kernel: Callable[..., Any], function_name: str) -> Op:
    return Op(
        name,
        infer=broadcasting(name, "f"),
        kernel=kernel,
        lower=function(function_name),
        batch=batch.elementwise,
    )


FLOOR = _rounding("floor", np.floor, "floor")
CEIL = _rounding("ceil", np.ceil, "ceil")
TRUNC = _rounding("trunc", np.trunc, "trunc")
ROUND = _rounding("round", np.rint, "rint")


def _rounded(op: Op, x: Any) -> Tensor:
    x = convert(x)
    return op(inexact(x)) if x.dtype.is_inexact else x


def floor(x: Any) -> Tensor:
    """The largest integer that is no greater than `x`, in the dtype of `x`."""
    return _rounded(FLOOR, x)


def ceil(x: Any) -> Tensor:
    """The smallest integer that is no less than `x`, in the dtype of `x`."""
    return _rounded(CEIL, x)


def trunc(x: Any) -> Tensor:
    """`x` without its fraction, in the dtype of `x`."""
    return _rounded(TRUNC, x)


def round(x: Any) -> Tensor:
    """The nearest integer, halves to the even one, in the dtype of `x`."""
    return _rounded(ROUND, x)


# --- activations --------------------------------------------------------------------------------


@in_float32
def _sigmoid_kernel(x: Array) -> Array:
    e = np.exp(-np.abs(x))  # at most 1: no overflow on either side
    return np.where(x < 0, e, x.dtype.type(1)) / (1 + e)


@in_float32
def _softplus_kernel(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


RELU = Op(
    "relu",
    infer=broadcasting("relu", "iuf"),
    kernel=lambda x: np.maximum(x, 0),
    vjp=lambda g, y, x: (where(y > 0, g, 0),),  # by `y`, so that `x` need not be kept
    lower=pointwise(lambda a: expr.apply("maximum", a, expr.const(0, a.dtype))),
    batch=batch.elementwise,
)
SIGMOID = _unary(
    "sigmoid", _sigmoid_kernel, lambda y, x: y * (1 - y), function("sigmoid"), kinds="f"
)
SOFTPLUS = _unary(
    "softplus", _softplus_kernel, lambda y, x: sigmoid(x), function("softplus"), kinds="f"
)
ERF = _unary(
    "erf",
    in_float32(erf_kernel),
    lambda y, x: (2 / math.sqrt(math.pi)) * exp(-square(x)),
    function("erf"),
    kinds="f",
)


@unary(RELU)
def relu(x: Any) -> Tensor:
    """`max(x, 0)`; NaN for NaN. The gradient at 0 is 0."""
    x = convert(x)
    return RELU(x if x.dtype.is_integer else floating(x, "relu"))


@unary(SIGMOID)
def sigmoid(x: Any) -> Tensor:
    """`1 / (1 + exp(-x))`, without overflow."""
    return SIGMOID(floating(x, "sigmoid"))


@unary(SOFTPLUS)
def softplus(x: Any) -> Tensor:
    """`log(1 + exp(x))`, without overflow."""
    return SOFTPLUS(floating(x, "softplus"))


@unary(ERF)
def erf(x: Any) -> Tensor:
    """The error function, `2 / sqrt(pi)` times the integral of `exp(-t**2)` from 0 to `x`."""
    return ERF(floating(x, "erf"))


def gelu(x: Any, approximate: bool = False) -> Tensor:
    """`x * P(X <= x)` for standard normal X (Hendrycks and Gimpel 2016, arXiv:1606.08415).

    Args:
        x: any real array.
        approximate: take the tanh form of the paper, within 5e-4 of the exact one.
    """
    x = floating(x, "gelu")
    if approximate:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x * square(x))
        return multiply(0.5 * x, 1 + tanh(inner))
    return multiply(0.5 * x, 1 + erf(x * math.sqrt(0.5)))


def silu(x: Any) -> Tensor:
    """`x * sigmoid(x)`, also known as swish."""
    x = floating(x, "silu")
    return multiply(x, sigmoid(x))


def leaky_relu(x: Any, negative_slope: float = 0.2) -> Tensor:
    """`x` where it is positive, else `negative_slope * x` (Keras's default slope)."""
    x = floating(x, "leaky_relu")
    return where(x > 0, x, negative_slope * x)
