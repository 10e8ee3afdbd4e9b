"""log and log1p.

x = 2**-k * m with m in sqrt(1/2) .. sqrt(2) by integer arithmetic on the representation, then
log(x) = log(m) - k * log(2). Polynomials are our own minimax fits (Remez exchange at 60 digits);
the error given with each is relative to the result.
"""

from __future__ import annotations

import math

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


def split(x: Expr) -> tuple[Expr, Expr]:
    """(k, m) with positive normal x = 2**-k * m; k is an unsigned integer that wraps."""
    f = FORMATS[x.dtype]
    root = {float32: 0x3F3504F3, float64: 0x3FE6A09E667F3BCD}[x.dtype]
    i = bits(x)
    up = const(root + (1 << f.mantissa) - 1, f.word)
    k = shift("ashr", apply("sub", up, i), f.mantissa)
    return k, from_bits(apply("add", i, shift("shl", k, f.mantissa)), x.dtype)


def normal(x: Expr) -> tuple[Expr, Expr]:
    """(x', d) with x = x' * 2**-d: x' is normal where x is denormal."""
    f = FORMATS[x.dtype]
    small = compare("lt", x, 2.0 ** (1 - f.bias))
    scaled = select(small, x * (2.0**f.mantissa), x)
    return scaled, choose(small, float(f.mantissa), 0.0, x.dtype)


def _combine(f: Expr, k: Expr) -> Expr:
    """log(1 + f) - k * log(2) for f in sqrt(1/2) - 1 .. sqrt(2) - 1; keeps the sign of a zero f."""
    high, low = FORMATS[f.dtype].ln2
    if f.dtype is float32:
        y = fma(f * f, polynomial(f, _LOG32), fma(k, -low, f))
    else:
        s = f / (f + 2.0)
        z = s * s
        half = (f * 0.5) * f
        tail = fma(s, fma(z, polynomial(z, _ATANH64), half), k * -low)
        y = f - (half - tail)
    return fma(k, -high, y)


def _special(x: Expr, y: Expr) -> Expr:
    """y = log(x) with its values at infinity, NaN, zero and below."""
    y = select(compare("lt", x, math.inf), y, x)
    below = choose(compare("eq", x, 0.0), -math.inf, math.nan, x.dtype)
    return select(compare("gt", x, 0.0), y, below)


def log(x: Expr) -> Expr:
    scaled, d = normal(x)
    k, m = split(scaled)
    return _special(x, _combine(m - 1.0, signed(k, x.dtype) + d))


def log1p(x: Expr) -> Expr:
    u = x + 1.0
    return _special(u, _log1p(x, u))


def log1p_of_positive(x: Expr) -> Expr:
    """log1p without the special cases of infinity, NaN, -1 and below."""
    return _log1p(x, x + 1.0)


def _log1p(x: Expr, u: Expr) -> Expr:
    """With 1 + x ~ 2**-k * m, log(1 + x) = log(1 + f) - k * log(2), f = 2**k * x + (2**k - 1).

    That f has not lost the low bits of x; for large x, where 2**k may underflow, it is m - 1.
    """
    fmt = FORMATS[x.dtype]
    k, m = split(u)
    biased = apply("add", k, const(fmt.bias, fmt.word))
    s = from_bits(shift("shl", biased, fmt.mantissa), x.dtype)
    f = fma(x, s, apply("neg", 1.0 - s))
    f = select(compare("gt", x, 2.0 ** (fmt.mantissa + 2)), m - 1.0, f)
    return _combine(f, signed(k, x.dtype))
