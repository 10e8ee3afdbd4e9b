"""How a matrix product is cut: into blocks for caches and threads, and tiles for registers.

A small cost model chooses. It counts cycles of one core for one step of K in a block of m x n:

    m n / (vectors a cycle)       multiply-adds
    + m MOVE                      elements of A are brought in,
      or START a strip            or packed: each strip of a column is on a page of its own
    + n (MOVE, COPY or PACK)      elements of B: brought in, copied row by row, or packed
    + START                       a row of B begins: on another page, ahead of no prefetcher

besides START for each row of each array of C's size that a block writes or its epilogue reads, and
HAND_OUT for every block. So wide blocks make better use of packed operands and of rows of B,
many blocks keep more threads busy, and the caches say how large a block may be. The model's figures
are rounded measurements; only their ratios matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .emit.dot import COLUMNS as DOT_COLUMNS
from .emit.dot import dot_rows
from .emit.gemm import Element, element
from .runtime.caches import Caches
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
        abreast: panels that are packed side by side, as they share the cache lines of A.
        fetch: while a stretch of K is computed, the next one's part of B is brought in.
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
    abreast: int = 1
    fetch: bool = False

    @property
    def tallest(self) -> int:
        return self.rows + (self.taller > 0)


# Multiply-adds from which a product is worth a second thread, and those worth a chunk.
SHARED, CHUNK = 1 << 18, 1 << 17
# Numbers of threads for which the cut is weighed.
THREADS = (1, 1, 2, 2, 4)
# Cycles to hand out a block, to begin a row of B; for an element of an operand: to bring it in from
# a far cache, to copy it to a packed row, to pack it in another order.
HAND_OUT, START, MOVE, COPY, PACK = 1500, 24, 0.15, 0.6, 1.2
# Starts of rows for each row of a block that an epilogue costs, with the arrays that it walks.
STREAMS = 8
# From here on a wider micro-tile repays the time to compile one more kernel for its tail.
LARGE = 1 << 20
# Bytes of a row of a block, and of the scratch block of C (on the stack).
ROW_BYTES, TILE_BYTES = 8192, 1 << 18
# Most steps of K in a stretch, in general and in a sweep over B; most rows for inner
# products, or panels of rows where their sums are of LONG_DOT terms or more.
DEPTH, SWEEP, DOT_ROWS, LONG_DOT = 512, 32, 4, 512
# The same where parts of B are brought in ahead: all but the first one.
FETCHED = 256
# Bytes of a line of a cache, and lines that share a set.
LINE, WAYS = 64, 8


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
    if pack_a is None and not by_rows and large:
        pack_a = (
            "rows"
            if _conflict(min(g.k, _line_depth(host.caches)), ak * e.size, host.caches)
            else None
        )
    pack_b = "columns" if bk == 1 and g.k * e.size >= 16 else "strided"
    if bn == 1 or g.n == 1:
        pack_b = None
    if (
        pack_b is None
        and large
        and g.m >= 32
        and _conflict(min(g.k, DEPTH), bk * e.size, host.caches)
    ):
        pack_b = "rows"
    if pack_b is None and large and g.m >= 96 and _is_far(g, e, host.caches):
        pack_b = "rows"
    if pack_b is None and host.vector_bytes < 32 and g.n % e.lanes:
        pack_b = "rows"  # no masks: the last strip is made whole
    return pack_a, pack_b, by_rows


def _conflict(lines: int, apart: int, caches: Caches) -> bool:
    """True if so many lines, `apart` bytes from one another, fall into so few sets of the
    second-level cache that they are a burden to it."""
    way = caches.second // WAYS
    sets = way // math.gcd(apart, way) if apart >= LINE else way // LINE
    return 2 * lines > sets * WAYS


def _is_far(g: Gemm, e: Element, caches: Caches) -> bool:
    """True if B does not stay in the second-level cache."""
    return g.k * g.n * e.size > caches.second // 2


def _line_depth(caches: Caches) -> int:
    """Steps of K whose lines of A, one a step, fill half of the first-level cache."""
    return caches.first // (2 * LINE)


def tiling(g: Gemm, host: Host, epilogue: bool = False) -> Tiling:
    """The cut of `g`, by its sizes and strides and the host's registers and caches.

    `epilogue`: what is done with C reads and writes other arrays of its size.
    """
    e = element(g.dtype, host)
    if _is_dots(g, host):
        return _dots(g, e, host)
    rows, taller, panels = _panel_rows(g.m, host)
    vectors = _vectors(g, rows + (taller > 0), e, host)
    width = vectors * e.lanes
    pack_a, pack_b, by_rows = _pack_modes(g, e, host)
    # With one or two rows B is read once: a few rows of it at a time, each as one long stream.
    fetch = pack_b == "rows" and _is_far(g, e, host.caches)
    most = SWEEP if g.m <= 2 and pack_b is None else FETCHED if fetch else DEPTH
    most = most if by_rows else min(most, _line_depth(host.caches))
    depth = -(-g.k // -(-g.k // most))
    abreast = e.lanes // rows if pack_a and not taller and e.lanes % rows == 0 else 1
    tallest, streams = rows + (taller > 0), STREAMS if epilogue else 1
    cut = _Cut(g, host, e, tallest, panels, width, depth, pack_a, pack_b, abreast, streams)
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
        abreast=abreast,
        fetch=fetch,
    )


def _per_chunk(g: Gemm, blocks: int) -> int:
    return blocks if g.macs < SHARED else max(1, CHUNK * blocks // g.macs)


def is_flipped(g: Gemm, host: Host) -> bool:
    """True if `g` is best computed as its transposed product: vectors then run along M, or a few
    columns that run along K are the rows of inner products."""
    few = g.k >= LONG_DOT and _is_dots(g.transposed(), host)
    return g.n < g.m and (g.n == 1 or few)


def _is_dots(g: Gemm, host: Host) -> bool:
    """True if inner products are quicker than to pack a B that runs along K for a few rows."""
    along = g.a[1] == 1 and g.b[0] == 1 and (g.b[1] != 1 or g.n == 1)
    return along and g.m <= DOT_ROWS * (dot_rows(host) if g.k >= LONG_DOT else 1)


def _dots(g: Gemm, e: Element, host: Host) -> Tiling:
    """Blocks of as many whole columns of B as make a chunk."""
    columns = max(DOT_COLUMNS, CHUNK // (g.m * g.k) // DOT_COLUMNS * DOT_COLUMNS)
    columns = min(columns, ROW_BYTES // e.size, -(-g.n // DOT_COLUMNS) * DOT_COLUMNS)
    panels = -(-g.m // dot_rows(host))
    return Tiling(
        rows=g.m // panels,
        taller=g.m % panels,
        panels=panels,
        vectors=1,
        panels_per_block=panels,
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
    host: Host
    e: Element
    rows: int
    panels: int
    width: int
    depth: int
    pack_a: str | None
    pack_b: str | None
    abreast: int
    streams: int

    def best(self) -> tuple[int, int]:
        """(panels, columns) of a block of the cut that is fastest by estimate."""
        size = self.e.size
        tiles = -(-self.g.n // self.width)
        most = ROW_BYTES // size
        if self.pack_b:
            most = min(most, self.host.caches.second // 2 // (self.depth * size))
        across = {min(-(-tiles // i), max(1, most // self.width)) for i in range(1, tiles + 1)}
        choices: list[tuple[float, int, int]] = []
        for columns in sorted((x * self.width for x in across), reverse=True):
            scratch = self.rows * columns * size  # of one panel; of all where K is cut
            high = self.panels if self.depth == self.g.k else max(1, TILE_BYTES // scratch)
            down = {min(-(-self.panels // i), high) for i in range(1, min(self.panels, 64) + 1)}
            choices += [(self.cost(block, columns), block, columns) for block in self._whole(down)]
        _, block, columns = min(choices)
        return block, columns

    def _whole(self, down: set[int]) -> set[int]:
        """Numbers of panels, so that those which are packed together stay together."""
        step = self.abreast
        return {min(-(-block // step) * step, self.panels) for block in down}

    def cost(self, block: int, columns: int) -> float:
        """Cycles that the cores are held, summed over the numbers of threads. Those that
        find no block left wait for the others."""
        g = self.g
        down, across = -(-self.panels // block), -(-g.n // columns)
        a = START / (self.rows * self.abreast) if self.pack_a else MOVE
        b = {None: MOVE, "rows": COPY}.get(self.pack_b, PACK)
        speed = self.e.lanes * _per_cycle(self.host)
        step = g.m * g.n / speed + a * g.m * across + b * g.n * down + START * down * across
        blocks = g.count * down * across
        edges = self.streams * START * g.m * across
        whole = g.count * (g.k * step + edges) + HAND_OUT * blocks
        threads = THREADS if g.macs >= SHARED else (1,)
        return sum(p * -(-blocks // p) for p in threads) * whole / blocks


def _per_cycle(host: Host) -> int:
    """Vector multiply-adds that a core starts in a cycle: many do one of 64 bytes, two of less."""
    return 1 if host.vector_bytes == 64 else 2
