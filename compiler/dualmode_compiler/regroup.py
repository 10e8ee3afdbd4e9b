"""Loops over one array, seen from another that has the same elements in other groups or another
order.

z[i, j, n] reads y[64*i + j, n]: so a loop over m, n that has just computed y[m, n] can go on with

    z[m // 64, m % 64, n]

which is how what follows a reshape or a transpose joins the kernel that comes before it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from . import expr
from .arithmetic import floordiv, linear_terms, mod
from .expr import Apply, Axis, Const, Expr
from .records import dataclass
from .spec import int64
from .walks import walk


@dataclass(frozen=True, slots=True)
class _Digit:
    """`(axis % high) // low`: of the row-major position along an axis, the part between."""

    axis: Axis
    low: int
    high: int

    @property
    def size(self) -> int:
        return self.high // self.low


def inverse(places: Mapping[Axis, Expr], axes: Collection[Axis]) -> dict[Axis, Expr] | None:
    """Of the equations `outer == place(axes)`, those of `axes` by the outer axes.

    None unless each of the axes that occur is fully known by them: where an element is read more
    than once, or others never, there is no inverse.
    """
    found: dict[Axis, list[tuple[_Digit, Expr]]] = {}
    for outer, place in places.items():
        digits = _digits(place, outer.extent, axes)
        if digits is None:
            return None
        for weight, digit in digits:
            value = floordiv(outer, expr.const(weight, int64))
            value = mod(value, expr.const(digit.size, int64))
            found.setdefault(digit.axis, []).append((digit, value))
    out: dict[Axis, Expr] = {}
    for axis, parts in found.items():
        low, total = 1, expr.const(0, int64)
        for digit, value in sorted(parts, key=lambda part: part[0].low):
            if digit.low != low:
                return None
            low, total = digit.high, total + value * digit.low
        if low != axis.extent:
            return None
        out[axis] = total
    return out


def _digits(place: Expr, extent: int, axes: Collection[Axis]) -> list[tuple[int, _Digit]] | None:
    """`place` as a number of `extent` values, written in digits: with their weights, lowest first.

    (8*i + j for j < 8, i < 4) -> [(1, j), (8, i)]
    """
    terms, constant = linear_terms(place)
    if constant:
        return None
    out: list[tuple[int, _Digit]] = []
    weight = 1
    for atom, coefficient in sorted(terms, key=lambda t: t[1]):
        digit = _digit(atom)
        if digit is None or coefficient != weight or digit.axis not in axes:
            return None
        out.append((weight, digit))
        weight *= digit.size
    return out if weight == extent else None


def _digit(x: Expr) -> _Digit | None:
    if isinstance(x, Axis):
        return _Digit(x, 1, x.extent)
    if not isinstance(x, Apply) or x.fn not in ("floordiv", "mod"):
        return None
    inside, by = _digit(x.args[0]), x.args[1]
    if inside is None or not isinstance(by, Const) or by.value <= 0 or inside.size % by.value:
        return None
    if x.fn == "mod":
        return _Digit(inside.axis, inside.low, inside.low * by.value)
    return _Digit(inside.axis, inside.low * by.value, inside.high)


def divides(index: Sequence[Expr], axis: Axis) -> bool:
    """True if `index` takes `axis` apart: neighbours along it then lie apart in memory."""
    return any(
        isinstance(e, Apply) and e.fn in ("floordiv", "mod") and axis in e.axes for e in walk(index)
    )
