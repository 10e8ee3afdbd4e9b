"""Comparison, logic, and choice by a condition: elementwise ops that do no arithmetic.

Functions follow the array API standard 2024.12. Operands broadcast and promote; bool stands for a
truth value, and logical functions take any number as "is it not zero".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler import spec as specs
from dualmode_compiler.expr import Expr
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.spec import Spec

from ..dispatch import binary, unary
from ..op import Op, convert, promote
from . import batch
from .conversion import cast
from .rules import (
    broadcast_shapes,
    broadcasting,
    function,
    idempotent,
    inexact,
    is_const,
    keeps,
    numeric,
    pointwise,
    require_kinds,
    require_one_dtype,
    unbroadcast,
)

if TYPE_CHECKING:
    from ..tensor import Tensor


# --- comparison ---------------------------------------------------------------------------------


def _comparison(name: str, kernel: Callable[..., Any], function_name: str) -> Op:
    return Op(
        name,
        infer=broadcasting(name, result=specs.bool_),
        kernel=kernel,
        lower=function(function_name),
        batch=batch.elementwise,
    )


EQUAL = _comparison("equal", np.equal, "eq")
NOT_EQUAL = _comparison("not_equal", np.not_equal, "ne")
LESS = _comparison("less", np.less, "lt")
LESS_EQUAL = _comparison("less_equal", np.less_equal, "le")
GREATER = _comparison("greater", np.greater, "gt")
GREATER_EQUAL = _comparison("greater_equal", np.greater_equal, "ge")


@binary(EQUAL)
def equal(x: Any, y: Any) -> Tensor:
    """Whether `x == y`: bool; NaN equals nothing."""
    return EQUAL(*promote(x, y))


@binary(NOT_EQUAL)
def not_equal(x: Any, y: Any) -> Tensor:
    """Whether `x != y`: bool; NaN differs from everything."""
    return NOT_EQUAL(*promote(x, y))


@binary(LESS)
def less(x: Any, y: Any) -> Tensor:
    """Whether `x < y`: bool; false where either is NaN."""
    return LESS(*promote(x, y))


@binary(LESS_EQUAL)
def less_equal(x: Any, y: Any) -> Tensor:
    """Whether `x <= y`: bool; false where either is NaN."""
    return LESS_EQUAL(*promote(x, y))


@binary(GREATER)
def greater(x: Any, y: Any) -> Tensor:
    """Whether `x > y`: bool; false where either is NaN."""
    return GREATER(*promote(x, y))


@binary(GREATER_EQUAL)
def greater_equal(x: Any, y: Any) -> Tensor:
    """Whether `x >= y`: bool; false where either is NaN."""
    return GREATER_EQUAL(*promote(x, y))


def _floating_test(name: str, kernel: Callable[..., Any], lower: Callable[[Expr], Expr]) -> Op:
    return Op(
        name,
        infer=broadcasting(name, "fc", result=specs.bool_),
        kernel=kernel,
        lower=pointwise(lower),
        batch=batch.elementwise,
    )


def _size_against_infinity(relation: str) -> Callable[[Expr], Expr]:
    return lambda a: expr.apply(relation, expr.apply("abs", a), expr.const(np.inf, a.dtype))


ISNAN = _floating_test("isnan", np.isnan, lambda a: expr.apply("ne", a, a))
ISINF = _floating_test("isinf", np.isinf, _size_against_infinity("eq"))
ISFINITE = _floating_test("isfinite", np.isfinite, _size_against_infinity("lt"))


@unary(ISNAN)
def isnan(x: Any) -> Tensor:
    """Whether `x` is NaN: bool."""
    return ISNAN(inexact(x))


@unary(ISINF)
def isinf(x: Any) -> Tensor:
    """Whether `x` is plus or minus infinity: bool."""
    return ISINF(inexact(x))


@unary(ISFINITE)
def isfinite(x: Any) -> Tensor:
    """Whether `x` is neither NaN nor infinite: bool."""
    return ISFINITE(inexact(x))


# --- logic and bits -----------------------------------------------------------------------------


def _logical(name: str, kernel: Callable[..., Any], function_name: str, *rules: Any) -> Op:
    return Op(
        name,
        infer=broadcasting(name, "b"),
        kernel=kernel,
        lower=function(function_name),
        simplify=rules,
        batch=batch.elementwise,
    )


def _truth(x: Any) -> Tensor:
    return cast(x, specs.bool_)


LOGICAL_AND = _logical("logical_and", np.logical_and, "and", idempotent)
LOGICAL_OR = _logical("logical_or", np.logical_or, "or", idempotent)
LOGICAL_XOR = _logical("logical_xor", np.logical_xor, "xor")
LOGICAL_NOT = _logical("logical_not", np.logical_not, "not")


def logical_and(x: Any, y: Any) -> Tensor:
    """Whether both are true (not zero): bool."""
    return LOGICAL_AND(_truth(x), _truth(y))


def logical_or(x: Any, y: Any) -> Tensor:
    """Whether either is true (not zero): bool."""
    return LOGICAL_OR(_truth(x), _truth(y))


def logical_xor(x: Any, y: Any) -> Tensor:
    """Whether exactly one is true (not zero): bool."""
    return LOGICAL_XOR(_truth(x), _truth(y))


def logical_not(x: Any) -> Tensor:
    """Whether `x` is false (zero): bool."""
    return LOGICAL_NOT(_truth(x))


def _bitwise(name: str, kernel: Callable[..., Any], lower: Callable[..., Any], kinds: str) -> Op:
    infer = broadcasting(name, kinds)
    return Op(name, infer=infer, kernel=kernel, lower=lower, batch=batch.elementwise)


def _shift_inside(a: Expr, b: Expr) -> Expr:
    """Whether a shift by `b` leaves any bit of `a`; the machine's own result is undefined else."""
    inside = expr.apply("lt", b, expr.const(8 * a.dtype.itemsize, b.dtype))
    if b.dtype.kind == "u":
        return inside
    return expr.apply("and", inside, expr.apply("ge", b, expr.const(0, b.dtype)))


def _shift_left(a: Expr, b: Expr) -> Expr:
    zero, inside = expr.const(0, a.dtype), _shift_inside(a, b)
    return expr.select(inside, expr.apply("shl", a, expr.select(inside, b, zero)), zero)


def _shift_right(a: Expr, b: Expr) -> Expr:
    zero, inside = expr.const(0, a.dtype), _shift_inside(a, b)
    if a.dtype.kind == "u":
        return expr.select(inside, expr.apply("lshr", a, expr.select(inside, b, zero)), zero)
    most = expr.const(8 * a.dtype.itemsize - 1, a.dtype)
    return expr.apply("ashr", a, expr.select(inside, b, most))


BITWISE_AND = _bitwise("bitwise_and", np.bitwise_and, function("and"), "biu")
BITWISE_OR = _bitwise("bitwise_or", np.bitwise_or, function("or"), "biu")
BITWISE_XOR = _bitwise("bitwise_xor", np.bitwise_xor, function("xor"), "biu")
BITWISE_INVERT = _bitwise("bitwise_invert", np.bitwise_invert, function("not"), "biu")
LEFT_SHIFT = _bitwise("bitwise_left_shift", np.left_shift, pointwise(_shift_left), "iu")
RIGHT_SHIFT = _bitwise("bitwise_right_shift", np.right_shift, pointwise(_shift_right), "iu")


@binary(BITWISE_AND)
def bitwise_and(x: Any, y: Any) -> Tensor:
    """The bits that both integers (or bools) have."""
    return BITWISE_AND(*promote(x, y))


@binary(BITWISE_OR)
def bitwise_or(x: Any, y: Any) -> Tensor:
    """The bits that either integer (or bool) has."""
    return BITWISE_OR(*promote(x, y))


@binary(BITWISE_XOR)
def bitwise_xor(x: Any, y: Any) -> Tensor:
    """The bits that exactly one of the integers (or bools) has."""
    return BITWISE_XOR(*promote(x, y))


@unary(BITWISE_INVERT)
def bitwise_invert(x: Any) -> Tensor:
    """All bits of the integer (or bool) flipped."""
    return BITWISE_INVERT(convert(x))


@binary(LEFT_SHIFT)
def bitwise_left_shift(x: Any, y: Any) -> Tensor:
    """`x << y`; 0 where `y` is negative or no less than the number of bits."""
    return LEFT_SHIFT(*numeric(x, y))


@binary(RIGHT_SHIFT)
def bitwise_right_shift(x: Any, y: Any) -> Tensor:
    """`x >> y`; only copies of the sign bit where `y` is negative or no less than the bits."""
    return RIGHT_SHIFT(*numeric(x, y))


# --- choice -------------------------------------------------------------------------------------


def _where_infer(condition: Spec, x: Spec, y: Spec) -> Spec:
    require_kinds("where", "b", condition)
    require_one_dtype("where", x, y)
    return Spec(broadcast_shapes("where", condition, x, y), x.dtype, x.weak and y.weak)


def _where_decided(node: Node, graph: Graph) -> Node | None:
    """where(True, x, y) --> x,  where(False, x, y) --> y,  where(c, x, x) --> x"""
    condition, x, y = node.inputs
    if x is y or is_const(condition, True):
        return keeps(x, node)
    return keeps(y, node) if is_const(condition, False) else None


def _where_kernel(condition: Any, x: Any, y: Any) -> Any:
    """The chosen bits: np.where branches at every element, which takes 5 times as long on masks
    without a pattern, such as those of relu."""
    size = x.dtype.itemsize
    if size > 8:
        return np.where(condition, x, y)
    bits = np.dtype(f"i{size}")
    chosen = np.negative(condition.astype(bits))  # all bits on where the condition holds
    a, b = x.view(bits), y.view(bits)
    return (b ^ ((a ^ b) & chosen)).view(x.dtype)


WHERE = Op(
    "where",
    infer=_where_infer,
    kernel=_where_kernel,
    vjp=lambda g, z, c, x, y: (
        None,
        lambda: unbroadcast(where(c, g, 0), x.shape),
        lambda: unbroadcast(where(c, 0, g), y.shape),
    ),
    lower=pointwise(expr.select),
    simplify=(_where_decided,),
    batch=batch.elementwise,
)


def where(condition: Any, x: Any, y: Any) -> Tensor:
    """`x` where `condition` holds, else `y`. The gradient reaches only what was chosen."""
    return WHERE(cast(condition, specs.bool_), *promote(x, y))
