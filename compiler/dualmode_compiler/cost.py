"""The cost model: what expressions and kernels cost, in additions and in bytes moved.

Every choice that depends on cost is made by the numbers here and by sizes alone, never by what this
machine measures: so the same program gives the same kernels, and the same bits, everywhere.

A kernel takes as long as its arithmetic or its memory traffic, whichever is longer. Both are
counted in additions of one number: a core adds about 2**35 float32 a second and moves three times
as many bytes between its caches and registers. What `explain` predicts uses rates that it measures
(`machine`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .expr import Apply, Axis, Buffer, Expr, Fold, Load, Reduce
from .records import dataclass
from .spec import int64
from .walks import operands, walk

if TYPE_CHECKING:  # eager ops ask what they cost, but have no kernels
    from .loops import Kernel

PARALLEL = 1 << 19  # work, in additions, from which a kernel is cut into chunks: about 15 us
CHUNK = 1 << 17  # work per chunk
BYTES = 3  # bytes moved in the time of an addition
DEPTH = 120  # nesting of expressions, kept clear of Python's recursion limit
LARGE = 1 << 24  # bytes that a kernel moves from which its results are not found in a cache later

# Relative cost of evaluating a function once, in units of an addition.
_COST = {"cast": 1, "select": 1, "div": 4, "sqrt": 4, "floordiv": 8, "mod": 8, "fmod": 40}
_TRANSCENDENTAL = dict.fromkeys(
    [
        "exp",
        "expm1",
        "log",
        "log1p",
        "log2",
        "log10",
        "sin",
        "cos",
        "tan",
        "sinh",
        "cosh",
        "tanh",
        "erf",
        "pow",
        "atan",
        "atan2",
    ],
    15,
)
_COST.update(_TRANSCENDENTAL, sigmoid=18, softplus=25)


def cost(x: Expr, memo: dict[Expr, tuple[float, int]]) -> tuple[float, int]:
    """(additions to evaluate `x` once, nesting depth)."""
    if x in memo:
        return memo[x]
    for e in walk([x]):
        if e in memo:
            continue
        parts = [memo[c] for c in operands(e)]
        total = sum(p[0] for p in parts) + own_cost(e)
        depth = 1 + max((p[1] for p in parts), default=0)
        if isinstance(e, Reduce):
            total = (total + 1) * math.prod(a.extent for a in e.bound)
        memo[e] = total, depth
    return memo[x]


def own_cost(x: Expr) -> float:
    """Additions that `x` takes once, given its operands. Index arithmetic is free."""
    if not isinstance(x, Apply) or (x.dtype is int64 and x.axes and x.span):
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
            total += own_cost(e)
            stack.extend(operands(e))
    return total


def operations(roots: Iterable[Expr], axes: Sequence[Axis] = ()) -> float:
    """Additions to evaluate `roots` for all values of `axes`, the loops around them.

    Each distinct expression is evaluated in the outermost loop that binds all of its axes.
    """
    around: dict[Axis, frozenset[Axis]] = {}
    for k, a in enumerate(axes):
        around[a] = frozenset(axes[: k + 1])
    order = list(walk(roots))
    for e in reversed(order):  # what encloses comes before what it encloses
        if isinstance(e, Reduce | Fold):
            outside = _around(e.axes, around)
            for k, a in enumerate(e.bound):
                around[a] = around.get(a, frozenset()) | outside | frozenset(e.bound[: k + 1])
    total = 0.0
    times: dict[frozenset[Axis], int] = {}
    for e in order:
        own, inside = own_cost(e), e.axes
        if isinstance(e, Reduce | Fold):
            own, inside = 1, e.axes | frozenset(e.bound)
        if own:
            if inside not in times:
                times[inside] = math.prod(a.extent for a in _around(inside, around))
            total += own * times[inside]
    return total


def _around(free: Iterable[Axis], around: dict[Axis, frozenset[Axis]]) -> frozenset[Axis]:
    """All the loops that something with the axes `free` is in."""
    return frozenset().union(*(around.get(a, ()) for a in free))


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a kernel takes.

    Attributes:
        flops: arithmetic, in additions; a fused multiply-add takes as long as one.
        read, written: bytes that must move if every element moves once.
    """

    flops: float
    read: int
    written: int

    @property
    def moved(self) -> int:
        return self.read + self.written

    @property
    def work(self) -> float:
        """The longer of arithmetic and traffic, in additions."""
        return max(self.flops, self.moved / BYTES)


def kernel_cost(kernel: Kernel) -> Cost:
    roots = [s.value for s in kernel.stores]
    touched: dict[Buffer, int] = {}
    for e in walk(roots):
        if isinstance(e, Load):
            places = math.prod(a.extent for a in e.axes)
            touched[e.buffer] = touched.get(e.buffer, 0) + places
    read = sum(min(n * b.spec.dtype.itemsize, b.spec.nbytes) for b, n in touched.items())
    sizes = [math.prod(a.extent for a in kernel.axes[: s.depth]) for s in kernel.stores]
    written = sum(
        n * s.buffer.spec.dtype.itemsize for n, s in zip(sizes, kernel.stores, strict=True)
    )
    if not any(sizes):
        return Cost(0, 0, 0)
    if kernel.contraction is not None:
        c = kernel.contraction
        total = c.reduce
        beside = operations(roots, kernel.axes) - operations([total], kernel.axes)
        for operand in (c.left, c.right):
            if operand is not None:
                beside += operations([operand]) * math.prod(a.extent for a in operand.axes)
        return Cost(c.gemm.macs + beside, read, written)
    if kernel.fold is not None:
        fold = kernel.fold.fold
        return Cost(kernel.fold.steps(kernel) * (3 + cost(fold.body, {})[0]), read, written)
    return Cost(operations(roots, kernel.axes) + sum(sizes), read, written)
