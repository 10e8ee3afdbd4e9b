"""Sums over the rows of an operand of a product, added up where the product reads them.

dW[m, n] = sum_k x[k, m] dY[k, n];  db[n] = sum_k dY[k, n]

A layer's gradients both need dY. So the kernel of the first computes the second, from each block of
dY as it comes into the cache, and does what follows it, such as the update of the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .contraction import linear
from .expr import Buffer, Expr, Fold, Load, Reduce
from .loops import Kernel, Step
from .tiling import gathers
from .walks import substitute, walk

TERMS = 1 << 12  # most of a sum: they are added one after the other


def joined(steps: Sequence[Step]) -> list[Step]:
    """`steps` with such sums in the kernels of their products."""
    out: list[Step | None] = [*steps]
    products: dict[Buffer, list[int]] = {}
    for k, step in enumerate(steps):
        if isinstance(step, Kernel) and step.contraction is not None:
            products.setdefault(step.contraction.b[0], []).append(k)
    for k, step in enumerate(steps):
        total = _sum(step)
        for p in products.get(_operand(total).buffer, ()) if total is not None else ():
            product = out[p]
            assert isinstance(step, Kernel)
            assert total is not None
            if isinstance(product, Kernel) and _fits(product, total):
                place = _place(out, p, k)
                if place is None:
                    continue
                out[p] = out[k] = None
                out[place] = _join(product, step, total)
                products[_operand(total).buffer].remove(p)
                break
    return [step for step in out if step is not None]


def _operand(total: Reduce) -> Load:
    assert isinstance(total.body, Load)
    return total.body


def _sum(step: Step) -> Reduce | None:
    """The sum over the rows of an array that all results of `step` follow from, if it is so."""
    if not isinstance(step, Kernel) or step.contraction is not None or step.fold is not None:
        return None
    if len(step.axes) != 1 or any(s.depth != 1 for s in step.stores):
        return None
    loops = [e for e in walk([s.value for s in step.stores]) if isinstance(e, Reduce | Fold)]
    total = loops[0] if len(loops) == 1 else None
    if not isinstance(total, Reduce) or total.kind != "add" or len(total.bound) != 1:
        return None
    return total if isinstance(total.body, Load) and step.axes[0] in total.axes else None


def _fits(product: Kernel, total: Reduce) -> bool:
    """True if `product` reads just what is summed, row by row."""
    c = product.contraction
    assert c is not None
    g, found = c.gemm, linear(_operand(total).index[0])
    (k,), axes = total.bound, total.axes
    if c.sums is not None or c.right is not None:
        return False
    if c.m is None or c.n is None or len(product.axes) != 2:
        return False
    if found is None or len(axes) != 1 or g.half is not None or g.b[1] != 1 or g.b[0] == 1:
        return False
    if gathers(g.transposed()):
        return False  # rows of B are then columns of the transposed product's first operand
    (n,) = axes
    same = found == ({k: g.b[0], n: 1}, c.b[1]) and (n.extent, k.extent) == (g.n, g.k)
    return same and g.k <= TERMS and total.dtype is g.dtype


def _place(steps: Sequence[Step | None], p: int, k: int) -> int | None:
    """Where both of two steps may run: the earlier or the later one's place; None if neither."""
    first, last = min(p, k), max(p, k)
    early, late = steps[first], steps[last]
    assert early is not None
    assert late is not None
    between = [s for s in steps[first + 1 : last] if s is not None]
    written = {b for s in between for b in s.writes()}
    read = {b for s in between for b in s.reads()}
    if not {*late.reads()} & {*early.writes()}:
        if not {*late.reads()} & written and not {*late.writes()} & (read | written):
            return first
        if not {*early.writes()} & (read | written) and not {*early.reads()} & written:
            return last
    return None


def _join(product: Kernel, step: Kernel, total: Reduce) -> Kernel:
    """Both kernels as one: its loops are the columns of the product, and then its rows."""
    c = product.contraction
    assert c is not None
    assert c.m is not None
    assert c.n is not None
    there: dict[Expr, Expr] = {step.axes[0]: c.n}
    sums = substitute(total, there)
    assert isinstance(sums, Reduce)
    stores = [
        replace(s, value=substitute(s.value, there), offset=substitute(s.offset, there))
        for s in step.stores
    ]
    return replace(
        product,
        axes=(c.n, c.m),
        stores=[*product.stores, *stores],
        contraction=replace(c, sums=sums),
        nodes=[*product.nodes, *step.nodes],
    )
