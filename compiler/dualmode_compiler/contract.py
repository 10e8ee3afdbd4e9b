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

from .emit.overlap import Mixed, Overlapped
from .emit.product import Code, Product
from .runtime.jit import Host
from .tiling import Gemm, Tiling, tiling

__all__ = ["Code", "Gemm", "Tiling", "emit", "tiling"]


def emit(
    name: str,
    g: Gemm,
    host: Host,
    epilogue: str | None,
    cut: Tiling | None = None,
    sums: str | None = None,
    left: str | None = None,
    mixed: Mixed | None = None,
) -> Code:
    """`define internal void @name(ptr %bufs, i64 %chunk)`: bufs[0] is A, bufs[1] B, bufs[2] C.

    Without an epilogue C is stored. With one, each finished panel is handed to `void @epilogue(ptr
    bufs, i64 batch, i64 i0, i64 j0, i64 mr, i64 nr, ptr tile, i64 ldt)`: element (r, c) of the rows
    from i0 and the columns from j0 is tile[r*ldt + c], and whole vectors past nr may be read. `cut`
    is the model's choice by default. `sums`, a function like the epilogue, is handed the sums over
    the rows of B, as one row; `left`, another, computes a panel of A. `mixed` writes micro-kernels
    that walk finished panels (`emit.overlap`).

    Raises:
        TypeError: the dtype is neither float32 nor float64.
    """
    if mixed is not None:
        overlapped = Overlapped(name, g, host, epilogue, cut, sums, left, mixed)
        if overlapped.suits():
            return overlapped.emit()
    return Product(name, g, host, epilogue, cut, sums, left).emit()
