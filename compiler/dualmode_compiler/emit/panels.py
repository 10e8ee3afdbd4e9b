"""The panels of a matrix product: micro-tile after micro-tile, as LLVM IR text."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from ..records import dataclass
from ..runtime.jit import Host
from ..tiling import LARGE, LINE, Gemm, Tiling
from . import dot, gemv
from .gemm import RUN, Kernel, kernel
from .packing import Packing
from .simd import Element
from .writer import LoopWriter

NEAR = 4  # micro-tiles of a panel from which on some of them fetch what the next panel needs


@dataclass(frozen=True)
class Panel:
    """Operands of a panel: A, and where its rows lie in memory; B, C, C's row stride, steps of K,
    whether to add, which height; the part of B that comes next, and the number of the panel's first
    line of it."""

    a: str
    rows: str
    b: str
    c: str
    ldc: int
    length: str | int
    add: str
    is_tall: str | None
    following: str
    line: str


class Panels:
    """Writes the panels of one product; `product.Product` writes the loops around them.

    Attributes:
        g, t: the product, as its micro-kernels read it, and its tiling.
        apart: elements from a row of A to the next one in memory.
        e: elements of registers.
        width: columns of a micro-tile.
        tiles: micro-tiles, or groups of columns of inner products, across C.
        across: blocks across C.
        columns, whole: columns of this block of C, and whole micro-tiles; `is_last` of the row, if
            there are several.
        j0: its first column.
        masks: what is not whole vectors is loaded and stored by masks.
        scratch: panels are computed in memory beside C.
        stretches: of K.
        fetch: micro-tiles bring in what comes next; the first `near` of a panel what the next panel
            needs.
        helpers: IR of the functions that are called, by name.
    """

    w: LoopWriter
    g: Gemm
    t: Tiling
    apart: int
    e: Element
    host: Host
    b: str
    packing: Packing
    width: int
    tiles: int
    across: int
    columns: str | int
    whole: str | int
    is_last: str
    j0: str
    masks: bool
    scratch: bool
    stretches: int
    fetch: bool
    near: int
    helpers: dict[str, str]

    def _panel(self, x: Panel, first: bool = False) -> None:
        """A panel of A times the block of B: whole micro-tiles, then the last block's tail.

        The `first` one packs B, by rows.
        """
        if self.t.dots:
            self._dots(x)
            return
        if self.t.sweeps:
            self._sweep(x)
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

    def _first_panel(self, x: Panel) -> None:
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

    def _strip(self, s: str, spec: Kernel, live: int, x: Panel) -> None:
        """Strip `s` of the first panel."""
        w, e, across = self.w, self.e, self.g.b[1]
        first = w.op("mul", s, e.lanes)
        b, c = w.at(x.b, e.type, w.op("mul", first, across)), w.at(x.c, e.type, first)
        packed = self.packing.strip(s)
        self._call(spec, x, b, across, c, live, f", ptr {packed}, i64 {self.width}, i64 0")

    def _tile(self, s: str, spec: Kernel, live: int, x: Panel) -> None:
        """Micro-tile `s` of the panel."""
        w, e = self.w, self.e
        b, ldb = w.at(x.b, e.type, w.op("mul", s, self.width)), self.g.b[0]
        c, aside = w.at(x.c, e.type, w.op("mul", s, self.width)), ""
        if spec.fetch:
            aside = self._aside(s, x)
        if self.t.pack_b:
            packed = self.packing.tile(s)
            if spec.packs:
                aside = f", ptr {packed}, i64 {self.width}, i64 0"
            else:
                b, ldb = packed, self.width
        self._call(spec, x, b, ldb, c, live, aside)

    def _call(
        self, spec: Kernel, x: Panel, b: str, ldb: int, c: str, live: int, aside: str
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
            f"i64 {x.length}, i64 {live}, i64 {x.add}{aside}{self._further()})"
        )

    def _further(self) -> str:
        """More arguments of micro-kernels."""
        return ""

    def _kernel(self, spec: Kernel) -> str:
        if spec.name not in self.helpers:
            self.helpers[spec.name] = kernel(spec, self.host)
        return f"@{spec.name}"

    def _dots(self, x: Panel) -> None:
        """A panel of A times the block of B, some columns at a time."""
        w, e, g, rows = self.w, self.e, self.g, self.t.rows
        lda = self.packing.ldp if self.t.pack_a else g.a[0]
        function = self._dot(rows)
        if x.is_tall:
            tall = self._dot(rows + 1)
            function = w.emit(f"select i1 {x.is_tall}, ptr {tall}, ptr {function}")
        with w.loop(0, self.columns, self._dot_kernel(rows).columns) as j:
            b = w.at(x.b, e.type, w.op("mul", j, g.b[1]))
            left = w.op("sub", self.columns, j)
            w.do(
                f"call void {function}(ptr {x.a}, i64 {lda}, ptr {b}, i64 {g.b[1]}, i64 {left}, "
                f"i64 {x.length}, ptr {w.at(x.c, e.type, j)}, i64 {x.ldc})"
            )

    def _dot(self, rows: int) -> str:
        spec = self._dot_kernel(rows)
        if spec.name not in self.helpers:
            self.helpers[spec.name] = dot.dot(spec, self.host)
        return f"@{spec.name}"

    def _dot_kernel(self, rows: int) -> dot.Dot:
        return dot.kernel_for(self.e, rows, self.t.is_far, self.g.m == 1)

    def _sweep(self, x: Panel) -> None:
        """All rows of A times the block of B, row after row of that."""
        g, t = self.g, self.t
        spec = gemv.kernel_for(self.e, self.host, t.rows, t.is_far)
        if spec.name not in self.helpers:
            self.helpers[spec.name] = gemv.gemv(spec, self.host)
        self.w.do(
            f"call void @{spec.name}(ptr {x.a}, i64 {g.a[0]}, i64 {g.a[1]}, ptr {x.b}, "
            f"i64 {g.b[0]}, ptr {x.c}, i64 {x.ldc}, i64 {self.columns}, i64 {x.length}, "
            f"i64 {x.add})"
        )

    def _following(self, k0: str, p: str, p0: str) -> tuple[str, str]:
        """What panel `p` fetches for the next stretch of K: see `Panel`."""
        w, t, g = self.w, self.t, self.g
        if not self.fetch or self.stretches == 1 or t.pack_b != "rows" or g.half:
            return "null", str(g.n)
        k1 = w.op("add", k0, t.depth)
        row = w.at(self.b, self.e.type, w.op("mul", k1, g.b[0]))
        more = w.emit(f"icmp ult i64 {k1}, {g.k}")
        ahead = w.op("add", p0, int(t.packs_first))  # one that packs does not fetch
        line = w.op("mul", w.op("sub", p, ahead), -(-self.tiles // self.across) - self.near)
        return w.at(row, self.e.type, self.j0), w.emit(f"select i1 {more}, i64 {line}, i64 {g.n}")

    def _aside(self, s: str, x: Panel) -> str:
        """More arguments, which say what micro-tile `s` fetches: the next panel's rows of C, and of
        A, then columns of lines of the next stretch of B, or nothing new."""
        w, e, g, rows = self.w, self.e, self.g, self.t.rows
        first = w.op("mul", w.op("add", x.line, w.op("sub", s, self.near)), e.lanes)
        some = w.emit(f"icmp ult i64 {first}, {self.columns}")
        b = w.at(x.following, e.type, first)
        found = self._choose(some, (b, g.b[0], g.b[0]), (x.c, "0", "0"))
        for tile, (start, apart) in enumerate(((x.c, x.ldc), (x.rows, self.apart))[: self.near]):
            next_run = LINE // e.size - (RUN - 1) * apart
            below = (w.at(start, e.type, rows * apart), apart, next_run)
            found = self._choose(w.emit(f"icmp eq i64 {s}, {tile}"), below, found)
        return f", ptr {found[0]}, i64 {found[1]}, i64 {found[2]}"

    def _choose(
        self, test: str, yes: tuple[str, str | int, str | int], no: tuple[str, str | int, str | int]
    ) -> tuple[str, str, str]:
        """One of two runs of lines."""
        kinds = ("ptr", "i64", "i64")
        at, apart, following = (
            self.w.emit(f"select i1 {test}, {kind} {a}, {kind} {b}")
            for kind, a, b in zip(kinds, yes, no, strict=True)
        )
        return at, apart, following
