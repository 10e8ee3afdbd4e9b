"""Matrix products for one host, as LLVM IR text: blocks in cache, tiles in registers.

The scheme is that of Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication",
ACM TOMS 34(3), 2008) as BLIS arranges it (Van Zee and van de Geijn, ACM TOMS 41(3), 2015). C is cut
into blocks (`tiling`); K into stretches of at most KC, so that the K x N block of B stays in the
second-level cache and an M panel of A in the first. Inside a block (`emit.product`), panels of MR
rows run over micro-tiles of MR rows x NR columns, each computed by a micro-kernel (`emit.gemm`)
that keeps the tile in registers.

What differs from a library: sizes are known, so rows are shared out evenly between panels instead
of leaving a thin one; an operand is packed (`emit.pack`) only where its strides make the kernel
slow or do not fit it; and consumers of the product run on finished panels while they are in the
first-level cache (the epilogue). Products with a vector, and with a few rows whose B runs along K,
have loops of their own (`emit.dot`).

Work is cut into chunks by the sizes alone, so the bits of the result do not depend on the number of
threads.
"""

from __future__ import annotations

from .emit.fused import Fused
from .emit.overlap import Overlapped
from .emit.product import Code, Product
from .runtime.jit import Host
from .tiling import Gemm, Tiling, tiling

__all__ = ["Code", "Fused", "Gemm", "Tiling", "emit", "tiling"]


def emit(
    name: str, g: Gemm, host: Host, fused: Fused | None = None, cut: Tiling | None = None
) -> Code:
    """`define internal void @name(ptr %bufs, i64 %chunk)`: bufs[0] is A, bufs[1] B, bufs[2] C,
    which is stored unless there is an epilogue. `cut` is the model's choice by default.

    Raises:
        TypeError: the dtype is neither float32 nor float64.
    """
    fused = fused or Fused()
    if fused.mixed is not None:
        overlapped = Overlapped(name, g, host, fused, fused.mixed, cut)
        if overlapped.suits():
            return overlapped.emit()
    return Product(name, g, host, fused, cut).emit()
