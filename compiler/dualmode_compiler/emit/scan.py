"""Prefix sums and their like: one value, or a row of values, carried along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..expr import Axis, Buffer
from ..folds import Scan
from ..loops import Kernel
from ..runtime.jit import Host
from .chunks import minimum, share
from .combine import combine, identity
from .instructions import literal, memory_type, register_type, splat
from .levels import Value, mask_text
from .nest import Nest
from .values import Writer

PARALLEL = 1 << 16  # elements from which a kernel is cut into chunks
MOST = 32  # chunks at the most
COLUMNS = 2048  # carried side by side at the most: their sums stay in the first level of cache


class Prefix:
    """A kernel whose stores use a scan: along its innermost axis, or for many columns at once."""

    def __init__(self, nest: Nest, kernel: Kernel, form: Scan) -> None:
        self.nest, self.kernel, self.form = nest, kernel, form
        self.fold, self.dtype = form.fold, form.fold.dtype
        k = kernel.axes.index(form.axis)
        self.outer, self.inner = kernel.axes[:k], kernel.axes[k + 1 :]
        self.axis = form.axis
        self.work = math.prod(a.extent for a in kernel.axes)
        along = self.inner[-1] if self.inner else self.axis
        self.lanes = _lanes(nest.host, kernel, self.dtype.itemsize, along)
        self.masks: dict[tuple[bool, ...], str] = {}  # by their lanes

    def emit(self) -> int:
        """Emit the loops; gives the number of chunks."""
        if self.work == 0:
            return 1
        if self.form.totals is not None:
            return self._blocks(self.form.block, self.form.totals)
        rows = (*self.outer, *self.inner[:-1])
        body = self._all_columns if self.inner else self._row
        if self.work >= PARALLEL and rows:
            start, stop, chunks = share(self.nest.w, rows[0].extent, MOST)
            self.nest.each(rows[0], lambda: self._nested(rows[1:], body), start, stop)
            return chunks
        if self.work >= PARALLEL and self.inner:
            extent, grain = self.inner[-1].extent, 4 * self.lanes
            count = max(-(-extent // COLUMNS), min(4, extent // grain), 1)
            start, stop, chunks = share(self.nest.w, extent, count, grain)
            self._columns(start, stop)
            return chunks
        self._nested(rows, body)
        return 1

    def _nested(self, axes: tuple[Axis, ...], body: Callable[[], None]) -> None:
        if not axes:
            body()
        else:
            self.nest.each(axes[0], lambda: self._nested(axes[1:], body))

    def _here(self) -> Writer:
        """Writes at the end of the innermost open level."""
        self.nest.w.lines = self.nest.levels[-1].block.lines
        return self.nest.w

    def _stores(self, value: str, lanes: int) -> None:
        """Store what depends on the scan, whose value here is known."""
        nest = self.nest
        nest.memo[self.fold] = Value(value, lanes)
        nest.levels[-1].names.append(self.fold)
        for s in self.kernel.stores:
            nest.value(s.value)
        for s in self.kernel.stores:
            nest.store(s.buffer, s.offset, s.value)

    def _combine(self, old: str, new: str, lanes: int) -> str:
        return combine(self._here(), self.fold.kind, old, new, self.dtype, lanes)

    # --- many columns -----------------------------------------------------------------------------

    def _all_columns(self) -> None:
        extent = self.inner[-1].extent
        if extent <= COLUMNS:
            self._columns("0", str(extent))
            return

        def block(index: str, _: list[str]) -> list[str]:
            end = self._here().emit(f"add nuw nsw i64 {index}, {COLUMNS}")
            self._columns(index, minimum(self._here(), end, extent))
            return []

        self.nest.loop("0", str(extent), COLUMNS, block)

    def _columns(self, start: str, stop: str) -> None:
        """Columns start .. stop: a row of the values so far is kept."""
        nest, n = self.nest, self.axis.extent
        kind = memory_type(self.dtype, 1)
        row = nest.room(COLUMNS + 4 * self.lanes, self.dtype)

        def place() -> str:
            at = nest.at[self.inner[-1]]
            if start != "0":
                at = self._here().emit(f"sub i64 {at}, {start}")
            return self._here().emit(f"getelementptr {kind}, ptr {row}, i64 {at}")

        def first() -> None:
            value = nest.vector(self.fold.start, nest.levels[-1].lanes)
            self._keep(value, place())

        def following() -> None:
            lanes = nest.levels[-1].lanes
            new, here = nest.vector(self.form.body, lanes), place()
            size = self.dtype.itemsize
            kind = memory_type(self.dtype, lanes)
            old = self._here().emit(f"load {kind}, ptr {here}, align {size}")
            value = self._combine(old, new, lanes)
            self._keep(value, here)
            self._stores(value, lanes)

        self._vectors(start, stop, first)

        def step(index: str, _: list[str]) -> list[str]:
            at = index
            if self.form.reverse:
                at = self._here().emit(f"sub i64 {n - 1}, {index}")
            nest.scope(self.axis, at, lambda: self._vectors(start, stop, following))
            return []

        nest.loop("0", str(n), 1, step)

    def _keep(self, value: str, place: str) -> None:
        kind = memory_type(self.dtype, self.nest.levels[-1].lanes)
        self._here().line(f"  store {kind} {value}, ptr {place}, align {self.dtype.itemsize}")

    def _vectors(self, start: str, stop: str, body: Callable[[], None]) -> None:
        """`body` for every vector of the columns start .. stop; the last may be part of one."""
        nest, axis, lanes = self.nest, self.inner[-1], self.lanes
        whole = axis.extent // lanes * lanes
        left = axis.extent - whole
        width = 1 << max(left - 1, 0).bit_length()

        def full(index: str, _: list[str]) -> list[str]:
            nest.scope(axis, index, body, lanes, None)
            return []

        def tail() -> None:
            nest.scope(axis, str(whole), body, width, mask_text(left, width))

        def run() -> None:
            nest.loop(start, end, lanes, full)

        if stop == str(axis.extent):
            if whole:
                nest.loop(start, str(whole), lanes, full)
            if left:
                tail()
        elif not left:
            nest.loop(start, stop, lanes, full)
        else:
            end = minimum(self._here(), stop, whole)
            some = self._here().emit(f"icmp ult i64 {start}, {end}")
            last = self._here().emit(f"icmp ugt i64 {stop}, {whole}")
            nest.when(some, run)
            nest.when(last, tail)

    # --- along a row ------------------------------------------------------------------------------

    def _row(self) -> None:
        carry = splat(self._here(), self._start(), self.dtype, self.lanes)
        n, lanes = self.axis.extent, self.lanes
        whole = n // lanes * lanes
        if whole:
            carry = self._run("0" if not self.form.reverse else str(n), str(whole), carry)
        if n > whole:
            self._rest("0" if self.form.reverse else str(whole), carry, n - whole)

    def _start(self) -> str:
        return self.nest.vector(self.fold.start, 1)

    def _run(self, first: str, count: str, carry: str) -> str:
        """`count` elements in whole vectors, from `first` on, or, in reverse, from before it."""

        def step(index: str, phis: list[str]) -> list[str]:
            w = self._here()
            if self.form.reverse:
                at = w.emit(f"sub i64 {first}, {index}")
                at = w.emit(f"sub i64 {at}, {self.lanes}")
            else:
                at = index if first == "0" else w.emit(f"add i64 {first}, {index}")
            return [self._step(at, phis[0], self.lanes)]

        kind = register_type(self.dtype, self.lanes)
        return self.nest.loop("0", count, self.lanes, step, [(kind, carry)])[0]

    def _rest(self, at: str, carry: str, count: int) -> None:
        """The last `count` elements, fewer than a vector."""
        lanes = 1 << (count - 1).bit_length()
        self._step(at, self._spread(carry, 0, lanes), lanes, mask_text(count, lanes))

    def _step(self, at: str, carry: str, lanes: int, mask: str | None = None) -> str:
        """One vector: sums within it, and what came before. Gives what the next one has to add."""
        out: list[str] = []

        def body() -> None:
            inside = self._within(self.nest.vector(self.form.body, lanes), lanes, mask)
            self._stores(self._combine(carry, inside, lanes), lanes)
            if lanes == self.lanes:
                total = self._spread(inside, 0 if self.form.reverse else lanes - 1, lanes)
                out.append(self._combine(carry, total, lanes))

        self.nest.scope(self.axis, at, body, lanes, mask)
        return out[0] if out else ""

    def _spread(self, x: str, lane: int, lanes: int) -> str:
        """One lane of a whole vector in `lanes` lanes."""
        kind = register_type(self.dtype, self.lanes)
        if lanes == 1:
            return self._here().emit(f"extractelement {kind} {x}, i64 {lane}")
        order = f"<{lanes} x i32> <{', '.join([f'i32 {lane}'] * lanes)}>"
        return self._here().emit(f"shufflevector {kind} {x}, {kind} poison, {order}")

    def _within(self, x: str, lanes: int, mask: str | None) -> str:
        """The scan of one vector, as in Sklansky's adder: of every two neighbouring groups of 1, 2,
        4, ... lanes, the later one takes what the earlier one adds up to."""
        kind = register_type(self.dtype, lanes)
        if mask is not None and self.form.reverse:
            neutral = literal(identity(self.fold.kind, self.dtype), self.dtype, lanes)
            x = self._here().emit(f"select <{lanes} x i1> {mask}, {kind} {x}, {kind} {neutral}")
        order = range(lanes)[:: -1 if self.form.reverse else 1]
        step = 1
        while step < lanes:
            places = ["poison"] * lanes
            for k, lane in enumerate(order):
                if k & step:
                    places[lane] = str(order[(k & -2 * step) + step - 1])
            take = f"<{lanes} x i32> <{', '.join(f'i32 {p}' for p in places)}>"
            moved = self._here().emit(f"shufflevector {kind} {x}, {kind} poison, {take}")
            both = self._combine(moved, x, lanes)
            later = self._mask(tuple(p != "poison" for p in places))
            x = self._here().emit(f"select {later}, {kind} {both}, {kind} {x}")
            step *= 2
        return x

    def _mask(self, lanes: tuple[bool, ...]) -> str:
        """A constant mask. LLVM is not to know it where there are mask registers: it would take a
        shuffle to choose by it, where an operation under a mask does both."""
        kind, count = f"<{len(lanes)} x i1>", len(lanes)
        if not self.nest.host.has_masks or count < 8:
            return f"{kind} <{', '.join('i1 true' if x else 'i1 false' for x in lanes)}>"
        if lanes not in self.masks:
            bits = sum(x << k for k, x in enumerate(lanes))
            number, mask = self.nest.w.fresh(), self.nest.w.fresh()
            self.nest.lines[:0] = [
                f'  {number} = call i{count} asm "", "=r,0"(i{count} {bits})',
                f"  {mask} = bitcast i{count} {number} to {kind}",
            ]
            self.masks[lanes] = mask
        return f"{kind} {self.masks[lanes]}"

    def _blocks(self, size: int, totals: Buffer) -> int:
        """A chunk is one block, which starts from the totals of those before."""
        nest, n, count = self.nest, self.axis.extent, totals.spec.size
        w = self._here()
        kind, element = register_type(self.dtype, self.lanes), register_type(self.dtype, 1)

        def before(index: str, phis: list[str]) -> list[str]:
            place = self._here().emit(
                f"getelementptr {element}, ptr {nest.pointers[totals]}, i64 {index}"
            )
            total = w.emit(f"load {element}, ptr {place}, align {self.dtype.itemsize}")
            with_it = combine(w, self.fold.kind, phis[0], total, self.dtype, 1)
            earlier = w.emit(f"icmp ult i64 {index}, %chunk")
            return [w.emit(f"select i1 {earlier}, {element} {with_it}, {element} {phis[0]}")]

        start = nest.loop("0", str(count), 1, before, [(element, self._start())])[0]
        slot = w.fresh()
        nest.lines.insert(0, f"  {slot} = alloca {kind}, align 64")
        carry = splat(self._here(), start, self.dtype, self.lanes)
        w.line(f"  store {kind} {carry}, ptr {slot}")
        left = n - count * size
        whole = left // self.lanes * self.lanes
        last = w.emit(f"icmp eq i64 %chunk, {count}")
        full = w.emit(f"select i1 {last}, i64 {whole}, i64 {size}")
        offset = w.emit(f"mul nuw nsw i64 %chunk, {size}")
        first = w.emit(f"sub i64 {n}, {offset}") if self.form.reverse else offset

        def vectors() -> None:
            after = self._run(first, full, carry)
            self._here().line(f"  store {kind} {after}, ptr {slot}")

        def rest() -> None:
            at = "0" if self.form.reverse else str(n - (left - whole))
            self._rest(at, self._here().emit(f"load {kind}, ptr {slot}"), left - whole)

        nest.when(w.emit(f"icmp ne i64 {full}, 0"), vectors)
        if left > whole:
            nest.when(last, rest)
        return count + 1


def _lanes(host: Host, kernel: Kernel, size: int, axis: Axis) -> int:
    widest = max(size, 4, *(b.spec.dtype.itemsize for b in kernel.writes()))
    return min(host.vector_bytes // widest, 1 << (axis.extent - 1).bit_length())
