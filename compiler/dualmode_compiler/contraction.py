"""Recognising sums of products that the GEMM template can compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .contract import Gemm
from .expr import Affine, Apply, Axis, Buffer, Const, Expr, Load, Reduce
from .halves import Half, operand
from .loops import Contraction, Kernel, flat
from .records import dataclass
from .spec import DType, float32, float64
from .tiling import LONG_DOT, THIN
from .walks import walk

SMALL = 1 << 12  # multiply-adds below which plain loops are as fast
# An operand is computed as it is read where that is quicker than to store it first, as measured:
# any A for at most so many columns, and one of that many bytes for more of them; B for at least so
# many rows, as it is packed, and one of that many bytes for fewer of them.
NARROW, LARGE_A = 64, 1 << 20
ROWS, LARGE_B = 16, 1 << 23
LEFT = "its first operand is computed as its rows are read"
RIGHT = "its second operand is computed as it is packed"


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
    if len(total.bound) != 1:
        return
    n, k = kernel.axes[-1], total.bound[0]
    half, pair = _arrays(total, n) or (None, computed_operands(total, n, k))
    out = linear(kernel.stores[0].offset)
    if pair is None or out is None:
        return
    a, b = pair
    m = next((x for x in reversed(kernel.axes) if x in a.axes and x not in b.axes), None)
    batch = tuple(x for x in kernel.axes if x is not m and x is not n)
    ca, cb, cc = a.strides, b.strides, out[0]
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
        total, gemm, (a.buffer, a.base), (b.buffer, b.base), batch, m, n, None, None, a.of, b.of
    )


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand of a product, or the largest array that it is computed of.

    Attributes:
        strides: of its axes, in elements of the product's type, and `base` its first element.
        axes: that the operand has.
        of: an element of it, where that is computed as it is read.
    """

    buffer: Buffer
    strides: dict[Expr, int]
    base: int
    axes: frozenset[Axis]
    of: Expr | None = None


def _factors(total: Reduce, n: Axis) -> tuple[Expr, Expr]:
    """The factor without `n`, and the other one."""
    assert isinstance(total.body, Apply)
    p, q = total.body.args
    return (q, p) if n in p.axes else (p, q)


def _arrays(total: Reduce, n: Axis) -> tuple[Half | None, tuple[Operand, Operand]] | None:
    """Both operands where they are arrays, and how they are read if they are of a half type."""
    pair = [operand(x) for x in _factors(total, n)]
    if pair[0] is None or pair[1] is None or pair[0][1] != pair[1][1]:
        return None
    (a, half), (b, _) = pair[0], pair[1]
    fa, fb = linear(a.index[0]), linear(b.index[0])
    if fa is None or fb is None or n in fa[0] or n not in fb[0]:
        return None
    return half, (Operand(a.buffer, *fa, a.axes), Operand(b.buffer, *fb, b.axes))


def computes_operands(value: Expr, axes: Sequence[Axis]) -> bool:
    """True if `value` is a sum of products that the template computes, of operands that are arrays
    or that it computes itself."""
    if not is_contraction(value, axes):
        return False
    while isinstance(value, Apply):
        (value,) = value.args
    total = flat(value)
    assert isinstance(total, Reduce)
    if len(total.bound) != 1 or not axes:
        return False
    n = axes[-1]
    return bool(_arrays(total, n) or computed_operands(total, n, total.bound[0]))


def computed_operands(total: Reduce, n: Axis, k: Axis) -> tuple[Operand, Operand] | None:
    """Operands of which some are computed as they are read; None where they are best stored first.

    What is computed of A lies along K, and B along N.
    """
    left, right = _factors(total, n)
    a, b = _operand(left, k, total.dtype), _operand(right, n, total.dtype)
    if n in left.axes or a is None or b is None or b.strides.get(n) != 1 or b.strides.get(k) == 1:
        return None
    if n.extent <= THIN and k.extent >= LONG_DOT:
        return None  # long sums of few columns are inner products, which read rows of both
    if a.of is not None and n.extent > NARROW and a.buffer.spec.nbytes < LARGE_A:
        return None
    rows = math.prod(x.extent for x in a.axes - b.axes)
    stored = b.of is not None and rows < ROWS and b.buffer.spec.nbytes < LARGE_B
    return None if stored else (a, b)


def _operand(x: Expr, along: Axis, dtype: DType) -> Operand | None:
    """`x` where it is an array, or computed of ones that lie along `along`, if they have it."""
    if x.dtype is not dtype:
        return None
    if isinstance(x, Load):
        place = linear(x.index[0])
        return None if place is None else Operand(x.buffer, *place, x.axes)
    found: list[Operand] = []
    for e in walk([x]):
        place = linear(e.index[0]) if isinstance(e, Load) else None
        if isinstance(e, Load) and (place is None or place[0].get(along, 0) not in (0, 1)):
            return None
        if isinstance(e, Load) and place is not None and place[0].get(along) == 1:
            size = e.dtype.itemsize
            strides = {a: c * size // dtype.itemsize for a, c in place[0].items() if a is not along}
            found.append(Operand(e.buffer, {**strides, along: 1}, place[1], x.axes, x))
    return max(found, key=lambda f: f.buffer.spec.nbytes, default=None)


def is_plain(kernel: Kernel) -> bool:
    """True if the contraction's result is stored as it is, with no epilogue."""
    c, stores = kernel.contraction, kernel.products()
    if c is None or len(stores) != 1 or stores[0].value is not c.reduce:
        return False
    out = linear(stores[0].offset)
    return out is not None and out[1] == 0 and c.n is not None and out[0].get(c.n) == 1
