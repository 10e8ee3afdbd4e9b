"""Loops that store past the caches: whole aligned vectors, whose memory is not read before.

Ordinary stores next to such ones stay within one line of the cache: a line that has begun to come
into a cache would have to leave it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..expr import Axis
from ..loops import Store
from ..spec import int64
from .levels import iota
from .nest import Nest
from .values import Writer, splat


class Stream:
    """A vectorised axis, with `body` inside, whose `stores` are at the same place of each buffer.

    Args:
        lanes: how many of the stores' elements fill a vector register.
    """

    def __init__(
        self, nest: Nest, stores: Sequence[Store], axis: Axis, lanes: int, body: Callable[[], None]
    ) -> None:
        self.nest, self.stores, self.axis = nest, stores, axis
        self.lanes, self.body = lanes, body

    def here(self) -> Writer:
        """A writer at the innermost open level."""
        self.nest.w.lines = self.nest.levels[-1].block.lines
        return self.nest.w

    def span(self, start: str, stop: str, otherwise: Callable[[], None]) -> None:
        """Part of a vector up to where the first store is aligned, whole ones, the rest.

        Where the buffers are not aligned alike, `otherwise` does it.
        """
        low, *others = self._places(start)
        w, nest, size = self.here(), self.nest, self.nest.host.vector_bytes
        head = self._missing(low)
        if not others:
            self._aligned(start, stop, head)
            return
        apart = "0"
        for high in others:
            apart = w.emit(f"or i64 {apart}, {w.emit(f'xor i64 {high}, {low}')}")
        apart = w.emit(f"and i64 {apart}, {size - 1}")
        alike = w.emit(f"icmp eq i64 {apart}, 0")
        apart = w.emit(f"xor i1 {alike}, true")
        nest.when(alike, lambda: self._aligned(start, stop, head))
        nest.when(apart, otherwise)

    def head(self, start: str) -> str:
        """How many elements from `start` on come before the first aligned one."""
        low, *_ = self._places(start)
        return self._missing(low)

    def _places(self, start: str) -> list[str]:
        """The addresses at `start`, as integers."""
        nest = self.nest
        nest.open(nest.inherit(nest.levels[-1].block), self.axis, start)
        places = [nest.address(s.buffer, s.offset) for s in self.stores]
        nest.close()
        w = self.here()
        return [w.emit(f"ptrtoint ptr {p} to i64") for p in places]

    def _missing(self, place: str) -> str:
        w, size = self.here(), self.nest.host.vector_bytes
        missing = w.emit(f"sub i64 0, {place}")
        missing = w.emit(f"and i64 {missing}, {size - 1}")
        return w.emit(f"udiv i64 {missing}, {self.stores[0].buffer.spec.dtype.itemsize}")

    def _aligned(self, start: str, stop: str, head: str) -> None:
        w = self.here()
        length = w.emit(f"sub i64 {stop}, {start}")
        short = w.emit(f"icmp ult i64 {length}, {head}")
        head = w.emit(f"select i1 {short}, i64 {length}, i64 {head}")
        self.first(start, head)
        w = self.here()
        self.rest(w.emit(f"add i64 {start}, {head}"), stop)

    def first(self, start: str, count: str) -> None:
        """The `count` elements from `start` on, less than a vector: the last lanes of one that ends
        where they do."""
        w = self.here()
        some = w.emit(f"icmp ne i64 {count}, 0")

        def part() -> None:
            w, lanes = self.here(), self.lanes
            end = w.emit(f"add i64 {start}, {count}")
            at = w.emit(f"sub i64 {end}, {lanes}")
            off = splat(w, w.emit(f"sub i64 {lanes}, {count}"), int64, lanes)
            mask = w.emit(f"icmp uge <{lanes} x i64> {iota(lanes)}, {off}")
            self.nest.scope(self.axis, at, self.body, lanes, mask)

        self.nest.when(some, part)

    def rest(self, start: str, stop: str) -> None:
        """From `start`, which is aligned, to `stop`."""
        w, nest = self.here(), self.nest
        left = w.emit(f"sub i64 {stop}, {start}")
        vectors = w.emit(f"and i64 {left}, {-self.lanes}")
        full = w.emit(f"add i64 {start}, {vectors}")
        some = w.emit(f"icmp ult i64 {start}, {full}")

        def whole() -> None:
            def iteration(index: str, _: list[str]) -> list[str]:
                self.vectors(index, self.lanes)
                return []

            nest.loop(start, full, self.lanes, iteration)

        nest.when(some, whole)
        w = self.here()
        left = w.emit(f"sub i64 {stop}, {full}")
        some = w.emit(f"icmp ne i64 {left}, 0")

        def part() -> None:
            every = splat(self.here(), left, int64, self.lanes)
            mask = self.nest.w.emit(f"icmp ult <{self.lanes} x i64> {iota(self.lanes)}, {every}")
            nest.scope(self.axis, full, self.body, self.lanes, mask)

        nest.when(some, part)

    def vectors(self, at: str, lanes: int) -> None:
        """Whole vectors, `lanes` elements in all, from `at`, which is aligned."""
        self.nest.streaming.update(s.buffer for s in self.stores)
        self.nest.scope(self.axis, at, self.body, lanes, None)
        self.nest.streaming.clear()
