"""exp and what is made of it: expm1, sinh, cosh, tanh, sigmoid, softplus, erf.

With n = rint(x / log(2)) and r = x - n * log(2) (Cody and Waite, "Software Manual for the
Elementary Functions", 1980), exp(x) = 2**n * exp(r). Adding a large constant rounds x / log(2) to
an integer and leaves it in the low bits, ready to be shifted into an exponent. Polynomials are our
own minimax fits (Remez exchange at 60 digits); the error given with each is relative to the result.
"""

from __future__ import annotations

import math

from ..expr import Expr, apply, const, select
from ..spec import float32, float64
from .vmath_log import log1p_of_fraction
from .vmath_tools import (
    FORMATS,
    absolute,
    below_maximum,
    bits,
    by_pairs,
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

# (exp(r) - 1 - r) / r**2 on |r| <= log(2) / 32: error 2**-28.7
_EXP_SHORT = (0.5000195539, 0.1666705774)
_ROOTS = tuple(2.0 ** (k / 16) for k in range(16))

# (tanh(r) / r - 1) / r**2 in r**2 on |r| <= log(2) / 2: errors 2**-31.1 and 2**-56.7
_TANH = {
    float32: (-0.3333332182, 0.1333239799, -0.05373075368, 0.01946070726),
    float64: (
        -0.333333333333326213,
        0.133333333331411531,
        -0.0539682537907350678,
        0.0218694805927309764,
        -0.00886303838589050172,
        0.00358926435368258896,
        -0.00143149568306452414,
        0.000476416331288727763,
    ),
}

# (sinh(r) / r - 1) / r**2 and (cosh(r) - 1) / r**2, in r**2, on |r| <= log(2) / 2: absolute errors
# 2**-37 and 2**-34; 2**-74 and 2**-70
_SINH = {
    float32: (0.1666666675, 0.008333288887, 0.0001990501031),
    float64: (
        0.166666666666666667,
        0.00833333333333333643,
        0.000198412698412531537,
        2.75573192652887474e-6,
        2.50520567068002121e-8,
        1.60908458819557225e-10,
    ),
}
_COSH = {
    float32: (0.5000000079, 0.04166626647, 0.001394627485),
    float64: (
        0.5,
        0.0416666666666667132,
        0.00138888888888638524,
        0.0000248015873635534336,
        2.75572416929262111e-7,
        2.09244660711439191e-9,
    ),
}

# log(1 - erf(x)) / x + 1 on 0 .. 3.95 and 0 .. 6: errors of erf 2**-27.9 and 2**-55.6
_ERF = {
    float32: (
        -0.1283791716,
        -0.636619382,
        -0.1027778303,
        0.01915306508,
        0.0001603903309,
        -0.001667018537,
        0.0006328304308,
        -0.0001176390771,
        9.255978015e-6,
    ),
    float64: (
        -0.1283791670955125739,
        -0.6366197723675813691,
        -0.102772603301937484,
        0.01912844700895662137,
        0.000209194641442767818,
        -0.001696205938997061293,
        0.0005901230677011851539,
        -0.00002586886062904607375,
        -0.00006451990827884657031,
        0.00002978511310902312598,
        -3.51008992090276845e-6,
        -2.698995673593849345e-6,
        1.598027601916962429e-6,
        -2.14822308658560991e-7,
        -2.203682674525405458e-7,
        1.879253186218300046e-7,
        -8.65164469021434682e-8,
        2.853569640316303662e-8,
        -7.218653665276402297e-9,
        1.42735222469994882e-9,
        -2.200850852419897352e-10,
        2.600938343682658782e-11,
        -2.277829266515587894e-12,
        1.39295735925765418e-13,
        -5.307698858211379948e-15,
        9.480821979936777567e-17,
    ),
}
_ERF_END = {float32: 3.95, float64: 6.0}  # from here on erf rounds to 1
_TANH_END = {float32: 9.1, float64: 19.1}
_EXPM1_END = {float32: -18.0, float64: -38.0}  # from here down expm1 rounds to -1


def reduce(x: Expr, offset: int, sign: float = 1.0, careful: bool = True) -> tuple[Expr, Expr]:
    """(i, r) with sign * x = n * log(2) + sign * r, |r| <= log(2) / 2.

    The low bits of the unsigned integer i hold n + offset. Unless `careful`, r is off by n times
    what log(2) loses when it is rounded.
    """
    f = FORMATS[x.dtype]
    magic = 1.5 * 2.0**f.mantissa + offset
    t = fma(x, sign / math.log(2.0), magic)
    n = t - magic
    if not careful:
        return bits(t), fma(n, -sign * math.log(2.0), x)
    return bits(t), fma(n, -sign * f.ln2[1], fma(n, -sign * f.ln2[0], x))


def power_of_two(i: Expr, like: Expr) -> Expr:
    """2**n where the low bits of `i` hold n + bias."""
    return from_bits(shift("shl", i, FORMATS[like.dtype].mantissa), like.dtype)


def exp_of_remainder(r: Expr) -> Expr:
    return polynomial(r, (1.0, 1.0, *_EXP[r.dtype]))


def expm1_of_remainder(r: Expr, sign: float = 1.0) -> Expr:
    """expm1(sign * r) for sign 1 or -1."""
    higher = polynomial(r, [c * sign**k for k, c in enumerate(_EXP[r.dtype])])
    return fma(r * r, higher, r if sign > 0 else apply("neg", r))


def exp(x: Expr) -> Expr:
    """float32 has a table of 2**(k/16), as it leaves a remainder so small that few terms are
    enough."""
    if x.dtype is not float32:
        return exp_by_polynomial(x)
    t, n, r = _parts(x, 4)
    root = apply("lookup", bits(t), *(const(v, float32) for v in _ROOTS), dtype=float32)
    part = fma(r, polynomial(r, _EXP_SHORT), 1.0) * r
    return apply("scale", fma(root, part, root), n)


def exp_by_polynomial(x: Expr, rest: Expr | None = None) -> Expr:
    """exp(x + rest), for a `rest` that is small beside `x`."""
    _, n, r = _parts(x, 0)
    return apply("scale", exp_of_remainder(r if rest is None else r + rest), n)


def _parts(x: Expr, fraction: int) -> tuple[Expr, Expr, Expr]:
    """(t, n, r) with x = n * log(2) + r, for `x` made neither larger nor smaller than matters.

    n is a multiple of 2**-fraction, whose number the low bits of t hold.
    """
    f = FORMATS[x.dtype]
    small = below_maximum(x)
    x = maximum(x, f.smallest)
    x = x if small else minimum(x, f.largest)
    magic = 1.5 * 2.0 ** (f.mantissa - fraction)
    t = fma(x, 1.0 / math.log(2.0), magic)
    n = t - magic
    return t, n, fma(n, -f.ln2[1], fma(n, -f.ln2[0], x))


def expm1(x: Expr) -> Expr:
    """2**n * expm1(r) + (2**n - 1), formed at half size because 2**n may overflow."""
    f = FORMATS[x.dtype]
    i, r = reduce(minimum(maximum(x, _EXPM1_END[x.dtype]), f.largest), f.bias - 1)
    s = power_of_two(i, x)
    y = fma(s, expm1_of_remainder(r), s - 0.5)
    tiny = compare("lt", absolute(x), 2.0 ** -(f.mantissa + 2))
    return select(tiny, x, y + y)


def tanh(x: Expr) -> Expr:
    """u / (u + 2 * (1 - t)) with t = tanh(r) and u = 2**n - 1 + t * (2**n + 1).

    abs(x) = n * log(2) / 2 + r with n rounded down, so r is not negative and u does not cancel. An
    error of u is smaller in the result; where n is 0, the result is t.
    """
    f = FORMATS[x.dtype]
    a = minimum(absolute(x), _TANH_END[x.dtype])
    magic = 1.5 * 2.0**f.mantissa + f.bias
    i = fma(a, 2.0 / math.log(2.0), -0.4995) + magic  # never rounds below 0
    n = i - magic
    r = fma(n, -f.ln2[1] / 2, fma(n, -f.ln2[0] / 2, a))
    z = r * r
    t = fma(r * z, polynomial(z, _TANH[x.dtype]), r)
    s = power_of_two(bits(i), x)
    u = fma(t, s + 1.0, s - 1.0)
    return apply("copysign", u / (u + fma(t, -2.0, 2.0)), x)


def _hyperbolic(a: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """(sinh(b) / 2, cosh(b) / 2, sinh(r), cosh(r) - 1) with a = b + r >= 0, b = n * log(2).

    Halves, because of the largest arguments: there 2**n overflows.
    """
    f = FORMATS[a.dtype]
    i, r = reduce(minimum(a, f.largest + 0.5), f.bias - 2)
    up = power_of_two(i, a)
    opposite = apply("sub", const(2 * f.bias - 4, i.dtype), apply("and", i, const(0xFFFF, i.dtype)))
    positive = apply("maximum", from_bits(opposite, f.integer), const(0, f.integer))
    down = power_of_two(from_bits(positive, i.dtype), a)
    z = r * r
    odd = fma(r * z, polynomial(z, _SINH[a.dtype]), r)
    return up - down, up + down, odd, z * polynomial(z, _COSH[a.dtype])


def sinh(x: Expr) -> Expr:
    """sinh(b) * cosh(r) + cosh(b) * sinh(r)."""
    s, c, odd, even = _hyperbolic(absolute(x))
    y = fma(s, even, c * odd) + s
    return apply("copysign", y + y, x)


def cosh(x: Expr) -> Expr:
    """cosh(b) * cosh(r) + sinh(b) * sinh(r)."""
    s, c, odd, even = _hyperbolic(absolute(x))
    y = fma(c, even, s * odd) + c
    return y + y


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
    return maximum(x, 0.0) + log1p_of_fraction(exp_by_polynomial(apply("neg", absolute(x))))


def erf(x: Expr) -> Expr:
    """-expm1(log(1 - erf(abs(x)))): the logarithm is smooth, and small where erf is.

    log(2) as a float32 is off by 1.9e-9, of which erf gets less than 1/20 ulp.
    """
    a = minimum(absolute(x), _ERF_END[x.dtype])
    logarithm = fma(a, by_pairs(a, _ERF[x.dtype]), apply("neg", a))
    i, r = reduce(logarithm, FORMATS[x.dtype].bias, careful=x.dtype is not float32)
    s = power_of_two(i, x)
    return apply("copysign", fma(apply("neg", s), expm1_of_remainder(r), 1.0 - s), x)
