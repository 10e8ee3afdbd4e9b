"""Matrix products for one host, as LLVM IR text: blocks in cache, tiles in registers.

The scheme is that of Goto and van de Geijn ("Anatomy of High-Performance Matrix Multiplication", ACM
TOMS 34(3), 2008) as BLIS arranges it (Van Zee and van de Geijn, ACM TOMS 41(3), 2015). C is cut into
blocks; K into stretches of at most KC, so that the K x N block of B stays in the second-level cache
and an M panel of A in the first. Inside a block, panels of MR rows run over micro-tiles of MR rows x
NR columns, each computed by a micro-kernel (`emit.gemm`) that keeps the tile in registers.

What differs from a library: sizes are known, so rows are shared out evenly between panels instead of
leaving a thin one; an operand is packed (`emit.pack`) only where its strides make the kernel slow or
do not fit it; and consumers of the product run on finished panels while they are in the first-level
cache (the epilogue).

Work is cut into chunks by the sizes alone, so the bits of the result do not depend on the number of
threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .emit.gemm import Element, Kernel, attributes, element, kernel
from .emit.pack import packer, packer_name
from .emit.writer import Writer
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

    @property
    def macs(self) -> int:
        """Multiply-adds in all."""
        return self.count * self.m * self.n * self.k


@dataclass(frozen=True)
class Code:
    """An emitted product.

    Attributes:
        text: IR of `internal void @name(ptr bufs, i64 chunk)`.
        chunks: number of chunks of the work; they may run in any order and in parallel.
        helpers: IR of internal functions that it calls, by name; equal names have equal text.
        scratch: bytes of memory needed beside the stack: 0.
        flops: floating-point operations in all.
    """

    text: str
    chunks: int
    helpers: dict[str, str]
    scratch: int
    flops: int


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
    blocks_per_chunk: int

    @property
    def tallest(self) -> int:
        return self.rows + (self.taller > 0)


# Multiply-adds that make a chunk worth a thread of its own, and the most chunks that are sought.
CHUNK_MACS = 1 << 17
MOST_CHUNKS = 32
# Bytes of a row of a block, of the packed block of B, and of the scratch block of C, all on the stack.
ROW_BYTES, PACKED_BYTES, TILE_BYTES = 4096, 1 << 18, 1 << 18


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


def _pack_modes(g: Gemm, e: Element, host: Host) -> tuple[str | None, str | None, bool]:
    """(pack_a, pack_b, by_rows) for the strides of `g`."""
    (am, ak), (bk, bn) = g.a, g.b
    by_rows = ak == 1 or g.k == 1
    pack_a = None if by_rows or am == 1 or g.m == 1 else "strided"
    if by_rows and g.k >= 1024 and g.n >= 128:
        pack_a, by_rows = "columns", False
    pack_b = None if bn == 1 or g.n == 1 else "columns" if bk == 1 else "strided"
    if pack_b is None and not host.vector_bytes >= 32 and g.n % e.lanes:
        pack_b = "strided"
    return pack_a, pack_b, by_rows


def tiling(g: Gemm, host: Host) -> Tiling:
    e = element(g.dtype, host)
    rows, taller, panels = _panel_rows(g.m, host)
    vectors = 2
    width = vectors * e.lanes
    pack_a, pack_b, by_rows = _pack_modes(g, e, host)
    stretches = -(-g.k // 384)
    depth = -(-g.k // stretches)
    depth += depth % 2 if stretches > 1 else 0
    most_columns = ROW_BYTES // e.size
    if pack_b:
        most_columns = min(most_columns, PACKED_BYTES // (depth * e.size))
    most_columns = max(width, most_columns // width * width)
    tiles = -(-g.n // width)
    most_panels = max(1, TILE_BYTES // ((rows + 1) * min(most_columns, tiles * width) * e.size))
    wanted = min(max(1, g.macs // (2 * CHUNK_MACS)), MOST_CHUNKS)
    per_product = -(-wanted // g.count)
    best, best_cost = (1, 1), math.inf
    for across in range(1, min(per_product, tiles) + 1):
        columns = min(-(-tiles // across) * width, most_columns)
        across = -(-tiles * width // columns)
        down = -(-per_product // across)
        block = min(-(-panels // min(down, panels)), most_panels)
        down = -(-panels // block)
        high = min(block * (rows + 1), g.m)
        cost = down * across * _cost(high, min(columns, g.n), pack_a, pack_b, e)
        if cost < best_cost:
            best, best_cost = (block, columns), cost
    block, columns = best
    blocks = g.count * -(-panels // block) * -(-g.n // columns)
    per_chunk = max(1, min(blocks, CHUNK_MACS * blocks // g.macs))
    return Tiling(
        rows, taller, panels, vectors, block, columns, depth, pack_a, pack_b, by_rows, per_chunk
    )


def _cost(m: int, n: int, pack_a: str | None, pack_b: str | None, e: Element) -> float:
    """Relative time per step of K of an m x n block: arithmetic, and moving or packing operands."""
    move_a = 0.4 if pack_a else 0.1
    move_b = 0.4 if pack_b else 0.1
    return m * n / (2 * e.lanes) + move_a * m + move_b * n


def emit(name: str, g: Gemm, host: Host, epilogue: str | None) -> Code:
    """`define internal void @name(ptr %bufs, i64 %chunk)`: bufs[0] is A, bufs[1] B, bufs[2] C.

    Without an epilogue C is stored. With one, each finished panel is handed to
    `void @epilogue(ptr bufs, i64 batch, i64 i0, i64 j0, i64 mr, i64 nr, ptr tile, i64 ldt)`: element
    (r, c) of rows i0.. and columns j0.. is tile[r*ldt + c]; whole vectors past nr may be read.

    Raises:
        TypeError: the dtype is neither float32 nor float64.
    """
    return _Emitter(name, g, host, epilogue).emit()


class _Emitter:
    """Writes one product. Methods go from the outermost loop inwards."""

    def __init__(self, name: str, g: Gemm, host: Host, epilogue: str | None) -> None:
        self.name, self.g, self.host, self.epilogue = name, g, host, epilogue
        self.e = element(g.dtype, host)
        self.t = tiling(g, host)
        self.w = Writer()
        self.helpers: dict[str, str] = {}
        self.allocas: list[str] = []
        self.width = self.t.vectors * self.e.lanes
        self.masks = host.vector_bytes >= 32
        # Without masks whole vectors are stored, to scratch, and copied out from there.
        self.scratch = epilogue is not None or not (self.masks or g.n % self.e.lanes == 0)
        self.stretches = -(-g.k // self.t.depth)

    def emit(self) -> Code:
        w, g, t = self.w, self.g, self.t
        self.across = -(-g.n // t.columns)
        self.down = -(-t.panels // t.panels_per_block)
        blocks = g.count * self.down * self.across
        chunks = -(-blocks // t.blocks_per_chunk)
        self._reserve()
        self.base = [self._argument(i) for i in range(3)]
        if t.blocks_per_chunk == 1:
            self._block("%chunk")
        else:
            first = w.op("mul", "%chunk", t.blocks_per_chunk)
            last = w.minimum(w.op("add", first, t.blocks_per_chunk), blocks)
            with w.loop(first, last) as index:
                self._block(index)
        w.do("ret void")
        body = "\n".join((*self.allocas, w.text()))
        head = f"define internal void @{self.name}(ptr %bufs, i64 %chunk) {attributes(self.host)} {{"
        return Code(f"{head}\nentry:\n{body}\n}}\n", chunks, self.helpers, 0, 2 * g.macs)

    def _argument(self, i: int) -> str:
        return self.w.let(f"load ptr, ptr {self.w.at('%bufs', 'ptr', i)}, align 8")

    def _reserve(self) -> None:
        t, lanes = self.t, self.e.lanes
        wide = -(-min(t.columns, self.g.n) // lanes) * lanes
        self.ldt = wide + lanes if wide > lanes else wide
        high = t.tallest * (t.panels_per_block if self.stretches > 1 else 1)
        self.ldp = -(-t.tallest // lanes) * lanes
        deep = min(t.depth, self.g.k)
        tiles = -(-min(t.columns, self.g.n) // self.width)
        if self.scratch:
            self._alloca("tile", high * self.ldt + lanes)
        if t.pack_a:
            self._alloca("panel", deep * self.ldp)
        if t.pack_b:
            self._alloca("strips", deep * tiles * self.width)

    def _alloca(self, name: str, size: int) -> None:
        self.allocas.append(f"  %{name} = alloca [{size} x {self.e.type}], align 64")

    def _block(self, index: str) -> None:
        """Block `index` of C: batch element, then rows, then columns fastest."""
        w, g, t = self.w, self.g, self.t
        jb = w.op("urem", index, self.across)
        rest = w.op("udiv", index, self.across)
        ib = w.op("urem", rest, self.down)
        self.flat = w.op("udiv", rest, self.down)
        self.a, self.b, self.c = self._batch(self.flat)
        self.j0 = w.op("mul", jb, t.columns)
        p0 = w.op("mul", ib, t.panels_per_block)
        if self.across == 1:
            self.columns: str | int = g.n
        else:
            self.columns = w.minimum(w.op("sub", g.n, self.j0), t.columns)
        p1: str | int = t.panels
        if self.down > 1:
            p1 = w.minimum(w.op("add", p0, t.panels_per_block), t.panels)
        if self.stretches == 1:
            self._stretch("0", g.k, p0, p1)
        else:
            with w.loop(0, g.k, t.depth) as k0:
                length = w.minimum(w.op("sub", g.k, k0), t.depth)
                self._stretch(k0, length, p0, p1)

    def _batch(self, flat: str) -> list[str]:
        """Addresses of A, B and C of batch element `flat`."""
        w, out = self.w, list(self.base)
        for i, (extent, *strides) in reversed(list(enumerate(self.g.batch))):
            here = w.op("urem", flat, extent) if i else flat
            flat = w.op("udiv", flat, extent) if i else flat
            for x, stride in enumerate(strides):
                out[x] = w.at(out[x], self.e.type, w.op("mul", here, stride))
        return out

    def _stretch(self, k0: str, length: str | int, p0: str, p1: str | int) -> None:
        """The product over one stretch of K, panel by panel."""
        w, t, e = self.w, self.t, self.e
        b = w.at(self.b, e.type, w.op("mul", k0, self.g.b[0]))
        b = w.at(b, e.type, w.op("mul", self.j0, self.g.b[1]))
        if t.pack_b:
            self._pack_strips(b, length)
        with w.loop(p0, p1) as p:
            row = w.op("mul", p, t.rows)
            if t.taller:
                row = w.op("add", row, w.minimum(p, t.taller))
                is_tall = w.let(f"icmp ult i64 {p}, {t.taller}")
                rows = w.let(f"select i1 {is_tall}, i64 {t.rows + 1}, i64 {t.rows}")
            else:
                is_tall, rows = None, str(t.rows)
            a = w.at(self.a, e.type, w.op("mul", row, self.g.a[0]))
            a = w.at(a, e.type, w.op("mul", k0, self.g.a[1]))
            if t.pack_a:
                a = self._pack_panel(a, rows, length)
            if self.scratch:
                high = w.op("sub", p, p0) if self.stretches > 1 else "0"
                c, ldc = w.at("%tile", e.type, w.op("mul", high, t.tallest * self.ldt)), self.ldt
            else:
                c, ldc = w.at(self.c, e.type, w.op("mul", row, self.g.c)), self.g.c
                c = w.at(c, e.type, self.j0)
            self._panel(a, b, c, ldc, k0, length, is_tall)
            if self.scratch:
                self._finish(k0, length, row, rows, c)

    def _pack_strips(self, b: str, length: str | int) -> None:
        """The block of B, as micro-tile after micro-tile of `length` rows of `width`."""
        w, t, e = self.w, self.t, self.e
        strips = w.op("udiv", w.op("add", self.columns, e.lanes - 1), e.lanes) if isinstance(
            self.columns, str) else str(-(-self.columns // e.lanes))
        with w.loop(0, strips) as s:
            first = w.op("mul", s, e.lanes)
            left = w.op("sub", self.columns, first)
            source = w.at(b, e.type, w.op("mul", first, self.g.b[1]))
            offset = w.op("mul", w.op("udiv", s, t.vectors), self._tile_size())
            lane = w.op("mul", w.op("urem", s, t.vectors), e.lanes)
            target = w.at("%strips", e.type, w.op("add", offset, lane))
            self._pack(t.pack_b, source, self.g.b[0], self.g.b[1], left, length, target, self.width)

    def _tile_size(self) -> int:
        return min(self.t.depth, self.g.k) * self.width

    def _pack_panel(self, a: str, rows: str, length: str | int) -> str:
        """A panel of A, by columns of `ldp` rows."""
        w, e, g = self.w, self.e, self.g
        for first in range(0, self.ldp, e.lanes):
            source = w.at(a, e.type, first * g.a[0])
            left = str(int(rows) - first) if rows.isdigit() else w.op("sub", rows, first)
            target = w.at("%panel", e.type, first)
            self._pack(self.t.pack_a, source, g.a[1], g.a[0], left, length, target, self.ldp)
        return "%panel"

    def _pack(
        self, mode: str | None, source: str, sk: int, sn: int, columns: str, length: str | int,
        target: str, ds: int,
    ) -> None:
        assert mode
        name = packer_name(mode, self.e)
        if name not in self.helpers:
            self.helpers[name] = packer(mode, self.e, self.host)
        self.w.do(
            f"call void @{name}(ptr {source}, i64 {sk}, i64 {sn}, i64 {columns}, i64 {length}, "
            f"ptr {target}, i64 {ds})"
        )

    def _panel(
        self, a: str, b: str, c: str, ldc: int, k0: str, length: str | int, is_tall: str | None
    ) -> None:
        """One panel of A times the block of B: whole micro-tiles, then the tail of the last block."""
        w, g = self.w, self.g
        tail = g.n % self.width
        whole = w.op("udiv", self.columns, self.width) if isinstance(self.columns, str) else str(
            self.columns // self.width)
        if g.n >= self.width:
            some = None if self.across == 1 or tail == 0 else w.let(f"icmp ne i64 {whole}, 0")

            def tiles() -> None:
                with w.loop(0, whole) as s:
                    self._tile(s, self.t.vectors, self.e.lanes, a, b, c, ldc, k0, length, is_tall)

            if some is None:
                tiles()
            else:
                with w.when(some):
                    tiles()
        if tail:
            vectors = -(-tail // self.e.lanes)
            live = tail - (vectors - 1) * self.e.lanes
            if self.across == 1:
                self._tile(whole, vectors, live, a, b, c, ldc, k0, length, is_tall)
            else:
                ends = w.let(f"icmp ne i64 {w.op('urem', self.columns, self.width)}, 0")
                with w.when(ends):
                    self._tile(whole, vectors, live, a, b, c, ldc, k0, length, is_tall)

    def _tile(
        self, s: str, vectors: int, live: int, a: str, b: str, c: str, ldc: int, k0: str,
        length: str | int, is_tall: str | None,
    ) -> None:
        """Micro-tile `s` of the panel."""
        w, t, e, g = self.w, self.t, self.e, self.g
        if t.pack_b:
            b, ldb = w.at("%strips", e.type, w.op("mul", s, self._tile_size())), self.width
        else:
            b, ldb = w.at(b, e.type, w.op("mul", s, self.width)), g.b[0]
        # Scratch and packed strips are whole vectors wide: only C and B in place need the mask.
        masked = live < e.lanes and not (self.scratch and t.pack_b)
        spec = Kernel(t.rows, vectors, masked, t.by_rows, e)
        function = self._kernel(spec)
        if is_tall:
            tall = self._kernel(replace(spec, rows=t.rows + 1))
            function = w.let(f"select i1 {is_tall}, ptr {tall}, ptr {function}")
        lda = g.a[0] if t.by_rows else self.ldp if t.pack_a else g.a[1]
        c = w.at(c, e.type, w.op("mul", s, self.width))
        add = k0 if self.stretches > 1 else "0"
        w.do(
            f"call void {function}(ptr {a}, i64 {lda}, ptr {b}, i64 {ldb}, ptr {c}, i64 {ldc}, "
            f"i64 {length}, i64 {live}, i64 {add})"
        )

    def _kernel(self, spec: Kernel) -> str:
        if spec.name not in self.helpers:
            self.helpers[spec.name] = kernel(spec, self.host)
        return f"@{spec.name}"

    def _finish(self, k0: str, length: str | int, row: str, rows: str, tile: str) -> None:
        """Hand a panel on after the last stretch of K."""
        w, g = self.w, self.g
        if self.stretches == 1:
            self._hand_on(row, rows, tile)
            return
        final = w.let(f"icmp eq i64 {w.op('add', k0, str(length))}, {g.k}")
        with w.when(final):
            self._hand_on(row, rows, tile)

    def _hand_on(self, row: str, rows: str, tile: str) -> None:
        w, g, e = self.w, self.g, self.e
        if self.epilogue is not None:
            w.do(
                f"call void @{self.epilogue}(ptr %bufs, i64 {self.flat}, i64 {row}, i64 {self.j0}, "
                f"i64 {rows}, i64 {self.columns}, ptr {tile}, i64 {self.ldt})"
            )
            return
        target = w.at(self.c, e.type, w.op("mul", row, g.c))
        target = w.at(target, e.type, self.j0)
        size = f"{self.columns}" if isinstance(self.columns, int) else self.columns
        size = w.let(f"mul i64 {size}, {e.size}")
        with w.loop(0, rows) as r:
            to = w.at(target, e.type, w.op("mul", r, g.c))
            source = w.at(tile, e.type, w.op("mul", r, self.ldt))
            w.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {size}, i1 false)")
