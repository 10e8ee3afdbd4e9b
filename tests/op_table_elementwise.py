"""Rows of the op table for elementwise ops: arithmetic, limits, logic, conversion, functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from hypothesis import strategies as st

from dualmode.ops import conversion, limits, logic, parts
from dualmode.ops import elementwise as ew
from dualmode.ops import math as dmath
from dualmode_compiler.spec import DTYPES
from op_table import (
    ALL,
    COMPLEX,
    FLOATS,
    INTEGERS,
    NUMERIC,
    REAL,
    Array,
    Attrs,
    Draw,
    Row,
    any_shape,
    broadcast_shapes,
    values,
)

INEXACT = (*FLOATS, *COMPLEX)
WHOLE = ("bool", *INTEGERS)


def pointwise(fn: Callable[..., float]) -> Callable[..., Array]:
    """An oracle from a scalar function of Python floats."""

    def oracle(*xs: Array) -> Array:
        xs = np.broadcast_arrays(*xs)
        out = [fn(*map(float, v)) for v in zip(*(x.ravel() for x in xs), strict=True)]
        return np.array(out, np.float64).reshape(xs[0].shape)

    return oracle


# --- cast, where, clip --------------------------------------------------------------------------


def _cast_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    x = values(draw, any_shape(draw), dtype, (-1000, 1000), special=True)
    targets = COMPLEX if dtype in COMPLEX else ALL
    return [x], {"dtype": draw(st.sampled_from(targets))}


def _cast(x: Array, dtype: str) -> Array:
    target = DTYPES[dtype]
    if not (target.is_integer and x.dtype.kind not in "biu"):
        return x.astype(target.numpy)
    info = np.iinfo(target.numpy)

    def saturate(v: float) -> int:
        if math.isnan(v):
            return 0
        return info.max if v >= info.max else info.min if v <= info.min else int(v)

    out = [saturate(float(v)) for v in x.ravel()]
    return np.array(out, target.numpy).reshape(x.shape)


def _where_inputs(draw: Draw, dtype: str, special: bool = True) -> tuple[list[Array], Attrs]:
    a, b, c = broadcast_shapes(draw, 3)
    condition = values(draw, a, "bool", (0, 1), special=False)
    return [condition, *(values(draw, s, dtype, (-4, 4), special) for s in (b, c))], {}


def _clip_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    shapes = broadcast_shapes(draw, 3)
    spans = ((-4.0, 4.0), (-2.0, 0.0), (0.5, 2.0))
    return [values(draw, s, dtype, d, False) for s, d in zip(shapes, spans, strict=True)], {}


def _shift_inputs(draw: Draw, dtype: str) -> tuple[list[Array], Attrs]:
    a, b = broadcast_shapes(draw, 2)
    x = values(draw, a, dtype, (-100, 100), special=True)
    return [x, values(draw, b, dtype, (-2, 70), special=False)], {}


def _pow_inputs(draw: Draw, dtype: str, special: bool = True) -> tuple[list[Array], Attrs]:
    a, b = broadcast_shapes(draw, 2)
    if dtype in INTEGERS:  # negative powers of integers are an error
        return [values(draw, a, dtype, (-5, 5), False), values(draw, b, dtype, (0, 4), False)], {}
    special = special and draw(st.booleans())
    base = values(draw, a, dtype, (-4.0 if special else 0.25, 4.0), special)
    return [base, values(draw, b, dtype, (-3, 3), special)], {}


def _sigmoid(x: float) -> float:
    e = math.exp(-abs(x))
    return e / (1 + e) if x < 0 else 1 / (1 + e)


ARITHMETIC = [
    Row(ew.ADD, ew.add, np.add, 2, ALL, gradients=(0, 1)),
    Row(ew.SUBTRACT, ew.subtract, np.subtract, 2, NUMERIC, gradients=(0, 1)),
    Row(ew.MULTIPLY, ew.multiply, np.multiply, 2, ALL, gradients=(0, 1)),
    Row(ew.DIVIDE, ew.divide, np.divide, 2, INEXACT, smooth=(0.5, 3), gradients=(0, 1)),
    Row(ew.FLOOR_DIVIDE, ew.floor_divide, np.floor_divide, 2, REAL, wide=False),
    Row(ew.REMAINDER, ew.remainder, np.remainder, 2, REAL, smooth=(0.5, 3),
        gradients=(0, 1), wide=False),
    Row(ew.POW, ew.pow, np.power, 2, NUMERIC, inputs=_pow_inputs,
        smooth_inputs=partial(_pow_inputs, special=False), gradients=(0, 1)),
    Row(ew.SQUARE, ew.square, np.square, 1, NUMERIC, gradients=(0,)),
    Row(ew.NEGATIVE, ew.negative, np.negative, 1, NUMERIC, gradients=(0,)),
    Row(ew.ABS, ew.abs, np.abs, 1, ALL, gradients=(0,)),
    Row(ew.SIGN, ew.sign, np.sign, 1, NUMERIC),
    Row(limits.MAXIMUM, limits.maximum, np.maximum, 2, ALL, gradients=(0, 1)),
    Row(limits.MINIMUM, limits.minimum, np.minimum, 2, ALL, gradients=(0, 1)),
    Row(limits.CLIP, limits.clip, np.clip, 3, REAL, inputs=_clip_inputs, gradients=(0, 1, 2)),
]  # fmt: skip

COMPARISON = [
    Row(op, call, oracle, 2, ALL)
    for op, call, oracle in (
        (logic.EQUAL, logic.equal, np.equal),
        (logic.NOT_EQUAL, logic.not_equal, np.not_equal),
        (logic.LESS, logic.less, np.less),
        (logic.LESS_EQUAL, logic.less_equal, np.less_equal),
        (logic.GREATER, logic.greater, np.greater),
        (logic.GREATER_EQUAL, logic.greater_equal, np.greater_equal),
    )
]

LOGIC = [
    Row(logic.ISNAN, logic.isnan, np.isnan, 1, ALL),
    Row(logic.ISINF, logic.isinf, np.isinf, 1, ALL),
    Row(logic.ISFINITE, logic.isfinite, np.isfinite, 1, ALL),
    Row(logic.LOGICAL_AND, logic.logical_and, np.logical_and, 2, ALL),
    Row(logic.LOGICAL_OR, logic.logical_or, np.logical_or, 2, ALL),
    Row(logic.LOGICAL_XOR, logic.logical_xor, np.logical_xor, 2, ALL),
    Row(logic.LOGICAL_NOT, logic.logical_not, np.logical_not, 1, ALL),
    Row(logic.BITWISE_AND, logic.bitwise_and, np.bitwise_and, 2, WHOLE),
    Row(logic.BITWISE_OR, logic.bitwise_or, np.bitwise_or, 2, WHOLE),
    Row(logic.BITWISE_XOR, logic.bitwise_xor, np.bitwise_xor, 2, WHOLE),
    Row(logic.BITWISE_INVERT, logic.bitwise_invert, np.bitwise_invert, 1, WHOLE),
    Row(logic.LEFT_SHIFT, logic.bitwise_left_shift, np.left_shift, 2, INTEGERS,
        inputs=_shift_inputs),
    Row(logic.RIGHT_SHIFT, logic.bitwise_right_shift, np.right_shift, 2, INTEGERS,
        inputs=_shift_inputs),
    Row(logic.WHERE, logic.where, np.where, 3, ALL, inputs=_where_inputs,
        smooth_inputs=partial(_where_inputs, special=False), gradients=(1, 2)),
    Row(conversion.CAST, conversion.cast, _cast, 1, ALL, inputs=_cast_inputs, wide=False),
    Row(conversion.IDENTITY, conversion.identity, np.array, 1, ALL, gradients=(0,)),
    Row(conversion.STOP_GRADIENT, conversion.stop_gradient, np.array, 1, ALL),
    Row(conversion.READ_VARIABLE, conversion.READ_VARIABLE, lambda x, _: np.array(x), 2, ALL,
        shapes=lambda draw, arity: [any_shape(draw)] * arity),
]  # fmt: skip

POSITIVE = (0.1, 3.0)
FUNCTIONS = [
    Row(dmath.EXP, dmath.exp, np.exp, 1, INEXACT, gradients=(0,)),
    Row(dmath.EXPM1, dmath.expm1, np.expm1, 1, INEXACT, gradients=(0,)),
    Row(dmath.LOG, dmath.log, np.log, 1, INEXACT, POSITIVE, smooth=POSITIVE, gradients=(0,)),
    Row(dmath.LOG1P, dmath.log1p, np.log1p, 1, INEXACT, (-0.9, 3), smooth=(-0.9, 3),
        gradients=(0,)),
    Row(dmath.LOG2, dmath.log2, np.log2, 1, INEXACT, POSITIVE, smooth=POSITIVE, gradients=(0,)),
    Row(dmath.LOG10, dmath.log10, np.log10, 1, INEXACT, POSITIVE, smooth=POSITIVE,
        gradients=(0,)),
    Row(dmath.SQRT, dmath.sqrt, np.sqrt, 1, INEXACT, POSITIVE, smooth=POSITIVE, gradients=(0,)),
    Row(dmath.RSQRT, dmath.rsqrt, lambda x: 1 / np.sqrt(x), 1, FLOATS, POSITIVE, smooth=POSITIVE,
        gradients=(0,), ulp=2),
    Row(dmath.RECIPROCAL, dmath.reciprocal, lambda x: 1 / x, 1, FLOATS, smooth=POSITIVE,
        gradients=(0,)),
    Row(dmath.SIN, dmath.sin, np.sin, 1, INEXACT, gradients=(0,)),
    Row(dmath.COS, dmath.cos, np.cos, 1, INEXACT, gradients=(0,)),
    Row(dmath.TAN, dmath.tan, np.tan, 1, INEXACT, smooth=(-1, 1), gradients=(0,)),
    Row(dmath.ATAN, dmath.atan, np.arctan, 1, INEXACT, gradients=(0,)),
    Row(dmath.ATAN2, dmath.atan2, np.arctan2, 2, FLOATS, smooth=POSITIVE, gradients=(0, 1)),
    Row(dmath.SINH, dmath.sinh, np.sinh, 1, INEXACT, gradients=(0,)),
    Row(dmath.COSH, dmath.cosh, np.cosh, 1, INEXACT, gradients=(0,)),
    Row(dmath.TANH, dmath.tanh, np.tanh, 1, INEXACT, gradients=(0,)),
    Row(dmath.FLOOR, dmath.floor, np.floor, 1, REAL),
    Row(dmath.CEIL, dmath.ceil, np.ceil, 1, REAL),
    Row(dmath.TRUNC, dmath.trunc, np.trunc, 1, REAL),
    Row(dmath.ROUND, dmath.round, np.round, 1, REAL),
    Row(dmath.RELU, dmath.relu, lambda x: np.where(x <= 0, x.dtype.type(0), x), 1, REAL,
        gradients=(0,)),
    Row(dmath.SIGMOID, dmath.sigmoid, pointwise(_sigmoid), gradients=(0,)),
    Row(dmath.SOFTPLUS, dmath.softplus, lambda x: np.logaddexp(x, 0), gradients=(0,)),
    Row(dmath.ERF, dmath.erf, pointwise(math.erf), gradients=(0,)),
]  # fmt: skip


PARTS = [
    Row(parts.REAL, parts.real, np.real, 1, COMPLEX),
    Row(parts.IMAG, parts.imag, np.imag, 1, COMPLEX),
    Row(parts.CONJ, parts.conj, np.conj, 1, COMPLEX),
]

ROWS = [*ARITHMETIC, *COMPARISON, *LOGIC, *FUNCTIONS, *PARTS]
