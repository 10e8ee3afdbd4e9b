"""pow: 2 ** (y * log2(x)), with the logarithm and the product as unevaluated sums of two numbers.
The special values of float32 are computed in float64.

Polynomials are our own minimax fits (Remez exchange at 60 digits); the error given with each is
relative to the result.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from ..expr import Expr, apply, cast, const, select
from ..spec import float32, float64
from .vmath_exp import exp_by_polynomial
from .vmath_log import normal, split
from .vmath_tools import (
    FORMATS,
    absolute,
    bits,
    by_pairs,
    choose,
    compare,
    fma,
    from_bits,
    maximum,
    minimum,
    polynomial,
    rarely,
    shift,
    signed,
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

# (2**r - 1) / r on |r| <= 1/2: error 2**-28.5
_EXP2_32 = (
    0.6931472154,
    0.2402265281,
    0.05550309731,
    0.00961768999,
    0.001340694263,
    0.000155952546,
)
# (log2(1 + r) - r / log(2)) / r**2 on |r| <= 1/32: error 2**-31.5 of log2
_LOG2_32 = (-0.7213474492, 0.4808982182, -0.3609670212, 0.2888724001)
_ONE_OVER_LN2 = (1.4426950216293335, 1.925963033500011e-08)
# The nearest float32 to 1 / c for each centre c, 1, 17/16 ... 21/16, 22/32 ... 31/32, of a range of
# numbers, and -log2 of that number as a sum: the first part has 14 bits after its point.
_LEAST = 0x3F2C0000  # the lower end of the ranges, 43/64, as it is represented
_CENTRES = tuple((1 + k / 16) / (1 + (k >= 6)) for k in range(16))
_INVERSES = tuple(struct.unpack("f", struct.pack("f", 1 / c))[0] for c in _CENTRES)
_LOGS = tuple(round(-math.log2(v) * 2**14) / 2**14 for v in _INVERSES)
_REST_OF_LOGS = tuple(-math.log2(v) - log for v, log in zip(_INVERSES, _LOGS, strict=True))


def power(x: Expr, y: Expr) -> Expr:
    """x ** y with the special values of C99, Annex F.9.4.4; integers wrap."""
    if x.dtype.is_integer:
        return _integer_power(x, y)
    if x.dtype is float64:
        return _with_special_values(x, y, _power64(absolute(x), y))
    rare = _with_special_values(x, y, _power32(absolute(x), y))
    size, special = _usual_power32(x, y)
    size = rarely(special, rare, size, x, y)
    # what is left: zero and negative bases
    beyond = apply("not", compare("gt", x, 0.0))
    return rarely(beyond, _with_special_values(x, y, _zero_base(x, y, size)), size, x, y, size)


def _zero_base(x: Expr, y: Expr, size: Expr) -> Expr:
    """`size`, or abs(x) ** y where `x` is 0 and `y` is not."""
    of_zero = choose(compare("gt", y, 0.0), 0.0, math.inf, x.dtype)
    of_zero = select(compare("ne", y, y), y, of_zero)
    return select(compare("eq", x, 0.0), of_zero, size)


def _with_special_values(x: Expr, y: Expr, size: Expr) -> Expr:
    """x ** y, where `size` is abs(x) ** y."""
    whole = compare("eq", apply("rint", y), y)
    half = y * 0.5
    odd = apply("and", whole, compare("ne", apply("rint", half), half))
    out = apply("copysign", size, choose(odd, x, 1.0, x.dtype))
    finite = apply("and", compare("lt", x, 0.0), compare("gt", x, -math.inf))
    undefined = apply("and", finite, apply("not", whole))
    out = choose(undefined, math.nan, out, x.dtype)
    out = choose(compare("ne", x, x), x, out, x.dtype)
    one = apply("or", compare("eq", y, 0.0), compare("eq", x, 1.0))
    return choose(one, 1.0, out, x.dtype)


def _integer_power(x: Expr, y: Expr) -> Expr:
    """By repeated squaring. A negative exponent gives 1 / x**-y rounded to zero (0 for x == 0)."""
    kind = x.dtype
    zero, one = const(0, kind), const(1, kind)
    out, square = one, x
    for k in range(8 * kind.itemsize):
        used = apply("and", shift("lshr", y, k), one)
        out = select(compare("ne", used, zero), apply("mul", out, square), out)
        square = apply("mul", square, square)
    if kind.kind == "u":
        return out
    unit = apply("or", apply("eq", x, one), apply("eq", x, const(-1, kind)))
    odd = apply("ne", apply("and", y, one), zero)
    inverse = select(unit, select(odd, x, one), zero)
    return select(apply("lt", y, zero), inverse, out)


def _logarithm_limits(a: Expr, log: Expr) -> Expr:
    """`log` of `a` >= 0 with its values at zero and infinity."""
    log = select(compare("lt", a, math.inf), log, a)
    return choose(compare("eq", a, 0.0), -math.inf, log, a.dtype)


def _power32(x: Expr, y: Expr) -> Expr:
    """2 ** (y * log2(x)) in float64, where it needs no care; x >= 0."""
    a = cast(x, float64)
    k, m = split(a)
    f = m - 1.0
    log = _logarithm_limits(a, fma(f, polynomial(f, _LOG2), apply("neg", signed(k, float64))))
    e = minimum(maximum(_bounded(cast(y, float64)) * log, -1000.0), 1000.0)
    magic = 1.5 * 2.0**52 + 1023
    t = e + magic
    r = e - (t - magic)
    s = from_bits(shift("shl", bits(t), 52), float64)
    return cast(fma(r * s, polynomial(r, _EXP2), s), float32)


def _usual_power32(x: Expr, y: Expr) -> tuple[Expr, Expr]:
    """abs(x) ** y in float32, and where it is not known: unless `x` is 0, for an abs(x) that is no
    normal number, and for results near the limits, where errors of the logarithm count most.

    log2(x) and its product with y are sums of two numbers.
    """
    a = absolute(x)
    k, m = split(a, _LEAST)
    at = shift("lshr", apply("add", bits(a), const(1 << 18, bits(a).dtype)), 19)
    high, low = _log2_sum(m, at, apply("neg", signed(k, float32)))
    p = y * high
    rest = fma(y, low, fma(y, high, apply("neg", p)))
    magic = 1.5 * 2.0**23
    t = (p + rest) + magic
    r = (p - (t - magic)) + rest
    size = bits(fma(r, by_pairs(r, _EXP2_32), 1.0))
    size = from_bits(apply("add", size, shift("shl", bits(t), 23)), float32)
    least, infinity = (bits(const(v, float32)) for v in (2.0**-126, math.inf))
    unusual = apply("ge", apply("sub", bits(a), least), apply("sub", infinity, least))
    unusual = apply("or", unusual, apply("not", compare("lt", absolute(p), 96.0)))
    return size, apply("and", unusual, compare("ne", x, 0.0))


def _log2_sum(m: Expr, at: Expr, n: Expr) -> tuple[Expr, Expr]:
    """n + log2(m) for float32 as a sum of two numbers, to about 2**-29 of its size. The low bits of
    `at` say which of the ranges m is in.

    log2(m) is log2(c) + log2(1 + r) with m / c = 1 + r, c the centre of the range of 1/32 of its
    size that m is in (Tang, "Table-driven implementation of the logarithm function", 1990). Only
    r / log(2), log2(c) and n are taken to twice the precision. Near 1, c is 1 and r exact. The
    second number is at most 1/60 of the first.
    """
    inverse, log, rest = (_of_range(at, v) for v in (_INVERSES, _LOGS, _REST_OF_LOGS))
    product = m * inverse
    lost = fma(m, inverse, apply("neg", product))
    r = product - 1.0
    high, low = _ONE_OVER_LN2
    q = r * high
    q_low = fma(r, low, fma(r, high, apply("neg", q)))
    q_low = fma(lost, fma(r, -high, high), q_low)  # the slope of log2(1 + r) times what r lost
    q_low = fma(r * r, by_pairs(r, _LOG2_32), q_low)
    total, carried = _sum(n + log, q)
    return total, carried + (q_low + rest)


def _of_range(at: Expr, values: Sequence[float]) -> Expr:
    return apply("lookup", at, *(const(v, float32) for v in values), dtype=float32)


def _bounded(y: Expr) -> Expr:
    """`y` made finite, so that its product with log(1) is 0."""
    return minimum(maximum(y, -1e300), 1e300)


def _power64(x: Expr, y: Expr) -> Expr:
    """exp(y * log(x)) with the logarithm and the product as unevaluated sums; x >= 0."""
    high, low = _log_sum(x)
    high = _logarithm_limits(x, high)
    y = _bounded(y)
    p = y * high
    rest = fma(y, low, fma(y, high, apply("neg", p)))
    rest = choose(compare("lt", absolute(p), 1000.0), rest, 0.0, float64)
    return exp_by_polynomial(p, rest)


def _log_sum(x: Expr) -> tuple[Expr, Expr]:
    """log(x) for float64 x > 0 as a sum of two numbers, to about 2**-64.

    2 * s + 2/3 * s**3 + s**5 * R(s**2) with s = f / (2 + f); the first two terms carry what their
    roundings lose (Dekker, "A floating-point technique for extending the available precision",
    1971).
    """
    scaled, d = normal(x)
    k, m = split(scaled)
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
