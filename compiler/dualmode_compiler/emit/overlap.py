"""Products whose finished panels are walked while the next ones are computed, as LLVM IR text.

The epilogue of a panel waits for the panel that follows in its block, whose micro-kernels take some
of its vectors each, row by row, between their turns (`epilogue.Epilogue.between`). The last panel
of a block is handed on as a whole. Panels take turns with two pieces of memory; where K is cut into
stretches, all of a block have their own, and only the last stretch is mixed so. Columns that make
no whole micro-tile do not wait.
"""

from __future__ import annotations

from dataclasses import replace

from ..records import dataclass
from ..runtime.jit import Host
from ..tiling import Gemm, Tiling
from .fused import Fused, Mixed
from .gemm import Kernel
from .panels import Panel
from .product import Code, Product

# Least turns of the sums for each vector of a finished panel; and where some columns do not wait,
# as these are gone over by themselves.
TURNS, RAGGED = 2, 8


@dataclass(frozen=True)
class _Waiting:
    """A finished panel: its first row, number of rows, memory, and whether it is a tall one."""

    row: str
    rows: str
    tile: str
    is_tall: str | None


class Overlapped(Product):
    """Writes one product; see `Product`."""

    def __init__(
        self,
        name: str,
        g: Gemm,
        host: Host,
        fused: Fused,
        mixed: Mixed,
        cut: Tiling | None,
    ) -> None:
        super().__init__(name, g, host, fused, cut)
        self.between, self.waits = mixed.between, mixed.waits
        self.length = self.g.k - (self.stretches - 1) * self.t.depth  # of the last stretch
        self.ragged = self.g.n % self.width > 0
        self.final = False  # the stretch of K is the last one
        self.texts: dict[str, str] = {}
        self.waiting: _Waiting | None = None

    def suits(self) -> bool:
        """True if panels are walked so."""
        t, g = self.t, self.g
        whole = not t.dots and not self.flipped and g.n >= self.width
        fits = self.host.registers >= 32 and t.panels_per_block > 1
        turns = RAGGED if self.ragged else TURNS
        if not whole or not fits or self.length < turns * t.tallest * t.vectors:
            return False
        return all(self._add(t.rows + tall) for tall in range(1 + (t.taller > 0)))

    def emit(self) -> Code:
        code = super().emit()
        return replace(code, text="".join(self.texts.values()) + code.text)

    def _add(self, rows: int) -> bool:
        """Write the micro-kernel of so many rows, if there can be one."""
        spec = Kernel(rows, self.t.vectors, False, self.t.by_rows, self.e)
        name = self._name(rows)
        text = self.between(spec, name, self.stretches > 1)
        self.texts[name] = text or ""
        return text is not None

    def _name(self, rows: int) -> str:
        return f"{self.name}_between{rows}"

    def _memories(self) -> int:
        return 2 if self.waits and self.stretches == 1 else super()._memories()

    def _memory(self, p: str, p0: str) -> str:
        if not self.waits or self.stretches > 1:
            return super()._memory(p, p0)
        return self.w.op("urem", self.w.op("sub", p, p0), 2)

    def _stretch(self, k0: str, length: str | int, p0: str, p1: str | int) -> None:
        w = self.w
        if self.stretches == 1:
            self._last_stretch(k0, p0, p1)
            return
        final = w.emit(f"icmp uge i64 {w.op('add', k0, str(length))}, {self.g.k}")
        earlier = w.emit(f"xor i1 {final}, true")
        with w.when(earlier):
            super()._stretch(k0, length, p0, p1)
        with w.when(final):
            self._last_stretch(k0, p0, p1)

    def _last_stretch(self, k0: str, p0: str, p1: str | int) -> None:
        w, t = self.w, self.t
        self.final, self.waits_to = True, self._whole_columns()
        b, first_panel = self._begin(k0, self.length)
        if t.pack_a:
            with w.loop(p0, p1, t.panels_packed) as first:
                self.first = first
                end = w.minimum(w.op("add", first, t.panels_packed), p1)
                self.packing.pack_a(self.a, k0, self.length, first, end)
                with w.loop(first, end) as p:
                    self._either(b, k0, p, p0)
        else:
            self._rows(b, k0, self.length, p0, p0, first_panel)
            second = w.op("add", p0, 1)
            with w.when(w.emit(f"icmp ult i64 {second}, {p1}")), w.loop(second, p1) as p:
                self._mixed(b, k0, p, p0)
        if self.waits:
            last = self._finished(w.emit(f"sub i64 {p1}, 1"), p0)
            with w.when(self._some_wait()):
                self._pass(
                    (last.row, self.j0), (last.rows, str(self.waits_to)), last.tile, str(self.ldt)
                )
        self.final = False

    def _whole_columns(self) -> str | int:
        """Columns of this block up to which there are whole micro-tiles."""
        if not self.ragged:
            return self.columns
        if isinstance(self.whole, int):
            return self.whole * self.width
        return self.w.op("mul", self.whole, self.width)

    def _some_wait(self) -> str:
        return self.w.emit(f"icmp ne i64 {self.waits_to}, 0")

    def _either(self, b: str, k0: str, p: str, p0: str) -> None:
        """Panel `p`, mixed with another unless it is the first one."""
        later = self.w.emit(f"icmp ne i64 {p}, {p0}")
        begins = self.w.emit(f"xor i1 {later}, true")
        with self.w.when(begins):
            self._rows(b, k0, self.length, p, p0, self._panel)
        with self.w.when(later):
            self._mixed(b, k0, p, p0)

    def _mixed(self, b: str, k0: str, p: str, p0: str) -> None:
        """Panel `p`, mixed with the one before, or with asking for what follows it itself."""
        fetch, self.fetch = self.fetch, False
        self.waiting = self._finished(self.w.op("sub", p, 1) if self.waits else p, p0)
        self._rows(b, k0, self.length, p, p0, self._panel)
        self.waiting, self.fetch = None, fetch

    def _finished(self, p: str, p0: str) -> _Waiting:
        row, rows, is_tall = self.packing.rows_of(p)
        return _Waiting(row, rows, self._tile_at(p, p0), is_tall)

    def _finish(self, k0: str, length: str | int, row: str, rows: str, tile: str) -> None:
        """Nothing yet of what waits: see `_last_stretch`."""
        w = self.w
        if not self.waits:
            super()._finish(k0, length, row, rows, tile)
        elif self.ragged and self.final:
            more = w.emit(f"icmp ult i64 {self.waits_to}, {self.columns}")
            with w.when(more):
                place = row, w.op("add", self.j0, self.waits_to)
                size = rows, w.emit(f"sub i64 {self.columns}, {self.waits_to}")
                self._pass(place, size, w.at(tile, self.e.type, self.waits_to), str(self.ldt))

    def _tile(self, s: str, spec: Kernel, live: int, x: Panel) -> None:
        """Micro-tile `s` of the panel, mixed with a part of the panel that waits."""
        w, t, waiting = self.w, self.t, self.waiting
        if waiting is None or live < self.e.lanes or spec.vectors < t.vectors:
            self.waiting = None
            super()._tile(s, spec, live, x)
            self.waiting = waiting
            return
        counts = [self._turns(t.rows + tall) for tall in (False, True)]
        rounds, turns, longer = (str(count) for count in counts[0])
        if waiting.is_tall:
            rounds, turns, longer = (
                w.emit(f"select i1 {waiting.is_tall}, i64 {more}, i64 {less}")
                for less, more in zip(*counts, strict=True)
            )
        first = w.op("mul", w.op("mul", s, rounds), self.e.lanes)
        row, column = w.op("udiv", first, self.waits_to), w.op("urem", first, self.waits_to)
        self.walked = (
            f"ptr %bufs, i64 {self.flat}, i64 {waiting.row}, i64 {self.j0}, i64 {self.waits_to}, "
            f"ptr {waiting.tile}, i64 {self.ldt}, i64 {row}, i64 {column}, i64 {rounds}, "
            f"i64 {turns}, i64 {longer}"
        )
        super()._tile(s, spec, live, x)

    def _call(
        self, spec: Kernel, x: Panel, b: str, ldb: int, c: str, live: int, aside: str
    ) -> None:
        """Call a micro-kernel, or the one for a row more: either by its name, so that it may share
        its code with those of other products."""
        if self.waiting is None or x.is_tall is None:
            super()._call(spec, x, b, ldb, c, live, aside)
            return
        w, one = self.w, replace(x, is_tall=None)
        usual = w.emit(f"xor i1 {x.is_tall}, true")
        for test, rows in ((x.is_tall, spec.rows + 1), (usual, spec.rows)):
            with w.when(test):
                super()._call(replace(spec, rows=rows), one, b, ldb, c, live, aside)

    def _turns(self, rows: int) -> tuple[int, int, int]:
        """How the turns are shared out between the vectors of a part: see `epilogue.BETWEEN`."""
        rounds = rows * self.t.vectors
        return rounds, *divmod(self.length, rounds)

    def _kernel(self, spec: Kernel) -> str:
        return super()._kernel(spec) if self.waiting is None else f"@{self._name(spec.rows)}"

    def _further(self) -> str:
        return "" if self.waiting is None else f", {self.walked}"
