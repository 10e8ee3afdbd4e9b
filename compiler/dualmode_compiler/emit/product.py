"""The loops of a matrix product around its micro-kernels, as LLVM IR text."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

from ..halves import element_of, in_steps
from ..runtime.jit import Host
from ..tiling import LARGE, Gemm, Tiling, is_flipped, tiling
from .dot import COLUMNS as DOT_COLUMNS
from .dot import dot, dot_name
from .gemm import Kernel, kernel
from .packing import Packing
from .simd import attributes
from .writer import LoopWriter


@dataclass(frozen=True)
class Code:
    """An emitted product.

    Attributes:
        text: IR of `internal void @name(ptr bufs, i64 chunk)`.
        chunks: number of chunks of the work; they may run in any order and in parallel.
        helpers: IR of internal functions that it calls, by name; equal names have equal text.
        scratch: bytes of memory needed beside the stack: 0.
        flops: floating-point operations in all.
        widths: the least and the most columns of C that are handed on together; all numbers of
            columns are multiples of the least.
    """

    text: str
    chunks: int
    helpers: dict[str, str]
    scratch: int
    flops: int
    widths: tuple[int, int]


@dataclass(frozen=True)
class _Panel:
    """Operands of a panel: A, B, C, C's row stride, steps of K, whether to add, which height; the
    part of B that comes next, and the number of the panel's first line of it."""

    a: str
    b: str
    c: str
    ldc: int
    length: str | int
    add: str
    is_tall: str | None
    following: str
    line: str


class Product:
    """Writes one product. Methods go from the outermost loop inwards.

    Some products are written as the transposed ones (`is_flipped`).
    """

    def __init__(
        self,
        name: str,
        g: Gemm,
        host: Host,
        epilogue: str | None,
        cut: Tiling | None = None,
    ) -> None:
        self.flipped = is_flipped(g, host)
        if self.flipped:
            g = g.transposed()
        self.flops = 2 * g.macs
        self.t = cut or tiling(g, host, epilogue is not None)
        self.name, self.host, self.epilogue = name, host, epilogue
        self.g = g = in_steps(g, host)
        self.e = element_of(g, host)
        loose = g.half.loose if g.half else (False, False)
        # The types in which strides of A, B and C count.
        self.units = (*("i16" if x else self.e.type for x in loose), self.e.type)
        self.w = LoopWriter()
        self.helpers: dict[str, str] = {}
        self.allocas: list[str] = []
        self.packing = Packing(self.w, g, self.t, host, self.e, self.units, self.helpers)
        self.width = self.packing.width
        self.masks = host.vector_bytes >= 32
        # What is not stored by whole or masked vectors goes to scratch, and is copied out.
        fits = self.masks or g.n % self.e.lanes == 0
        scattered = self.flipped and g.c != 1
        self.scratch = epilogue is not None or not fits or scattered or self.t.dots
        self.stretches = -(-g.k // self.t.depth)
        self.fetch = self.t.fetch and self.stretches > 1

    def emit(self) -> Code:
        w, g, t = self.w, self.g, self.t
        unit = DOT_COLUMNS if t.dots else self.width
        self.tiles = -(-g.n // unit)
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
        widths = (math.gcd(g.n, self.e.lanes), min(g.n, t.columns))
        if self.flipped:
            widths = (1, 1)
        elif t.dots:
            widths = (1, widths[1])
        return Code(f"{head}\nentry:\n{body}\n}}\n", chunks, self.helpers, 0, self.flops, widths)

    def _argument(self, i: int) -> str:
        return self.w.emit(f"load ptr, ptr {self.w.at('%bufs', 'ptr', i)}, align 8")

    def _reserve(self) -> None:
        t, lanes = self.t, self.e.lanes
        unit = max(lanes, DOT_COLUMNS) if t.dots else lanes
        wide = -(-min(t.columns, self.g.n) // unit) * unit
        self.ldt = wide + lanes if wide > lanes else wide
        high = t.tallest * (t.panels_per_block if self.stretches > 1 else 1)
        if self.scratch:
            self._alloca("tile", high * self.ldt + max(lanes, DOT_COLUMNS))
        for name, size in self.packing.sizes().items():
            self._alloca(name, size)

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
        self._columns_of(jb)
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
        w, t, g = self.w, self.t, self.g
        unit_b = self.units[1]
        b = w.at(self.b, unit_b, w.op("mul", k0, g.b[0]))
        b = w.at(b, unit_b, w.op("mul", self.j0, g.b[1]))
        if t.packs_first:
            first = self._first_panel if t.pack_b == "columns" else partial(self._panel, first=True)
            self._rows(b, k0, length, p0, p0, first)
            if t.panels > 1:
                second = w.op("add", p0, 1)
                with w.when(w.emit(f"icmp ult i64 {second}, {p1}")), w.loop(second, p1) as p:
                    self._rows(b, k0, length, p, p0, self._panel)
            return
        if t.pack_b:
            self.packing.pack_b(b, k0, length, self.columns)
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

    def _rows(
        self,
        b: str,
        k0: str,
        length: str | int,
        p: str,
        p0: str,
        panel: Callable[[_Panel], None],
    ) -> None:
        """Panel `p` of the block whose first one is `p0`, and what is done with its rows of C."""
        w, t, e, g = self.w, self.t, self.e, self.g
        row, rows, is_tall = self.packing.rows_of(p)
        a = w.at(self.a, self.units[0], w.op("mul", row, g.a[0]))
        a = w.at(a, self.units[0], w.op("mul", k0, g.a[1]))
        if t.pack_a:
            a = self.packing.panel(w.op("sub", p, self.first))
        if self.scratch:
            high = w.op("sub", p, p0) if self.stretches > 1 else "0"
            c, ldc = w.at("%tile", e.type, w.op("mul", high, t.tallest * self.ldt)), self.ldt
        else:
            c, ldc = w.at(self.c, e.type, w.op("mul", row, g.c)), g.c
            c = w.at(c, e.type, self.j0)
        add = k0 if self.stretches > 1 else "0"
        panel(_Panel(a, b, c, ldc, length, add, is_tall, *self._following(k0, p, p0)))
        if self.scratch:
            self._finish(k0, length, row, rows, c)

    def _following(self, k0: str, p: str, p0: str) -> tuple[str, str]:
        """What panel `p` fetches for the next stretch of K: see `_Panel`."""
        w, t, g = self.w, self.t, self.g
        if not self.fetch:
            return "", ""
        k1 = w.op("add", k0, t.depth)
        row = w.at(self.b, self.e.type, w.op("mul", k1, g.b[0]))
        more = w.emit(f"icmp ult i64 {k1}, {g.k}")
        ahead = w.op("add", p0, int(t.packs_first))  # one that packs does not fetch
        line = w.op("mul", w.op("sub", p, ahead), -(-self.tiles // self.across))
        return w.at(row, self.e.type, self.j0), w.emit(f"select i1 {more}, i64 {line}, i64 {g.n}")

    def _panel(self, x: _Panel, first: bool = False) -> None:
        """A panel of A times the block of B: whole micro-tiles, then the last block's tail.

        The `first` one packs B, by rows.
        """
        if self.t.dots:
            self._dots(x)
            return
        w, t, g, lanes = self.w, self.t, self.g, self.e.lanes
        tail = g.n % self.width
        ragged = self.across > 1 and tail > 0
        vectors = -(-tail // lanes)
        packs, fetch = ("rows", False) if first else (None, self.fetch)
        ahead = t.ahead if first else 0
        # Scratch and packed strips are whole vectors wide: only C and B in place need the mask.
        masked = self.masks and not (self.scratch and t.pack_b and not first)
        if g.n >= self.width:
            whole = self.whole
            # One kernel for both saves the time to compile another, but masks cost some.
            shared = masked and vectors == t.vectors and g.macs < LARGE and self.host.has_masks
            spec = Kernel(t.rows, t.vectors, shared, t.by_rows, self.e, fetch, packs, ahead)
            some = w.when(w.emit(f"icmp ne i64 {whole}, 0")) if ragged else nullcontext()
            with some, w.loop(0, whole) as s:
                self._tile(s, spec, lanes, x)
        if tail:
            spec = Kernel(t.rows, vectors, masked, t.by_rows, self.e, fetch, packs, ahead)
            with w.when(self.is_last) if ragged else nullcontext():
                last = self.tiles // self.across - 1 if self.across > 1 else g.n // self.width
                self._tile(str(last), spec, tail - (vectors - 1) * lanes, x)

    def _first_panel(self, x: _Panel) -> None:
        """The panel that packs the block of B by columns, strip by strip."""
        w, t, lanes = self.w, self.t, self.e.lanes
        tail = self.g.n % lanes
        spec = Kernel(t.rows, 1, False, t.by_rows, self.e, packs="columns")
        whole = self.columns
        whole = whole // lanes if isinstance(whole, int) else w.op("udiv", whole, lanes)
        if whole != 0:
            ragged = self.across > 1 and tail > 0
            some = w.when(w.emit(f"icmp ne i64 {whole}, 0")) if ragged else nullcontext()
            with some, w.loop(0, whole) as s:
                self._strip(s, spec, lanes, x)
        if tail:
            with w.when(self.is_last) if self.across > 1 else nullcontext():
                self._strip(str(whole), replace(spec, masked=True), tail, x)

    def _strip(self, s: str, spec: Kernel, live: int, x: _Panel) -> None:
        """Strip `s` of the first panel."""
        w, e, across = self.w, self.e, self.g.b[1]
        first = w.op("mul", s, e.lanes)
        b, c = w.at(x.b, e.type, w.op("mul", first, across)), w.at(x.c, e.type, first)
        packed = self.packing.strip(s)
        self._call(spec, x, b, across, c, live, f"ptr {packed}, i64 {self.width}")

    def _dots(self, x: _Panel) -> None:
        """A panel of A times the block of B, some columns at a time."""
        w, e, g, rows = self.w, self.e, self.g, self.t.rows
        function = self._dot(rows)
        if x.is_tall:
            tall = self._dot(rows + 1)
            function = w.emit(f"select i1 {x.is_tall}, ptr {tall}, ptr {function}")
        with w.loop(0, self.columns, DOT_COLUMNS) as j:
            b = w.at(x.b, e.type, w.op("mul", j, g.b[1]))
            left = w.op("sub", self.columns, j)
            w.do(
                f"call void {function}(ptr {x.a}, i64 {g.a[0]}, ptr {b}, i64 {g.b[1]}, i64 {left}, "
                f"i64 {x.length}, ptr {w.at(x.c, e.type, j)}, i64 {x.ldc})"
            )

    def _dot(self, rows: int) -> str:
        name = dot_name(self.e, rows)
        if name not in self.helpers:
            self.helpers[name] = dot(self.e, self.host, rows)
        return f"@{name}"

    def _tile(self, s: str, spec: Kernel, live: int, x: _Panel) -> None:
        """Micro-tile `s` of the panel."""
        w, e = self.w, self.e
        b, ldb = w.at(x.b, e.type, w.op("mul", s, self.width)), self.g.b[0]
        c, aside = w.at(x.c, e.type, w.op("mul", s, self.width)), self._aside(s, x)
        if self.t.pack_b:
            packed = self.packing.tile(s)
            if spec.packs:
                aside = f"ptr {packed}, i64 {self.width}"
            else:
                b, ldb = packed, self.width
        self._call(spec, x, b, ldb, c, live, aside)

    def _call(
        self, spec: Kernel, x: _Panel, b: str, ldb: int, c: str, live: int, aside: str
    ) -> None:
        """Call a micro-kernel, or the one for a row more."""
        t, g = self.t, self.g
        function = self._kernel(spec)
        if x.is_tall:
            tall = self._kernel(replace(spec, rows=spec.rows + 1))
            function = self.w.emit(f"select i1 {x.is_tall}, ptr {tall}, ptr {function}")
        lda = g.a[0] if t.by_rows else self.packing.ldp if t.pack_a else g.a[1]
        self.w.do(
            f"call void {function}(ptr {x.a}, i64 {lda}, ptr {b}, i64 {ldb}, ptr {c}, i64 {x.ldc}, "
            f"i64 {x.length}, i64 {live}, i64 {x.add}, {aside})"
        )

    def _aside(self, s: str, x: _Panel) -> str:
        """The arguments that say what micro-tile `s` fetches: a column of lines, or nothing new."""
        if not self.fetch:
            return "ptr null, i64 0"
        w, e = self.w, self.e
        first = w.op("mul", w.op("add", x.line, s), e.lanes)
        left = w.emit(f"icmp ult i64 {first}, {self.columns}")
        line = w.at(x.following, e.type, first)
        at = w.emit(f"select i1 {left}, ptr {line}, ptr {x.c}")
        return f"ptr {at}, i64 {w.emit(f'select i1 {left}, i64 {self.g.b[0]}, i64 0')}"

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
