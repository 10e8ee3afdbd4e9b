"""How a matrix product is cut: into blocks for caches and threads, and tiles for registers.

What the registers hold decides the tiles, strides and caches what is packed and how long a stretch
of K is, and a cost model (`blocks`) the blocks.
"""

from __future__ import annotations

import math

from .blocks import ROW_BYTES, SHARED, Blocks
from .emit.dot import COLUMNS as DOT_COLUMNS
from .emit.dot import dot_rows
from .emit.gemv import FAR, MOST_ROWS, kernel_for
from .emit.pack import group
from .emit.simd import Element
from .halves import Half, element_of, in_steps, pack_modes
from .records import dataclass
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
        half: how the operands are read if they are of a half type, in whose elements their strides
            count; `dtype` is that of the sums.
    """

    m: int
    n: int
    k: int
    dtype: DType
    a: tuple[int, int]
    b: tuple[int, int]
    c: int
    batch: tuple[tuple[int, int, int, int], ...] = ()
    half: Half | None = None

    @property
    def count(self) -> int:
        """Number of products in the batch."""
        return math.prod(axis[0] for axis in self.batch)

    def transposed(self) -> Gemm:
        """The product that gives C transposed: B transposed times A transposed."""
        batch = tuple((extent, b, a, c) for extent, a, b, c in self.batch)
        (am, ak), (bk, bn) = self.a, self.b
        b, a = (bn, bk), (ak, am)
        return Gemm(self.n, self.m, self.k, self.dtype, b, a, self.c, batch, self.half)

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
        pack_a: packing mode of A, or None; a packed A is read by columns, but for "gathered": then
            its rows lie apart, along K.
        pack_b: packing mode of B, or None.
        by_rows: the kernel reads A by rows.
        dots: a few rows times a B that runs along K: inner products instead of micro-tiles.
        sweeps: one or two rows times a B that runs along N, which is read once, row by row.
        is_far: of these two, B comes from memory.
        blocks_per_chunk: consecutive blocks that make a chunk.
        abreast: panels that are packed side by side, as they share the cache lines of A.
        panels_packed: panels of A that are packed before they are computed.
        fetch: while micro-tiles are computed, what comes next is brought in: the next panel of A
            and C, and the next stretch's part of a B that is packed by rows.
        packs_first: the first panel of a block packs B while it is computed.
        ahead: how many lines before it is packed a line of B is asked for, where the first panel
            packs it by rows; else 0.
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
    panels_packed: int = 1
    fetch: bool = False
    packs_first: bool = False
    ahead: int = 0
    sweeps: bool = False
    is_far: bool = False

    @property
    def tallest(self) -> int:
        return self.rows + (self.taller > 0)


@dataclass(frozen=True)
class Wish:
    """What a cut is to be like, as far as that suits the product; None leaves it to the model.

    Attributes:
        rows: most rows of a panel.
        vectors: most vectors across a micro-tile.
        depth: most steps of K in a stretch.
        packed: whether to pack a B that could be read in place.
    """

    rows: int | None = None
    vectors: int | None = None
    depth: int | None = None
    packed: bool | None = None


# Cuts that are worth measuring (`tuner`), the model's first.
WISHES = (
    Wish(),
    Wish(packed=True),
    Wish(packed=False),
    Wish(rows=12),
    Wish(rows=14),
    Wish(rows=6, vectors=4),
    Wish(depth=128),
    Wish(depth=256),
    Wish(depth=512),
    Wish(rows=12, packed=True),
    Wish(depth=64, packed=False),
    Wish(rows=4, vectors=6),
)


# Multiply-adds that are worth a chunk.
CHUNK = 1 << 17
# From here on a kernel without masks repays the time to compile it, besides that of the tail.
LARGE = 1 << 20
# Bytes of a row of a block where B is read once: a few long streams, which prefetchers follow.
SWEEP_BYTES = 1 << 14
# Most steps of K in a stretch, in general and in a sweep over B; most rows for inner
# products, or panels of rows where their sums are of LONG_DOT terms or more.
DEPTH, SWEEP, DOT_ROWS, DOT_PANELS, LONG_DOT = 512, 4096, 4, 2, 512
# The same where parts of B are brought in ahead: all but the first one.
FETCHED = 256
# Rows of A that are gathered for inner products, at the most, and their bytes; columns of B for
# which that is done at least.
THIN, GATHERED, SERVED = 8, 1 << 18, 256
# Rows of A from which on panels are brought in ahead.
TALL = 32
# The part of the second-level cache for packed panels of A.
PACKED = 4
# Lines of B by which a panel that copies them is ahead of itself with asking for them.
AHEAD = 16
# Bytes of a line of a cache, and lines that share a set.
LINE, WAYS = 64, 8


def _panel_rows(m: int, host: Host, wish: Wish) -> tuple[int, int, int]:
    """(rows, taller, panels): rows shared evenly between panels that fit the registers."""
    most, usual = (14, 8) if host.registers >= 32 else (6, 6)
    if wish.rows:
        panels = -(-m // min(wish.rows, most))
        return m // panels, m % panels, panels
    if m <= most:
        return m, 0, 1
    for rows in (usual, *range(most, usual, -1)):
        if m % rows == 0:
            return rows, 0, m // rows
    panels = -(-m // usual)
    return m // panels, m % panels, panels


def _vectors(g: Gemm, rows: int, e: Element, host: Host, wish: Wish) -> int:
    """Vectors across a micro-tile: tile, a line of B and an element of A fit the registers. About a
    dozen sums keep the multiply-adds busy; more take longer to store, and divide N less evenly."""
    most = min(wish.vectors or 8, (host.registers - 1) // (rows + 1))
    if rows >= 6 and not wish.vectors:
        most = min(most, 2)
    across = -(-g.n // e.lanes)
    return -(-across // -(-across // most))


def _pack_modes(g: Gemm, e: Element, host: Host) -> tuple[str | None, str | None, bool]:
    """(pack_a, pack_b, by_rows): what the strides need, and what caches want of large operands.

    Rows that are a large power of two apart fall into few sets of a cache.
    """
    if g.half is not None:
        return pack_modes(g, g.half)
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
    return 2 * lines > _room(apart, caches.second)


def _room(apart: int, size: int) -> int:
    """How many lines, `apart` bytes from one another, a cache of `size` bytes holds."""
    way = size // WAYS
    sets = way // math.gcd(apart, way) if apart >= LINE else way // LINE
    return sets * WAYS


def _packs_first(g: Gemm, e: Element, rows: int, pack_b: str | None, host: Host) -> bool:
    """True if the first panel packs B while it is computed. Where B runs along K, its columns and
    the panel's rows are read side by side."""
    if host.vector_bytes < 32 or (g.half is not None and g.half.loose[1]):
        return False
    if pack_b == "columns":
        apart = max(g.b[1], g.a[0]) * e.size
        return e.lanes + rows <= _room(apart, host.caches.first) and g.k % group(e) == 0
    return pack_b == "rows"


def _may(g: Gemm, host: Host, packed: bool) -> bool:
    """True if B may be packed by rows, or else read in place, which may take masks."""
    along = g.half is None and g.b[1] == 1 and g.n > 1
    return along and (packed or host.vector_bytes >= 32)


def _is_far(g: Gemm, e: Element, caches: Caches) -> bool:
    """True if B does not stay in the second-level cache."""
    return g.k * g.n * e.size > caches.second // 2


def _comes_from_memory(g: Gemm, e: Element) -> bool:
    """True if the Bs of all products are larger than what is left in a cache that cores share."""
    return g.count * g.k * g.n * e.size >= FAR


def _is_streamed(g: Gemm, e: Element, caches: Caches) -> bool:
    """True if a tall A and C do not stay in the second-level cache."""
    large = g.count * g.m * (g.k + g.n) * e.size > caches.second
    return large and g.m >= TALL and not (g.half and g.half.loose[0])


def _line_depth(caches: Caches) -> int:
    """Steps of K whose lines of A, one a step, fill half of the first-level cache."""
    return caches.first // (2 * LINE)


def tiling(g: Gemm, host: Host, epilogue: bool = False, wish: Wish = WISHES[0]) -> Tiling:
    """The cut of `g`, by its sizes and strides and the host's registers and caches.

    Args:
        epilogue: what is done with C reads and writes other arrays of its size.
        wish: a cut of this kind. The bits of C are the same for any.
    """
    g = in_steps(g, host)
    e = element_of(g, host)
    if _is_dots(g, host):
        return _dots(g, e, host)
    rows, taller, panels = _panel_rows(g.m, host, wish)
    vectors = _vectors(g, rows + (taller > 0), e, host, wish)
    pack_a, pack_b, by_rows = _pack_modes(g, e, host)
    if wish.packed is not None and _may(g, host, wish.packed):
        pack_b = "rows" if wish.packed else None
    sweeps = _sweeps(g, pack_b)
    if sweeps:
        vectors, pack_a = kernel_for(e, host, g.m, False).vectors, None
    width = vectors * e.lanes
    far = pack_b == "rows" and g.half is None and _is_far(g, e, host.caches)
    most = wish.depth or _most_steps(g, host, pack_b, by_rows, far)
    packs_first = not pack_a and _packs_first(g, e, rows, pack_b, host)
    unit = group(e) if packs_first and pack_b == "columns" else 1
    depth = -(-g.k // -(-g.k // most) // unit) * unit
    abreast = e.lanes // rows if pack_a and not taller and e.lanes % rows == 0 else 1
    tallest = rows + (taller > 0)
    least = min(SWEEP_BYTES // e.size, -(-g.n // 2)) if sweeps else 0
    cut = Blocks(
        g, host, e, tallest, panels, width, depth, pack_a, pack_b, abreast, epilogue, least
    )
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
        panels_packed=min(_panels_packed(tallest, depth, e, host) * abreast, block),
        fetch=far or _is_streamed(g, e, host.caches),
        packs_first=packs_first,
        ahead=AHEAD if packs_first and pack_b == "rows" else 0,
        sweeps=sweeps,
        is_far=_comes_from_memory(g, e),
    )


def _sweeps(g: Gemm, pack_b: str | None) -> bool:
    """True if B is read once, by one or two rows of A: then a few rows of it at a time, each as one
    long stream."""
    return g.m <= MOST_ROWS and pack_b is None


def _most_steps(g: Gemm, host: Host, pack_b: str | None, by_rows: bool, far: bool) -> int:
    """Most steps of K in a stretch."""
    if _sweeps(g, pack_b):
        return SWEEP
    most = FETCHED if far else DEPTH
    in_place = not by_rows and g.half is None
    return min(most, _line_depth(host.caches)) if in_place else most


def _panels_packed(rows: int, depth: int, e: Element, host: Host) -> int:
    """Strips of A that take a part of the second-level cache."""
    strip = -(-rows // e.lanes) * e.lanes * depth * e.size
    return max(1, host.caches.second // PACKED // strip)


def _per_chunk(g: Gemm, blocks: int) -> int:
    return blocks if g.macs < SHARED else max(1, CHUNK * blocks // g.macs)


def is_flipped(g: Gemm, host: Host) -> bool:
    """True if `g` is best computed as its transposed product: vectors then run along M, or a few
    columns that run along K are the rows of inner products."""
    turned = g.transposed()
    few = g.n <= _most_rows(host) and _run_along(in_steps(turned, host))
    return g.n < g.m and (g.n == 1 or (g.k >= LONG_DOT and (few or _is_dots(turned, host))))


def _most_rows(host: Host) -> int:
    """Rows for which inner products are worth it where B is hard to pack."""
    return DOT_PANELS * dot_rows(host)


def _run_along(g: Gemm) -> bool:
    """True if both operands, as they are, run along K."""
    as_they_are = g.half is None or not any(g.half.loose)
    return as_they_are and g.a[1] == 1 and g.b[0] == 1 and (g.b[1] != 1 or g.n == 1)


def _is_dots(g: Gemm, host: Host) -> bool:
    """True if inner products are quicker than to pack a B that runs along K for a few rows."""
    g = in_steps(g, host)
    e = element_of(g, host)
    if _run_along(g):
        hard = g.k >= LONG_DOT and not _packs_first(g, e, g.m, "columns", host)
        return g.m <= (_most_rows(host) if hard else DOT_ROWS)
    return gathers(g)


def gathers(g: Gemm) -> bool:
    """True if a few rows of A that do not run along K are brought into order for inner products."""
    along = g.b[0] == 1 and (g.b[1] != 1 or g.n == 1)
    thin = g.m <= THIN and g.a[0] == 1 and g.half is None
    long = g.k >= LONG_DOT and g.m * g.k * g.dtype.itemsize <= GATHERED
    return along and thin and long and g.n >= SERVED


def _dots(g: Gemm, e: Element, host: Host) -> Tiling:
    """Blocks of as many whole columns of B as make a chunk."""
    gathered = g.a[1] != 1
    least = SERVED if gathered else DOT_COLUMNS
    columns = max(least, CHUNK // (g.m * g.k) // DOT_COLUMNS * DOT_COLUMNS)
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
        pack_a="gathered" if gathered else None,
        pack_b=None,
        by_rows=True,
        dots=True,
        blocks_per_chunk=_per_chunk(g, g.count * -(-g.n // columns)),
        panels_packed=panels,
        is_far=_comes_from_memory(g, e),
    )
