"""argmax and argmin: the first extreme, or the first NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..cost import operations
from ..expr import Axis, Reduce
from ..index import ravel
from ..spec import DType, bool_, int32, int64
from .combine import across, combine, identity, pairwise
from .instructions import apply, literal, register_type
from .levels import Value, iota, mask_text
from .nest import ACCUMULATORS, Nest
from .values import splat

BLOCK = 4  # groups of ACCUMULATORS vectors whose extreme is compared at once with the best so far
UNROLL = 16  # vectors that are written out rather than put in a loop, where that is little text
LIGHT = 4  # additions of a value up to which it is


class Order:
    """Comparisons of `x`'s values, in vectors of `lanes`."""

    def __init__(self, nest: Nest, x: Reduce, lanes: int) -> None:
        self.nest, self.x, self.lanes = nest, x, lanes
        self.dtype = x.body.dtype
        self.kind = register_type(self.dtype, lanes)
        self.long = register_type(int64, lanes)
        self.better, self.extreme = ("gt", "maximum") if x.kind == "argmax" else ("lt", "minimum")
        self.worst = literal(identity(x.kind, self.dtype), self.dtype, lanes)

    def here(self) -> None:
        """Write to the innermost open level."""
        self.nest.w.lines = self.nest.levels[-1].block.lines

    def do(self, fn: str, a: str, b: str, dtype: DType | None = None) -> str:
        """`fn(a, b)` as bools, by default of values."""
        kind = dtype or self.dtype
        return apply(self.nest.w, fn, [a, b], [kind, kind], bool_, self.lanes)

    def beats(self, a: str, b: str) -> str:
        """Whether `a` goes before `b`: a NaN beats all numbers, and is beaten by none."""
        better = self.do(self.better, a, b)
        if not self.dtype.is_floating:
            return better
        nan = self.do("and", self.do("ne", a, a), self.do("eq", b, b), bool_)
        return self.do("or", better, nan, bool_)

    def same(self, a: str, b: str) -> str:
        """Whether neither goes before the other."""
        equal = self.do("eq", a, b)
        if not self.dtype.is_floating:
            return equal
        nans = self.do("and", self.do("ne", a, a), self.do("ne", b, b), bool_)
        return self.do("or", equal, nans, bool_)

    def select(self, mask: str, kind: str, a: str, b: str) -> str:
        bits = register_type(bool_, self.lanes)
        return self.nest.w.emit(f"select {bits} {mask}, {kind} {a}, {kind} {b}")


class Down(Order):
    """One element after the other; the lanes, if any, hold results of their own."""

    def __init__(self, nest: Nest, x: Reduce, lanes: int) -> None:
        super().__init__(nest, x, lanes)
        count = math.prod(a.extent for a in x.bound)
        self.index = int32 if count < 1 << 31 else int64  # narrow ones take half the registers
        self.narrow = register_type(self.index, lanes)

    def emit(self) -> Value:
        none = literal(-1, self.index, self.lanes)
        _, position = self._loops(self.x.bound, [self.worst, none])
        self.here()
        if self.index is not int64:
            position = self.nest.w.emit(f"sext {self.narrow} {position} to {self.long}")
        return Value(position, self.lanes)

    def _loops(self, bound: Sequence[Axis], pair: list[str]) -> list[str]:
        nest, axis = self.nest, bound[0]
        carried = [(self.kind, pair[0]), (self.narrow, pair[1])]
        rest: Callable[[list[str]], list[str]] = (
            (lambda phis: self._loops(bound[1:], phis)) if len(bound) > 1 else self._step
        )

        def iteration(index: str, phis: list[str]) -> list[str]:
            new: list[str] = []
            nest.scope(axis, index, lambda: new.extend(rest(phis)))
            return new

        return nest.loop("0", nest.extent(axis), 1, iteration, carried)

    def _step(self, pair: list[str]) -> list[str]:
        nest, x, lanes = self.nest, self.x, self.lanes
        flat = ravel(x.bound, [a.extent for a in x.bound])
        value, at = nest.vector(x.body, lanes), nest.value(flat).name
        self.here()
        if self.index is not int64:
            at = nest.w.emit(f"trunc i64 {at} to {register_type(self.index, 1)}")
        at = splat(nest.w, at, self.index, lanes)
        first = self.do("lt", pair[1], literal(0, self.index, lanes), self.index)
        better = self.do("or", self.beats(value, pair[0]), first, bool_)
        return [
            self.select(better, self.kind, value, pair[0]),
            self.select(better, self.narrow, at, pair[1]),
        ]


class Across(Order):
    """Neighbours lie in the lanes: the block that holds the first extreme is found, then searched.

    Each lane keeps the best of its values and the block in which it came first, so that nearly all
    of the work is that of a maximum.
    """

    def __init__(self, nest: Nest, x: Reduce, lanes: int) -> None:
        super().__init__(nest, x, lanes)
        (self.axis,) = x.bound
        self.unroll = UNROLL if operations([x.body]) <= LIGHT else 1
        self.group = ACCUMULATORS * lanes
        self.size = BLOCK * self.group

    def emit(self) -> Value:
        best, start = self._blocks()
        self.here()
        w, lanes = self.nest.w, self.lanes
        extreme = across(w, self.extreme, best, self.dtype, lanes)
        every = splat(w, extreme, self.dtype, lanes)
        last = literal(self.axis.extent, int64, lanes)
        starts = self.select(self.same(best, every), self.long, start, last)
        first = across(w, "minimum", starts, int64, lanes)
        return Value(self._search(first, every), 1)

    def _value(self, at: str, mask: str | None = None) -> str:
        """The values from `at` on; lanes that `mask` leaves out are undefined."""
        out: list[str] = []
        body = self.x.body
        self.nest.scope(
            self.axis, at, lambda: out.append(self.nest.vector(body, self.lanes)), self.lanes, mask
        )
        self.here()
        return out[0]

    def _more(self, acc: str, value: str) -> str:
        return combine(self.nest.w, self.extreme, acc, value, self.dtype, self.lanes)

    def _blocks(self) -> list[str]:
        """For each lane, its best value and the start of the first block that holds it."""
        extent, nest = self.axis.extent, self.nest
        pair = [self.worst, literal(0, int64, self.lanes)]
        whole = extent // self.size * self.size

        def iteration(index: str, phis: list[str]) -> list[str]:
            return self._better(phis, self._whole(index), index)

        if whole:
            carried = [(self.kind, pair[0]), (self.long, pair[1])]
            pair = nest.loop("0", str(whole), self.size, iteration, carried)
        if whole < extent:
            pair = self._better(pair, self._rest(whole), str(whole))
        return pair

    def _better(self, pair: list[str], found: str, start: str) -> list[str]:
        self.here()
        beats = self.beats(found, pair[0])
        starts = splat(self.nest.w, start, int64, self.lanes)
        return [
            self.select(beats, self.kind, found, pair[0]),
            self.select(beats, self.long, starts, pair[1]),
        ]

    def _whole(self, start: str) -> str:
        """The extremes of a whole block, by lane."""
        nest = self.nest
        self.here()
        stop = nest.w.emit(f"add nuw nsw i64 {start}, {self.size}")

        def several(index: str, accs: list[str]) -> list[str]:
            return [
                self._more(acc, self._value(self._after(index, u * self.lanes)))
                for u, acc in enumerate(accs)
            ]

        accs = nest.loop(start, stop, self.group, several, [(self.kind, self.worst)] * ACCUMULATORS)
        self.here()
        return pairwise(nest.w, self.extreme, accs, self.dtype, self.lanes)

    def _after(self, index: str, by: int) -> str:
        if by == 0:
            return index
        self.here()
        return self.nest.w.emit(f"add nuw nsw i64 {index}, {by}")

    def _rest(self, start: int) -> str:
        """The extremes of what is left, by lane."""
        nest, lanes, extent = self.nest, self.lanes, self.axis.extent
        whole = extent // lanes * lanes
        accs: list[str] = []
        if whole - start > self.unroll * lanes:

            def one(index: str, phis: list[str]) -> list[str]:
                return [self._more(phis[0], self._value(index))]

            accs = nest.loop(str(start), str(whole), lanes, one, [(self.kind, self.worst)])
            self.here()
        else:
            accs = [self._value(str(at)) for at in range(start, whole, lanes)]
        if whole < extent:
            mask = mask_text(extent - whole, lanes)
            assert mask is not None
            value = self._value(str(whole), mask)
            accs.append(self.select(mask, self.kind, value, self.worst))
        return pairwise(nest.w, self.extreme, accs, self.dtype, lanes)

    def _search(self, first: str, wanted: str) -> str:
        """The first position of `wanted`, which is in the block from `first` on."""
        nest, lanes, extent = self.nest, self.lanes, self.axis.extent
        if extent <= self.unroll * lanes:
            found = "-1"
            for at in range(0, extent, lanes):
                mask = mask_text(min(extent - at, lanes), lanes)
                found = self._hit(str(at), mask, wanted, found)
            return found
        w = nest.w
        past = w.emit(f"add nuw nsw i64 {first}, {self.size}")
        inside = w.emit(f"icmp ult i64 {past}, {extent}")
        stop = w.emit(f"select i1 {inside}, i64 {past}, i64 {extent}")

        def iteration(index: str, phis: list[str]) -> list[str]:
            mask = None
            if extent % lanes:
                self.here()
                left = w.emit(f"sub nuw nsw i64 {extent}, {index}")
                left = splat(w, left, int64, lanes)
                mask = w.emit(f"icmp ult {self.long} {iota(lanes)}, {left}")
            return [self._hit(index, mask, wanted, phis[0])]

        (found,) = nest.loop(first, stop, lanes, iteration, [("i64", "-1")])
        return found

    def _hit(self, at: str, mask: str | None, wanted: str, found: str) -> str:
        """`found`, or if that is -1 the first lane from `at` on that holds `wanted`.

        Lanes that `mask` leaves out come after all others, one of which holds it: they never count.
        """
        value = self._value(at, mask)
        w, lanes = self.nest.w, self.lanes
        hits = self.same(value, wanted)
        bits = w.emit(f"bitcast <{lanes} x i1> {hits} to i{lanes}")
        some = w.emit(f"icmp ne i{lanes} {bits}, 0")
        wide = bits if lanes == 64 else w.emit(f"zext i{lanes} {bits} to i64")
        lane = w.call("cttz", "i64", [wide], "i1 false")
        here = w.emit(f"add i64 {at}, {lane}")
        none = w.emit(f"icmp slt i64 {found}, 0")
        take = w.emit(f"and i1 {some}, {none}")
        return w.emit(f"select i1 {take}, i64 {here}, i64 {found}")
