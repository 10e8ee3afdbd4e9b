"""Reductions as loops with accumulators in registers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..expr import Apply, Axis, Expr, Load, Reduce
from ..spec import DType, bool_
from ..walks import walk
from .combine import across, beyond, combine, identity, pairwise, widen
from .instructions import apply, literal, register_type
from .levels import UNROLL, Value, mask_text, pieces
from .nest import ACCUMULATORS, Nest
from .position import Across, Down

_EXTREMES = ("maximum", "minimum")


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
        self.fused = x.kind == "add" and is_product(x.body) and x.body not in nest.kept
        # whether the accumulators leave NaN out, and a mask says which lanes have met one
        self.apart = x.kind in _EXTREMES and _has_wide_nan(nest, x.dtype) and lanes > 1
        self.kinds = [self.kind] * self.count + [register_type(bool_, lanes)] * self.apart

    def start(self) -> list[str]:
        """What the loops begin with: the accumulators, and the mask if there is one."""
        x, lanes = self.x, self.lanes
        accs = [literal(identity(x.kind, x.dtype), x.dtype, lanes)] * self.count
        return accs + [literal(False, bool_, lanes)] * self.apart

    def emit(self) -> Value:
        return self.total(self._loops(self.x.bound, self.start()))

    def total(self, state: list[str]) -> Value:
        """The result, from what the loops end with."""
        nest, x, lanes = self.nest, self.x, self.lanes
        nest.w.lines = nest.levels[-1].block.lines
        two = beyond if self.apart else combine
        total = pairwise(nest.w, x.kind, state[: self.count], x.dtype, lanes, two)
        if self.across:
            total, lanes = across(nest.w, x.kind, total, x.dtype, lanes, two), 1
        if self.apart:
            total = self._with_nan(total, state[-1], lanes)
        return Value(total, lanes)

    def _with_nan(self, total: str, mask: str, lanes: int) -> str:
        """`total`, or NaN where the mask says so; where it does anywhere, for one of all lanes."""
        w, kind = self.nest.w, register_type(self.x.dtype, lanes)
        if lanes == 1:
            bits = w.emit(f"bitcast {self.kinds[-1]} {mask} to i{self.lanes}")
            mask = w.emit(f"icmp ne i{self.lanes} {bits}, 0")
        nan = literal(math.nan, self.x.dtype, lanes)
        bits = register_type(bool_, lanes)
        return w.emit(f"select {bits} {mask}, {kind} {nan}, {kind} {total}")

    def _loops(self, bound: Sequence[Axis], state: list[str]) -> list[str]:
        if len(bound) == 1:
            return self._innermost(bound[0], state)
        nest, axis = self.nest, bound[0]
        carried = list(zip(self.kinds, state, strict=True))

        def iteration(index: str, phis: list[str]) -> list[str]:
            new: list[str] = []
            nest.scope(axis, index, lambda: new.extend(self._loops(bound[1:], phis)))
            return new

        return nest.loop("0", str(axis.extent), 1, iteration, carried)

    def _innermost(self, axis: Axis, state: list[str]) -> list[str]:
        """Groups of `count` steps in a loop, what is left written out, the last step masked."""
        extent, step = axis.extent, self.stride
        group = step * self.count
        whole = extent // group * group
        if whole > group or (whole and group > UNROLL * step):
            carried = list(zip(self.kinds, state, strict=True))
            state = self.nest.loop(
                "0", str(whole), group, lambda i, phis: self.group(axis, i, phis), carried
            )
        else:
            whole = 0
        return self.rest(axis, whole, state)

    @property
    def stride(self) -> int:
        """Elements of the innermost axis that a step takes."""
        return self.lanes if self.across else 1

    def group(self, axis: Axis, at: str, state: list[str]) -> list[str]:
        """`count` steps from `at` on, one for each accumulator."""
        places = [_shifted(self.nest, at, u * self.stride) for u in range(self.count)]
        if not self.apart:
            return [self.step(axis, p, acc) for p, acc in zip(places, state, strict=True)]
        values = [self._value(axis, p) for p in places]
        return self._with(0, values, state)

    def rest(self, axis: Axis, start: int, state: list[str]) -> list[str]:
        """The steps from `start` to the end of the axis, written out."""
        state, extent = list(state), axis.extent
        for u, at in enumerate(range(start, extent, self.stride)):
            k = u % self.count
            if at + self.stride > extent:
                for value in self._last(axis, at):
                    state = self._with(k, [value], state)
            elif self.apart:
                state = self._with(k, [self._value(axis, str(at))], state)
            else:
                state[k] = self.step(axis, str(at), state[k])
        return state

    def _value(self, axis: Axis, at: str) -> str:
        """The body at `at`, or at all lanes from there on."""
        value = self._at(axis, at, lambda: self.nest.vector(self.x.body, self.lanes))
        self.nest.w.lines = self.nest.levels[-1].block.lines
        return value

    def _with(self, k: int, values: list[str], state: list[str]) -> list[str]:
        """`state` with `values` combined into its accumulators from the `k`-th on."""
        w, x, new = self.nest.w, self.x, list(state)
        two = beyond if self.apart else combine
        for n, value in enumerate(values, k):
            new[n] = two(w, x.kind, value, new[n], x.dtype, self.lanes)
        if self.apart:
            new[-1] = self._met_nan(values, new[-1])
        return new

    def step(self, axis: Axis, at: str, acc: str) -> str:
        """`acc` combined with the body at `at`, or at all lanes from there on."""
        nest, x, lanes = self.nest, self.x, self.lanes

        def body() -> str:
            if self.fused:
                assert isinstance(x.body, Apply)
                parts = [nest.vector(a, lanes) for a in x.body.args]
                nest.w.lines = nest.levels[-1].block.lines
                return apply(nest.w, "fma", [*parts, acc], [x.dtype] * 3, x.dtype, lanes)
            value = nest.vector(x.body, lanes)
            nest.w.lines = nest.levels[-1].block.lines
            return self._combine(acc, value, lanes)

        return self._at(axis, at, body)

    def _at(self, axis: Axis, at: str, body: Callable[[], str]) -> str:
        out: list[str] = []
        lanes = self.lanes if self.across else None
        self.nest.scope(axis, at, lambda: out.append(body()), lanes, None)
        return out[0]

    def _met_nan(self, values: list[str], mask: str) -> str:
        """`mask` with the lanes in which one of `values` is NaN: a comparison sees to two."""
        w = self.nest.w
        for k in range(0, len(values), 2):
            a, b = values[k], values[min(k + 1, len(values) - 1)]
            nan = w.emit(f"fcmp uno {self.kind} {a}, {b}")
            mask = w.emit(f"or {self.kinds[-1]} {mask}, {nan}")
        return mask

    def _last(self, axis: Axis, start: int) -> list[str]:
        """What is left, less than a vector, filled up."""
        left = pieces(axis.extent - start, axis.extent <= 2 * self.lanes)
        return [
            self._narrow(axis, str(start + at), lanes, mask_text(active, lanes))
            for at, lanes, active in left
        ]

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


def _has_wide_nan(nest: Nest, dtype: DType) -> bool:
    """Whether NaN may be kept in masks: where these have registers, and values are not halves."""
    return nest.host.has_masks and dtype.is_floating and dtype.itemsize >= 4


def is_product(body: Expr) -> bool:
    return isinstance(body, Apply) and body.fn == "mul" and body.dtype.is_floating


def _shifted(nest: Nest, index: str, by: int) -> str:
    if by == 0:
        return index
    nest.w.lines = nest.levels[-1].block.lines
    return nest.w.emit(f"add nuw nsw i64 {index}, {by}")
