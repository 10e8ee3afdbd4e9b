"""What expressions cost to evaluate, in additions."""

from __future__ import annotations

import math

from . import expr
from .expr import Apply, Axis, Expr, Reduce, int64
from .loops import walk

# Relative cost of evaluating a function once, in units of an addition.
_COST = {"cast": 1, "select": 1, "div": 4, "sqrt": 4, "floordiv": 8, "mod": 8, "fmod": 40}
_TRANSCENDENTAL = dict.fromkeys(
    ["exp", "expm1", "log", "log1p", "sin", "cos", "tan", "tanh", "erf", "pow", "atan", "atan2"], 15
)
_COST.update(_TRANSCENDENTAL, sigmoid=18, softplus=25)


def cost(x: Expr, memo: dict[Expr, tuple[float, int]]) -> tuple[float, int]:
    """(additions to evaluate `x` once, nesting depth). Index arithmetic is free."""
    if x in memo:
        return memo[x]
    for e in walk([x]):
        if e in memo:
            continue
        parts = [memo[c] for c in expr.operands(e)]
        total = sum(p[0] for p in parts) + _own_cost(e)
        depth = 1 + max((p[1] for p in parts), default=0)
        if isinstance(e, Reduce):
            total = (total + 1) * math.prod(a.extent for a in e.bound)
        memo[e] = total, depth
    return memo[x]


def _own_cost(x: Expr) -> float:
    if not isinstance(x, Apply) or (x.dtype is int64 and x.axes and expr.bounds(x)):
        return 0
    return _COST.get(x.fn, 1)


def repeated_cost(x: Expr, fixed: frozenset[Axis], memo: dict[Expr, tuple[float, int]]) -> float:
    """Additions to evaluate `x` again while the `fixed` axes stay: what depends on no others is
    computed once, outside."""
    total, seen, stack = 0.0, set[Expr](), [x]
    while stack:
        e = stack.pop()
        if e in seen or e.axes <= fixed:
            continue
        seen.add(e)
        if isinstance(e, Reduce):
            total += cost(e, memo)[0]
        else:
            total += _own_cost(e)
            stack.extend(expr.operands(e))
    return total
