"""Loop nests whose ends are values: reductions over a size that is known when the kernel runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import expr
from ..emit.combine import across, combine, identity, pairwise
from ..emit.instructions import apply, literal, register_type, splat
from ..emit.levels import Block, Value, iota
from ..emit.nest import ACCUMULATORS, Nest
from ..emit.position import Down, Order
from ..emit.reduce import is_product
from ..expr import Axis, Buffer, Expr, Load, Reduce
from ..runtime.jit import Host
from ..spec import DType, int64
from ..walks import operands, walk

Carried = Sequence[tuple[str, str]]


def lanes_for(roots: Sequence[Expr], host: Host, *others: DType) -> int:
    """How many elements of what `roots` compute fill a vector; indices do not count, nor sizes."""
    sizes = [d.itemsize for d in others]
    for e in walk(roots):
        if e.dtype is not int64 or (isinstance(e, Load) and e.axes):
            sizes.append(e.dtype.itemsize)
    return host.vector_bytes // max(sizes)


class SizedNest(Nest):
    """A nest in which every reduction is over `count`, at least one, elements.

    Attributes:
        count: the name of a value.
    """

    def __init__(self, host: Host, pointers: dict[Buffer, str], count: str) -> None:
        super().__init__(host, pointers)
        self.count = count

    def extent(self, axis: Axis) -> str:
        return self.count

    def turns(
        self,
        start: str,
        stop: str,
        step: int,
        body: Callable[[str, list[str]], list[str]],
        carried: Carried = (),
    ) -> list[str]:
        """`loop`, of which there may be no iteration."""
        return self.loop(start, stop, step, body, carried, empty=True)

    def emit(self, text: str) -> str:
        """An instruction at the innermost open level."""
        self.w.lines = self.levels[-1].block.lines
        return self.w.emit(text)

    def active(self, at: str, stop: str, lanes: int) -> str:
        """The mask of those lanes from `at` on that are before `stop`."""
        left = self.emit(f"sub nuw nsw i64 {stop}, {at}")
        kind = f"<{lanes} x i64>"
        return self.emit(f"icmp ult {kind} {iota(lanes)}, {splat(self.w, left, int64, lanes)}")

    def along(
        self, axis: Axis, start: str, stop: str, body: Callable[[], None], widths: Sequence[int]
    ) -> None:
        """`body` in vectors of `widths`, each as long as they are whole, the rest under a mask."""
        for lanes in widths:
            length = self.emit(f"sub nuw nsw i64 {stop}, {start}")
            most = self.emit(f"and i64 {length}, {-lanes}")
            end = self.emit(f"add nuw nsw i64 {start}, {most}")
            self.turns(start, end, lanes, self._scope(axis, body, lanes))
            start = end
        self.turns(start, stop, widths[-1], self._scope(axis, body, widths[-1], stop))

    def _scope(
        self, axis: Axis, body: Callable[[], None], lanes: int, stop: str = ""
    ) -> Callable[[str, list[str]], list[str]]:
        def iteration(index: str, _: list[str]) -> list[str]:
            mask = self.active(index, stop, lanes) if stop else None
            self.scope(axis, index, body, lanes, mask)
            return []

        return iteration

    def _reduce(self, x: Reduce | expr.Fold, level: int) -> Value:
        assert isinstance(x, Reduce)
        inner, self.levels = self.levels[level + 1 :], self.levels[: level + 1]
        try:
            top = self.levels[-1]
            lanes = top.lanes if top.vector in x.axes else 1
            position = x.kind in ("argmax", "argmin")
            if lanes > 1:
                return (Down if position else Fold)(self, x, lanes).emit()
            lanes = lanes_for([x.body], self.host)
            return (_Search if position else _Across)(self, x, lanes).emit()
        finally:
            self.levels += inner


class Fold:
    """One element after the other; the lanes hold results of their own."""

    def __init__(self, nest: SizedNest, x: Reduce, lanes: int) -> None:
        self.nest, self.x, self.lanes = nest, x, lanes
        (self.axis,) = x.bound
        self.kind = register_type(x.dtype, lanes)
        self.start = literal(identity(x.kind, x.dtype), x.dtype, lanes)
        self.fused = x.kind == "add" and is_product(x.body) and x.body not in nest.kept

    def emit(self) -> Value:
        nest = self.nest

        def iteration(index: str, phis: list[str]) -> list[str]:
            return [self.at(index, phis[0])]

        (total,) = nest.loop("0", nest.count, 1, iteration, [(self.kind, self.start)])
        return Value(total, self.lanes)

    def at(self, index: str, acc: str) -> str:
        """`acc` combined with the body at `index`."""
        new: list[str] = []
        self.nest.scope(self.axis, index, lambda: new.append(self.step(acc)))
        return new[0]

    def step(self, acc: str) -> str:
        """`acc` combined with the body, in the scope at hand."""
        nest, x, lanes = self.nest, self.x, self.lanes
        if self.fused:
            parts = [nest.vector(a, lanes) for a in operands(x.body)]
            nest.w.lines = nest.levels[-1].block.lines
            return apply(nest.w, "fma", [*parts, acc], [x.dtype] * 3, x.dtype, lanes)
        value = nest.vector(x.body, lanes)
        nest.w.lines = nest.levels[-1].block.lines
        return combine(nest.w, x.kind, acc, value, x.dtype, lanes)


class _Across(Fold):
    """Neighbours lie in the lanes, in several accumulators."""

    def emit(self) -> Value:
        nest, x, lanes = self.nest, self.x, self.lanes
        group = lanes * ACCUMULATORS
        groups, vectors = (nest.emit(f"and i64 {nest.count}, {-k}") for k in (group, lanes))
        carried = [(self.kind, self.start)] * ACCUMULATORS
        first, *others = nest.turns("0", groups, group, self._several, carried)
        (first,) = nest.turns(groups, vectors, lanes, self._several, [(self.kind, first)])
        (first,) = nest.turns(vectors, nest.count, lanes, self._last, [(self.kind, first)])
        nest.w.lines = nest.levels[-1].block.lines
        total = pairwise(nest.w, x.kind, [first, *others], x.dtype, lanes)
        return Value(across(nest.w, x.kind, total, x.dtype, lanes), 1)

    def _several(self, index: str, accs: list[str]) -> list[str]:
        nest, new = self.nest, list[str]()
        for k, acc in enumerate(accs):
            at = nest.emit(f"add nuw nsw i64 {index}, {k * self.lanes}") if k else index

            def step(acc: str = acc) -> None:
                new.append(self.step(acc))

            nest.scope(self.axis, at, step, self.lanes, None)
        return new

    def _last(self, index: str, accs: list[str]) -> list[str]:
        """Less than a vector; the other lanes get what changes nothing."""
        nest, x, lanes = self.nest, self.x, self.lanes
        mask = nest.active(index, nest.count, lanes)
        out: list[str] = []
        nest.scope(self.axis, index, lambda: out.append(nest.vector(x.body, lanes)), lanes, mask)
        select = f"select <{lanes} x i1> {mask}, {self.kind} {out[0]}, {self.kind} {self.start}"
        value = nest.emit(select)
        return [combine(nest.w, x.kind, accs[0], value, x.dtype, lanes)]


class _Search(Order):
    """argmax and argmin of neighbours: the extreme, then where it is first."""

    def emit(self) -> Value:
        nest, x, w = self.nest, self.x, self.nest.w
        assert isinstance(nest, SizedNest)
        best = nest.value(expr.reduce(self.extreme, x.bound, x.body)).name
        self.here()
        every = splat(w, best, self.dtype, self.lanes)
        head, following, done = (nest.label(k) for k in ("look", "on", "found"))
        index, later = w.fresh(), w.fresh()
        outer = nest.levels[-1].block
        nest.open(nest.inherit(Block([], head)), None, index)
        bits = self._hits(nest, index, every)
        block = nest.close().block
        w.lines = block.lines
        some = w.emit(f"icmp ne i{self.lanes} {bits}, 0")
        before = outer.label
        outer.lines += [f"  br label %{head}", f"{head}:"]
        outer.lines.append(f"  {index} = phi i64 [ 0, %{before} ], [ {later}, %{following} ]")
        outer.lines += block.lines
        outer.lines += [f"  br i1 {some}, label %{done}, label %{following}", f"{following}:"]
        outer.lines.append(f"  {later} = add nuw nsw i64 {index}, {self.lanes}")
        outer.lines += [f"  br label %{head}", f"{done}:"]
        outer.label = done
        w.lines = outer.lines
        wide = bits if self.lanes == 64 else w.emit(f"zext i{self.lanes} {bits} to i64")
        lane = w.call("cttz", "i64", [wide], "i1 false")
        return Value(w.emit(f"add nuw nsw i64 {index}, {lane}"), 1)

    def _hits(self, nest: SizedNest, index: str, every: str) -> str:
        """A bit for each of the lanes from `index` on that holds the extreme."""
        mask = nest.active(index, nest.count, self.lanes)
        (axis,), out = self.x.bound, list[str]()
        body = self.x.body
        nest.scope(axis, index, lambda: out.append(nest.vector(body, self.lanes)), self.lanes, mask)
        self.here()
        hits = self.same(out[0], every)
        hits = nest.w.emit(f"and <{self.lanes} x i1> {hits}, {mask}")
        return nest.w.emit(f"bitcast <{self.lanes} x i1> {hits} to i{self.lanes}")
