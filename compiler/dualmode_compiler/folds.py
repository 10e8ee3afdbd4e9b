"""Folds that one pass over their elements computes: prefix sums, and writes at indices.

`y[i] = fold(r: start[i], where index[r] == i, body[r])` needs no loop over r for each i: y is
start, and then body[r] goes to y[index[r]], one r after the other. In the same way
`y[i] = fold(r: start, where r <= i, body[r])` carries one value along i.
"""

from __future__ import annotations

import math

from . import expr
from .expr import Affine, Apply, Axis, Buffer, Expr, Fold
from .loops import Kernel, Store
from .records import dataclass
from .spec import Spec, int64
from .walks import substitute, walk

LONG = 1 << 17  # elements from which one row is scanned in blocks
BLOCK = 1 << 15  # the least size of a block
BLOCKS = 32  # the most of them


@dataclass(frozen=True, slots=True)
class Scatter:
    """`body` goes to place `at` along `axis` of the result, for each value of the bound axes."""

    fold: Fold
    axis: Axis
    at: Expr
    totals: None = None

    def before(self, kernel: Kernel) -> Kernel:
        """The kernel that stores what is there before."""
        (s,) = kernel.stores
        start = Store(s.buffer, s.offset, self.fold.start, s.depth)
        return Kernel(f"{kernel.name}s", kernel.axes, [start])

    def each_once(self, kernel: Kernel) -> Kernel | None:
        """The update as a plain kernel, where no two elements go to one place."""
        (s,) = kernel.stores
        fold, k = self.fold, kernel.axes.index(self.axis)
        if not _injective(self.at, fold.bound):
            return None
        offset = substitute(s.offset, {self.axis: self.at})
        value = expr.combine(fold.kind, expr.load(s.buffer, (offset,)), fold.body)
        axes = (*kernel.axes[:k], *fold.bound, *kernel.axes[k + 1 :])
        return Kernel(kernel.name, axes, [Store(s.buffer, offset, value, len(axes))])

    def steps(self, kernel: Kernel) -> int:
        """How often `body` is computed."""
        return math.prod(a.extent for a in (*kernel.axes, *self.fold.bound) if a is not self.axis)


@dataclass(frozen=True, slots=True)
class Scan:
    """The result at place i of `axis` is that of `body` at places 0 .. i, or i .. n-1 in reverse.

    Attributes:
        body: of the fold, at the kernel's own axis.
        block: how many elements are scanned together; 0: all of them.
        totals: where there are blocks, what each of them but the last adds up to, in the order of
            the scan.
    """

    fold: Fold
    axis: Axis
    reverse: bool
    body: Expr
    block: int = 0
    totals: Buffer | None = None

    def steps(self, kernel: Kernel) -> int:
        """How often `body` is computed."""
        return math.prod(a.extent for a in kernel.axes)


def has_fold(value: Expr) -> bool:
    return any(isinstance(e, Fold) for e in walk([value]))


def is_update(value: Expr) -> bool:
    """True for writes at indices: only when all are done, the result can be read."""
    return isinstance(value, Fold) and isinstance(value.when, Apply) and value.when.fn == "eq"


def recognise(kernel: Kernel) -> Scatter | Scan | None:
    """What one pass computes of `kernel`; None where its fold, if any, is a loop per element."""
    found = [e for e in walk([s.value for s in kernel.stores]) if isinstance(e, Fold)]
    if len(found) != 1 or any(s.depth < len(kernel.axes) for s in kernel.stores):
        return None
    (fold,) = found
    when = fold.when
    if not isinstance(when, Apply) or len(when.args) != 2:
        return None
    if when.fn == "eq" and kernel.stores[0].value is fold and len(kernel.stores) == 1:
        return _scatter(kernel, fold, *when.args)
    if when.fn in ("le", "ge"):
        return _scan(kernel, fold, *when.args, reverse=when.fn == "ge")
    return None


def _scatter(kernel: Kernel, fold: Fold, p: Expr, q: Expr) -> Scatter | None:
    for axis, at in ((p, q), (q, p)):
        if isinstance(axis, Axis) and axis in kernel.axes and axis not in at.axes | fold.body.axes:
            return Scatter(fold, axis, at)
    return None


def _scan(kernel: Kernel, fold: Fold, r: Expr, i: Expr, reverse: bool) -> Scan | None:
    if not isinstance(r, Axis) or not isinstance(i, Axis) or r.extent != i.extent:
        return None
    if fold.bound != (r,) or fold.kind == "last":
        return None
    if i not in kernel.axes or i in fold.body.axes | fold.start.axes:
        return None
    return Scan(fold, i, reverse, substitute(fold.body, {r: i}))


def _injective(at: Expr, bound: tuple[Axis, ...]) -> bool:
    """True if `at` is known to differ wherever the bound axes do."""
    terms = dict(at.terms) if isinstance(at, Affine) else {at: 1}
    if set(terms) != {a for a in bound if a.extent != 1}:
        return False
    reach = 0
    for axis, step in sorted(terms.items(), key=lambda t: abs(t[1])):
        if not isinstance(axis, Axis) or abs(step) <= reach:
            return False
        reach += abs(step) * (axis.extent - 1)
    return True


def in_blocks(kernel: Kernel) -> list[Kernel]:
    """The kernels that compute `kernel`: a long row is scanned in blocks, whose totals come first.

    Blocks are cut by size, so results do not depend on threads.
    """
    form = kernel.fold
    if not isinstance(form, Scan) or kernel.axes != (form.axis,) or form.axis.extent < LONG:
        return [kernel]
    fold, n = form.fold, form.axis.extent
    size = max(BLOCK, -(-n // BLOCKS // 1024) * 1024)
    count = -(-n // size) - 1
    if count < 1:
        return [kernel]
    totals = Buffer("totals", Spec((count,), fold.dtype))
    which, inside = Axis(count), Axis(size)
    first = expr.const(n - size, int64) - which * size if form.reverse else which * size
    body = substitute(form.body, {form.axis: first + inside})
    total = Store(totals, which, expr.reduce(fold.kind, (inside,), body), 1)
    scan = Scan(fold, form.axis, form.reverse, form.body, size, totals)
    return [
        Kernel(f"{kernel.name}t", (which,), [total]),
        Kernel(kernel.name, kernel.axes, kernel.stores, None, kernel.nodes, scan),
    ]
