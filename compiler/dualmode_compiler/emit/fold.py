"""Folds as loops: one element at a time, or each new value straight to its place."""

from __future__ import annotations

import math

from ..expr import Affine, Axis, Fold
from ..folds import Scatter
from ..loops import Kernel
from ..spec import bool_
from ..walks import substitute
from .chunks import minimum, share
from .combine import combine
from .gather import lanes_of
from .instructions import memory_type, register_type
from .levels import Value, mask_text
from .nest import Nest

PARALLEL = 1 << 16  # elements from which columns are cut into chunks
CHUNK_BYTES = 128  # of a row that one chunk writes, at least
WRITTEN_OUT = 8  # vectors of a row up to which there is no loop


def emit_fold(nest: Nest, x: Fold) -> Value:
    """`x` at the innermost open level of `nest`: all of its steps for each element."""
    lanes = nest.levels[-1].lanes if nest.levels[-1].vector in x.axes else 1
    start = nest.vector(x.start, lanes)
    if any(a.extent == 0 for a in x.bound):
        return Value(start, lanes)
    kind, bits = register_type(x.dtype, lanes), register_type(bool_, lanes)

    def loops(bound: tuple[Axis, ...], old: str) -> str:
        if not bound:
            when, new = nest.vector(x.when, lanes), nest.vector(x.body, lanes)
            nest.w.lines = nest.levels[-1].block.lines
            if x.kind != "last":
                new = combine(nest.w, x.kind, old, new, x.dtype, lanes)
            return nest.w.emit(f"select {bits} {when}, {kind} {new}, {kind} {old}")

        def iteration(index: str, phis: list[str]) -> list[str]:
            out: list[str] = []
            nest.scope(bound[0], index, lambda: out.append(loops(bound[1:], phis[0])))
            return out

        return nest.loop("0", str(bound[0].extent), 1, iteration, [(kind, old)])[0]

    return Value(loops(x.bound, start), lanes)


class Update:
    """Writes at indices, into a result that holds what was there before.

    for r: for j: y[index[r], j] += new[r, j]

    The bound axes keep their order, so equal indices give the same result at every run. Chunks have
    columns, or whole slices, of their own.
    """

    def __init__(self, nest: Nest, kernel: Kernel, form: Scatter) -> None:
        self.nest, self.form, self.fold = nest, form, form.fold
        (store,) = kernel.stores
        k = kernel.axes.index(form.axis)
        self.outer, self.rest = kernel.axes[:k], kernel.axes[k + 1 :]
        self.order = (*self.outer, *self.fold.bound, *self.rest)
        self.buffer = store.buffer
        self.offset = substitute(store.offset, {form.axis: form.at})
        self.size = store.buffer.spec.dtype.itemsize
        self.vector = self._vector_axis()
        extent = self.vector.extent if self.vector is not None else 1
        width = nest.host.vector_bytes // max(self.size, 4)
        self.lanes = min(width, 1 << (extent - 1).bit_length())

    def _vector_axis(self) -> Axis | None:
        """The innermost axis, if lanes go side by side."""
        axis = self.order[-1]
        return axis if axis.extent > 1 and self.nest.stride(self.offset, axis) == 1 else None

    def _disjoint(self, axis: Axis) -> bool:
        """True if different values of `axis` go to different places, whatever the other axes are.

        One of the result's own axes is; so is j in 64 * index[r] + j for j < 64.
        """
        if axis in self.rest:
            return True
        at = self.form.at
        if not isinstance(at, Affine) or self.nest.stride(at, axis) != 1:
            return False
        return math.gcd(*(c for a, c in at.terms if a is not axis)) >= axis.extent

    def emit(self) -> int:
        """Emit the loops; gives the number of chunks."""
        if any(a.extent == 0 for a in self.order):
            return 1
        chunks, w = 1, self.nest.w
        work = math.prod(a.extent for a in self.order)
        axis = self.vector
        if work >= PARALLEL and self.outer:
            axis = self.outer[0]
            chunks = min(axis.extent, 32)
        elif work >= PARALLEL and axis is not None and self._disjoint(axis):
            grain = max(self.lanes, CHUNK_BYTES // self.size)
            chunks = max(1, min(axis.extent // grain, 16))
        if chunks == 1 or axis is None:
            self._axis(0, None)
            return 1
        grain = self.lanes if axis is self.vector else 1
        start, stop, chunks = share(w, axis.extent, chunks, grain)
        if axis is self.vector:
            self._axis(0, (start, stop))
        else:
            self.nest.each(axis, lambda: self._axis(1, None), start, stop)
        return chunks

    def _axis(self, k: int, columns: tuple[str, str] | None) -> None:
        """Loops over axes k, k + 1, ...; `columns` are those of this chunk."""
        if k == len(self.order):
            self._put()
        elif self.order[k] is self.order[-1] and self.vector is None:
            self._one_by_one(self.order[k])
        elif self.order[k] is not self.vector:
            self.nest.each(self.order[k], lambda: self._axis(k + 1, columns))
        elif columns is None:
            self._columns(self.order[k])
        else:
            self._range(self.order[k], *columns)

    def _one_by_one(self, axis: Axis) -> None:
        """Elements in order. What goes where is computed for a vector of them at a time."""
        nest, width = self.nest, self.nest.host.vector_bytes // max(self.size, 4)
        whole = axis.extent // width * width if self.buffer.spec.dtype is not bool_ else 0

        def group(index: str, _: list[str]) -> list[str]:
            nest.scope(axis, index, self._put_lanes, width, None)
            return []

        def single(index: str, _: list[str]) -> list[str]:
            nest.scope(axis, index, self._put)
            return []

        if whole:
            nest.loop("0", str(whole), width, group)
        if axis.extent > whole:
            nest.loop(str(whole), str(axis.extent), 1, single)

    def _put_lanes(self) -> None:
        """The lanes of a vector, one after the other."""
        nest, level, dtype = self.nest, len(self.nest.levels) - 1, self.buffer.spec.dtype
        scope, w = nest.levels[level], nest.w
        lanes, element = scope.lanes, memory_type(dtype, 1)
        new = nest.vector(self.fold.body, lanes)
        numbers = lanes_of(nest, self.offset, level)
        w.lines = scope.block.lines
        for k, number in enumerate(numbers):
            value = w.emit(f"extractelement {register_type(dtype, lanes)} {new}, i64 {k}")
            pointer = nest.pointers[self.buffer]
            place = w.emit(f"getelementptr {element}, ptr {pointer}, i64 {number}")
            if self.fold.kind != "last":
                old = nest.read(dtype, place, 1, None)
                value = combine(w, self.fold.kind, old, value, dtype, 1)
            nest.write(value, dtype, place, 1, None)

    def _columns(self, axis: Axis) -> None:
        whole = axis.extent // self.lanes * self.lanes
        if whole // self.lanes <= WRITTEN_OUT:
            for at in range(0, whole, self.lanes):
                self.nest.scope(axis, str(at), self._put, self.lanes, None)
        else:
            self._loop(axis, "0", str(whole))
        self._tail(axis, whole)

    def _range(self, axis: Axis, start: str, stop: str) -> None:
        """Only the last chunk has a tail."""
        nest, whole = self.nest, axis.extent // self.lanes * self.lanes
        if whole == axis.extent:
            self._loop(axis, start, stop)
            return
        nest.w.lines = nest.levels[-1].block.lines
        last = nest.w.emit(f"icmp ugt i64 {stop}, {whole}")
        full = minimum(nest.w, stop, whole)
        some = nest.w.emit(f"icmp ult i64 {start}, {full}")
        nest.when(some, lambda: self._loop(axis, start, full))
        nest.when(last, lambda: self._tail(axis, whole))

    def _loop(self, axis: Axis, start: str, stop: str) -> None:
        def iteration(index: str, _: list[str]) -> list[str]:
            self.nest.scope(axis, index, self._put, self.lanes, None)
            return []

        self.nest.loop(start, stop, self.lanes, iteration)

    def _tail(self, axis: Axis, whole: int) -> None:
        left = axis.extent - whole
        if left:
            lanes = 1 << (left - 1).bit_length()
            self.nest.scope(axis, str(whole), self._put, lanes, mask_text(left, lanes))

    def _put(self) -> None:
        nest, scope, dtype = self.nest, self.nest.levels[-1], self.buffer.spec.dtype
        lanes, kind = scope.lanes, self.fold.kind
        new = nest.vector(self.fold.body, lanes)
        place = nest.address(self.buffer, self.offset)
        w = nest.w
        w.lines = scope.block.lines
        if kind != "last":
            old = nest.from_memory(nest.read(dtype, place, lanes, scope.mask), dtype, lanes)
            new = combine(w, kind, old, new, dtype, lanes)
        if dtype is bool_:
            wide = memory_type(dtype, lanes)
            new = w.emit(f"zext {register_type(dtype, lanes)} {new} to {wide}")
        nest.write(new, dtype, place, lanes, scope.mask)
