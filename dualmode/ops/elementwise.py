"""Elementwise arithmetic.

Functions follow the array API standard 2024.12. Operands broadcast; they promote by the standard's
table, and Python numbers take the dtype of the tensors that they meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import arithmetic, expr
from dualmode_compiler import spec as specs
from dualmode_compiler.expr import Expr
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.spec import Spec

from ..dispatch import binary, unary
from ..errors import locate
from ..op import Agreement, Op, convert, promote
from . import batch
from .logic import (
    equal,
    greater_equal,
    logical_and,
    where,
)
from .parts import conj
from .rules import (
    broadcasting,
    either,
    inexacts,
    is_const,
    keeps,
    neutral,
    numeric,
    pointwise,
    unbroadcast,
)

if TYPE_CHECKING:
    from ..tensor import Tensor

NUMERIC = "iufc"


# --- sums and products --------------------------------------------------------------------------

ADD = Op(
    "add",
    infer=broadcasting("add"),
    kernel=np.add,
    vjp=lambda g, z, x, y: (
        lambda: unbroadcast(g, x.shape),
        lambda: unbroadcast(g, y.shape),
    ),
    lower=either(arithmetic.add, for_bool="or"),
    simplify=(neutral(-0.0, commutes=True),),  # -0.0 + 0.0 is 0.0
    batch=batch.elementwise,
)


@binary(ADD)
def add(x: Any, y: Any) -> Tensor:
    """`x + y`; of bool, whether either is true."""
    return ADD(*promote(x, y))


SUBTRACT = Op(
    "subtract",
    infer=broadcasting("subtract", NUMERIC),
    kernel=np.subtract,
    vjp=lambda g, z, x, y: (
        lambda: unbroadcast(g, x.shape),
        lambda: unbroadcast(-g, y.shape),
    ),
    lower=pointwise(lambda a, b: a - b),
    simplify=(neutral(0.0, commutes=False),),
    batch=batch.elementwise,
)


@binary(SUBTRACT)
def subtract(x: Any, y: Any) -> Tensor:
    """`x - y`; bool counts as int32."""
    return SUBTRACT(*numeric(x, y))


MULTIPLY = Op(
    "multiply",
    infer=broadcasting("multiply"),
    kernel=np.multiply,
    vjp=lambda g, z, x, y: (
        lambda: unbroadcast(g * conj(y), x.shape),
        lambda: unbroadcast(g * conj(x), y.shape),
    ),
    lower=either(arithmetic.mul, for_bool="and"),
    simplify=(neutral(1, commutes=True),),
    batch=batch.elementwise,
)


@binary(MULTIPLY)
def multiply(x: Any, y: Any) -> Tensor:
    """`x * y`; of bool, whether both are true."""
    return MULTIPLY(*promote(x, y))


DIVIDE = Op(
    "divide",
    infer=broadcasting("divide", "fc"),
    kernel=np.divide,
    vjp=lambda g, z, x, y: (
        lambda: unbroadcast(g / conj(y), x.shape),
        lambda: unbroadcast(-g * conj(z / y), y.shape),
    ),
    lower=pointwise(lambda a, b: a / b),
    simplify=(neutral(1, commutes=False),),
    batch=batch.elementwise,
)


@binary(DIVIDE)
def divide(x: Any, y: Any) -> Tensor:
    """`x / y`; integers divide as float32."""
    return DIVIDE(*inexacts(x, y))


def _divmod(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Quotient rounded to minus infinity and remainder with the sign of `b`, b != 0.

    As in Python and NumPy, from fmod, which is exact: `a // b` is not `floor(a / b)` where the
    division rounds up to an integer.
    """
    zero, one = expr.const(0, a.dtype), expr.const(1, a.dtype)
    rest = expr.apply("fmod", a, b)
    signs = expr.apply("xor", expr.apply("lt", b, zero), expr.apply("lt", rest, zero))
    crosses = expr.apply("and", signs, expr.apply("ne", rest, zero))
    quotient = (a - rest) / b - expr.select(crosses, one, zero)
    floor = expr.apply("floor", quotient)
    floor = floor + expr.select(expr.apply("gt", quotient - floor, one / 2), one, zero)
    return floor, expr.select(crosses, rest + b, rest)


def _floor_divide(a: Expr, b: Expr) -> Expr:
    if a.dtype.kind != "f":
        return a // b
    by_zero = expr.apply("eq", b, expr.const(0, b.dtype))
    return expr.select(by_zero, a / b, _divmod(a, b)[0])


FLOOR_DIVIDE = Op(
    "floor_divide",
    infer=broadcasting("floor_divide", "iuf"),
    kernel=np.floor_divide,
    lower=pointwise(_floor_divide),
    batch=batch.elementwise,
)


@binary(FLOOR_DIVIDE)
def floor_divide(x: Any, y: Any) -> Tensor:
    """`x // y`, rounded to minus infinity; an integer divided by zero gives 0, as in NumPy."""
    return FLOOR_DIVIDE(*numeric(x, y))


REMAINDER = Op(
    "remainder",
    infer=broadcasting("remainder", "iuf"),
    kernel=np.remainder,
    vjp=lambda g, z, x, y: (
        unbroadcast(g, x.shape),
        lambda: unbroadcast(-g * floor_divide(x, y), y.shape),
    ),
    lower=pointwise(lambda a, b: _divmod(a, b)[1] if a.dtype.kind == "f" else a % b),
    batch=batch.elementwise,
)


@binary(REMAINDER)
def remainder(x: Any, y: Any) -> Tensor:
    """`x % y`, with the sign of `y`; an integer divided by zero leaves 0, as in NumPy."""
    return REMAINDER(*numeric(x, y))


# --- powers and signs ---------------------------------------------------------------------------


def _pow_vjp(g: Tensor, z: Tensor, x: Tensor, y: Tensor) -> tuple[Any, Any]:
    from .math import log

    # at x = 0 one factor of y * x**(y-1) and of x**y * log(x) is replaced, not their product,
    # so that no derivative of any order meets 0 * inf
    zero = equal(x, 0)

    def by_base() -> Tensor:
        exponent = where(logical_and(zero, equal(y, 0)), 1, y - 1)
        return unbroadcast(g * conj(y * POW(x, exponent)), x.shape)

    def by_exponent() -> Tensor:
        base = where(logical_and(zero, greater_equal(y, 0)), 1, x)
        return unbroadcast(g * conj(z * log(base)), y.shape)

    return by_base, by_exponent


def _pow_square(node: Node, graph: Graph) -> Node | None:
    """x ** 2 --> square(x),  x ** 1 --> x"""
    x, y = node.inputs
    if x.spec is not node.spec:
        return None
    if is_const(y, 2):
        return graph.add(SQUARE, (x,), site=node.site)
    return x if is_const(y, 1) else None


def _pow_kernel(x: Any, y: Any) -> Any:
    if x.dtype.kind == "i" and (y < 0).any():
        raise locate(
            ValueError(
                "pow: an integer to a negative power is no integer; make one of them floating, "
                "as in x.astype('float32') ** y"
            )
        )
    return np.power(x, y)


POW = Op(
    "pow",
    infer=broadcasting("pow", NUMERIC),
    kernel=_pow_kernel,
    vjp=_pow_vjp,
    lower=pointwise(lambda a, b: expr.apply("pow", a, b) if a.dtype.kind == "f" else None),
    simplify=(_pow_square,),
    tolerance=Agreement(ulp=4),
    batch=batch.elementwise,
)


def pow(x: Any, y: Any) -> Tensor:
    """`x ** y`. Integers to negative integer powers raise ValueError."""
    if type(y) is int and y == 2:
        return square(x)
    return _pow(x, y)


@binary(POW)
def _pow(x: Any, y: Any) -> Tensor:
    return POW(*numeric(x, y))


power = pow

SQUARE = Op(
    "square",
    infer=broadcasting("square", NUMERIC),
    kernel=np.square,
    vjp=lambda g, z, x: (2 * g * conj(x),),
    lower=pointwise(lambda a: a * a),
    batch=batch.elementwise,
)


@unary(SQUARE)
def square(x: Any) -> Tensor:
    """`x * x`; bool counts as int32."""
    return SQUARE(*numeric(x))


def _double_negative(node: Node, graph: Graph) -> Node | None:
    """--x --> x"""
    inner = node.inputs[0]
    return keeps(inner.inputs[0], node) if inner.op is NEGATIVE else None


NEGATIVE = Op(
    "negative",
    infer=broadcasting("negative", NUMERIC),
    kernel=np.negative,
    vjp=lambda g, z, x: (-g,),
    lower=pointwise(lambda a: -a),
    simplify=(_double_negative,),
    batch=batch.elementwise,
)


@unary(NEGATIVE)
def negative(x: Any) -> Tensor:
    """`-x`; unsigned integers wrap around, bool counts as int32."""
    return NEGATIVE(*numeric(x))


def positive(x: Any) -> Tensor:
    """`x` itself; bool becomes int32."""
    return numeric(x)[0]


def _abs_infer(x: Spec) -> Spec:
    part = specs.complex_part(x.dtype) if x.dtype.is_complex else x.dtype
    return Spec(x.shape, part)


ABS = Op(
    "abs",
    infer=_abs_infer,
    kernel=np.abs,
    vjp=lambda g, z, x: (g * sign(x),),
    lower=pointwise(lambda a: expr.apply("abs", a) if a.dtype.kind in "if" else a),
    batch=batch.elementwise,
)


@unary(ABS)
def abs(x: Any) -> Tensor:
    """The magnitude of `x`; of a complex tensor, a floating one. The gradient at 0 is 0."""
    return ABS(convert(x))


def _sign(a: Expr) -> Expr:
    one, zero = expr.const(1, a.dtype), expr.const(0, a.dtype)
    below = a if a.dtype.kind == "u" else expr.select(expr.apply("lt", a, zero), -one, a)
    return expr.select(expr.apply("gt", a, zero), one, below)


SIGN = Op(
    "sign",
    infer=broadcasting("sign", NUMERIC),
    kernel=np.sign,
    lower=pointwise(_sign),
    batch=batch.elementwise,
)


@unary(SIGN)
def sign(x: Any) -> Tensor:
    """-1, 0 or 1 by the sign of `x`; NaN for NaN."""
    return SIGN(*numeric(x))
