"""sin, cos, tan, atan and atan2.

Arguments are reduced modulo pi/2. Those below a limit lose multiples of it in three parts (Cody and
Waite, "Software Manual for the Elementary Functions", 1980), with fused multiply-add. The others,
which are rare, are reduced exactly by integer arithmetic (Payne and Hanek, "Radian reduction for
trigonometric functions", 1983). Polynomials are our own minimax fits (Remez exchange at 60 digits);
the error given with each is relative to the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..expr import Expr, apply, cast, const, select
from ..spec import float32, float64
from .vmath_tools import (
    FORMATS,
    absolute,
    bits,
    choose,
    compare,
    fma,
    from_bits,
    polynomial,
    rarely,
    shift,
)

# pi / 2 in three parts; arguments beyond the limit are reduced as large ones.
_HALF_PI = {
    float32: (1.570796251296997, 7.549789415861596e-08, 5.390302529957765e-15),
    float64: (1.5707963267948966, 6.123233995736765e-17, 1.0828566739219139e-32),
}
_LIMIT = 1e5

# floor(2 / pi * 2**1225)
_TWO_OVER_PI = int(
    "145f306dc9c882a53f84eafa3ea69bb81b6c52b3278872083fca2c757bd778ac36e48dc74849ba5c"
    "00c925dd413a32439fc3bd63962534e7dd1046bea5d768909d338e04d68befc827323ac7306a673e"
    "93908bf177bf250763ff12fffbc0b301fde5e2316b414da3eda6cfd9e4f96136e9e8c7ecd3cbfd45"
    "aea4f758fd7cbe2f67a0e73ef14a525d4d7f6bf623f1aba10ac06608df8f6d757e1",
    16,
)

# (sin(r) / r - 1) / r**2 in r**2 on |r| <= pi / 4: errors 2**-28.0 and 2**-68.8
_SIN = {
    float32: (-0.1666665487, 0.008332173547, -0.0001951665632),
    float64: (
        -0.166666666666666666,
        0.0083333333333333227,
        -0.000198412698412549893,
        2.75573192141489233e-6,
        -2.50521049005576556e-8,
        1.6058365195466709e-10,
        -7.57862560428243056e-13,
    ),
}
# (cos(r) - 1 + r**2 / 2) / r**4 in r**2 on |r| <= pi / 4: errors 2**-33.3 and 2**-64.2
_COS = {
    float32: (0.04166664675, -0.001388736145, 2.443773047e-5),
    float64: (
        0.0416666666666665987,
        -0.00138888888888739909,
        0.0000248015872893950012,
        -2.75573143260519917e-7,
        2.08757195615903754e-9,
        -1.13594488300327386e-11,
    ),
}
# (tan(r) / r - 1) / r**2 in r**2 on |r| <= pi / 4: errors 2**-29.5 and 2**-59.9
_TAN = {
    float32: (
        0.3333335017,
        0.1333264861,
        0.05406164316,
        0.02127298618,
        0.01086037427,
        5.753222202e-5,
        0.004392474675,
    ),
    float64: (
        0.333333333333333808,
        0.133333333333254367,
        0.0539682539728513868,
        0.0218694884007494154,
        0.0088632378989118201,
        0.00359210112941708591,
        0.00145604376485882549,
        0.000588873502224973289,
        0.000243719491499545212,
        0.000083638789814318202,
        0.0000670783830862204417,
        -0.0000254547787151839824,
        0.0000484886370070378513,
        -0.0000242020413174289013,
        9.78328727987428074e-6,
    ),
}
# (atan(t) / t - 1) / t**2 in t**2 on |t| <= 1: error 2**-28.7; on |t| <= tan(pi / 8): 2**-59.5
_ATAN = {
    float32: (
        -0.3333330187,
        0.1999863865,
        -0.1426524554,
        0.1095757645,
        -0.08419458782,
        0.05823453141,
        -0.03145567357,
        0.01106442226,
        -0.001827208178,
    ),
    float64: (
        -0.333333333333331978,
        0.199999999999536639,
        -0.14285714280204093,
        0.111111107838163958,
        -0.090908977671052083,
        0.0769206036193535859,
        -0.0666310545542302343,
        0.0584789738383445468,
        -0.0503933078379814568,
        0.038064953901636959,
        -0.0179073430199014535,
    ),
}


def _window(a: Expr) -> tuple[Expr, Expr, Expr]:
    """Three words of 2/pi, from the bit whose product with the last bit of `a` weighs 2 on.

    `a` is at least 1/2. All higher bits of 2/pi give multiples of 4, i.e. whole turns.
    """
    f = FORMATS[a.dtype]
    width, word = 8 * a.dtype.itemsize, f.word
    steps = (2 * f.bias - (f.bias - 1)) // width  # whole words between the least and largest `a`
    count = steps + 4
    digits = _TWO_OVER_PI >> (1225 - (count * width - f.mantissa - 3))
    mask = (1 << width) - 1
    words = [const((digits >> (width * (count - 1 - k))) & mask, word) for k in range(count)]
    start = apply("sub", shift("lshr", bits(a), f.mantissa), const(f.bias - 1, word))
    jump = 1 << (steps.bit_length() - 1)
    while jump:
        high = apply("and", start, const(jump * width, word))
        far = apply("ne", high, const(0, word))
        words = [
            select(far, words[k + jump], words[k]) if k + jump < len(words) else words[k]
            for k in range(min(jump + 3, len(words)))
        ]
        jump >>= 1
    by = apply("and", start, const(width - 1, word))
    back = apply("xor", by, const(width - 1, word))

    def funnel(high: Expr, low: Expr) -> Expr:
        left = apply("shl", high, by)
        return apply("or", left, apply("lshr", shift("lshr", low, 1), back))

    return funnel(words[0], words[1]), funnel(words[1], words[2]), funnel(words[2], words[3])


def _reduce(a: Expr) -> tuple[Expr, Expr, Expr]:
    """(q, r, rest) with a = q * pi/2 + r + rest modulo 2 * pi, |r| <= pi/4, for `a` >= 0."""
    f = FORMATS[a.dtype]
    width, word = 8 * a.dtype.itemsize, f.word
    fraction = apply("and", bits(a), const((1 << f.mantissa) - 1, word))
    m = apply("or", fraction, const(1 << f.mantissa, word))
    w0, w1, w2 = _window(a)
    # the product's upper two words: two bits of quadrant, then its fraction
    middle = apply("mul", m, w1)
    low = apply("add", middle, apply("mulhi", m, w2))
    carry = cast(apply("lt", low, middle), word)
    high = apply("add", apply("add", apply("mul", m, w0), apply("mulhi", m, w1)), carry)
    # the fraction as big + small, big exact; rounding it in `high` carries into the quadrant
    spare = width - f.mantissa - 1
    rounded = apply("add", high, const(1 << (spare - 3), word))
    top = apply("and", shift("shl", rounded, 2), const(-(1 << spare), word))
    q = apply("add", shift("lshr", rounded, width - 2), shift("lshr", top, width - 1))
    near = apply("or", shift("shl", high, 2), shift("lshr", low, width - 2))
    tail = apply(
        "or", shift("shl", near, width - spare), shift("lshr", shift("shl", low, 2), spare)
    )
    big, small = (cast(from_bits(v, f.integer), a.dtype) for v in (top, tail))
    unit, unit_low = (c * 2.0**-width for c in f.half_pi)
    product = big * unit
    rest = fma(big, unit_low, fma(big, unit, apply("neg", product)))
    rest = fma(small, unit * 2.0 ** (spare - width), rest)
    r = product + rest
    inside = compare("lt", a, math.pi / 4)
    rest = choose(inside, 0.0, rest - (r - product), a.dtype)
    return select(inside, const(0, word), q), select(inside, a, r), rest


def _sin(r: Expr) -> Expr:
    z = r * r
    return fma(r * z, polynomial(z, _SIN[r.dtype]), r)


def _cos(r: Expr) -> Expr:
    z = r * r
    return fma(z, fma(z, polynomial(z, _COS[r.dtype]), -0.5), 1.0)


def _turns(x: Expr) -> tuple[Expr, Expr]:
    """x / (pi/2), rounded: the unsigned integer modulo 4 in its low bits, and the number."""
    magic = 1.5 * 2.0 ** FORMATS[x.dtype].mantissa
    t = fma(x, 2.0 / math.pi, magic)
    return bits(t), t - magic


def _reduce_small(x: Expr) -> tuple[Expr, Expr]:
    """(q, r) with x = q * pi/2 + r, |r| <= pi/4, for `x` from 0 to the limit.

    The first step is exact: its result is below 1, and a multiple of the last bit of `x` or pi/2.
    """
    q, n = _turns(x)
    for part in _HALF_PI[x.dtype]:
        x = fma(n, -part, x)
    return q, x


def _reduce_small_closely(x: Expr) -> tuple[Expr, Expr, Expr]:
    """(q, r, rest) with x = q * pi/2 + r + rest, as `_reduce_small`."""
    q, n = _turns(x)
    first, second, third = _HALF_PI[x.dtype]
    x = fma(n, -first, x)
    p = n * second
    p_low = fma(n, second, apply("neg", p))
    r = x - p
    lost = (x - r) - p  # Dekker's; where abs(x) < abs(p), r is so small that its last bit is enough
    return q, r, lost - fma(n, third, p_low)


def _by_size(x: Expr, small: Expr, function: Callable[[Expr], Expr]) -> Expr:
    """`small`, or `function` of `x` where `x` is beyond the limit."""
    return rarely(compare("gt", absolute(x), _LIMIT), function(x), small, x)


def _wave(q: Expr, r: Expr, sign: Expr | None = None) -> Expr:
    """sin(q * pi/2 + r), its sign changed by the top bit of `sign`."""
    width, word = 8 * r.dtype.itemsize, FORMATS[r.dtype].word
    odd = apply("ne", apply("and", q, const(1, word)), const(0, word))
    y = select(odd, _cos(r), _sin(r))
    flip = shift("shl", shift("lshr", q, 1), width - 1)
    if sign is not None:
        flip = apply("xor", flip, apply("and", sign, const(1 << (width - 1), word)))
    return from_bits(apply("xor", bits(y), flip), r.dtype)


def _finite(x: Expr, y: Expr) -> Expr:
    """`y`, but NaN for infinite `x`."""
    return choose(compare("lt", absolute(x), math.inf), y, math.nan, x.dtype)


def _large_sin(x: Expr) -> Expr:
    q, r, _ = _reduce(absolute(x))
    return _finite(x, _wave(q, r, bits(x)))


def _large_cos(x: Expr) -> Expr:
    q, r, _ = _reduce(absolute(x))
    return _finite(x, _wave(apply("add", q, const(1, q.dtype)), r))


def sin(x: Expr) -> Expr:
    q, r = _reduce_small(absolute(x))
    return _by_size(x, _wave(q, r, bits(x)), _large_sin)


def cos(x: Expr) -> Expr:
    q, r = _reduce_small(absolute(x))
    return _by_size(x, _wave(apply("add", q, const(1, q.dtype)), r), _large_cos)


def _slope(q: Expr, r: Expr, rest: Expr) -> Expr:
    """tan(q * pi/2 + r + rest): tan(r), or -1 / tan(r)."""
    z = r * r
    slope = fma(z, fma(z, 0.8, 1.0), 1.0)  # of tan, to the few bits that `rest` needs
    y = r + fma(r * z, polynomial(z, _TAN[r.dtype]), rest * slope)
    odd = apply("ne", apply("and", q, const(1, q.dtype)), const(0, q.dtype))
    return select(odd, -1.0 / y, y)


def _with_sign(y: Expr, x: Expr) -> Expr:
    """`y`, its sign changed where `x` is negative."""
    word = FORMATS[x.dtype].word
    sign = apply("and", bits(x), const(1 << (8 * x.dtype.itemsize - 1), word))
    return from_bits(apply("xor", bits(y), sign), x.dtype)


def _large_tan(x: Expr) -> Expr:
    return _finite(x, _with_sign(_slope(*_reduce(absolute(x))), x))


def tan(x: Expr) -> Expr:
    return _by_size(x, _with_sign(_slope(*_reduce_small_closely(absolute(x))), x), _large_tan)


def _arc(t: Expr) -> Expr:
    """atan(t) for t in 0 .. 1.

    float64 has atan(c) + atan((t - c) / (1 + c * t)) from tan(pi / 8) on: c halves the rest of the
    range, and has few bits, so that t - c is exact.
    """
    if t.dtype is float32:
        return fma(t * (t * t), polynomial(t * t, _ATAN[float32]), t)
    big = compare("gt", t, math.sqrt(2.0) - 1.0)
    c, high, low = 0.66796875, 0.5889035042047381, -2.7014448784634766e-17
    s = select(big, (t - c) / fma(t, c, 1.0), t)
    z = s * s
    tail = fma(s * z, polynomial(z, _ATAN[float64]), choose(big, low, 0.0, float64))
    return choose(big, high, 0.0, float64) + (tail + s)


def atan(x: Expr) -> Expr:
    a = absolute(x)
    steep = compare("gt", a, 1.0)
    y = _arc(select(steep, 1.0 / a, a))
    high, low = FORMATS[x.dtype].half_pi
    return apply("copysign", select(steep, high - (y - low), y), x)


def atan2(y: Expr, x: Expr) -> Expr:
    """The angle of the point (x, y), with the special values of C99, Annex F.9.1.4."""
    kind, f = x.dtype, FORMATS[x.dtype]
    across, up = absolute(x), absolute(y)
    long, short = apply("maximum", across, up), apply("minimum", across, up)
    t = short / choose(compare("eq", long, 0.0), 1.0, long, kind)
    t = choose(compare("eq", short, math.inf), 1.0, t, kind)
    angle = _arc(t)
    steep = compare("gt", up, across)
    back = apply("lt", from_bits(bits(x), f.integer), const(0, f.integer))
    angle = select(apply("xor", steep, back), apply("neg", angle), angle)
    base = [choose(steep, c, choose(back, 2 * c, 0.0, kind), kind) for c in f.half_pi]
    return apply("copysign", base[0] + (base[1] + angle), y)
