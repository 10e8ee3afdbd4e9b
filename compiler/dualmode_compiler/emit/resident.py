"""Rows that stay in cache between the loops of one kernel.

for i: s = sum(exp(x[i, r]) for r); for j: y[i, j] = exp(x[i, j]) / s
-->
for i: s = sum(row[r] := exp(x[i, r]) for r); for j: y[i, j] = row[j] / s
"""

from __future__ import annotations

from collections.abc import Sequence

from ..cost import cost
from ..expr import Axis, Expr, Load, Reduce
from ..records import dataclass
from ..walks import operands, substitute, walk

WORTH = 8  # cost, in additions, from which a value is kept rather than computed again
MOST = 1 << 17  # bytes of all rows of a kernel


@dataclass(frozen=True, slots=True)
class Row:
    """`total` computes `value` for each element of a row; `reuse` is the same at the inner axis."""

    total: Reduce
    value: Expr
    reuse: Expr


def resident_rows(stored: Sequence[Expr], inner: Axis, lanes: int) -> list[Row]:
    """The costly parts of reductions that `stored`, a loop over `inner`, computes once more.

    Args:
        lanes: values that a row holds for each of `inner`: more than 1 where that is not the
            vectorised axis.
    """
    everything = set(walk(stored))
    costs: dict[Expr, tuple[float, int]] = {}
    found: dict[Expr, Row] = {}
    left = MOST
    for e in walk(stored):
        if not isinstance(e, Reduce) or len(e.bound) != 1 or inner in e.axes:
            continue
        (axis,) = e.bound
        if axis.extent != inner.extent:
            continue
        value = _largest(e.body, axis, inner, everything, costs)
        if value is None:
            continue
        reuse = substitute(value, {axis: inner})
        size = inner.extent * lanes * value.dtype.itemsize
        if reuse not in found and size <= left:
            found[reuse] = Row(e, value, reuse)
            left -= size
    return list(found.values())


def _largest(
    body: Expr,
    axis: Axis,
    inner: Axis,
    everything: set[Expr],
    costs: dict[Expr, tuple[float, int]],
) -> Expr | None:
    """The outermost part of `body` that is worth keeping and is needed again."""
    stack = [body]
    while stack:
        e = stack.pop(0)
        if isinstance(e, Load | Reduce) or axis not in e.axes or cost(e, costs)[0] < WORTH:
            continue
        if e.dtype.is_floating and substitute(e, {axis: inner}) in everything:
            return e
        stack.extend(operands(e))
    return None
