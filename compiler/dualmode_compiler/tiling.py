"""How a matrix product is cut: into blocks for caches and threads, and tiles for registers.

The estimates are cycles of a core with two multiply-add units; only their ratios matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .emit.dot import COLUMNS as DOT_COLUMNS
from .emit.gemm import Element, element
from .runtime.jit import Host
from .spec import DType


@dataclass(frozen=True)
class Gemm:
    """C[b, m, n] = sum over k of A[b, m, k] * B[b, k, n].

    Attributes:
        m, n, k: sizes, at least 1.
        dtype: float32 or float64.
        a: element strides of A along (m, k).
        b: element strides of B along (k, n).
        c: element row stride of C, which is row-major; unused where an epilogue takes the result.
        batch: (extent, A stride, B stride, C stride) of each batch axis, outermost first.
    """

    m: int
    n: int
    k: int
    dtype: DType
    a: tuple[int, int]
    b: tuple[int, int]
    c: int
    batch: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def count(self) -> int:
        """Number of products in the batch."""
        return math.prod(axis[0] for axis in self.batch)

    def transposed(self) -> Gemm:
        """The product that gives C transposed: B transposed times A transposed."""
        batch = tuple((extent, b, a, c) for extent, a, b, c in self.batch)
        (am, ak), (bk, bn) = self.a, self.b
        return Gemm(self.n, self.m, self.k, self.dtype, (bn, bk), (ak, am), self.c, batch)

    @property
    def macs(self) -> int:
        """Multiply-adds in all."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Tiling:
    """How a product is cut.

    Attributes:
        rows: least rows of a panel; the first `taller` of the `panels` have one more.
        vectors: width of a micro-tile in vectors.
        panels_per_block, columns: the block of C: panels, and columns (whole micro-tiles).
        depth: KC, the longest stretch of K.
        pack_a: packing mode of A, or None; a packed A is read by columns.
        pack_b: packing mode of B, or None.
        by_rows: the kernel reads A by rows.
        dots: a few rows times a B that runs along K: inner products instead of micro-tiles.
        blocks_per_chunk: consecutive blocks that make a chunk.
    """

    rows: int
    taller: int
    panels: int
    vectors: int
    panels_per_block: int
    columns: int
    depth: int
    pack_a: str | None
    pack_b: str | None
    by_rows: bool
    dots: bool
    blocks_per_chunk: int

    @property
    def tallest(self) -> int:
        return self.rows + (self.taller > 0)


# Multiply-adds from which a product is worth a second thread, and those worth a chunk.
SHARED, CHUNK = 1 << 18, 1 << 17
# Numbers of threads for which the cut is weighed; cycles to hand out a block, to move an element of
# an operand in from a far cache, and to pack it.
THREADS, HAND_OUT, MOVE, PACK = (1, 1, 2, 2, 8), 1500, 0.15, 0.6
# From here on a wider micro-tile repays the time to compile one more kernel for its tail.
LARGE = 1 << 20
# Bytes of a row of a block, of the packed block of B, and of the scratch block of C (on the stack).
ROW_BYTES, PACKED_BYTES, TILE_BYTES = 4096, 5 << 16, 1 << 18
# Most steps of K in a stretch, in general and in a sweep over B; most rows for inner products.
DEPTH, SWEEP, DOT_ROWS = 512, 32, 4


def _panel_rows(m: int, host: Host) -> tuple[int, int, int]:
    """(rows, taller, panels): rows shared evenly between panels that fit the registers."""
    most, usual = (14, 8) if host.registers >= 32 else (6, 6)
    if m <= most:
        return m, 0, 1
    for rows in (usual, *range(most, usual, -1)):
        if m % rows == 0:
            return rows, 0, m // rows
    panels = -(-m // usual)
    return m // panels, m % panels, panels


def _vectors(g: Gemm, rows: int, e: Element, host: Host) -> int:
    """Vectors across a micro-tile: tile, a line of B and an element of A fit the registers."""
    most = min(8, (host.registers - 1) // (rows + 1))
    if g.macs < LARGE and rows >= 6:
        most = min(most, 2)
    across = -(-g.n // e.lanes)
    return -(-across // -(-across // most))


def _pack_modes(g: Gemm, e: Element, host: Host) -> tuple[str | None, str | None, bool]:
    """(pack_a, pack_b, by_rows): what the strides need, and what caches want of large operands.

    Rows that are a large power of two apart fall into few sets of a cache.
    """
    (am, ak), (bk, bn) = g.a, g.b
    by_rows = ak == 1 or g.k == 1
    pack_a = None if by_rows or am == 1 or g.m == 1 else "strided"
    large = g.m * g.n * g.k >= LARGE and g.n >= 64
    if pack_a is None and not by_rows and large and ak * e.size % 2048 == 0:
        pack_a = "rows"
    pack_b = "columns" if bk == 1 and g.k * e.size >= 16 else "strided"
    if bn == 1 or g.n == 1:
        pack_b = None
    if pack_b is None and large and g.m >= (32 if bk * e.size % 2048 == 0 else 96):
        pack_b = "rows"
    if pack_b is None and host.vector_bytes < 32 and g.n % e.lanes:
        pack_b = "rows"  # no masks: the last strip is made whole
    return pack_a, pack_b, by_rows


def tiling(g: Gemm, host: Host) -> Tiling:
    """The cut of `g`, by its sizes and strides and the host's registers alone."""
    e = element(g.dtype, host)
    if g.m <= DOT_ROWS and g.a[1] == 1 and g.b[0] == 1 and (g.b[1] != 1 or g.n == 1):
        return _dots(g, e)
    rows, taller, panels = _panel_rows(g.m, host)
    vectors = _vectors(g, rows + (taller > 0), e, host)
    width = vectors * e.lanes
    pack_a, pack_b, by_rows = _pack_modes(g, e, host)
    # With one or two rows B is read once: a few rows of it at a time, each as one long stream.
    stretches = -(-g.k // (SWEEP if g.m <= 2 and pack_b is None else DEPTH))
    depth = -(-g.k // stretches)
    cut = _Cut(g, e, rows + (taller > 0), panels, width, depth, pack_a, pack_b)
    block, columns = cut.best()
    blocks = g.count * -(-panels // block) * -(-g.n // columns)
    return Tiling(
        rows=rows,
        taller=taller,
        panels=panels,
        vectors=vectors,
        panels_per_block=block,
        columns=columns,
        depth=depth,
        pack_a=pack_a,
        pack_b=pack_b,
        by_rows=by_rows,
        dots=False,
        blocks_per_chunk=_per_chunk(g, blocks),
    )


def _per_chunk(g: Gemm, blocks: int) -> int:
    return blocks if g.macs < SHARED else max(1, CHUNK * blocks // g.macs)


def _dots(g: Gemm, e: Element) -> Tiling:
    """Blocks of as many whole columns of B as make a chunk."""
    columns = max(DOT_COLUMNS, CHUNK // (g.m * g.k) // DOT_COLUMNS * DOT_COLUMNS)
    columns = min(columns, ROW_BYTES // e.size, -(-g.n // DOT_COLUMNS) * DOT_COLUMNS)
    return Tiling(
        rows=1,
        taller=0,
        panels=g.m,
        vectors=1,
        panels_per_block=g.m,
        columns=columns,
        depth=g.k,
        pack_a=None,
        pack_b=None,
        by_rows=True,
        dots=True,
        blocks_per_chunk=_per_chunk(g, g.count * -(-g.n // columns)),
    )


@dataclass(frozen=True)
class _Cut:
    """Weighs ways to cut C into blocks."""

    g: Gemm
    e: Element
    rows: int
    panels: int
    width: int
    depth: int
    pack_a: str | None
    pack_b: str | None

    def best(self) -> tuple[int, int]:
        """(panels, columns) of a block of the cut that is fastest by estimate."""
        size = self.e.size
        tiles = -(-self.g.n // self.width)
        most = ROW_BYTES // size
        if self.pack_b:
            most = min(most, PACKED_BYTES // (self.depth * size))
        across = {min(-(-tiles // i), max(1, most // self.width)) for i in range(1, tiles + 1)}
        choices: list[tuple[float, int, int]] = []
        for columns in sorted((x * self.width for x in across), reverse=True):
            high = max(1, TILE_BYTES // (self.rows * columns * size))
            down = {min(-(-self.panels // i), high) for i in range(1, min(self.panels, 64) + 1)}
            choices += [(self.cost(block, columns), block, columns) for block in down]
        _, block, columns = min(choices)
        return block, columns

    def cost(self, block: int, columns: int) -> float:
        """Cycles of the whole product, summed over the numbers of threads."""
        g = self.g
        m, n = min(block * self.rows, g.m), min(columns, g.n)
        step = m * n / (2 * self.e.lanes)
        step += m * (2 * PACK if self.pack_a else MOVE) + n * (PACK if self.pack_b else MOVE)
        blocks = g.count * -(-self.panels // block) * -(-g.n // columns)
        threads = THREADS if g.macs >= SHARED else (1,)
        return sum(p * -(-blocks // p) * (step * g.k + HAND_OUT) for p in threads)
