"""What the vector math functions share: floating formats and short forms of expressions."""

from __future__ import annotations

from collections.abc import Sequence

from ..expr import Apply, Expr, Reduce, apply, bitcast, cast, const, select
from ..records import dataclass
from ..spec import DType, float32, float64, int32, int64, uint32, uint64
from ..walks import substitute


@dataclass(frozen=True, slots=True)
class Format:
    """An IEEE 754 binary format and the constants that range reduction needs in it.

    Attributes:
        word, integer: unsigned and signed integers of the same width.
        mantissa: bits of the fraction.
        bias: of the exponent.
        ln2: log(2) as a sum; the first part is short, so its products with exponents are exact.
        half_pi: pi / 2 as a sum.
        largest: the argument of `exp` from which it overflows, rounded up.
        smallest: the argument of `exp` down from which it gives 0.
    """

    word: DType
    integer: DType
    mantissa: int
    bias: int
    ln2: tuple[float, float]
    half_pi: tuple[float, float]
    largest: float
    smallest: float


FORMATS = {
    float32: Format(
        word=uint32,
        integer=int32,
        mantissa=23,
        bias=127,
        ln2=(0.693145751953125, 1.428606765330187e-06),
        half_pi=(1.5707963705062866, -4.371138828673793e-08),
        largest=89.0,
        smallest=-104.0,
    ),
    float64: Format(
        word=uint64,
        integer=int64,
        mantissa=52,
        bias=1023,
        ln2=(0.6931471805592082, 7.371002565167799e-13),
        half_pi=(1.5707963267948966, 6.123233995736766e-17),
        largest=710.0,
        smallest=-746.0,
    ),
}


def fma(a: Expr, b: Expr | float, c: Expr | float) -> Expr:
    """`a * b + c`, rounded once."""
    return apply("fma", a, real(b, a.dtype), real(c, a.dtype))


def real(x: Expr | float, dtype: DType) -> Expr:
    return x if isinstance(x, Expr) else const(x, dtype)


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """`sum(c * x**k)` by Horner's rule, lowest power first."""
    *rest, top = coefficients
    out = const(top, x.dtype)
    for c in reversed(rest):
        out = fma(out, x, c)
    return out


def by_pairs(x: Expr, coefficients: Sequence[float]) -> Expr:
    """`polynomial` by Horner's rule in `x * x`, with pairs of terms for coefficients (Estrin): one
    more product, but the operations wait for each other half as often."""
    low, high = coefficients[::2], coefficients[1::2]
    terms = [fma(x, real(b, x.dtype), a) for a, b in zip(low, high, strict=False)]
    terms += [const(a, x.dtype) for a in low[len(high) :]]
    *rest, out = terms
    square = x * x
    for term in reversed(rest):
        out = fma(square, out, term)
    return out


def absolute(x: Expr) -> Expr:
    return apply("abs", x)


def minimum(x: Expr, bound: float) -> Expr:
    return apply("minimum", x, const(bound, x.dtype))


def maximum(x: Expr, bound: float) -> Expr:
    return apply("maximum", x, const(bound, x.dtype))


def compare(fn: str, x: Expr, y: Expr | float) -> Expr:
    """The comparison `fn` of `x` with `y`."""
    return apply(fn, x, real(y, x.dtype))


def choose(cond: Expr, a: Expr | float, b: Expr | float, dtype: DType) -> Expr:
    return select(cond, real(a, dtype), real(b, dtype))


def bits(x: Expr) -> Expr:
    """The representation of a floating value, as an unsigned integer."""
    return bitcast(x, FORMATS[x.dtype].word)


def from_bits(x: Expr, dtype: DType) -> Expr:
    return bitcast(x, dtype)


def shift(fn: str, x: Expr, by: int) -> Expr:
    """`x` shifted by `fn`: "shl", "lshr" or "ashr"."""
    return apply(fn, x, const(by, x.dtype))


def signed(x: Expr, dtype: DType) -> Expr:
    """The unsigned integer `x`, read as two's complement below 2**51, as a floating value."""
    if dtype is float32:
        return cast(bitcast(x, int32), dtype)
    # few CPUs convert 64-bit integers in vectors: add them to the fraction of a large number
    magic = 1.5 * 2.0**52
    return from_bits(apply("add", x, bits(const(magic, dtype))), dtype) - magic


def below_maximum(x: Expr) -> bool:
    """Whether `x` is a value less the largest of values that it is one of: never positive."""
    if not isinstance(x, Apply) or x.fn != "sub":
        return False
    value, most = x.args
    if not isinstance(most, Reduce) or most.kind != "maximum" or len(most.bound) != 1:
        return False
    (bound,) = most.bound
    own = [a for a in value.axes - most.axes if a.extent == bound.extent]
    return len(own) == 1 and substitute(most.body, {bound: own[0]}) is value


def rarely(condition: Expr, rare: Expr, usual: Expr, *arguments: Expr) -> Expr:
    """`rare`, a function of the `arguments` alone, where the condition holds, else `usual`.

    `rare` costs nothing in vectors of which no lane meets the condition (`emit/rare.py`).
    """
    return apply("rarely", condition, usual, rare, *arguments, dtype=usual.dtype)
