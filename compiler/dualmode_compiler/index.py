"""Index arithmetic: sums in normal form, and division, remainder and ranges, which make reshapes
free.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .expr import Affine, Apply, Const, Expr, apply, combination, const
from .spec import int64

LIMIT = 1 << 63  # int64 holds -LIMIT .. LIMIT - 1


def bounds(x: Expr) -> tuple[int, int] | None:
    """The least and greatest value that an int64 expression can take, if known."""
    return x.span


def span(x: Expr) -> tuple[int, int] | None:
    """What `bounds` is for a new int64 expression; unknown where the arithmetic may wrap."""
    if isinstance(x, Const):
        return x.value, x.value
    if isinstance(x, Affine):
        lo = hi = x.const
        for atom, c in x.terms:
            b = atom.span
            if b is None:
                return None
            lo, hi = lo + min(c * b[0], c * b[1]), hi + max(c * b[0], c * b[1])
        return (lo, hi) if -LIMIT <= lo and hi < LIMIT else None
    if isinstance(x, Apply) and x.fn in ("floordiv", "mod") and isinstance(x.args[1], Const):
        b, d = bounds(x.args[0]), x.args[1].value
        if b is None or d <= 0:
            return None
        return (0, d - 1) if x.fn == "mod" else (b[0] // d, b[1] // d)
    if isinstance(x, Apply) and x.fn in ("minimum", "maximum", "select"):
        parts = [bounds(a) for a in x.args[-2:]]
        known = [p for p in parts if p is not None]
        if len(known) < 2:
            return None
        (a, b), (c, d) = known
        if x.fn == "select":
            return min(a, c), max(b, d)
        pick = min if x.fn == "minimum" else max
        return pick(a, c), pick(b, d)
    return None


def linear_terms(x: Expr) -> tuple[tuple[tuple[Expr, int], ...], int]:
    if isinstance(x, Const):
        return (), x.value
    if isinstance(x, Affine):
        return x.terms, x.const
    return ((x, 1),), 0


def affine(terms: Iterable[tuple[Expr, int]], constant: int = 0) -> Expr:
    """The int64 expression `constant + sum(coef * atom)`, in normal form."""
    total: dict[Expr, int] = {}
    for atom, coef in terms:
        total[atom] = total.get(atom, 0) + coef
    for remainder, c in total.items():
        if c and isinstance(remainder, Apply) and remainder.fn == "mod":
            x, d = remainder.args
            step, quotient = d.value if isinstance(d, Const) else 0, floordiv(x, d)
            if step > 0 and total.get(quotient) == c * step:  # d * (x // d) + x % d --> x
                rest = [t for t in total.items() if t[0] is not remainder and t[0] is not quotient]
                parts, k = linear_terms(x)
                return affine([*rest, *((a, c * n) for a, n in parts)], constant + c * k)
    kept = tuple(sorted([(a, c) for a, c in total.items() if c], key=_creation))
    if not kept:
        return const(constant, int64)
    if constant == 0 and len(kept) == 1 and kept[0][1] == 1:
        return kept[0][0]
    return combination(kept, constant)


def _creation(term: tuple[Expr, int]) -> int:
    return term[0].uid


def add(a: Expr, b: Expr) -> Expr:
    if a.dtype is not int64:
        return apply("add", a, b)
    (ta, ca), (tb, cb) = linear_terms(a), linear_terms(b)
    return affine((*ta, *tb), ca + cb)


def sub(a: Expr, b: Expr) -> Expr:
    if a.dtype is not int64:
        return apply("sub", a, b)
    (ta, ca), (tb, cb) = linear_terms(a), linear_terms(b)
    return affine((*ta, *((x, -c) for x, c in tb)), ca - cb)


def mul(a: Expr, b: Expr) -> Expr:
    if a.dtype is not int64:
        return apply("mul", a, b)
    if isinstance(a, Const):
        a, b = b, a
    if not isinstance(b, Const):
        return apply("mul", a, b)
    terms, c = linear_terms(a)
    return affine(((x, k * b.value) for x, k in terms), c * b.value)


def _split(x: Expr, divisor: int) -> tuple[Expr, Expr] | None:
    """(q, r) with x == divisor * q + r, where q takes all parts whose coefficients divide.

    None where a part may wrap: then division does not distribute.
    """
    terms, c = linear_terms(x)
    quotient = affine(((a, k // divisor) for a, k in terms if k % divisor == 0), c // divisor)
    rest = affine(((a, k) for a, k in terms if k % divisor), c % divisor)
    return None if bounds(x) is None or bounds(rest) is None else (quotient, rest)


def _factor(rest: Expr, divisor: int) -> tuple[Expr, Expr, int]:
    """(a, b, g) with rest == g * a + b and 0 <= b < g for the largest g that divides `divisor`.

    Then b cannot carry: (5*i + j) // 15 == i // 3 for j < 5. If nothing fits, g is 1.
    """
    terms, c = linear_terms(rest)
    for g in sorted({abs(k) for _, k in terms if divisor % k == 0}, reverse=True):
        if g == 1:
            break
        low = affine(((a, k) for a, k in terms if k % g), c % g)
        b = bounds(low)
        if b is not None and b[0] >= 0 and b[1] < g:
            return affine(((a, k // g) for a, k in terms if k % g == 0), c // g), low, g
    return rest, const(0, int64), 1


def floordiv(a: Expr, b: Expr) -> Expr:
    if a.dtype is int64 and isinstance(b, Const) and b.value > 0:
        d = b.value
        if isinstance(a, Const):
            return const(a.value // d, int64)
        if d == 1:
            return a
        parts = _split(a, d)
        if parts is not None:
            quotient, rest = parts
            known = bounds(rest)
            if known is not None and known[0] >= 0 and known[1] < d:
                return quotient
            rest, _, g = _factor(rest, d)
            if g > 1:
                return quotient + floordiv(rest, const(d // g, int64))
            if isinstance(rest, Apply) and rest.fn == "floordiv":
                inner = rest.args[1]
                if isinstance(inner, Const) and inner.value > 0:
                    return quotient + floordiv(rest.args[0], const(inner.value * d, int64))
            return quotient + apply("floordiv", rest, const(d, int64))
    return apply("floordiv", a, b)


def mod(a: Expr, b: Expr) -> Expr:
    if a.dtype is int64 and isinstance(b, Const) and b.value > 0:
        d = b.value
        if isinstance(a, Const):
            return const(a.value % d, int64)
        parts = _split(a, d)
        if parts is not None:
            _, rest = parts
            known = bounds(rest)
            if known is not None and known[0] >= 0 and known[1] < d:
                return rest
            high, low, g = _factor(rest, d)
            if g > 1:
                return mod(high, const(d // g, int64)) * g + low
            return apply("mod", rest, const(d, int64))
    return apply("mod", a, b)


def ravel(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """The row-major position of `index` in an array of `shape`."""
    terms: list[tuple[Expr, int]] = []
    constant, step = 0, 1
    for i, n in zip(reversed(index), reversed(shape), strict=True):
        inner, k = linear_terms(i)
        terms += [(atom, c * step) for atom, c in inner]
        constant += k * step
        step *= n
    return affine(terms, constant)


def unravel(flat: Expr, shape: Sequence[int]) -> tuple[Expr, ...]:
    """The index at row-major position `flat` in an array of `shape`."""
    out: list[Expr] = []
    step = math.prod(shape)
    for k, n in enumerate(shape):
        step //= max(n, 1)
        here = floordiv(flat, const(step, int64)) if step else const(0, int64)
        out.append(here if k == 0 else mod(here, const(n, int64)) if n != 1 else const(0, int64))
    return tuple(out)


def broadcast_index(index: Sequence[Expr], shape: Sequence[int]) -> tuple[Expr, ...]:
    """`index` of a broadcast result, as an index into an operand of `shape` (NumPy's rule)."""
    tail = index[len(index) - len(shape) :]
    return tuple(const(0, int64) if n == 1 else i for i, n in zip(tail, shape, strict=True))
