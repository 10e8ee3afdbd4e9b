"""Recognising sums of products that the GEMM template can compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .contract import Gemm
from .expr import Affine, Apply, Axis, Const, Expr, Reduce, walk
from .halves import operand
from .loops import Contraction, Kernel
from .spec import float32, float64

SMALL = 1 << 12  # multiply-adds below which plain loops are as fast


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
    if len(total.bound) != 1 or pair[0] is None or pair[1] is None:
        return
    (a, half), (b, other) = pair[0], pair[1]
    if half != other:
        return
    n, k = kernel.axes[-1], total.bound[0]
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


def is_plain(kernel: Kernel) -> bool:
    """True if the contraction's result is stored as it is, with no epilogue."""
    c = kernel.contraction
    if c is None or len(kernel.stores) != 1 or kernel.stores[0].value is not c.reduce:
        return False
    out = linear(kernel.stores[0].offset)
    return out is not None and out[1] == 0 and c.n is not None and out[0].get(c.n) == 1
