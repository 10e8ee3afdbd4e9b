"""log, log2, log10 and log1p.

x = 2**-k * m with m in sqrt(1/2) .. sqrt(2) by integer arithmetic on the representation, then
log(x) = log(m) - k * log(2). Polynomials are our own minimax fits (Remez exchange at 60 digits);
the error given with each is relative to the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..expr import Expr, apply, const, select
from ..spec import float32, float64
from .vmath_tools import (
    FORMATS,
    bits,
    choose,
    compare,
    fma,
    from_bits,
    polynomial,
    rarely,
    shift,
    signed,
)

# (log(1 + f) - f) / f**2 on sqrt(1/2) - 1 .. sqrt(2) - 1: error 2**-27.9
_LOG32 = (
    -0.4999998829,
    0.3333332565,
    -0.2500158853,
    0.2000198106,
    -0.1660894008,
    0.1418158348,
    -0.1324401838,
    0.1290654248,
    -0.07621776459,
)
# (2 * atanh(s) - 2 * s) / s**3 in s**2, s = f / (2 + f): error 2**-58.4
_ATANH64 = (
    0.666666666666673712,
    0.399999999993946161,
    0.285714287472715775,
    0.222221980319532768,
    0.181835944019521846,
    0.153132340641759026,
    0.14804565812221049,
)

# log10(2) as a sum; the first part is short, so its products with exponents are exact
_LOG10_2 = {
    float32: (0.301025390625, 4.605038981195214e-06),
    float64: (0.301029995663157, 8.241712586023572e-13),
}

# 1 / log(base), less its nearest float64
_FACTOR_REST = {2.0: 2.0355273740931033e-17, 10.0: 6.649434773342547e-17}


_ROOT = {float32: 0x3F3504F3, float64: 0x3FE6A09E667F3BCD}  # sqrt(1/2)


def split(x: Expr, least: int | None = None) -> tuple[Expr, Expr]:
    """(k, m) with positive normal x = 2**-k * m; k is an unsigned integer that wraps.

    `least` is the representation of the least m, sqrt(1/2) by default.
    """
    f = FORMATS[x.dtype]
    i = bits(x)
    up = const((least or _ROOT[x.dtype]) + (1 << f.mantissa) - 1, f.word)
    k = shift("ashr", apply("sub", up, i), f.mantissa)
    return k, from_bits(apply("add", i, shift("shl", k, f.mantissa)), x.dtype)


def normal(x: Expr) -> tuple[Expr, Expr]:
    """(x', d) with x = x' * 2**-d: x' is normal where x is denormal."""
    f = FORMATS[x.dtype]
    small = compare("lt", x, 2.0 ** (1 - f.bias))
    scaled = select(small, x * (2.0**f.mantissa), x)
    return scaled, choose(small, float(f.mantissa), 0.0, x.dtype)


def _second_order(f: Expr) -> Expr:
    """log(1 + f) - f for f in sqrt(1/2) - 1 .. sqrt(2) - 1."""
    if f.dtype is float32:
        return (f * f) * polynomial(f, _LOG32)
    half, s, tail = _series(f)
    return fma(s, tail, apply("neg", half))


def _series(f: Expr) -> tuple[Expr, Expr, Expr]:
    """(half, s, tail) with log(1 + f) = f - half + s * tail, in float64."""
    s = f / (f + 2.0)
    z = s * s
    half = (f * 0.5) * f
    return half, s, fma(z, polynomial(z, _ATANH64), half)


def _combine(f: Expr, k: Expr) -> Expr:
    """log(1 + f) - k * log(2) for f in sqrt(1/2) - 1 .. sqrt(2) - 1; keeps the sign of a zero f."""
    high, low = FORMATS[f.dtype].ln2
    if f.dtype is float32:
        y = fma(f * f, polynomial(f, _LOG32), fma(k, -low, f))
    else:
        half, s, tail = _series(f)
        y = f - (half - fma(s, tail, k * -low))
    return fma(k, -high, y)


def _special(x: Expr, y: Expr) -> Expr:
    """y = log(x) with its values at infinity, NaN, zero and below."""
    y = select(compare("lt", x, math.inf), y, x)
    below = choose(compare("eq", x, 0.0), -math.inf, math.nan, x.dtype)
    return select(compare("gt", x, 0.0), y, below)


def _unusual(x: Expr, end: float) -> Expr:
    """Whether `x` is other than a normal number from 0 to `end`."""
    f = FORMATS[x.dtype]
    least, beyond = (const(v, x.dtype) for v in (2.0 ** (1 - f.bias), end))
    return apply("ge", apply("sub", bits(x), bits(least)), apply("sub", bits(beyond), bits(least)))


def _logarithm(x: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """`combine(f, k)`, where x = 2**-k * (1 + f), with the special values of logarithms."""

    def of_any(x: Expr) -> Expr:
        scaled, d = normal(x)
        k, m = split(scaled)
        return _special(x, combine(m - 1.0, signed(k, x.dtype) + d))

    k, m = split(x)
    return rarely(_unusual(x, math.inf), of_any(x), combine(m - 1.0, signed(k, x.dtype)), x)


def log(x: Expr) -> Expr:
    return _logarithm(x, _combine)


def log2(x: Expr) -> Expr:
    def combine(f: Expr, k: Expr) -> Expr:
        return _log_to_base(2.0, f) - k

    return _logarithm(x, combine)


def log10(x: Expr) -> Expr:
    def combine(f: Expr, k: Expr) -> Expr:
        high, low = _LOG10_2[x.dtype]
        return fma(k, -high, fma(k, -low, _log_to_base(10.0, f)))

    return _logarithm(x, combine)


def _log_to_base(base: float, f: Expr) -> Expr:
    """The logarithm of 1 + f; the factor of its first term, f, is taken to twice the precision."""
    factor = float(np.asarray(1 / math.log(base), f.dtype.numpy))
    rest = _FACTOR_REST[base] + (1 / math.log(base) - factor)
    return fma(f, factor, fma(_second_order(f), factor, f * rest))


def log1p(x: Expr) -> Expr:
    def of_any(x: Expr) -> Expr:
        u = x + 1.0
        return _special(u, _log1p(x, u))

    u = x + 1.0
    end = 2.0 ** (FORMATS[x.dtype].mantissa + 2)
    return rarely(_unusual(u, end), of_any(x), _log1p_below(x, u), x)


def log1p_of_fraction(x: Expr) -> Expr:
    """log1p for `x` in 0 .. 1, or NaN."""
    return _log1p_below(x, x + 1.0)


def _log1p_below(x: Expr, u: Expr) -> Expr:
    """log1p where u = 1 + x is positive and x at most 2**(mantissa + 2).

    With u ~ 2**-k * m, log(1 + x) = log(1 + f) - k * log(2), f = 2**k * x + (2**k - 1): that has
    the low bits of x still.
    """
    k, _ = split(u)
    return _combine(_fraction(x, k), signed(k, x.dtype))


def _fraction(x: Expr, k: Expr) -> Expr:
    """2**k * x + (2**k - 1)."""
    fmt = FORMATS[x.dtype]
    biased = apply("add", k, const(fmt.bias, fmt.word))
    s = from_bits(shift("shl", biased, fmt.mantissa), x.dtype)
    return fma(x, s, apply("neg", 1.0 - s))


def _log1p(x: Expr, u: Expr) -> Expr:
    """`_log1p_below`, but for any size: where 2**k may underflow, f is m - 1."""
    fmt = FORMATS[x.dtype]
    k, m = split(u)
    large = compare("gt", x, 2.0 ** (fmt.mantissa + 2))
    return _combine(select(large, m - 1.0, _fraction(x, k)), signed(k, x.dtype))
