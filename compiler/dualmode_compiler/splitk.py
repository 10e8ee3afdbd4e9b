"""Products whose sums are cut into parts, because their results are too few to share out.

C = A B  -->  T[p] = A[:, part p] B[part p, :] for all p;  C = T[0] + T[1] + ...

The parts are one batched product, so that threads may compute them at the same time. A second
kernel adds them up in a fixed order, and does what follows the product. The number of parts is a
matter of the sizes alone, so the bits of C are the same for any number of threads.
"""

from __future__ import annotations

import math

from . import expr
from .contraction import recognise
from .expr import Axis, Buffer, Expr, Reduce
from .index import ravel
from .loops import Contraction, Kernel, Store, collapse
from .spec import Spec, int64
from .tiling import Gemm
from .walks import substitute

# Rows and columns of a product of operands along K from which on its inner products, which are
# computed whole, are enough to share out.
FEW, MANY = 4, 128
# Most parts; multiply-adds, and terms of each sum, that a part has at least; elements that all
# parts together have at most: what is written and read again stays in the second-level cache.
PARTS, WORK, TERMS, ELEMENTS = 32, 1 << 18, 512, 1 << 16


def parts(results: int, terms: int, unit: int = 1) -> tuple[int, int]:
    """Into how many parts the sums of `results` numbers of `terms` products each are cut, and the
    terms of a part, a multiple of `unit`. One part: they are left whole."""
    most = min(PARTS, results * terms // WORK, terms // TERMS, ELEMENTS // results)
    if most < 2:
        return 1, terms
    cuts = [(n, terms // n // unit * unit) for n in range(most, most * 3 // 4, -1)]
    # those are best that leave little over: up to a quarter fewer parts
    return min(cuts, key=lambda cut: terms - cut[0] * cut[1])


def in_parts(kernel: Kernel, c: Contraction) -> tuple[Kernel, Kernel] | None:
    """The kernel of the parts of the product `c` of `kernel`, and the one that adds them up; None
    where it is best computed as a whole."""
    (k,) = c.reduce.bound
    extents = [a.extent for a in kernel.axes]
    pair = 2 if c.gemm.half is not None else 1  # a CPU may multiply pairs of terms
    count, size = parts(math.prod(extents), k.extent, pair)
    if count == 1 or shares_out(c.gemm):
        return None
    part = Axis(count)
    axes = (part, *kernel.axes)
    target = Buffer(f"{kernel.name}p", Spec((count, *extents), c.gemm.dtype))
    products = _over(c.reduce, part * size, size)
    store = Store(target, ravel(axes, target.spec.shape), products, len(axes))
    first = Kernel(f"{kernel.name}s", axes, [store], None, kernel.nodes, apart=kernel.apart)
    recognise(first)

    p = Axis(count)
    place = ravel((p, *kernel.axes), target.spec.shape)
    total = expr.reduce("add", (p,), expr.load(target, (place,)))
    rest = k.extent - size * count
    if rest:
        total = total + _over(c.reduce, expr.const(size * count, int64), rest)
    kernel.contraction = None
    for s in kernel.stores:
        s.value = substitute(s.value, {c.reduce: total})
    collapse(kernel)
    return first, kernel


def shares_out(g: Gemm) -> bool:
    """True for a few rows, or columns, of one operand times many of the other, all along K."""
    along = g.a[1] == 1 and g.b[0] == 1
    return along and min(g.m, g.n) <= FEW and max(g.m, g.n) >= MANY


def _over(total: Reduce, start: Expr, count: int) -> Expr:
    """The part of the sum `total` of `count` terms from `start` on."""
    (k,) = total.bound
    own = Axis(count)
    return expr.reduce(total.kind, (own,), substitute(total.body, {k: start + own}))
