"""Reductions over rows, in blocks of columns whose accumulators are a row in memory.

Several rows at a time, so that memory is read in long runs and each row is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..expr import Axis, Reduce
from .chunks import minimum
from .combine import identity
from .instructions import literal
from .levels import Value
from .nest import Nest
from .reduce import Fold
from .values import Writer, memory_type

BLOCK = 1 << 14  # bytes of accumulators of a block
TOGETHER = 8  # rows that are added at once

Span = Callable[[Axis, str, str, Callable[[], None]], None]


class Columns:
    """The reductions `columns` over one axis each, with results along the vectorised `axis`.

    Args:
        span: walks the axis in vectors: `(axis, start, stop, body)`.
    """

    def __init__(self, nest: Nest, columns: Sequence[Reduce], axis: Axis, span: Span) -> None:
        self.nest, self.columns, self.axis, self.span = nest, columns, axis, span

    def emit(self, start: str, stop: str, body: Callable[[], None]) -> None:
        """Each block into rows; then `body`, which finds the results there."""
        nest, axis = self.nest, self.axis
        count = BLOCK // max(e.dtype.itemsize for e in self.columns)
        rows = {e: nest.room(count, e.dtype) for e in self.columns}

        def iteration(index: str, _: list[str]) -> list[str]:
            w = self._here()
            end = minimum(w, w.emit(f"add nuw nsw i64 {index}, {count}"), stop)
            back = w.emit(f"sub i64 0, {index}")
            for e, room in rows.items():
                row = w.emit(f"getelementptr {memory_type(e.dtype, 1)}, ptr {room}, i64 {back}")
                self._block(e, row, index, end)
                nest.rows[e] = row, axis, 1
                self._here()
            self.span(axis, index, end, body)
            for e in rows:
                del nest.rows[e]
            return []

        nest.loop(start, stop, count, iteration)

    def _here(self) -> Writer:
        self.nest.w.lines = self.nest.levels[-1].block.lines
        return self.nest.w

    def _block(self, e: Reduce, row: str, start: str, stop: str) -> None:
        (bound,) = e.bound
        neutral = identity(e.kind, e.dtype)
        nest, axis = self.nest, self.axis

        def clear() -> None:
            lanes = nest.levels[-1].lanes
            nest.put(Value(literal(neutral, e.dtype, lanes), lanes), e.dtype, row, axis, 1)

        def add(first: str, count: int) -> None:
            lanes = nest.levels[-1].lanes
            acc = nest.get(lanes, e.dtype, row, axis, 1)
            fold = Fold(nest, e, lanes)
            for k in range(count):
                at = self._here().emit(f"add nuw nsw i64 {first}, {k}") if k else first
                acc = fold.step(bound, at, acc)
            nest.put(Value(acc, lanes), e.dtype, row, axis, 1)

        def rows(first: str, count: int) -> list[str]:
            self.span(axis, start, stop, lambda: add(first, count))
            return []

        self.span(axis, start, stop, clear)
        whole = bound.extent // TOGETHER * TOGETHER
        if whole:
            nest.loop("0", str(whole), TOGETHER, lambda i, _: rows(i, TOGETHER))
        for count in (4, 2, 1):
            if bound.extent - whole >= count:
                rows(str(whole), count)
                whole += count
