"""Recognising sums of products that the GEMM template can compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .contract import Gemm
from .expr import Affine, Apply, Axis, Const, Expr, Load, Reduce
from .halves import operand
from .loops import Contraction, Kernel, flat
from .spec import float32, float64
from .tiling import LONG_DOT, THIN
from .walks import walk

SMALL = 1 << 12  # multiply-adds below which plain loops are as fast
# Most columns for which A is computed as it is read. To store it and read it again takes as long as
# three additions for each element, while products take about a twentieth longer in between.
NARROW = 64


def is_contraction(value: Expr, axes: Sequence[Axis]) -> bool:
    """True for a large enough sum over k of a[.., k] * b[k, ..] whose operands differ in axes, or
    what is computed of one alone, such as its value rounded to another type."""
    while isinstance(value, Apply) and len(value.args) == 1:
        (value,) = value.args
    if not isinstance(value, Reduce) or value.kind != "add":
        return False
    body = value.body
    if value.dtype not in (float32, float64) or not isinstance(body, Apply) or body.fn != "mul":
        return False
    p, q = body.args
    bound = set(value.bound)
    if not bound <= p.axes or not bound <= q.axes or p.axes == q.axes:
        return False
    work = math.prod(a.extent for a in (*axes, *value.bound))
    return work >= SMALL and not any(isinstance(e, Reduce) for e in walk([body]))


def linear(x: Expr) -> tuple[dict[Expr, int], int] | None:
    """Coefficients of the axes in an offset, and its constant; None if it is not linear."""
    if isinstance(x, Const):
        return {}, x.value
    if isinstance(x, Axis):
        return {x: 1}, 0
    if isinstance(x, Affine) and all(isinstance(a, Axis) for a, _ in x.terms):
        return dict(x.terms), x.const
    return None


def recognise(kernel: Kernel) -> None:
    """Set `kernel.contraction` where its sum of products fits the template; else leave loops."""
    found = {
        e
        for e in walk([s.value for s in kernel.stores])
        if isinstance(e, Reduce) and is_contraction(e, kernel.axes)
    }
    if len(found) != 1 or any(s.depth < len(kernel.axes) for s in kernel.stores):
        return
    (total,) = found
    assert isinstance(total.body, Apply)
    pair = [operand(x) for x in total.body.args]
    if len(total.bound) != 1:
        return
    n, k = kernel.axes[-1], total.bound[0]
    if pair[0] is None or pair[1] is None or pair[0][1] != pair[1][1]:
        _with_prologue(kernel, total, n, k)
        return
    (a, half), (b, _) = pair[0], pair[1]
    if n in a.axes:
        a, b = b, a
    fa, fb = linear(a.index[0]), linear(b.index[0])
    if fa is None or fb is None or n in fa[0] or n not in fb[0]:
        return
    m = next((x for x in reversed(kernel.axes) if x in fa[0] and x not in fb[0]), None)
    batch = tuple(x for x in kernel.axes if x is not m and x is not n)
    out = linear(kernel.stores[0].offset)
    if out is None:
        return
    (ca, base_a), (cb, base_b), (cc, _) = fa, fb, out
    gemm = Gemm(
        m=m.extent if m else 1,
        n=n.extent,
        k=k.extent,
        dtype=total.dtype,
        a=(ca.get(m, 0) if m else 0, ca.get(k, 0)),
        b=(cb.get(k, 0), cb[n]),
        c=cc.get(m, n.extent) if m else n.extent,
        batch=tuple((x.extent, ca.get(x, 0), cb.get(x, 0), cc.get(x, 0)) for x in batch),
        half=half,
    )
    kernel.contraction = Contraction(
        total, gemm, (a.buffer, base_a), (b.buffer, base_b), batch, m, n
    )


def computes_operand(value: Expr, axes: Sequence[Axis]) -> bool:
    """True if `value` is a sum of products that the template computes of an A which is no array."""
    while isinstance(value, Apply) and len(value.args) == 1:
        (value,) = value.args
    total = flat(value)
    if not isinstance(total, Reduce) or len(total.bound) != 1 or not axes:
        return False
    return _sides(total, axes[-1], total.bound[0]) is not None


def _sides(total: Reduce, n: Axis, k: Axis) -> tuple[Expr, Load, dict[Expr, int]] | None:
    """What is computed of A, and B with its strides: rows of A lie along K, rows of B along N."""
    assert isinstance(total.body, Apply)
    p, q = total.body.args
    left, b = (q, p) if n in p.axes else (p, q)
    if not isinstance(b, Load) or n in left.axes or left.dtype is not total.dtype:
        return None
    if n.extent > NARROW or (n.extent <= THIN and k.extent >= LONG_DOT):
        return None  # long sums of few columns are inner products, which read rows of both
    found, read = linear(b.index[0]), [e for e in walk([left]) if isinstance(e, Load)]
    strides = [linear(x.index[0]) for x in read]
    along = [None if s is None else s[0].get(k, 0) for s in strides]
    if found is None or found[0].get(n) != 1 or found[0].get(k) == 1:
        return None
    return (left, b, found[0]) if 1 in along and {*along} <= {0, 1} else None


def _with_prologue(kernel: Kernel, total: Reduce, n: Axis, k: Axis) -> None:
    """`recognise` where an operand is computed as it is read."""
    sides, out = _sides(total, n, k), linear(kernel.stores[0].offset)
    if sides is None or out is None:
        return
    left, b, fb = sides
    fc = out[0]
    m = next((x for x in reversed(kernel.axes) if x in left.axes and x not in fb), None)
    batch = tuple(x for x in kernel.axes if x is not m and x is not n)
    gemm = Gemm(
        m=m.extent if m else 1,
        n=n.extent,
        k=k.extent,
        dtype=total.dtype,
        a=(k.extent, 1),
        b=(fb.get(k, 0), 1),
        c=fc.get(m, n.extent) if m else n.extent,
        batch=tuple((x.extent, 0, fb.get(x, 0), fc.get(x, 0)) for x in batch),
    )
    base = linear(b.index[0])
    assert base is not None
    first = next(e for e in walk([left]) if isinstance(e, Load))
    kernel.contraction = Contraction(
        total, gemm, (first.buffer, 0), (b.buffer, base[1]), batch, m, n, left=left
    )


def is_plain(kernel: Kernel) -> bool:
    """True if the contraction's result is stored as it is, with no epilogue."""
    c, stores = kernel.contraction, kernel.products()
    if c is None or len(stores) != 1 or stores[0].value is not c.reduce:
        return False
    out = linear(stores[0].offset)
    return out is not None and out[1] == 0 and c.n is not None and out[0].get(c.n) == 1
