"""The loops of a matrix product around its micro-kernels, as LLVM IR text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..halves import element_of, in_steps
from ..records import dataclass
from ..runtime.jit import Host
from ..tiling import Gemm, Tiling, Wish, is_flipped, tiling
from .dot import COLUMNS as DOT_COLUMNS
from .fused import Fused
from .packing import Packing
from .panels import NEAR, Panel, Panels
from .room import reserve
from .simd import attributes
from .sums import summing, summing_name
from .writer import LoopWriter


@dataclass(frozen=True)
class Code:
    """An emitted product.

    Attributes:
        text: IR of `internal void @name(ptr bufs, i64 chunk)`.
        chunks: number of chunks of the work; they may run in any order and in parallel.
        helpers: IR of internal functions that it calls, by name; equal names have equal text.
        workspace: bytes that a chunk asks of its thread (`runtime.workspace`), or 0.
        flops: floating-point operations in all.
        widths: the least and the most columns of C that are handed on together; all numbers of
            columns are multiples of the least.
    """

    text: str
    chunks: int
    helpers: dict[str, str]
    workspace: int
    flops: int
    widths: tuple[int, int]


class Product(Panels):
    """Writes one product. Methods go from the outermost loop inwards.

    Some products are written as the transposed ones (`is_flipped`).
    """

    def __init__(
        self,
        name: str,
        g: Gemm,
        host: Host,
        fused: Fused,
        cut: Tiling | None = None,
    ) -> None:
        self.flipped = is_flipped(g, host)
        if self.flipped:
            # these are rows of this product's operands
            assert not (fused.sums or fused.left or fused.right)
            g = g.transposed()
        self.flops = 2 * g.macs
        follows = fused.epilogue is not None
        self.t = cut or tiling(g, host, follows)
        if fused.right and not self.t.pack_b:
            self.t = tiling(g, host, follows, Wish(packed=True))
        if fused.right:  # each block of B is computed, packed, before its first panel
            self.t = replace(self.t, pack_b="rows", packs_first=False, ahead=0)
        self.name, self.host, self.fused = name, host, fused
        g = in_steps(g, host)
        self.e = element_of(g, host)
        self.apart = g.a[0]
        if fused.left:  # rows of A, as many as a panel has, in memory of their own
            lanes = self.e.lanes
            g = replace(g, a=((-(-min(self.t.depth, g.k) // lanes) + 1) * lanes, 1))
        self.g = g
        loose = g.half.loose if g.half else (False, False)
        # The types in which strides of A, B and C count.
        self.units = (*("i16" if x else self.e.type for x in loose), self.e.type)
        self.w = LoopWriter()
        self.helpers: dict[str, str] = {}
        self.packing = Packing(self.w, g, self.t, host, self.e, self.units, self.helpers)
        self.width = self.packing.width
        self.masks = host.vector_bytes >= 32
        # What is not stored by whole or masked vectors goes to scratch, and is copied out.
        fits = self.masks or g.n % self.e.lanes == 0
        scattered = self.flipped and g.c != 1
        self.scratch = follows or not fits or scattered or self.t.dots
        self.stretches = -(-g.k // self.t.depth)
        self.fetch = self.t.fetch
        # How many micro-tiles of a panel fetch what the next panel needs.
        self.near = (2 if self.t.by_rows else 1) * (self.t.columns >= NEAR * self.width)

    def emit(self) -> Code:
        w, g, t = self.w, self.g, self.t
        unit = DOT_COLUMNS if t.dots else self.width
        self.tiles = -(-g.n // unit)
        self.across = -(-g.n // t.columns)
        self.down = -(-t.panels // t.panels_per_block)
        blocks = g.count * self.down * self.across
        chunks = -(-blocks // t.blocks_per_chunk)
        held = self._reserve()
        self.base = [self._argument(i) for i in ((1, 0, 2) if self.flipped else (0, 1, 2))]
        if t.blocks_per_chunk == 1:
            self._block("%chunk")
        else:
            first = w.op("mul", "%chunk", t.blocks_per_chunk)
            last = w.minimum(w.op("add", first, t.blocks_per_chunk), blocks)
            with w.loop(first, last) as index:
                self._block(index)
        w.do("ret void")
        body = w.text()
        head = (
            f"define internal void @{self.name}(ptr %bufs, i64 %chunk) {attributes(self.host)} {{"
        )
        widths = (math.gcd(g.n, self.e.lanes), min(g.n, t.columns))
        if self.flipped:
            widths = (1, 1)
        elif t.dots:
            widths = (1, widths[1])
        return Code(f"{head}\nentry:\n{body}\n}}\n", chunks, self.helpers, held, self.flops, widths)

    def _argument(self, i: int) -> str:
        return self.w.emit(f"load ptr, ptr {self.w.at('%bufs', 'ptr', i)}, align 8")

    def _reserve(self) -> int:
        """Make room for what is packed, and for panels of C: on the stack, or in as many bytes of
        the thread's workspace."""
        t, lanes = self.t, self.e.lanes
        unit = max(lanes, DOT_COLUMNS) if t.dots else lanes
        wide = -(-min(t.columns, self.g.n) // unit) * unit
        self.ldt = wide + lanes if wide > lanes else wide
        sizes = self.packing.sizes()
        if self.scratch:
            high = t.tallest * self._memories()
            sizes["tile"] = high * self.ldt + max(lanes, DOT_COLUMNS)
        if self.fused.sums:
            sizes["sums"] = wide
        if self.fused.left:
            sizes["left"] = t.tallest * self.g.a[0]
        return reserve(self.w, {f"%{name}": n * self.e.size for name, n in sizes.items()})

    def _memories(self) -> int:
        """How many panels of C there is memory for beside C."""
        return self.t.panels_per_block if self.stretches > 1 else 1

    def _memory(self, p: str, p0: str) -> str:
        """Which of them panel `p` of the block has whose first one is `p0`."""
        return self.w.op("sub", p, p0) if self.stretches > 1 else "0"

    def _tile_at(self, p: str, p0: str) -> str:
        """Where panel `p` of C is computed, beside C."""
        place = self.w.op("mul", self._memory(p, p0), self.t.tallest * self.ldt)
        return self.w.at("%tile", self.e.type, place)

    def _block(self, index: str) -> None:
        """Block `index` of C: batch element, then rows, then columns fastest."""
        w, g, t = self.w, self.g, self.t
        jb = w.op("urem", index, self.across)
        rest = w.op("udiv", index, self.across)
        ib = w.op("urem", rest, self.down)
        self.flat = w.op("udiv", rest, self.down)
        self.a, self.b, self.c = self._batch(self.flat)
        self._columns_of(jb)
        self.on_top = w.emit(f"icmp eq i64 {ib}, 0") if self.fused.sums else ""
        p0 = w.op("mul", ib, t.panels_per_block)
        p1: str | int = t.panels
        if self.down > 1:
            p1 = w.minimum(w.op("add", p0, t.panels_per_block), t.panels)
        if self.stretches == 1:
            self._stretch("0", g.k, p0, p1)
        else:
            with w.loop(0, g.k, t.depth) as k0:
                length = w.minimum(w.op("sub", g.k, k0), t.depth)
                self._stretch(k0, length, p0, p1)
        if self.fused.sums:
            with w.when(self.on_top):
                w.do(
                    f"call void @{self.fused.sums}(ptr %bufs, i64 0, i64 0, i64 {self.j0}, i64 1, "
                    f"i64 {self.columns}, ptr %sums, i64 0)"
                )

    def _columns_of(self, jb: str) -> None:
        """What block column `jb` has: micro-tiles are shared out evenly, the first get one more."""
        w, g = self.w, self.g
        unit = DOT_COLUMNS if self.t.dots else self.width
        if self.across == 1:
            self.is_last, self.j0 = "", "0"
            self.columns: str | int = g.n
            self.whole: str | int = g.n // unit
            return
        base, more = divmod(self.tiles, self.across)
        first, count = w.op("mul", jb, base), str(base)
        if more:
            first = w.op("add", first, w.minimum(jb, more))
            wide = w.emit(f"icmp ult i64 {jb}, {more}")
            count = w.emit(f"select i1 {wide}, i64 {base + 1}, i64 {base}")
        self.is_last = w.emit(f"icmp eq i64 {jb}, {self.across - 1}")
        self.j0 = w.op("mul", first, unit)
        left = w.op("sub", g.n, self.j0)
        self.columns = w.minimum(w.op("mul", count, unit) if more else base * unit, left)
        self.whole = w.op("udiv", self.columns, unit)

    def _batch(self, flat: str) -> list[str]:
        """Addresses of A, B and C of batch element `flat`."""
        w, out = self.w, list(self.base)
        for i, (extent, *strides) in reversed(list(enumerate(self.g.batch))):
            here = w.op("urem", flat, extent) if i else flat
            flat = w.op("udiv", flat, extent) if i else flat
            for x, stride in enumerate(strides):
                out[x] = w.at(out[x], self.units[x], w.op("mul", here, stride))
        return out

    def _stretch(self, k0: str, length: str | int, p0: str, p1: str | int) -> None:
        """The product over one stretch of K, panel by panel."""
        w, t = self.w, self.t
        b, first_panel = self._begin(k0, length)
        if t.packs_first:
            self._rows(b, k0, length, p0, p0, first_panel)
            if t.panels > 1:
                second = w.op("add", p0, 1)
                with w.when(w.emit(f"icmp ult i64 {second}, {p1}")), w.loop(second, p1) as p:
                    self._rows(b, k0, length, p, p0, self._panel)
            return
        if not t.pack_a:
            with w.loop(p0, p1) as p:
                self._rows(b, k0, length, p, p0, self._panel)
            return
        with w.loop(p0, p1, t.panels_packed) as first:
            self.first = first
            end = w.minimum(w.op("add", first, t.panels_packed), p1)
            self.packing.pack_a(self.a, k0, length, first, end)
            with w.loop(first, end) as p:
                self._rows(b, k0, length, p, p0, self._panel)

    def _begin(self, k0: str, length: str | int) -> tuple[str, Callable[[Panel], None]]:
        """Where B is for a stretch of K, packed unless the first panel does that; and what computes
        the first panel."""
        w, t, g, unit = self.w, self.t, self.g, self.units[1]
        b = w.at(self.b, unit, w.op("mul", k0, g.b[0]))
        b = w.at(b, unit, w.op("mul", self.j0, g.b[1]))
        if self.fused.sums:
            self._sum(b, k0, length)
        if t.packs_first:
            by_columns = t.pack_b == "columns"
            return b, self._first_panel if by_columns else partial(self._panel, first=True)
        if self.fused.right:
            self._compute_b(self.fused.right, k0, length)
        elif t.pack_b:
            self.packing.pack_b(b, k0, length, self.columns)
        return b, self._panel

    def _compute_b(self, function: str, k0: str, length: str | int) -> None:
        """Compute the block of B for a stretch of K, packed, micro-tile by micro-tile."""
        w, width = self.w, self.width
        with w.loop(0, -(-self.g.n // width) if self.across == 1 else self._count()) as s:
            first = w.op("mul", s, width)
            columns = w.minimum(w.op("sub", self.columns, first), width)
            w.do(
                f"call void @{function}(ptr %bufs, i64 {self.flat}, i64 {k0}, "
                f"i64 {w.op('add', self.j0, first)}, i64 {length}, i64 {columns}, "
                f"ptr {self.packing.tile(s)}, i64 {width})"
            )

    def _count(self) -> str:
        """Micro-tiles of this block, the last of the row not whole."""
        return self.w.op("udiv", self.w.op("add", self.columns, self.width - 1), self.width)

    def _sum(self, b: str, k0: str, length: str | int) -> None:
        """Add up the rows of B, in blocks at the top of C: each column once."""
        name, bs = summing_name(self.e), self.g.b[0]
        self.helpers.setdefault(name, summing(self.e, self.host))
        with self.w.when(self.on_top):
            self.w.do(
                f"call void @{name}(ptr {b}, i64 {bs}, i64 {self.columns}, i64 {length}, "
                f"ptr %sums, i64 {k0})"
            )

    def _rows(
        self,
        b: str,
        k0: str,
        length: str | int,
        p: str,
        p0: str,
        panel: Callable[[Panel], None],
    ) -> None:
        """Panel `p` of the block whose first one is `p0`, and what is done with its rows of C."""
        w, t, e, g = self.w, self.t, self.e, self.g
        row, rows, is_tall = self.packing.rows_of(p)
        source = w.at(self.a, self.units[0], w.op("mul", row, self.apart))
        a = source = w.at(source, self.units[0], w.op("mul", k0, g.a[1]))
        if t.pack_a:
            a = self.packing.panel(w.op("sub", p, self.first))
        if self.fused.left:
            a = "%left"
            w.do(
                f"call void @{self.fused.left}(ptr %bufs, i64 {self.flat}, i64 {row}, i64 {k0}, "
                f"i64 {rows}, i64 {length}, ptr {a}, i64 {g.a[0]})"
            )
        if self.scratch:
            c, ldc = self._tile_at(p, p0), self.ldt
        else:
            c, ldc = w.at(self.c, e.type, w.op("mul", row, g.c)), g.c
            c = w.at(c, e.type, self.j0)
        add = k0 if self.stretches > 1 else "0"
        panel(Panel(a, source, b, c, ldc, length, add, is_tall, *self._following(k0, p, p0)))
        if self.scratch:
            self._finish(k0, length, row, rows, c)

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
        """Pass a finished panel of the tile on; a flipped one row by row, as columns of C."""
        w, columns = self.w, str(self.columns)
        if not self.flipped:
            self._pass((row, self.j0), (rows, columns), tile, str(self.ldt))
            return
        with w.loop(0, rows) as r:
            line = w.at(tile, self.e.type, w.op("mul", r, self.ldt))
            self._pass((self.j0, w.op("add", row, r)), (columns, "1"), line, "1")

    def _pass(self, place: tuple[str, str], size: tuple[str, str], tile: str, ldt: str) -> None:
        """Pass a part of C to the epilogue, or copy it to C."""
        w = self.w
        if self.fused.epilogue is not None:
            w.do(
                f"call void @{self.fused.epilogue}(ptr %bufs, i64 {self.flat}, i64 {place[0]}, "
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
