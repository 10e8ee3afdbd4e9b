"""log, log1p and pow.

x = 2**-k * m with m in sqrt(1/2) .. sqrt(2) by integer arithmetic on the representation, then
log(x) = log(m) - k * log(2). Polynomials are our own minimax fits (Remez exchange at 60 digits);
the error given with each is relative to the result.
"""

from __future__ import annotations

import math

from ..expr import Expr, apply, cast, const, select
from ..spec import float32, float64
from .vmath_tools import (
    FORMATS,
    absolute,
    bits,
    choose,
    fma,
    from_bits,
    maximum,
    minimum,
    polynomial,
    shift,
    signed,
    test,
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
# (2 * atanh(s) - 2 * s - 2 / 3 * s**3) / s**5 in s**2: error 2**-65.2
_ATANH64_TAIL = (
    0.400000000000023455,
    0.285714285700544406,
    0.222222225283449863,
    0.18181783600968252,
    0.153867938573557722,
    0.132559407789073568,
    0.132046947406542673,
)
# log2(1 + f) / f: error 2**-35.3
_LOG2 = (
    1.44269504086663509,
    -0.721347520747590955,
    0.480898362594601199,
    -0.360673699232238909,
    0.288537193565799833,
    -0.24045173698484662,
    0.206177785597015049,
    -0.180335900027459547,
    0.15876038673153136,
    -0.14276460701543781,
    0.144478651125639796,
    -0.144451997718211206,
    0.0795473205404421412,
)
# (2**r - 1) / r on |r| <= 1/2: error 2**-29
_EXP2 = (
    0.693147206557196924,
    0.240226513537911217,
    0.0555032712517539529,
    0.00961800287919972529,
    0.00134005368993628093,
    0.000154765935836891479,
)


def _split(x: Expr) -> tuple[Expr, Expr]:
    """(k, m) with positive normal x = 2**-k * m; k is an unsigned integer that wraps."""
    f = FORMATS[x.dtype]
    root = {float32: 0x3F3504F3, float64: 0x3FE6A09E667F3BCD}[x.dtype]
    i = bits(x)
    up = const(root + (1 << f.mantissa) - 1, f.word)
    k = shift("ashr", apply("sub", up, i), f.mantissa)
    return k, from_bits(apply("add", i, shift("shl", k, f.mantissa)), x.dtype)


def _normal(x: Expr) -> tuple[Expr, Expr]:
    """(x', d) with x = x' * 2**-d: x' is normal where x is denormal."""
    f = FORMATS[x.dtype]
    small = test("lt", x, 2.0 ** (1 - f.bias))
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
    y = select(test("lt", x, math.inf), y, x)
    below = choose(test("eq", x, 0.0), -math.inf, math.nan, x.dtype)
    return select(test("gt", x, 0.0), y, below)


def log(x: Expr) -> Expr:
    scaled, d = _normal(x)
    k, m = _split(scaled)
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
    k, m = _split(u)
    biased = apply("add", k, const(fmt.bias, fmt.word))
    s = from_bits(shift("shl", biased, fmt.mantissa), x.dtype)
    f = fma(x, s, apply("neg", 1.0 - s))
    f = select(test("gt", x, 2.0 ** (fmt.mantissa + 2)), m - 1.0, f)
    return _combine(f, signed(k, x.dtype))


# --- pow ------------------------------------------------------------------------------------------


def power(x: Expr, y: Expr) -> Expr:
    """x ** y with the special values of C99, Annex F.9.4.4; integers wrap."""
    if x.dtype.is_integer:
        return _integer_power(x, y)
    size = _power32(absolute(x), y) if x.dtype is float32 else _power64(absolute(x), y)
    whole = test("eq", apply("rint", y), y)
    half = y * 0.5
    odd = apply("and", whole, test("ne", apply("rint", half), half))
    out = apply("copysign", size, choose(odd, x, 1.0, x.dtype))
    finite = apply("and", test("lt", x, 0.0), test("gt", x, -math.inf))
    undefined = apply("and", finite, apply("not", whole))
    out = choose(undefined, math.nan, out, x.dtype)
    out = choose(test("ne", x, x), x, out, x.dtype)
    one = apply("or", test("eq", y, 0.0), test("eq", x, 1.0))
    return choose(one, 1.0, out, x.dtype)


def _integer_power(x: Expr, y: Expr) -> Expr:
    """By repeated squaring. A negative exponent gives 1 / x**-y rounded to zero (0 for x == 0)."""
    kind = x.dtype
    zero, one = const(0, kind), const(1, kind)
    out, square = one, x
    for k in range(8 * kind.itemsize):
        used = apply("and", shift("lshr", y, k), one)
        out = select(test("ne", used, zero), apply("mul", out, square), out)
        square = apply("mul", square, square)
    if kind.kind == "u":
        return out
    unit = apply("or", apply("eq", x, one), apply("eq", x, const(-1, kind)))
    odd = apply("ne", apply("and", y, one), zero)
    inverse = select(unit, select(odd, x, one), zero)
    return select(apply("lt", y, zero), inverse, out)


def _logarithm_limits(a: Expr, log: Expr) -> Expr:
    """`log` of `a` >= 0 with its values at zero and infinity."""
    log = select(test("lt", a, math.inf), log, a)
    return choose(test("eq", a, 0.0), -math.inf, log, a.dtype)


def _power32(x: Expr, y: Expr) -> Expr:
    """2 ** (y * log2(x)) in float64, where it needs no care; x >= 0."""
    a = cast(x, float64)
    k, m = _split(a)
    f = m - 1.0
    log = _logarithm_limits(a, fma(f, polynomial(f, _LOG2), apply("neg", signed(k, float64))))
    e = minimum(maximum(_bounded(cast(y, float64)) * log, -1000.0), 1000.0)
    magic = 1.5 * 2.0**52 + 1023
    t = e + magic
    r = e - (t - magic)
    s = from_bits(shift("shl", bits(t), 52), float64)
    return cast(fma(r * s, polynomial(r, _EXP2), s), float32)


def _bounded(y: Expr) -> Expr:
    """`y` made finite, so that its product with log(1) is 0."""
    return minimum(maximum(y, -1e300), 1e300)


def _power64(x: Expr, y: Expr) -> Expr:
    """exp(y * log(x)) with the logarithm and the product as unevaluated sums; x >= 0."""
    from .vmath_exp import exp_of_remainder, reduce, scale

    f = FORMATS[float64]
    high, low = _log_sum(x)
    high = _logarithm_limits(x, high)
    y = _bounded(y)
    p = y * high
    rest = fma(y, low, fma(y, high, apply("neg", p)))
    rest = choose(test("lt", absolute(p), 1000.0), rest, 0.0, float64)
    i, r = reduce(minimum(maximum(p, f.smallest), f.largest), 2 * f.bias)
    return scale(exp_of_remainder(r + rest), i)


def _log_sum(x: Expr) -> tuple[Expr, Expr]:
    """log(x) for float64 x > 0 as a sum of two numbers, to about 2**-64.

    2 * s + 2/3 * s**3 + s**5 * R(s**2) with s = f / (2 + f); the first two terms carry what their
    roundings lose (Dekker, "A floating-point technique for extending the available precision",
    1971).
    """
    scaled, d = _normal(x)
    k, m = _split(scaled)
    n = signed(k, float64) + d
    f = m - 1.0
    below = f + 2.0
    s = f / below
    lost = fma(apply("neg", s), below, f)
    s_low = fma(apply("neg", s), f - (below - 2.0), lost) / below
    z, z_low = _product(s, s)
    z_low = fma(s + s, s_low, z_low)
    cube, cube_low = _product(s, z)
    cube_low = cube_low + fma(s, z_low, s_low * z)
    third, third_low = _product(cube, const(2 / 3, float64))
    third_low = third_low + fma(cube, 3.700743415417188e-17, cube_low * (2 / 3))
    tail = (cube * z) * polynomial(z, _ATANH64_TAIL)
    high, low = _sum(s + s, third)
    low = low + ((s_low + s_low) + third_low + tail)
    ln2, ln2_low = FORMATS[float64].ln2
    high, carried = _sum(n * -ln2, high)
    return _sum(high, carried + fma(n, -ln2_low, low))


def _product(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    p = a * b
    return p, fma(a, b, apply("neg", p))


def _sum(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """a + b with what rounding loses, for abs(a) >= abs(b) or a == 0."""
    s = a + b
    return s, b - (s - a)
