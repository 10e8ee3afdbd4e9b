"""The loop nest of a kernel without contraction: chunks, the vectorised axis, and its stores.

One axis lies in the lanes of vectors: the one along which all stores move by one element. How it is
walked depends on what is inside it:

- plain values: vector by vector; the last one, if it is part of one, under a mask.
- reductions whose terms lie side by side along it, as those over the first axis of a matrix: in
  wide vectors, so that memory is read in long runs and each row is read once; if there are more
  columns than registers and more rows than caches hold, in blocks of columns whose accumulators
  are a row in memory, several rows at a time.
- results larger than the caches: with non-temporal stores, which do not read what they overwrite.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from ..cost import CHUNK, PARALLEL, operations
from ..expr import Axis, Buffer, Load, Reduce, walk
from ..loops import Kernel, Store, loads
from ..spec import bool_, int64
from .combine import identity
from .instructions import literal
from .levels import Value, iota, mask_text, pieces
from .nest import Nest
from .reduce import Fold
from .resident import Row, resident_rows
from .values import Writer, memory_type, splat

MOST = 32  # chunks at the most
UNROLL = 4  # vectors that are written out rather than put in a loop
REGISTERS = 16  # vectors of accumulators that one reduction may keep in registers
LIGHT = 4  # additions per element up to which several vectors are computed at once
CACHE = 1 << 20  # bytes from which columns are reduced in blocks
BLOCK = 1 << 14  # bytes of accumulators of such a block
TOGETHER = 8  # rows of it that are added at once
AHEAD = 1 << 17  # bytes of a row up to which the next one is prefetched
LONG = 256  # elements of a row from which its ends may be treated apart for non-temporal stores


class Loops:
    """The loop nest of `kernel`.

    Args:
        work: its cost in additions, which says into how many chunks it is cut.
        streams: buffers that are stored past the caches.
    """

    def __init__(self, nest: Nest, kernel: Kernel, work: float, streams: frozenset[Buffer]) -> None:
        self.nest, self.kernel, self.work = nest, kernel, work
        self.by_depth: dict[int, list[Store]] = {}
        for s in kernel.stores:
            self.by_depth.setdefault(s.depth, []).append(s)
        self.vector = vector_axis(nest, kernel)
        self.inside = 0 if self.vector is None else kernel.axes.index(self.vector) + 1
        widest = max((b.spec.dtype.itemsize for b in kernel.writes()), default=4)
        extent = self.vector.extent if self.vector is not None else 1
        self.width = nest.host.vector_bytes // max(widest, 4)
        self.lanes = min(self.width, 1 << (extent - 1).bit_length())
        self.columns: list[Reduce] = []
        self._widen(extent)
        self.streams = self._streams(streams)
        self.rows = self._rows()
        nest.ahead.update(self._ahead())

    # --- choices ----------------------------------------------------------------------------------

    def _vertical(self) -> list[Reduce]:
        """Reductions that each lane has one of."""
        found = walk([s.value for s in self.kernel.stores])
        return [e for e in found if isinstance(e, Reduce) and self.vector in e.axes]

    def _widen(self, extent: int) -> None:
        """Choose between vectors, wide vectors and blocks of columns."""
        vertical = self._vertical() if self.vector is not None else []
        if not vertical or self.lanes < self.width:
            return
        vectors = math.ceil(extent / self.lanes)
        if any(not self._is_light(e) for e in vertical):
            return
        if any(e.kind in ("argmax", "argmin") for e in vertical):
            self.lanes *= min(UNROLL, 1 << (vectors - 1).bit_length())
            return
        size = max(math.prod(a.extent for a in (*e.bound, *e.axes)) for e in vertical)
        last = self.inside == len(self.kernel.axes)
        if vectors <= REGISTERS:
            self.lanes *= 1 << (vectors - 1).bit_length()
        elif last and size * 4 >= CACHE and all(_is_simple(e) for e in vertical):
            self.columns = vertical
        else:
            self.lanes *= UNROLL

    def _is_light(self, e: Reduce) -> bool:
        terms = math.prod(a.extent for a in e.bound)
        return operations([e]) <= (LIGHT + 1) * terms

    def _streams(self, wanted: frozenset[Buffer]) -> list[Store]:
        """The stores that can go past the caches: whole vectors, all at the same place."""
        stores = self.by_depth.get(len(self.kernel.axes), [])
        host = self.nest.host
        if self.vector is None or self.inside < len(self.kernel.axes) or self.columns:
            return []
        if not host.triple.startswith(("x86_64", "i686")):
            return []
        found = [
            s
            for s in stores
            if s.buffer in wanted and self.lanes * s.buffer.spec.dtype.itemsize == host.vector_bytes
        ]
        same = all(s.offset is found[0].offset for s in found)
        return found if same and self.vector.extent >= LONG else []

    def _ahead(self) -> dict[Buffer, int]:
        """How far ahead to prefetch large buffers whose rows are read again, in elements.

        A loop over a row that computes much leaves the memory idle: it asks for the next row.
        """
        axes = self.kernel.axes[: self.inside - 1] if self.inside else self.kernel.axes
        if not axes or self.columns:
            return {}
        found: dict[Buffer, int] = {}
        for e in walk([s.value for s in self.kernel.stores]):
            if not isinstance(e, Reduce) or self._is_light(e):
                continue
            for x in loads(e.body):
                row = self.nest.stride(x.index[0], axes[-1]) or 0
                large = x.buffer.spec.nbytes >= CACHE
                if large and 1 < row <= AHEAD // x.dtype.itemsize:
                    found[x.buffer] = row
        return found

    def _rows(self) -> list[Row]:
        """Values that the innermost loop finds in a row rather than computing them again."""
        axes = self.kernel.axes
        if self.vector is None or self.inside + 1 < len(axes) or self.columns:
            return []
        across = 1 if axes[-1] is self.vector else self.lanes
        stored = [s.value for s in self.by_depth[len(axes)]]
        rows = resident_rows(stored, axes[-1], across)
        for row in rows:
            self.nest.keep(row.value, row.reuse, axes[-1], across)
        return rows

    def _fill_rows(self) -> None:
        for row in self.rows:
            self.nest.value(row.total)

    # --- the nest ---------------------------------------------------------------------------------

    def emit(self) -> int:
        """Emit the nest; gives the number of chunks."""
        chunks = self._emit()
        if self.streams:
            self.nest.fence()
        return chunks

    def _emit(self) -> int:
        axes = self.kernel.axes
        chunks = self._chunks()
        if chunks == 1:
            self._axis(0)
            return 1
        outer, w = axes[0], self.nest.w
        size = math.ceil(outer.extent / chunks)
        if outer is self.vector:
            unit = max(4 * self.width, self.lanes)
            size = math.ceil(size / unit) * unit
        chunks = math.ceil(outer.extent / size)
        start = w.emit(f"mul nuw nsw i64 %chunk, {size}")
        end = w.emit(f"add nuw nsw i64 {start}, {size}")
        inside = w.emit(f"icmp ult i64 {end}, {outer.extent}")
        stop = w.emit(f"select i1 {inside}, i64 {end}, i64 {outer.extent}")
        if outer is self.vector:
            self._vector(outer, start, stop)
        else:
            self.nest.each(outer, lambda: self._axis(1), start, stop)
        return chunks

    def _chunks(self) -> int:
        if self.work < PARALLEL or not self.kernel.axes or 0 in self.by_depth:
            return 1
        return int(min(MOST, self.work // CHUNK, self.kernel.axes[0].extent))

    def _axis(self, k: int) -> None:
        """Loops over axes k, k + 1, ..., then the stores at depth k."""
        axes = self.kernel.axes
        if k < len(axes) and axes[k].extent:
            axis = axes[k]
            if axis is self.vector:
                self._vector(axis, "0", str(axis.extent))
            else:
                self.nest.each(axis, lambda: self._axis(k + 1))
        self._stores(k)

    def _stores(self, depth: int) -> None:
        """All values before the first store: a kernel may overwrite what it reads."""
        stores = self.by_depth.get(depth, ())
        for s in stores:
            self.nest.value(s.value)
        for s in stores:
            self.nest.store(s.buffer, s.offset, s.value)

    def _body(self) -> None:
        """What is inside the vectorised axis."""
        if self.inside < len(self.kernel.axes):
            self._fill_rows()
        self._axis(self.inside)

    def _here(self) -> Writer:
        """A writer at the innermost open level."""
        self.nest.w.lines = self.nest.levels[-1].block.lines
        return self.nest.w

    # --- the vectorised axis ----------------------------------------------------------------------

    def _vector(self, axis: Axis, start: str, stop: str) -> None:
        if self.inside == len(self.kernel.axes):
            self._fill_rows()
        if self.columns:
            self._blocks(axis, start, stop)
        elif self.streams:
            self._stream(axis, start, stop)
        else:
            self._span(axis, start, stop, self._body)

    def _span(self, axis: Axis, start: str, stop: str, body: Callable[[], None]) -> None:
        """`body` from `start`, a whole number of vectors, to `stop`.

        Only at the end of the axis there may be part of a vector.
        """
        nest, lanes = self.nest, self.lanes
        whole = axis.extent // lanes * lanes
        if start[0] != "%" and stop[0] != "%":
            first, last = int(start), min(int(stop), whole)
            if last - first <= UNROLL * lanes:
                for at in range(first, last, lanes):
                    nest.scope(axis, str(at), body, lanes, None)
            else:
                self._loop(axis, start, str(last), body)
            self._tail(axis, whole, body)
        elif whole == axis.extent:
            self._loop(axis, start, stop, body)
        else:
            w = self._here()
            ends = w.emit(f"icmp ugt i64 {stop}, {whole}")
            full = w.emit(f"select i1 {ends}, i64 {whole}, i64 {stop}")
            some = w.emit(f"icmp ult i64 {start}, {full}")
            nest.when(some, lambda: self._loop(axis, start, full, body))
            nest.when(ends, lambda: self._tail(axis, whole, body))

    def _tail(self, axis: Axis, whole: int, body: Callable[[], None]) -> None:
        short = axis.extent <= 2 * self.lanes
        for at, lanes, active in pieces(axis.extent - whole, short):
            self.nest.scope(axis, str(whole + at), body, lanes, mask_text(active, lanes))

    def _loop(self, axis: Axis, start: str, stop: str, body: Callable[[], None]) -> None:
        def iteration(index: str, _: list[str]) -> list[str]:
            self.nest.scope(axis, index, body, self.lanes, None)
            return []

        self.nest.loop(start, stop, self.lanes, iteration)

    # --- blocks of columns ------------------------------------------------------------------------

    def _blocks(self, axis: Axis, start: str, stop: str) -> None:
        """The reductions of a block of columns, each into a row; then what is made of them."""
        nest = self.nest
        size = max(e.dtype.itemsize for e in self.columns)
        columns = BLOCK // size
        rows = {e: nest.room(columns, e.dtype) for e in self.columns}

        def iteration(index: str, _: list[str]) -> list[str]:
            w = self._here()
            end = w.emit(f"add nuw nsw i64 {index}, {columns}")
            inside = w.emit(f"icmp ult i64 {end}, {stop}")
            end = w.emit(f"select i1 {inside}, i64 {end}, i64 {stop}")
            back = w.emit(f"sub i64 0, {index}")
            for e, room in rows.items():
                row = w.emit(f"getelementptr {memory_type(e.dtype, 1)}, ptr {room}, i64 {back}")
                self._column_block(e, axis, row, index, end)
                nest.rows[e] = row, axis, 1
                self._here()
            self._span(axis, index, end, self._body)
            for e in rows:
                del nest.rows[e]
            return []

        nest.loop(start, stop, columns, iteration)

    def _column_block(self, e: Reduce, axis: Axis, row: str, start: str, stop: str) -> None:
        (bound,) = e.bound
        neutral = identity(e.kind, e.dtype)
        nest = self.nest

        def clear() -> None:
            lanes = nest.levels[-1].lanes
            nest.put(Value(literal(neutral, e.dtype, lanes), lanes), e.dtype, row, axis, 1)

        def add(first: str, count: int) -> None:
            lanes = nest.levels[-1].lanes
            acc = nest.get(lanes, e.dtype, row, axis, 1)
            fold = Fold(nest, e, lanes)
            for k in range(count):
                at = first
                if k:
                    at = self._here().emit(f"add nuw nsw i64 {first}, {k}")
                acc = fold.step(bound, at, acc)
            nest.put(Value(acc, lanes), e.dtype, row, axis, 1)

        def rows(first: str, count: int) -> list[str]:
            self._span(axis, start, stop, lambda: add(first, count))
            return []

        self._span(axis, start, stop, clear)
        whole = bound.extent // TOGETHER * TOGETHER
        if whole:
            nest.loop("0", str(whole), TOGETHER, lambda i, _: rows(i, TOGETHER))
        for count in (4, 2, 1):
            if bound.extent - whole >= count:
                rows(str(whole), count)
                whole += count

    # --- non-temporal stores ----------------------------------------------------------------------

    def _stream(self, axis: Axis, start: str, stop: str) -> None:
        """Part of a vector up to where the first store is aligned, whole ones, the rest."""
        nest = self.nest
        first, *others = self.streams
        nest.open(nest.inherit(nest.levels[-1].block), axis, start)
        place = nest.address(first.buffer, first.offset)
        other = [nest.address(s.buffer, s.offset) for s in others]
        nest.close()
        w = self._here()
        size, item = nest.host.vector_bytes, first.buffer.spec.dtype.itemsize
        low = w.emit(f"ptrtoint ptr {place} to i64")
        missing = w.emit(f"sub i64 0, {low}")
        missing = w.emit(f"and i64 {missing}, {size - 1}")
        head = w.emit(f"udiv i64 {missing}, {item}")
        if others:  # no vectors where they are not aligned alike
            apart = "0"
            for p in other:
                high = w.emit(f"ptrtoint ptr {p} to i64")
                differ = w.emit(f"xor i64 {high}, {low}")
                apart = w.emit(f"or i64 {apart}, {differ}")
            apart = w.emit(f"and i64 {apart}, {size - 1}")
            alike = w.emit(f"icmp eq i64 {apart}, 0")
            apart = w.emit(f"xor i1 {alike}, true")
            nest.when(alike, lambda: self._aligned(axis, start, stop, head))
            nest.when(apart, lambda: self._span(axis, start, stop, self._body))
        else:
            self._aligned(axis, start, stop, head)

    def _aligned(self, axis: Axis, start: str, stop: str, head: str) -> None:
        nest, lanes, w = self.nest, self.lanes, self.nest.w

        def part(at: str, count: str) -> None:
            every = splat(self._here(), count, int64, lanes)
            mask = w.emit(f"icmp ult <{lanes} x i64> {iota(lanes)}, {every}")
            nest.scope(axis, at, self._body, lanes, mask)

        def whole() -> None:
            nest.streaming.update(s.buffer for s in self.streams)
            self._loop(axis, first, full, self._body)
            nest.streaming.clear()

        self._here()
        length = w.emit(f"sub i64 {stop}, {start}")
        short = w.emit(f"icmp ult i64 {length}, {head}")
        head = w.emit(f"select i1 {short}, i64 {length}, i64 {head}")
        some = w.emit(f"icmp ne i64 {head}, 0")
        nest.when(some, lambda: part(start, head))
        self._here()
        first = w.emit(f"add i64 {start}, {head}")
        left = w.emit(f"sub i64 {stop}, {first}")
        vectors = w.emit(f"and i64 {left}, {-lanes}")
        full = w.emit(f"add i64 {first}, {vectors}")
        some = w.emit(f"icmp ult i64 {first}, {full}")
        nest.when(some, whole)
        self._here()
        left = w.emit(f"sub i64 {stop}, {full}")
        some = w.emit(f"icmp ne i64 {left}, 0")
        nest.when(some, lambda: part(full, left))


def _is_simple(e: Reduce) -> bool:
    return len(e.bound) == 1 and e.dtype is not bool_ and e.bound[0].extent > 0


def vector_axis(nest: Nest, kernel: Kernel) -> Axis | None:
    """The axis along which every store moves by one element, unless reductions inside it would
    rather use the lanes themselves."""
    axis = _along(nest, kernel)
    if axis is None:
        return None
    for e in walk([s.value for s in kernel.stores]):
        if isinstance(e, Reduce) and axis in e.axes:
            inner = [x for x in walk([e.body]) if isinstance(x, Load) and e.bound[-1] in x.axes]
            gathers = sum(nest.stride(x.index[0], axis) not in (0, 1) for x in inner)
            strided = sum(nest.stride(x.index[0], e.bound[-1]) not in (0, 1) for x in inner)
            if gathers > strided and e.bound[-1].extent >= 4:
                return None
    return axis


def _along(nest: Nest, kernel: Kernel) -> Axis | None:
    """The innermost axis of at least two elements that all stores inside it run along."""
    for k, axis in reversed(list(enumerate(kernel.axes, 1))):
        inside = [s for s in kernel.stores if s.depth >= k]
        if not inside:
            continue
        if axis.extent > 1 and all(nest.stride(s.offset, axis) == 1 for s in inside):
            return axis
        if any(s.depth < len(kernel.axes) for s in kernel.stores):
            return None
    return None
