"""Products of half types: operands of float16 or bfloat16, sums of float32.

Where the CPU multiplies pairs (AVX-512 BF16, `vdpbf16ps`: c += a[0]*b[0] + a[1]*b[1] in each lane),
a step of K is a pair of bfloat16, which takes the place of one float32. An operand that runs along
K in memory holds such pairs already, so it is read as if it were float32; any other is interleaved
when it is packed. The instruction takes subnormal operands and sums as zeros, and may round a pair
once. So products are computed by it only where the expression says of their operands that they are
flushed.

Elsewhere both operands become float32 when they are packed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .emit.simd import Element, element
from .expr import Apply, Expr, Load
from .records import dataclass
from .runtime.jit import Host
from .spec import DType, bfloat16, float32

if TYPE_CHECKING:
    from .tiling import Gemm


@dataclass(frozen=True)
class Half:
    """How the operands of a product are read that are of a half type.

    Attributes:
        source: their type in memory.
        flushed: subnormal operands count as zeros.
        pairs: a step of K is a pair of elements.
        terms: steps of K in elements, once `in_steps` has chosen; 0 before.
        loose: whether A and B are converted or interleaved when they are packed, their strides
            being in elements; else they are read as float32.
    """

    source: DType
    flushed: bool
    pairs: bool = False
    terms: int = 0
    loose: tuple[bool, bool] = (True, True)


def operand(x: Expr) -> tuple[Load, Half | None] | None:
    """What an operand of a product loads, and how, if it is of a half type; None if it does more
    than that."""
    flushed = cast = False
    if isinstance(x, Apply) and x.fn == "flush":
        flushed, (x,) = True, x.args
    if isinstance(x, Apply) and x.fn == "cast" and x.dtype is float32:
        cast, (x,) = True, x.args
    if not isinstance(x, Load):
        return None
    if cast and x.dtype.is_floating and x.dtype.itemsize == 2:
        return x, Half(x.dtype, flushed)
    return None if flushed or cast else (x, None)


def multiplies_pairs(host: Host) -> bool:
    """True where a multiply-add of pairs of bfloat16 is one instruction."""
    return host.vector_bytes == 64 and "+avx512bf16" in host.features.split(",")


def in_steps(g: Gemm, host: Host) -> Gemm:
    """`g` as it is computed: its K in steps, and the strides of operands that are read in place in
    units of those."""
    half = g.half
    if half is None or half.terms:
        return g
    if not (half.source is bfloat16 and half.flushed and multiplies_pairs(host)):
        return replace(g, half=replace(half, terms=g.k))
    (am, ak), (bk, bn) = g.a, g.b
    a = ak == 1 and not any(x % 2 for x in (g.k, am, *(axis[1] for axis in g.batch)))
    b = bk == 1 and not any(x % 2 for x in (g.k, bn, *(axis[2] for axis in g.batch)))
    return replace(
        g,
        k=-(-g.k // 2),
        a=(am // 2, 1) if a else (am, 2 * ak),
        b=(1, bn // 2) if b else (2 * bk, bn),
        batch=tuple(
            (extent, x // 2 if a else x, y // 2 if b else y, c) for extent, x, y, c in g.batch
        ),
        half=replace(half, pairs=True, terms=g.k, loose=(not a, not b)),
    )


def element_of(g: Gemm, host: Host) -> Element:
    """Elements of the registers in which `g`, as `in_steps` gave it, is computed."""
    pairs = g.half is not None and g.half.pairs
    return replace(element(g.dtype, host), pairs=True) if pairs else element(g.dtype, host)


def pack_modes(g: Gemm, half: Half) -> tuple[str | None, str | None, bool]:
    """(pack_a, pack_b, by_rows), as of other products: what is loose is packed."""
    pack_a = None
    if half.loose[0]:
        pack_a = "rows" if g.a[0] == 1 else "strided"
    pack_b = "columns" if g.k >= 4 else "strided"
    if half.loose[1]:
        pack_b = "rows" if g.b[1] == 1 else "strided"
    return pack_a, pack_b, pack_a is None
