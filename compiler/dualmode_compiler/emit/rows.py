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
from ..expr import Axis, Buffer, Load, Reduce
from ..loops import Kernel, Store
from ..spec import bool_
from ..walks import walk
from . import pipeline
from .ahead import is_light, long_runs, next_rows
from .columns import Columns
from .levels import mask_text, pieces
from .nest import Nest
from .resident import Row, resident_rows
from .streams import Stream
from .values import Writer

MOST = 32  # chunks at the most
UNROLL = 4  # vectors that are written out rather than put in a loop
REGISTERS = 16  # vectors of accumulators that one reduction may keep in registers
DEEP = 64  # additions from which one vector's do not leave room for the next one's in a processor
CACHE = 1 << 20  # bytes from which columns are reduced in blocks
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
        self.chunks = self._chunks()
        self.rows = self._rows()
        self.in_flight = self._in_flight()
        if not self.in_flight:
            for row in self.rows:
                nest.keep(row.value, row.reuse, kernel.axes[-1], self._row_lanes())
            nest.far_ahead.update(long_runs(nest, kernel))
            if not self.columns:
                outer = kernel.axes[: self.inside - 1] if self.inside else kernel.axes
                nest.ahead.update(next_rows(nest, kernel, outer))

    # --- choices ----------------------------------------------------------------------------------

    def _vertical(self) -> list[Reduce]:
        """Reductions that each lane has one of."""
        found = walk([s.value for s in self.kernel.stores])
        return [e for e in found if isinstance(e, Reduce) and self.vector in e.axes]

    def _widen(self, extent: int) -> None:
        """Choose between vectors, wide vectors and blocks of columns."""
        vertical = self._vertical() if self.vector is not None else []
        if self.vector is None or self.lanes < self.width:
            return
        if not vertical:
            values = [s.value for s in self.by_depth.get(len(self.kernel.axes), ())]
            loops = any(isinstance(e, Reduce) for e in walk(values))
            if not loops and extent >= 2 * self.lanes and operations(values) >= DEEP:
                self.lanes *= 2
            return
        vectors = math.ceil(extent / self.lanes)
        if any(not is_light(e) for e in vertical):
            return
        if any(e.kind in ("argmax", "argmin") for e in vertical):
            self.lanes *= min(UNROLL, 1 << (vectors - 1).bit_length())
            return
        size = max(math.prod(a.extent for a in (*e.bound, *e.axes)) for e in vertical)
        last = self.inside == len(self.kernel.axes)
        if vectors <= REGISTERS:
            near = size * 4 < CACHE  # then a few columns at a time will do, which is less code
            self.lanes *= min(1 << (vectors - 1).bit_length(), 2 * UNROLL if near else REGISTERS)
        elif last and size * 4 >= CACHE and all(_is_simple(e) for e in vertical):
            self.columns = vertical
        else:
            self.lanes *= UNROLL

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

    def _rows(self) -> list[Row]:
        """Values that the innermost loop finds in a row rather than computing them again."""
        axes = self.kernel.axes
        if self.vector is None or self.inside + 1 < len(axes) or self.columns:
            return []
        stored = [s.value for s in self.by_depth[len(axes)]]
        return resident_rows(stored, axes[-1], self._row_lanes())

    def _row_lanes(self) -> int:
        """Values that a row holds for each of the innermost axis."""
        return 1 if self.kernel.axes[-1] is self.vector else self.lanes

    def _in_flight(self) -> bool:
        """Whether the passes over neighbouring rows run at the same time."""
        if not self.streams:
            return False
        rows = self.kernel.axes[0].extent // self.chunks
        return pipeline.fits(self.nest, self.kernel, self.lanes, self.streams, rows)

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
        axes, chunks = self.kernel.axes, self.chunks
        if chunks == 1:
            if self.in_flight:
                self._pipeline("0", str(axes[0].extent))
            else:
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
        elif self.in_flight:
            self._pipeline(start, stop)
        else:
            self.nest.each(outer, lambda: self._axis(1), start, stop)
        return chunks

    def _pipeline(self, start: str, stop: str) -> None:
        (store,) = self.streams
        pipeline.Pipeline(self.nest, self.kernel, self.lanes, store, self.rows).emit(start, stop)

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
            columns = Columns(self.nest, self.columns, axis, self._span)
            columns.emit(start, stop, self._body)
        elif self.streams:
            stream = Stream(self.nest, self.streams, axis, self.lanes, self._body)
            stream.span(start, stop, lambda: self._span(axis, start, stop, self._body))
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
