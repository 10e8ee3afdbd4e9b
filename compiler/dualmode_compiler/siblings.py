"""Kernels over loops of the same sizes that compute the same things become one, with more results.

for i < n: y[i] = f(i)[0];  for i < n: y[n + i] = f(i)[1]
-->
for i < n: y[i] = f(i)[0]; y[n + i] = f(i)[1]

So a counter-based generator, which makes four words of each counter, makes each counter once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .cost import operations
from .expr import Expr
from .loops import Kernel, Store
from .walks import substitute

SHARED = 0.25  # of the arithmetic of both, at least: loops of their own have simpler addresses
MOST = 8  # results of one kernel


def siblings(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Independent `kernels` of plain loops; neighbours that share enough of what they compute are
    one."""
    out: list[Kernel] = []
    for kernel in kernels:
        both = _both(out[-1], kernel) if out else None
        if both is None:
            out.append(kernel)
        else:
            out[-1] = both
    return out


def _both(a: Kernel, b: Kernel) -> Kernel | None:
    """One kernel that computes what `a` and `b` do; None if they share too little."""
    sizes = [[axis.extent for axis in k.axes] for k in (a, b)]
    if sizes[0] != sizes[1] or len(a.stores) + len(b.stores) > MOST:
        return None
    there: dict[Expr, Expr] = dict(zip(b.axes, a.axes, strict=True))
    stores = [_moved(s, there) for s in b.stores]
    roots = [s.value for s in a.stores], [s.value for s in stores]
    apart = sum(operations(values, a.axes) for values in roots)
    if operations([*roots[0], *roots[1]], a.axes) > (1 - SHARED) * apart:
        return None
    return replace(a, stores=[*a.stores, *stores])


def _moved(s: Store, there: dict[Expr, Expr]) -> Store:
    return replace(s, value=substitute(s.value, there), offset=substitute(s.offset, there))
