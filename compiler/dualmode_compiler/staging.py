"""Where the reductions of a kernel are computed: in its loops, before them, and in how many parts.

A kernel evaluates an expression in the outermost loop that binds its axes. For a reduction over the
leading axes of a result that would be a loop too far inside, so the axes are put in another order:

for i, j: y[i, j] = exp(x[i, j]) / sum_r(exp(x[r, j]))
-->
for j, i: ...

Reductions to one number, and others that would be computed more than once or by one thread alone,
get a kernel of their own. It computes them in parts, as many as the sizes say, which the readers
combine in order:

s = sum_r(x[r])  -->  for p: t[p] = sum_q(x[S*p + q]);  s = sum_p(t[p])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import expr
from .cost import CHUNK, PARALLEL, operations
from .expr import Axis, Buffer, Expr, Reduce
from .index import ravel, unravel
from .loops import Kernel, Store, collapse, collapse_reduce, loads
from .records import dataclass
from .spec import DType, Spec, int64
from .splitk import in_parts
from .walks import substitute, walk

PARTS = 32  # into which a reduction is cut at the most
FEW = 8  # results of one kernel below which each is computed in parts
WASTE = 256  # additions that may be done again rather than kept in memory
UNIT = 256  # elements of which parts are multiples, where there are enough


def normalise(kernel: Kernel) -> None:
    """Give equal reductions one form, of as few axes as possible: they are computed once."""
    _collapse(kernel)
    _share(kernel)


def _collapse(kernel: Kernel) -> None:
    mapping: dict[Expr, Expr] = {}
    for e in walk([s.value for s in kernel.stores]):
        if isinstance(e, Reduce) and len(e.bound) > 1:
            new = collapse_reduce(e)
            if new is not e:
                mapping[e] = new
    if mapping:
        for s in kernel.stores:
            s.value = substitute(s.value, mapping)


def _share(kernel: Kernel) -> None:
    """Reductions that differ only in what their axes are called become one.

    Nested ones keep axes of their own: they are counted from the inside.
    """
    roots = [s.value for s in kernel.stores]
    reductions = [e for e in walk(roots) if isinstance(e, Reduce)]
    if len(reductions) < 2:
        return
    axes: dict[tuple[int, int, int], Axis] = {}
    heights: dict[Reduce, int] = {}
    mapping: dict[Expr, Expr] = {}
    for e in reductions:
        inside = (heights[r] for r in walk([e.body]) if isinstance(r, Reduce))
        heights[e] = height = 1 + max(inside, default=0)
        bound = [
            axes.setdefault((height, k, a.extent), Axis(a.extent)) for k, a in enumerate(e.bound)
        ]
        body = substitute(e.body, mapping) if mapping else e.body
        body = substitute(body, dict(zip(e.bound, bound, strict=True)))
        mapping[e] = expr.reduce(e.kind, bound, body)
    for s in kernel.stores:
        s.value = substitute(s.value, mapping)


def stage(kernel: Kernel) -> list[Kernel]:
    """The kernels that compute `kernel`, itself the last."""
    if kernel.contraction is not None:
        pair = in_parts(kernel, kernel.contraction)
        return [kernel] if pair is None else [pair[0], *stage(pair[1])]
    reductions = [e for e in walk([s.value for s in kernel.stores]) if isinstance(e, Reduce)]
    if not reductions:
        return [kernel]
    _reorder(kernel, reductions)
    return _Stages(kernel, reductions).run()


def _reorder(kernel: Kernel, reductions: Sequence[Reduce]) -> None:
    """Put the axes first that the costliest reduction has, if that is all the kernel needs."""
    axes = kernel.axes
    if len(axes) < 2 or any(s.depth < len(axes) for s in kernel.stores):
        return
    outer = [r for r in reductions if r.axes and r.axes <= set(axes)]
    if not outer:
        return
    free = max(outer, key=lambda r: (len(r.axes), math.prod(a.extent for a in r.bound))).axes
    first = tuple(a for a in axes if a in free)
    if first == axes[: len(first)] or any(not r.axes <= free for r in outer):
        return
    kernel.axes = (*first, *(a for a in axes if a not in free))
    collapse(kernel)


@dataclass(slots=True)
class _Cut:
    """A bound axis cut into `count` parts of `size`; what is left is `rest`, one more part."""

    part: Axis
    count: int
    size: int
    rest: int


class _Stages:
    """The reductions of one kernel that get kernels of their own, innermost first."""

    def __init__(self, kernel: Kernel, reductions: list[Reduce]) -> None:
        self.kernel, self.reductions = kernel, reductions
        self.made: list[Kernel] = []
        self.mapping: dict[Expr, Expr] = {}

    def run(self) -> list[Kernel]:
        kernel = self.kernel
        order = {a: k for k, a in enumerate(kernel.axes)}
        for r in self.reductions:
            if r.axes <= order.keys() and 0 not in (a.extent for a in (*r.axes, *r.bound)):
                free = tuple(sorted(r.axes, key=order.__getitem__))
                self._stage(r, free)
        if self.mapping:
            for s in kernel.stores:
                s.value = substitute(s.value, self.mapping)
        return [*self.made, kernel]

    def _stage(self, r: Reduce, free: tuple[Axis, ...]) -> None:
        axes = self.kernel.axes
        once = operations([r])
        results = math.prod(a.extent for a in free)
        depth = max((k + 1 for k, a in enumerate(axes) if a in r.axes), default=0)
        evaluations = math.prod(a.extent for a in axes[:depth])
        body = substitute(r.body, self.mapping) if self.mapping else r.body
        parts = once * results >= PARALLEL and (free[0].extent if free else 1) < FEW
        if parts:
            self.mapping[r] = self._parts(r, body, free, once * results)
        elif (evaluations - results) * once > WASTE:
            self.mapping[r] = self._whole(r, body, free)

    def _whole(self, r: Reduce, body: Expr, free: tuple[Axis, ...]) -> Expr:
        target = self._buffer(free, r.dtype)
        place = _place(free)
        value = expr.reduce(r.kind, r.bound, body)
        self._add(free, Store(target, place, value, len(free)))
        return expr.load(target, (place,))

    def _parts(self, r: Reduce, body: Expr, free: tuple[Axis, ...], work: float) -> Expr:
        cut = _cut(r.bound[0].extent, max(2, min(PARTS, int(work // CHUNK))))
        axes = (cut.part, *free)
        target = self._buffer(axes, r.dtype)
        position = r.kind in ("argmax", "argmin")
        (first, *others) = r.bound
        inner = math.prod(a.extent for a in others)

        def over(start: Expr, count: int) -> Expr:
            """The reduction of `count` elements of the first axis."""
            own = Axis(count)
            total = expr.reduce(r.kind, (own, *others), substitute(body, {first: start + own}))
            return total + start * inner if position else total

        start = cut.part * cut.size
        self._add(axes, Store(target, _place(axes), over(start, cut.size), len(axes)))
        p = Axis(cut.count)
        partial = expr.load(target, (_place((p, *free)),))
        end = expr.const(cut.count * cut.size, int64)
        rest = over(end, cut.rest) if cut.rest else None
        if not position:
            total = expr.reduce(r.kind, (p,), partial)
            return total if rest is None else expr.apply(r.kind, total, rest)

        def value(at: Expr) -> Expr:
            index = unravel(at, [a.extent for a in r.bound])
            return substitute(body, dict(zip(r.bound, index, strict=True)))

        best = expr.reduce(r.kind, (p,), value(partial))
        found = substitute(partial, {p: best})
        if rest is None:
            return found
        return expr.select(_beats(r.kind, value(rest), value(found)), rest, found)

    def _buffer(self, axes: Sequence[Axis], dtype: DType) -> Buffer:
        name = f"{self.kernel.name}t{len(self.mapping)}"
        return Buffer(name, Spec(tuple(a.extent for a in axes), dtype))

    def _add(self, axes: tuple[Axis, ...], store: Store) -> None:
        """Into a kernel of the same axes that comes after all whose results it needs, or a new one.

        A kernel before those may be needed by them: joining that one would close a circle.
        """
        extents = [a.extent for a in axes]
        reads = {x.buffer for x in loads(store.value)}
        needed = (n for n, k in enumerate(self.made, 1) if not reads.isdisjoint(k.writes()))
        for k in self.made[max(needed, default=0) :]:
            if [a.extent for a in k.axes] == extents:
                same: dict[Expr, Expr] = dict(zip(axes, k.axes, strict=True))
                store.value = substitute(store.value, same)
                store.offset = substitute(store.offset, same)
                k.stores.append(store)
                return
        name = f"{self.kernel.name}s{len(self.made)}"
        self.made.append(Kernel(name, axes, [store], None, self.kernel.nodes))


def _place(axes: Sequence[Axis]) -> Expr:
    return ravel(axes, [a.extent for a in axes])


def _cut(extent: int, count: int) -> _Cut:
    if extent >= UNIT * 4 * count:
        size = extent // count // UNIT * UNIT
    else:
        count = min(count, extent)
        count = min(range(count, count * 3 // 4, -1), key=lambda n: extent % n)
        size = extent // count
    return _Cut(Axis(count), count, size, extent - count * size)


def _beats(kind: str, a: Expr, b: Expr) -> Expr:
    """Whether `a` goes before `b`, which comes first among equals."""
    better = expr.apply("gt" if kind == "argmax" else "lt", a, b)
    if not a.dtype.is_floating:
        return better
    nan = expr.apply("and", expr.apply("ne", a, a), expr.apply("eq", b, b))
    return expr.apply("or", better, nan)
