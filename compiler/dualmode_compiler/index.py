"""Positions in arrays: an index along several axes as one number, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .arithmetic import Expr, affine, const, floordiv, linear_terms, mod
from .spec import int64


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
