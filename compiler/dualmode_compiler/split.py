"""Kernels cut where an index passes a bound, so that each part has no choice left in it.

for i < 6: y[i] = select(i < 4, a[i], b[i - 4])
-->
for i < 4: y[i] = a[i]; for i < 2: y[i + 4] = b[i]

That is what concatenation, padding and rolling lower to, and what is fused with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from . import expr
from .cost import Cost, kernel_cost
from .expr import Affine, Apply, Axis, Const, Expr, Reduce
from .loops import Kernel, Store, collapse
from .siblings import siblings
from .spec import bool_, int64
from .walks import operands, rebuild, substitute, walk

MOST = 16  # parts of one kernel
LEAST = 2048  # choices, in elements, that a part saves at least: less is not worth its code
SHORT, LONG = 8, 16  # an innermost axis is at most or at least that long, for vectors to be full
RUN = 256  # bytes that lie side by side in each part, at least: less would be slow to store apart
NEAR = 1 << 19  # bytes of a result that stays in cache, where shorter runs will do
NEAR_RUN = 32


def split(kernel: Kernel) -> list[Kernel]:
    """The kernels that compute `kernel`, each a part of its result; itself if it is best whole."""
    values = [s.value for s in kernel.stores]
    whole = kernel.contraction is not None or kernel.fold is not None
    if whole or any(s.depth < len(kernel.axes) for s in kernel.stores):
        return [kernel]
    if any(isinstance(e, Reduce) for e in walk(values)):
        return [kernel]
    kernel = _apart(kernel)
    choices = sum(isinstance(e, Apply) and e.fn == "select" for e in walk(values))
    most = math.prod(a.extent for a in kernel.axes) * choices // LEAST
    parts = _parts(kernel, min(MOST, most)) if most > 1 else None
    if parts is None or len(parts) == 1:
        return [kernel]
    for k, piece in enumerate(parts):
        piece.name = f"{kernel.name}p{k}"
        collapse(piece)
    return siblings(parts)


def split_cost(kernel: Kernel, parts: Sequence[Kernel] | None = None) -> Cost:
    """What `kernel` takes when it is computed as its parts: each leaves out what others do."""
    costs = [kernel_cost(k) for k in parts or split(kernel)]
    return replace(kernel_cost(kernel), flops=sum(c.flops for c in costs))


def _apart(kernel: Kernel) -> Kernel:
    """`kernel` with axes that are only ever divided taken apart.

    for f < 12: y[f] = x[f % 4]  -->  for a < 3: for b < 4: y[4*a + b] = x[b]
    """
    for k, axis in enumerate(kernel.axes):
        last = k == len(kernel.axes) - 1
        size = _divisor(kernel, axis)
        if size is None or (last and not (size <= SHORT or size >= LONG)):
            continue
        outer, inner = Axis(axis.extent // size), Axis(size)
        mapping: dict[Expr, Expr] = {axis: outer * size + inner}
        stores = [
            Store(
                s.buffer,
                substitute(s.offset, mapping),
                substitute(s.value, mapping),
                s.depth + 1,
            )
            for s in kernel.stores
        ]
        axes = (*kernel.axes[:k], outer, inner, *kernel.axes[k + 1 :])
        return _apart(Kernel(kernel.name, axes, stores, None, kernel.nodes))
    return kernel


def _divisor(kernel: Kernel, axis: Axis) -> int | None:
    """The smallest number that `axis` is divided by, where it divides the extent."""
    found = {
        e.args[1].value
        for e in walk([s.value for s in kernel.stores])
        if isinstance(e, Apply) and e.fn in ("floordiv", "mod") and e.args[0] is axis
        if isinstance(e.args[1], Const)
    }
    size = min(found, default=0)
    return size if 1 < size < axis.extent and axis.extent % size == 0 else None


def _parts(kernel: Kernel, most: int) -> list[Kernel] | None:
    """At most `most` parts; None if there would be more."""
    cuts = _cuts(kernel)
    axis = next((a for a in kernel.axes if a in cuts and _worth(kernel, a, cuts[a])), None)
    if axis is None:
        return [kernel]
    bounds = [0, *sorted(cuts[axis]), axis.extent]
    out: list[Kernel] = []
    for start, stop in pairwise(bounds):
        inner = _parts(part(kernel, axis, start, stop), most - len(out))
        if inner is None or len(out) + len(inner) > most:
            return None
        out += inner
    return out


def _worth(kernel: Kernel, axis: Axis, cuts: set[int]) -> bool:
    """True if every part of `axis` is long in memory, or made of whole outer slices."""
    k = kernel.axes.index(axis)
    if k == 0 and len(kernel.axes) > 1:
        return True
    inside = math.prod(a.extent for a in kernel.axes[k + 1 :])
    size = min(s.buffer.spec.dtype.itemsize for s in kernel.stores)
    bounds = [0, *sorted(cuts), axis.extent]
    lengths = [b - a for a, b in pairwise(bounds)]
    near = max(s.buffer.spec.nbytes for s in kernel.stores) <= NEAR
    return k == 0 or max(lengths) * inside * size >= (NEAR_RUN if near else RUN)


def _cuts(kernel: Kernel) -> dict[Axis, set[int]]:
    """Where along each axis a comparison changes its result."""
    cuts: dict[Axis, set[int]] = {}
    for e in walk([s.value for s in kernel.stores]):
        if isinstance(e, Apply) and e.fn == "lt" and isinstance(e.args[1], Const):
            found = _cut(e.args[0], e.args[1].value) if e.args[0].dtype is int64 else None
            if found is not None and found[0] in kernel.axes and 0 < found[1] < found[0].extent:
                cuts.setdefault(found[0], set()).add(found[1])
    return cuts


def _cut(x: Expr, bound: int) -> tuple[Axis, int] | None:
    """(axis, place) where `x < bound` holds on one side of `place` and not on the other."""
    if isinstance(x, Axis):
        return x, bound
    if isinstance(x, Affine) and len(x.terms) == 1:
        ((atom, step),) = x.terms
        if step > 0:
            return _cut(atom, -((x.const - bound) // step))
        return _cut(atom, (bound - x.const) // step + 1)
    if isinstance(x, Apply) and x.fn == "floordiv" and isinstance(x.args[1], Const):
        step = x.args[1].value
        return _cut(x.args[0], bound * step) if step > 0 else None
    return None


def part(kernel: Kernel, axis: Axis, start: int, stop: int) -> Kernel:
    """`kernel` for the values start .. stop of `axis`; another axis, or none, runs over them."""
    k = kernel.axes.index(axis)
    inner = (Axis(stop - start),) if stop - start > 1 else ()
    place = sum(inner, start=expr.const(start, int64))
    mapping: dict[Expr, Expr] = {axis: place}
    stores = [
        Store(
            s.buffer,
            substitute(s.offset, mapping),
            _simplified(s.value, mapping),
            s.depth - (not inner),
        )
        for s in kernel.stores
    ]
    axes = (*kernel.axes[:k], *inner, *kernel.axes[k + 1 :])
    return Kernel(kernel.name, axes, stores, None, kernel.nodes)


def _simplified(x: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """`x` with `mapping` applied, and without the choices that are known then."""
    memo: dict[Expr, Expr] = dict(mapping)
    for e in walk([x]):
        if e in memo:
            continue
        args = [memo[c] for c in operands(e)]
        if isinstance(e, Apply):
            memo[e] = _known(e, args)
        else:
            memo[e] = rebuild(e, args) if args else e
    return memo[x]


def _known(x: Apply, args: list[Expr]) -> Expr:
    """`x` with other operands; one of them, or a constant, where that is known to be the result."""
    if x.fn == "select":
        return expr.select(args[0], args[1], args[2])
    if x.dtype is bool_ and x.fn in ("and", "or", "not"):
        return _logical(x, args)
    if x.fn in ("lt", "minimum", "maximum") and args[0].dtype is int64:
        a, b = (e.span for e in args)
        if a is not None and b is not None:
            less, more = a[1] <= b[0], a[0] >= b[1]
            if x.fn == "lt" and (a[1] < b[0] or more):
                return expr.const(not more, bool_)
            if x.fn != "lt" and (less or more):
                return args[0] if less == (x.fn == "minimum") else args[1]
    return rebuild(x, args)


def _logical(x: Apply, args: list[Expr]) -> Expr:
    if x.fn == "not":
        (a,) = args
        return expr.const(not a.value, bool_) if isinstance(a, Const) else rebuild(x, args)
    for a, b in (args, args[::-1]):
        if isinstance(a, Const):
            return b if bool(a.value) == (x.fn == "and") else a
    return rebuild(x, args)
