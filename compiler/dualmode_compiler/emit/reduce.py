"""Reductions as loops with accumulators in registers."""

from __future__ import annotations

from collections.abc import Sequence

from ..expr import Apply, Axis, Expr, Load, Reduce, walk
from ..spec import DType
from .combine import across, combine, identity, pairwise, widen
from .instructions import apply, literal, register_type
from .levels import UNROLL, Value, mask_text, pieces
from .nest import ACCUMULATORS, Nest
from .position import Across, Down


def emit_reduce(nest: Nest, x: Reduce) -> Value:
    """Emit `x` at the innermost open level of `nest`."""
    lanes = nest.levels[-1].lanes if nest.levels[-1].vector in x.axes else 1
    if any(a.extent == 0 for a in x.bound):
        return Value(literal(identity(x.kind, x.dtype), x.dtype, lanes), lanes)
    if x.kind in ("argmax", "argmin"):
        if lanes == 1 and len(x.bound) == 1 and vectorisable(nest, x):
            return Across(nest, x, _lanes(nest, x, x.body.dtype)).emit()
        return Down(nest, x, lanes).emit()
    return Fold(nest, x, lanes).emit()


def vectorisable(nest: Nest, x: Reduce) -> bool:
    """True if the lanes can hold neighbours along the last bound axis: no load has to gather."""
    axis = x.bound[-1]
    if axis.extent < 3:
        return False
    strides = (nest.stride(e.index[0], axis) for e in walk([x.body]) if isinstance(e, Load))
    return all(s in (0, 1) for s in strides)


def _lanes(nest: Nest, x: Reduce, dtype: DType) -> int:
    """Lanes for values of `dtype` along the last bound axis."""
    width = nest.host.vector_bytes // max(dtype.itemsize, 4)
    return min(width, 1 << (x.bound[-1].extent - 1).bit_length())


class Fold:
    """Sums, products, extremes: any operator whose order is ours to fix."""

    def __init__(self, nest: Nest, x: Reduce, lanes: int) -> None:
        self.nest, self.x = nest, x
        self.outer = lanes  # lanes of the result
        self.across = lanes == 1 and vectorisable(nest, x)  # lanes along the last bound axis
        extent = x.bound[-1].extent
        if self.across:
            lanes = _lanes(nest, x, x.dtype)
        self.lanes = lanes
        vectors = max(1, lanes * x.dtype.itemsize // nest.host.vector_bytes)
        most = ACCUMULATORS if vectors == 1 else max(1, 2 * ACCUMULATORS // vectors)
        self.count = min(most, max(1, extent // (lanes if self.across else 1)))
        self.kind = register_type(x.dtype, lanes)
        self.fused = x.kind == "add" and _is_product(x.body) and x.body not in nest.kept

    def emit(self) -> Value:
        start = literal(identity(self.x.kind, self.x.dtype), self.x.dtype, self.lanes)
        accs = self._loops(self.x.bound, [start] * self.count)
        nest = self.nest
        nest.w.lines = nest.levels[-1].block.lines
        total = pairwise(nest.w, self.x.kind, accs, self.x.dtype, self.lanes)
        if not self.across:
            return Value(total, self.outer)
        return Value(across(nest.w, self.x.kind, total, self.x.dtype, self.lanes), 1)

    def _loops(self, bound: Sequence[Axis], accs: list[str]) -> list[str]:
        if len(bound) == 1:
            return self._innermost(bound[0], accs)
        nest, axis = self.nest, bound[0]
        carried = [(self.kind, a) for a in accs]

        def iteration(index: str, phis: list[str]) -> list[str]:
            new: list[str] = []
            nest.scope(axis, index, lambda: new.extend(self._loops(bound[1:], phis)))
            return new

        return nest.loop("0", str(axis.extent), 1, iteration, carried)

    def _innermost(self, axis: Axis, accs: list[str]) -> list[str]:
        """Groups of `count` steps in a loop, what is left written out, the last step masked."""
        nest, extent = self.nest, axis.extent
        accs, step = list(accs), self.lanes if self.across else 1
        group = step * self.count
        whole = extent // group * group

        def several(index: str, phis: list[str]) -> list[str]:
            return [
                self.step(axis, _shifted(nest, index, u * step), acc) for u, acc in enumerate(phis)
            ]

        if whole > group or (whole and group > UNROLL * step):
            carried = [(self.kind, a) for a in accs]
            accs = nest.loop("0", str(whole), group, several, carried)
        else:
            whole = 0
        for u, start in enumerate(range(whole, extent, step)):
            k = u % self.count
            if start + step <= extent:
                accs[k] = self.step(axis, str(start), accs[k])
            else:
                accs[k] = self._last(axis, start, accs[k])
        return accs

    def step(self, axis: Axis, at: str, acc: str) -> str:
        """`acc` combined with the body at `at`, or at all lanes from there on."""
        nest, x, lanes = self.nest, self.x, self.lanes
        out: list[str] = []

        def body() -> None:
            if self.fused:
                assert isinstance(x.body, Apply)
                parts = [nest.vector(a, lanes) for a in x.body.args]
                nest.w.lines = nest.levels[-1].block.lines
                kinds = [x.dtype] * 3
                out.append(apply(nest.w, "fma", [*parts, acc], kinds, x.dtype, lanes))
                return
            value = nest.vector(x.body, lanes)
            nest.w.lines = nest.levels[-1].block.lines
            out.append(self._combine(acc, value, lanes))

        if self.across:
            nest.scope(axis, at, body, lanes, None)
        else:
            nest.scope(axis, at, body)
        return out[0]

    def _last(self, axis: Axis, start: int, acc: str) -> str:
        """`acc` combined with what is left, less than a vector."""
        for at, lanes, active in pieces(axis.extent - start, axis.extent <= 2 * self.lanes):
            value = self._narrow(axis, str(start + at), lanes, mask_text(active, lanes))
            acc = self._combine(acc, value, self.lanes)
        return acc

    def _narrow(self, axis: Axis, at: str, lanes: int, mask: str | None) -> str:
        """The body at `lanes` lanes under a mask, filled up with what changes nothing."""
        nest, x = self.nest, self.x
        out: list[str] = []
        nest.scope(axis, at, lambda: out.append(nest.vector(x.body, lanes)), lanes, mask)
        nest.w.lines = nest.levels[-1].block.lines
        kind = register_type(x.dtype, lanes)
        neutral = identity(x.kind, x.dtype)
        (value,) = out
        if mask is not None:
            rest = literal(neutral, x.dtype, lanes)
            value = nest.w.emit(f"select <{lanes} x i1> {mask}, {kind} {value}, {kind} {rest}")
        return widen(nest.w, value, neutral, x.dtype, lanes, self.lanes)

    def _combine(self, a: str, b: str, lanes: int) -> str:
        return combine(self.nest.w, self.x.kind, a, b, self.x.dtype, lanes)


def _is_product(body: Expr) -> bool:
    return isinstance(body, Apply) and body.fn == "mul" and body.dtype.is_floating


def _shifted(nest: Nest, index: str, by: int) -> str:
    if by == 0:
        return index
    nest.w.lines = nest.levels[-1].block.lines
    return nest.w.emit(f"add nuw nsw i64 {index}, {by}")
