"""The loops of a matrix product around its micro-kernels, as LLVM IR text."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace

from ..runtime.jit import Host
from ..tiling import Gemm, tiling
from .dot import COLUMNS as DOT_COLUMNS
from .dot import dot, dot_name
from .gemm import Kernel, attributes, element, kernel
from .pack import packer, packer_name
from .writer import LoopWriter

# Rows of B that are packed together.
PAGES = 16


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
class _Panel:
    """Operands of a panel: A, B, C, C's row stride, steps of K, whether to add, which height."""

    a: str
    b: str
    c: str
    ldc: int
    length: str | int
    add: str
    is_tall: str | None


class Product:
    """Writes one product. Methods go from the outermost loop inwards.

    A matrix times a vector is written as the transposed product, so that vectors run along M.
    """

    def __init__(self, name: str, g: Gemm, host: Host, epilogue: str | None) -> None:
        self.flipped = g.n == 1 and g.m > 1
        if self.flipped:
            g = g.transposed()
        self.name, self.g, self.host, self.epilogue = name, g, host, epilogue
        self.e = element(g.dtype, host)
        self.t = tiling(g, host)
        self.w = LoopWriter()
        self.helpers: dict[str, str] = {}
        self.allocas: list[str] = []
        self.width = self.t.vectors * self.e.lanes
        self.tile_size = min(self.t.depth, g.k) * self.width
        self.masks = host.vector_bytes >= 32
        # What is not stored by whole or masked vectors goes to scratch, and is copied out.
        fits = self.masks or g.n % self.e.lanes == 0
        scattered = self.flipped and g.c != 1
        self.scratch = epilogue is not None or not fits or scattered or self.t.dots
        self.stretches = -(-g.k // self.t.depth)

    def emit(self) -> Code:
        w, g, t = self.w, self.g, self.t
        self.across = -(-g.n // t.columns)
        self.down = -(-t.panels // t.panels_per_block)
        blocks = g.count * self.down * self.across
        chunks = -(-blocks // t.blocks_per_chunk)
        self._reserve()
        self.base = [self._argument(i) for i in ((1, 0, 2) if self.flipped else (0, 1, 2))]
        if t.blocks_per_chunk == 1:
            self._block("%chunk")
        else:
            first = w.op("mul", "%chunk", t.blocks_per_chunk)
            last = w.minimum(w.op("add", first, t.blocks_per_chunk), blocks)
            with w.loop(first, last) as index:
                self._block(index)
        w.do("ret void")
        body = "\n".join((*self.allocas, w.text()))
        head = (
            f"define internal void @{self.name}(ptr %bufs, i64 %chunk) {attributes(self.host)} {{"
        )
        return Code(f"{head}\nentry:\n{body}\n}}\n", chunks, self.helpers, 0, 2 * g.macs)

    def _argument(self, i: int) -> str:
        return self.w.emit(f"load ptr, ptr {self.w.at('%bufs', 'ptr', i)}, align 8")

    def _reserve(self) -> None:
        t, lanes = self.t, self.e.lanes
        wide = -(-min(t.columns, self.g.n) // lanes) * lanes
        self.ldt = wide + lanes if wide > lanes else wide
        high = t.tallest * (t.panels_per_block if self.stretches > 1 else 1)
        self.ldp = -(-t.tallest // lanes) * lanes
        deep = min(t.depth, self.g.k)
        tiles = -(-min(t.columns, self.g.n) // self.width)
        if self.scratch:
            self._alloca("tile", high * self.ldt + max(lanes, DOT_COLUMNS))
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
        self.is_last = w.emit(f"icmp eq i64 {jb}, {self.across - 1}") if self.across > 1 else ""
        self.columns = self._of_block(t.columns, g.n)
        p1: str | int = t.panels
        if self.down > 1:
            p1 = w.minimum(w.op("add", p0, t.panels_per_block), t.panels)
        if self.stretches == 1:
            self._stretch("0", g.k, p0, p1)
        else:
            with w.loop(0, g.k, t.depth) as k0:
                length = w.minimum(w.op("sub", g.k, k0), t.depth)
                self._stretch(k0, length, p0, p1)

    def _of_block(self, usual: int, whole: int) -> str | int:
        """What of `whole` belongs to the block: `usual`, or the remainder in the last column."""
        if self.across == 1:
            return whole
        rest = whole - (self.across - 1) * usual
        return (
            usual
            if rest == usual
            else self.w.emit(f"select i1 {self.is_last}, i64 {rest}, i64 {usual}")
        )

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
        w, t, e, g = self.w, self.t, self.e, self.g
        b = w.at(self.b, e.type, w.op("mul", k0, g.b[0]))
        b = w.at(b, e.type, w.op("mul", self.j0, g.b[1]))
        if t.pack_b:
            self._pack_strips(b, length)
        with w.loop(p0, p1) as p:
            row, is_tall, rows = w.op("mul", p, t.rows), None, str(t.rows)
            if t.taller:
                row = w.op("add", row, w.minimum(p, t.taller))
                is_tall = w.emit(f"icmp ult i64 {p}, {t.taller}")
                rows = w.emit(f"select i1 {is_tall}, i64 {t.rows + 1}, i64 {t.rows}")
            a = w.at(self.a, e.type, w.op("mul", row, g.a[0]))
            a = w.at(a, e.type, w.op("mul", k0, g.a[1]))
            if t.pack_a:
                a = self._pack_panel(a, rows, is_tall, length)
            if self.scratch:
                high = w.op("sub", p, p0) if self.stretches > 1 else "0"
                c, ldc = w.at("%tile", e.type, w.op("mul", high, t.tallest * self.ldt)), self.ldt
            else:
                c, ldc = w.at(self.c, e.type, w.op("mul", row, g.c)), g.c
                c = w.at(c, e.type, self.j0)
            self._panel(_Panel(a, b, c, ldc, length, k0 if self.stretches > 1 else "0", is_tall))
            if self.scratch:
                self._finish(k0, length, row, rows, c)

    def _pack_strips(self, b: str, length: str | int) -> None:
        """The block of B, as micro-tile after micro-tile of `length` rows of `width`.

        Contiguous rows are taken a few at a time over all strips: they lie on different pages.
        """
        w, t, e, g = self.w, self.t, self.e, self.g
        strips = self._of_block(t.columns // e.lanes, -(-g.n // e.lanes))
        few = w.loop(0, length, PAGES) if t.pack_b == "rows" else nullcontext("0")
        with few as k, w.loop(0, strips) as s:
            rows = w.minimum(w.op("sub", length, k), PAGES) if t.pack_b == "rows" else length
            first = w.op("mul", s, e.lanes)
            left = w.op("sub", self.columns, first)
            source = w.at(b, e.type, w.op("mul", first, g.b[1]))
            source = w.at(source, e.type, w.op("mul", k, g.b[0]))
            offset = w.op("mul", w.op("udiv", s, t.vectors), self.tile_size)
            lane = w.op("mul", w.op("urem", s, t.vectors), e.lanes)
            target = w.at("%strips", e.type, w.op("add", offset, lane))
            target = w.at(target, e.type, w.op("mul", k, self.width))
            self._pack(t.pack_b, source, g.b, left, rows, target, self.width)

    def _pack_panel(self, a: str, rows: str, is_tall: str | None, length: str | int) -> str:
        """A panel of A, by columns of `ldp` rows; `rows` of them exist."""
        w, e, g = self.w, self.e, self.g
        for first in range(0, self.ldp, e.lanes):
            # the one row more of a tall panel may need a strip that the others have not
            some = w.when(is_tall) if is_tall and first == self.t.rows else nullcontext()
            with some:
                source = w.at(a, e.type, first * g.a[0])
                left = str(int(rows) - first) if rows.isdigit() else w.op("sub", rows, first)
                target = w.at("%panel", e.type, first)
                strides = (g.a[1], g.a[0])
                self._pack(self.t.pack_a, source, strides, left, length, target, self.ldp)
        return "%panel"

    def _pack(
        self,
        mode: str | None,
        source: str,
        strides: tuple[int, int],
        columns: str,
        length: str | int,
        target: str,
        ds: int,
    ) -> None:
        assert mode
        name = packer_name(mode, self.e)
        if name not in self.helpers:
            self.helpers[name] = packer(mode, self.e, self.host)
        self.w.do(
            f"call void @{name}(ptr {source}, i64 {strides[0]}, i64 {strides[1]}, i64 {columns}, "
            f"i64 {length}, ptr {target}, i64 {ds})"
        )

    def _panel(self, x: _Panel) -> None:
        """A panel of A times the block of B: whole micro-tiles, then the last block's tail."""
        if self.t.dots:
            self._dots(x)
            return
        w, t, g, lanes = self.w, self.t, self.g, self.e.lanes
        tail = g.n % self.width
        ragged = self.across > 1 and tail > 0
        if g.n >= self.width:
            whole = self._of_block(t.columns // self.width, g.n // self.width)
            spec = Kernel(t.rows, t.vectors, self.host.has_masks, t.by_rows, self.e)
            some = w.when(w.emit(f"icmp ne i64 {whole}, 0")) if ragged else nullcontext()
            with some, w.loop(0, whole) as s:
                self._tile(s, spec, lanes, x)
        if tail:
            vectors = -(-tail // lanes)
            # Scratch and packed strips are whole vectors wide: only C and B in place need the mask.
            masked = self.masks and not (self.scratch and t.pack_b)
            spec = Kernel(t.rows, vectors, masked or self.host.has_masks, t.by_rows, self.e)
            with w.when(self.is_last) if ragged else nullcontext():
                s = str(g.n // self.width % (t.columns // self.width))
                self._tile(s, spec, tail - (vectors - 1) * lanes, x)

    def _dots(self, x: _Panel) -> None:
        """A row of A times the block of B, some columns at a time."""
        w, e, g = self.w, self.e, self.g
        self.helpers[dot_name(e)] = dot(e, self.host)
        with w.loop(0, self.columns, DOT_COLUMNS) as j:
            b = w.at(x.b, e.type, w.op("mul", j, g.b[1]))
            left = w.op("sub", self.columns, j)
            w.do(
                f"call void @{dot_name(e)}(ptr {x.a}, ptr {b}, i64 {g.b[1]}, i64 {left}, "
                f"i64 {x.length}, ptr {w.at(x.c, e.type, j)})"
            )

    def _tile(self, s: str, spec: Kernel, live: int, x: _Panel) -> None:
        """Micro-tile `s` of the panel."""
        w, t, e, g = self.w, self.t, self.e, self.g
        if t.pack_b:
            b, ldb = w.at("%strips", e.type, w.op("mul", s, self.tile_size)), self.width
        else:
            b, ldb = w.at(x.b, e.type, w.op("mul", s, self.width)), g.b[0]
        function = self._kernel(spec)
        if x.is_tall:
            tall = self._kernel(replace(spec, rows=spec.rows + 1))
            function = w.emit(f"select i1 {x.is_tall}, ptr {tall}, ptr {function}")
        lda = g.a[0] if t.by_rows else self.ldp if t.pack_a else g.a[1]
        c = w.at(x.c, e.type, w.op("mul", s, self.width))
        w.do(
            f"call void {function}(ptr {x.a}, i64 {lda}, ptr {b}, i64 {ldb}, ptr {c}, i64 {x.ldc}, "
            f"i64 {x.length}, i64 {live}, i64 {x.add})"
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
        final = w.emit(f"icmp eq i64 {w.op('add', k0, str(length))}, {g.k}")
        with w.when(final):
            self._hand_on(row, rows, tile)

    def _hand_on(self, row: str, rows: str, tile: str) -> None:
        """Pass a finished panel of the tile to the epilogue, or copy it to C."""
        w = self.w
        ldt = str(self.ldt)
        place, size = (row, self.j0), (rows, str(self.columns))
        if self.flipped:
            place, size, ldt = place[::-1], size[::-1], "1"
        if self.epilogue is not None:
            w.do(
                f"call void @{self.epilogue}(ptr %bufs, i64 {self.flat}, i64 {place[0]}, "
                f"i64 {place[1]}, i64 {size[0]}, i64 {size[1]}, ptr {tile}, i64 {ldt})"
            )
            return
        e, c = self.e, self.g.c
        target = w.at(self.c, e.type, w.op("mul", place[0], c))
        target = w.at(target, e.type, place[1])
        length = w.emit(f"mul i64 {size[1]}, {e.size}")
        with w.loop(0, size[0]) as r:
            to = w.at(target, e.type, w.op("mul", r, c))
            source = w.at(tile, e.type, w.op("mul", r, ldt))
            w.do(
                f"call void @llvm.memcpy.p0.p0.i64(ptr {to}, ptr {source}, i64 {length}, i1 false)"
            )
