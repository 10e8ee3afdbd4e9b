"""exp and what is made of it: expm1, tanh, sigmoid, softplus, erf.

With n = rint(x / log(2)) and r = x - n * log(2) (Cody and Waite, "Software Manual for the
Elementary Functions", 1980), exp(x) = 2**n * exp(r). Adding a large constant rounds x / log(2) to
an integer and leaves it in the low bits, ready to be shifted into an exponent. Polynomials are our
own minimax fits (Remez exchange at 60 digits); the error given with each is relative to the result.
"""

from __future__ import annotations

import math

from ..expr import Expr, apply, const, select
from ..spec import float32, float64
from .vmath_log import log1p_of_positive
from .vmath_tools import (
    FORMATS,
    absolute,
    bits,
    choose,
    compare,
    fma,
    from_bits,
    maximum,
    minimum,
    polynomial,
    shift,
)

# (exp(r) - 1 - r) / r**2 on |r| <= log(2) / 2: errors 2**-26.2 and 2**-61.7
_EXP = {
    float32: (0.5000000063, 0.1666654205, 0.04166627909, 0.008366710633, 0.001394666911),
    float64: (
        0.5,
        0.166666666666666768,
        0.0416666666666667021,
        0.00833333333332143651,
        0.00138888888888664863,
        0.000198412698866728208,
        0.0000248015873612548221,
        2.75572436097115183e-6,
        2.75572421605127617e-7,
        2.51092616395249653e-8,
        2.09246288930616767e-9,
    ),
}

# (tanh(x) / x - 1) / x**2 in x**2 on |x| <= 0.626: errors 2**-27.7 and 2**-56.4
_TANH = {
    float32: (-0.3333328119, 0.1333142038, -0.0537377982, 0.02063254696, -0.005697384789),
    float64: (
        -0.333333333333328395,
        0.133333333332599786,
        -0.0539682539302914306,
        0.0218694875538659732,
        -0.00886322071307645244,
        0.00359198684993667328,
        -0.00145494699668180522,
        0.000586277752571902678,
        -0.000228485955787988339,
        0.0000770554913162396438,
        -0.0000160291249397302639,
    ),
}

# erf(x) / x - 1 in x**2 on |x| <= 0.95 and 1: errors 2**-30.6 and 2**-57.0
_ERF_SMALL = {
    float32: (
        0.1283791665,
        -0.3761263229,
        0.1128367255,
        -0.02685810432,
        0.005197797233,
        -0.0008105965807,
        8.215426351e-5,
    ),
    float64: (
        0.1283791670955125668,
        -0.3761263890318354658,
        0.1128379167094525174,
        -0.02686617064327602777,
        0.005223977607422234401,
        -0.0008548325989650998172,
        0.0001205529531946476316,
        -0.00001492474464908941201,
        1.644751756018554474e-6,
        -1.620917539002537084e-7,
        1.372297541398920887e-8,
        -7.801189534224747184e-10,
    ),
}

# log(1 - erf(x)) on 0.93 .. 3.95 and 0.99 .. 6: errors 2**-29.4 and 2**-59.4
_ERF_LARGE = {
    float32: (
        -0.0002227940271,
        -1.12756269,
        -0.6373738816,
        -0.1037621848,
        0.02214470008,
        -0.003022461875,
        0.0001938092999,
    ),
    float64: (
        -1.691548236984223442e-7,
        -1.128377430757188892,
        -0.6366280300884917542,
        -0.1027485366710377552,
        0.01908065017912248938,
        0.0002769191217626149778,
        -0.001765101397572325161,
        0.0006378483410083478859,
        -0.00004258032699436857411,
        -0.0000715717679674150422,
        0.00004555477736650352896,
        -0.00001669095043127719822,
        4.37494102266481006e-6,
        -8.606871781947823516e-7,
        1.273342351015730262e-7,
        -1.381997747520581154e-8,
        1.041597831879471299e-9,
        -4.876943604821622547e-11,
        1.068797349513072296e-12,
    ),
}
_ERF_SPLIT = {float32: 0.94, float64: 1.0}
_ERF_END = {float32: 3.95, float64: 6.0}  # from here on erf rounds to 1
_TANH_END = {float32: 9.1, float64: 19.1}
_EXPM1_END = {float32: -18.0, float64: -38.0}  # from here down expm1 rounds to -1


def reduce(x: Expr, offset: int, sign: float = 1.0) -> tuple[Expr, Expr]:
    """(i, r) with sign * x = n * log(2) + sign * r, |r| <= log(2) / 2.

    The low bits of the unsigned integer i hold n + offset.
    """
    f = FORMATS[x.dtype]
    magic = 1.5 * 2.0**f.mantissa + offset
    t = fma(x, sign / math.log(2.0), magic)
    n = t - magic
    r = fma(n, -sign * f.ln2[1], fma(n, -sign * f.ln2[0], x))
    return bits(t), r


def power_of_two(i: Expr, like: Expr) -> Expr:
    """2**n where the low bits of `i` hold n + bias."""
    return from_bits(shift("shl", i, FORMATS[like.dtype].mantissa), like.dtype)


def scale(p: Expr, i: Expr) -> Expr:
    """p * 2**n where the low bits of `i` hold n + 2 * bias.

    In two steps, each a normal number, so that results may overflow or be denormal.
    """
    low = shift("lshr", i, 1)
    return p * power_of_two(low, p) * power_of_two(apply("sub", i, low), p)


def exp_of_remainder(r: Expr) -> Expr:
    return polynomial(r, (1.0, 1.0, *_EXP[r.dtype]))


def expm1_of_remainder(r: Expr, sign: float = 1.0) -> Expr:
    """expm1(sign * r) for sign 1 or -1."""
    higher = polynomial(r, [c * sign**k for k, c in enumerate(_EXP[r.dtype])])
    return fma(r * r, higher, r if sign > 0 else apply("neg", r))


def exp(x: Expr) -> Expr:
    f = FORMATS[x.dtype]
    i, r = reduce(minimum(maximum(x, f.smallest), f.largest), 2 * f.bias)
    return scale(exp_of_remainder(r), i)


def expm1(x: Expr) -> Expr:
    """2**n * expm1(r) + (2**n - 1), formed at half size because 2**n may overflow."""
    f = FORMATS[x.dtype]
    i, r = reduce(minimum(maximum(x, _EXPM1_END[x.dtype]), f.largest), f.bias - 1)
    s = power_of_two(i, x)
    y = fma(s, expm1_of_remainder(r), s - 0.5)
    tiny = compare("lt", absolute(x), 2.0 ** -(f.mantissa + 2))
    return select(tiny, x, y + y)


def tanh(x: Expr) -> Expr:
    """x + x**3 * P(x**2), and 1 - 2 / (exp(2 * abs(x)) + 1) further out."""
    kind = x.dtype
    a, z = absolute(x), x * x
    near = fma(x * z, polynomial(z, _TANH[kind]), x)
    b = minimum(a, _TANH_END[kind])
    i, r = reduce(b + b, FORMATS[kind].bias)
    far = 1.0 - 2.0 / fma(exp_of_remainder(r), power_of_two(i, x), 1.0)
    return apply("copysign", choose(compare("lt", a, 0.625), near, far, kind), x)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x)), as w / (v * expm1(r) + w + v) with exp(-x) = v / w * exp(r).

    v and w are normal numbers even where exp(-x) overflows, and the only rounding of a denormal
    result is the division's.
    """
    f = FORMATS[x.dtype]
    i, r = reduce(minimum(maximum(x, f.smallest), -f.smallest), 2 * f.bias, sign=-1.0)
    low = shift("lshr", i, 1)
    v = power_of_two(apply("sub", i, low), x)
    w = power_of_two(apply("sub", const(2 * f.bias, low.dtype), low), x)
    return w / (fma(v, expm1_of_remainder(r, sign=-1.0), w) + v)


def softplus(x: Expr) -> Expr:
    """log(1 + exp(x)), as max(x, 0) + log1p(exp(-abs(x)))."""
    return maximum(x, 0.0) + log1p_of_positive(exp(apply("neg", absolute(x))))


def erf(x: Expr) -> Expr:
    """x + x * P(x**2), and 1 - exp(Q(abs(x))) further out."""
    kind = x.dtype
    a = absolute(x)
    near = fma(x, polynomial(x * x, _ERF_SMALL[kind]), x)
    i, r = reduce(polynomial(minimum(a, _ERF_END[kind]), _ERF_LARGE[kind]), FORMATS[kind].bias)
    far = fma(apply("neg", exp_of_remainder(r)), power_of_two(i, x), 1.0)
    small = compare("lt", a, _ERF_SPLIT[kind])
    return choose(small, near, apply("copysign", far, x), kind)
