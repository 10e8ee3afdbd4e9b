"""Kernels whose innermost axis is short: whole vectors of each of its values, stored in turn.

for u: for v < 3: y[3*u + v] = x[v, u]  -->  three vectors along u, shuffled into three of y
"""

from __future__ import annotations

from ..cost import CHUNK, PARALLEL
from ..expr import Axis, Expr, Fold, Reduce
from ..loops import Kernel, Store
from ..records import dataclass
from ..spec import bool_
from ..split import part
from ..walks import walk
from .chunks import minimum, share
from .instructions import memory_type, register_type
from .nest import Nest

MOST = 8  # values of the innermost axis
CHUNKS = 32  # at the most


@dataclass(frozen=True, slots=True)
class Short:
    """`stores` are those of a kernel for each value of its innermost axis; `along` comes before."""

    along: Axis
    stores: tuple[Store, ...]
    lanes: int


def short(nest: Nest, kernel: Kernel) -> Short | None:
    """What to interleave in `kernel`; None where its innermost axis is long, or other reasons."""
    if len(kernel.axes) < 2 or len(kernel.stores) != 1 or kernel.stores[0].depth < len(kernel.axes):
        return None
    (s,), (u, v) = kernel.stores, kernel.axes[-2:]
    lanes = nest.host.vector_bytes // max(s.buffer.spec.dtype.itemsize, 4)
    if not 2 <= v.extent <= MOST or u.extent < lanes:
        return None
    if nest.stride(s.offset, v) != 1 or nest.stride(s.offset, u) != v.extent:
        return None
    if any(isinstance(e, Reduce | Fold) for e in walk([s.value])):
        return None
    stores = [part(kernel, v, k, k + 1).stores[0] for k in range(v.extent)]
    return Short(u, tuple(stores), lanes)


class Interleave:
    """The nest of such a kernel."""

    def __init__(self, nest: Nest, kernel: Kernel, form: Short, work: float) -> None:
        self.nest, self.form, self.work = nest, form, work
        self.along, self.lanes, self.count = form.along, form.lanes, len(form.stores)
        self.outer = kernel.axes[:-2]
        self.buffer = kernel.stores[0].buffer
        self.dtype = self.buffer.spec.dtype

    def emit(self) -> int:
        """Emit the loops; gives the number of chunks."""
        if any(a.extent == 0 for a in self.outer):
            return 1
        extent, w = self.along.extent, self.nest.w
        chunks = 1 if self.work < PARALLEL else int(min(CHUNKS, self.work // CHUNK))
        axis, grain = self.along, self.lanes
        if self.outer and self.outer[0].extent >= chunks:
            axis, grain, extent = self.outer[0], 1, self.outer[0].extent
        start, stop, chunks = share(w, extent, chunks, grain) if chunks > 1 else ("", "", 1)
        if chunks == 1:
            self._nested(self.outer, "0", "")
            return 1
        if axis is self.along:
            self._nested(self.outer, start, stop)
        else:
            self.nest.each(axis, lambda: self._nested(self.outer[1:], "0", ""), start, stop)
        return chunks

    def _nested(self, axes: tuple[Axis, ...], start: str, stop: str) -> None:
        if axes:
            self.nest.each(axes[0], lambda: self._nested(axes[1:], start, stop))
            return
        nest, whole = self.nest, self.along.extent // self.lanes * self.lanes
        if not stop:
            self._vectors("0", str(whole))
            if whole < self.along.extent:
                self._rest(whole)
            return
        end, w = stop, nest.w
        if whole < self.along.extent:
            w.lines = nest.levels[-1].block.lines
            last = w.emit(f"icmp ugt i64 {stop}, {whole}")
            end = minimum(w, stop, whole)
            some = w.emit(f"icmp ult i64 {start}, {end}")
            nest.when(some, lambda: self._vectors(start, end))
            nest.when(last, lambda: self._rest(whole))
        else:
            self._vectors(start, stop)

    def _vectors(self, start: str, stop: str) -> None:
        def block(index: str, _: list[str]) -> list[str]:
            self.nest.scope(self.along, index, self._block, self.lanes, None)
            return []

        self.nest.loop(start, stop, self.lanes, block)

    def _rest(self, first: int) -> None:
        """What is left of the axis, one value after the other."""

        def one() -> None:
            for s in self.form.stores:
                self.nest.value(s.value)
            for s in self.form.stores:
                self.nest.store(s.buffer, s.offset, s.value)

        def step(index: str, _: list[str]) -> list[str]:
            self.nest.scope(self.along, index, one)
            return []

        self.nest.loop(str(first), str(self.along.extent), 1, step)

    def _block(self) -> None:
        nest, lanes, dtype = self.nest, self.lanes, self.dtype
        names = [self._in_memory(s.value) for s in self.form.stores]
        first = nest.address(self.buffer, self.form.stores[0].offset)
        w = nest.w
        w.lines = nest.levels[-1].block.lines
        element = memory_type(dtype, 1)
        for k in range(self.count):
            line = self._mixed(names, k * lanes)
            place = w.emit(f"getelementptr {element}, ptr {first}, i64 {k * lanes}")
            nest.write(line, dtype, place, lanes, None)

    def _in_memory(self, value: Expr) -> str:
        nest, lanes = self.nest, self.lanes
        name = nest.vector(value, lanes)
        nest.w.lines = nest.levels[-1].block.lines
        if self.dtype is not bool_:
            return name
        kind, wide = register_type(bool_, lanes), memory_type(bool_, lanes)
        return nest.w.emit(f"zext {kind} {name} to {wide}")

    def _mixed(self, names: list[str], start: int) -> str:
        """A vector of the result, from its element `start` on."""
        lanes, count, kind = self.lanes, self.count, memory_type(self.dtype, self.lanes)
        wanted = [divmod(start + j, count) for j in range(lanes)]
        line = names[0]
        for b in range(1, count):
            order: list[int] = []
            for j, (at, which) in enumerate(wanted):
                if which == b:
                    order.append(lanes + at)
                else:
                    order.append(at if b == 1 and which == 0 else j)
            text = ", ".join(f"i32 {n}" for n in order)
            line = self.nest.w.emit(
                f"shufflevector {kind} {line}, {kind} {names[b]}, <{lanes} x i32> <{text}>"
            )
        return line
