"""Operands of a matrix product that are packed: what brings them into order, and where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

from ..halves import Half
from ..runtime.jit import Host
from ..tiling import Gemm, Tiling
from .half import half_packer, half_packer_name
from .pack import packer, packer_name
from .simd import Element
from .writer import LoopWriter

# Columns of A, or rows of B, that are packed together.
PAGES = 16


class Packing:
    """Writes the packing of one product's operands, as its tiling has it.

    A packed B is micro-tile after micro-tile of `width` columns, each with all rows of the stretch
    of K: `%strips`. A packed A is panel after panel, each with all columns of it: `%panels`.

    Attributes:
        units: the types in which strides of A and B count.
        width: columns of a micro-tile.
        tile_size: elements of a packed micro-tile of B.
        ldp: elements from one column of a packed panel to the next; of a gathered A, from one row.
        helpers: IR of the functions that are called, by name.
    """

    def __init__(
        self,
        w: LoopWriter,
        g: Gemm,
        t: Tiling,
        host: Host,
        e: Element,
        units: tuple[str, ...],
        helpers: dict[str, str],
    ) -> None:
        self.w, self.g, self.t, self.host, self.e = w, g, t, host, e
        self.units, self.helpers = units, helpers
        self.width = t.vectors * e.lanes
        self.tile_size = min(t.depth, g.k) * self.width
        self.gathers = t.pack_a == "gathered"
        long = g.k + e.lanes if self.gathers else t.tallest
        self.ldp = -(-long // e.lanes) * e.lanes

    def sizes(self) -> dict[str, int]:
        """Elements of memory that packed operands take, by name."""
        t, g = self.t, self.g
        found: dict[str, int] = {}
        if self.gathers:
            found["panels"] = g.m * self.ldp
        elif t.pack_a:
            found["panels"] = min(t.depth, g.k) * self.ldp * -(-t.panels_packed // t.abreast)
        if t.pack_b:
            found["strips"] = self.tile_size * -(-min(t.columns, g.n) // self.width)
        return found

    def rows_of(self, p: str) -> tuple[str, str, str | None]:
        """The first row of panel `p`, how many it has, and whether that is one more than others."""
        w, t = self.w, self.t
        row = w.op("mul", p, t.rows)
        if not t.taller:
            return row, str(t.rows), None
        row = w.op("add", row, w.minimum(p, t.taller))
        is_tall = w.emit(f"icmp ult i64 {p}, {t.taller}")
        return row, w.emit(f"select i1 {is_tall}, i64 {t.rows + 1}, i64 {t.rows}"), is_tall

    def strip(self, s: str) -> str:
        """Where strip `s`, a vector wide, begins in the packed B."""
        w, t = self.w, self.t
        tile = w.op("mul", w.op("udiv", s, t.vectors), self.tile_size)
        place = w.op("add", tile, w.op("mul", w.op("urem", s, t.vectors), self.e.lanes))
        return w.at("%strips", self.e.type, place)

    def tile(self, s: str) -> str:
        """Where micro-tile `s` is in the packed B."""
        return self.w.at("%strips", self.e.type, self.w.op("mul", s, self.tile_size))

    def panel(self, number: str) -> str:
        """Where panel `number` of those that are packed together is."""
        w, t = self.w, self.t
        if self.gathers:
            row, _, _ = self.rows_of(number)
            return w.at("%panels", self.e.type, w.op("mul", row, self.ldp))
        strip = w.op("mul", w.op("udiv", number, t.abreast), min(t.depth, self.g.k) * self.ldp)
        place = w.op("mul", w.op("urem", number, t.abreast), t.rows)
        return w.at("%panels", self.e.type, w.op("add", strip, place))

    def pack_b(self, b: str, k0: str, length: str | int, columns: str | int) -> None:
        """Pack a block of B, at `b`: `length` rows from row `k0` on, of `columns`."""
        w, t, e, g = self.w, self.t, self.e, self.g
        strips = -(-g.n // e.lanes)
        if isinstance(columns, str):
            strips = w.op("udiv", w.op("add", columns, e.lanes - 1), e.lanes)
        with self._pages(t.pack_b, length) as (k, rows), w.loop(0, strips) as s:
            first = w.op("mul", s, e.lanes)
            left = w.op("sub", columns, first)
            source = w.at(b, self.units[1], w.op("mul", first, g.b[1]))
            source = w.at(source, self.units[1], w.op("mul", k, g.b[0]))
            target = w.at(self.strip(s), e.type, w.op("mul", k, self.width))
            start = w.op("add", k0, k)
            self._pack(1, source, left, (start, rows), target, self.width)

    def pack_a(self, a: str, k0: str, length: str | int, p0: str, p1: str) -> None:
        """Pack the panels from `p0` to `p1` of A, at `a`: `length` columns from column `k0` on."""
        w, t, e, g = self.w, self.t, self.e, self.g
        if self.gathers:
            self._gather(a)
            return
        with self._pages(t.pack_a, length) as (k, count), w.loop(p0, p1, t.abreast) as p:
            row, rows, is_tall = self.rows_of(p)
            if t.abreast > 1:  # several share a strip
                rows, is_tall = w.minimum(w.op("sub", g.m, row), e.lanes), None
            source = w.at(a, self.units[0], w.op("mul", row, g.a[0]))
            source = w.at(source, self.units[0], w.op("mul", w.op("add", k0, k), g.a[1]))
            target = self.panel(w.op("sub", p, p0))
            target = w.at(target, e.type, w.op("mul", k, self.ldp))
            steps = (w.op("add", k0, k), count)
            for first in range(0, self.ldp, e.lanes):
                # the one row more of a tall panel may need a strip that the others have not
                with w.when(is_tall) if is_tall and first == t.rows else nullcontext():
                    strip = w.at(source, self.units[0], first * g.a[0])
                    left = str(int(rows) - first) if rows.isdigit() else w.op("sub", rows, first)
                    self._pack(0, strip, left, steps, w.at(target, e.type, first), self.ldp)

    def _gather(self, a: str) -> None:
        """Each row of A for itself; the elements of a column are side by side."""
        w, e, g = self.w, self.e, self.g
        with w.loop(0, g.k) as k:
            column, target = w.at(a, e.type, w.op("mul", k, g.a[1])), w.at("%panels", e.type, k)
            for i in range(g.m):
                x = w.emit(f"load {e.type}, ptr {w.at(column, e.type, i)}, align {e.size}")
                place = w.at(target, e.type, i * self.ldp)
                w.do(f"store {e.type} {x}, ptr {place}, align {e.size}")

    @contextmanager
    def _pages(self, mode: str | None, length: str | int) -> Iterator[tuple[str, str | int]]:
        """Columns of A or rows of B to pack, the first and how many. Contiguous ones are taken a
        few at a time over all strips: they lie on different pages."""
        if mode != "rows":
            yield "0", length
            return
        steps = PAGES // 2 if self.e.pairs else PAGES
        with self.w.loop(0, length, steps) as k:
            yield k, self.w.minimum(self.w.op("sub", length, k), steps)

    def _pack(
        self,
        which: int,
        source: str,
        columns: str,
        steps: tuple[str, str | int],
        target: str,
        ds: int,
    ) -> None:
        """Call a packer for a strip of operand `which` (0 is A): `steps` of K are the first and how
        many there are."""
        g, half, count = self.g, self.g.half, steps[1]
        mode = (self.t.pack_a, self.t.pack_b)[which]
        along, across = g.b if which else g.a[::-1]
        assert mode
        if half is not None and half.loose[which]:
            name = half_packer_name(mode, self.e, half)
            text = partial(half_packer, mode, self.e, half, self.host)
            if half.pairs:
                along, count = along // 2, self._elements(half, *steps)
        else:
            name, text = packer_name(mode, self.e), partial(packer, mode, self.e, self.host)
        if name not in self.helpers:
            self.helpers[name] = text()
        self.w.do(
            f"call void @{name}(ptr {source}, i64 {along}, i64 {across}, i64 {columns}, "
            f"i64 {count}, ptr {target}, i64 {ds})"
        )

    def _elements(self, half: Half, start: str, count: str | int) -> str:
        """Elements along K in `count` pairs from pair `start` on; the last may be half a pair."""
        w = self.w
        there = w.op("sub", half.terms, w.op("mul", start, 2))
        return w.minimum(2 * count if isinstance(count, int) else w.op("mul", count, 2), there)
