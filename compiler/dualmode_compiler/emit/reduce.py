"""Reductions as loops with accumulators in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .. import expr
from ..expr import Apply, Axis, Expr, Load, Reduce, int64
from ..loops import walk
from ..spec import DType, bool_
from .instructions import apply, literal, register_type
from .levels import UNROLL, Value, mask_text
from .nest import ACCUMULATORS, Nest


def identity(kind: str, dtype: DType) -> bool | int | float:
    """The value that changes nothing when combined by `kind`."""
    if kind in ("add", "or"):
        return False if dtype is bool_ else 0
    if kind in ("mul", "and"):
        return True if dtype is bool_ else 1
    low = kind in ("maximum", "argmax")
    if dtype.is_floating:
        return float("-inf") if low else float("inf")
    if dtype is bool_:
        return not low
    bits = 8 * dtype.itemsize
    if dtype.kind == "u":
        return 0 if low else (1 << bits) - 1
    return -(1 << (bits - 1)) if low else (1 << (bits - 1)) - 1


def emit_reduce(nest: Nest, x: Reduce) -> Value:
    """Emit `x` at the innermost open level of `nest`."""
    lanes = nest.levels[-1].lanes if nest.levels[-1].vector in x.axes else 1
    if any(a.extent == 0 for a in x.bound):
        return Value(literal(identity(x.kind, x.dtype), x.dtype, lanes), lanes)
    if x.kind in ("argmax", "argmin"):
        return _Position(nest, x, lanes).emit()
    return _Fold(nest, x, lanes).emit()


def vectorisable(nest: Nest, x: Reduce) -> bool:
    """True if the lanes can hold neighbours along the last bound axis: no load has to gather."""
    axis = x.bound[-1]
    if axis.extent < 3:
        return False
    strides = (nest.stride(e.index[0], axis) for e in walk([x.body]) if isinstance(e, Load))
    return all(s in (0, 1) for s in strides)


class _Fold:
    """Sums, products, extremes: any operator whose order is ours to fix."""

    def __init__(self, nest: Nest, x: Reduce, lanes: int) -> None:
        self.nest, self.x = nest, x
        self.outer = lanes  # lanes of the result
        self.across = lanes == 1 and vectorisable(nest, x)  # lanes along the last bound axis
        extent = x.bound[-1].extent
        if self.across:
            width = nest.host.vector_bytes // max(x.dtype.itemsize, 4)
            lanes = min(width, 1 << (extent - 1).bit_length())
        self.lanes = lanes
        self.count = min(ACCUMULATORS, max(1, extent // (lanes if self.across else 1)))
        self.kind = register_type(x.dtype, lanes)
        self.fused = x.kind == "add" and _is_product(x.body) and x.body not in nest.kept

    def emit(self) -> Value:
        start = literal(identity(self.x.kind, self.x.dtype), self.x.dtype, self.lanes)
        accs = self._loops(self.x.bound, [start] * self.count)
        nest = self.nest
        nest.w.lines = nest.levels[-1].block.lines
        while len(accs) > 1:
            accs = [
                self._combine(accs[k], accs[k + 1], self.lanes) if k + 1 < len(accs) else accs[k]
                for k in range(0, len(accs), 2)
            ]
        if not self.across:
            return Value(accs[0], self.outer)
        return Value(self._across(accs[0]), 1)

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
                self._step(axis, _shifted(nest, index, u * step), acc) for u, acc in enumerate(phis)
            ]

        if whole > group or (whole and group > UNROLL * step):
            carried = [(self.kind, a) for a in accs]
            accs = nest.loop("0", str(whole), group, several, carried)
        else:
            whole = 0
        for u, start in enumerate(range(whole, extent, step)):
            active = min(step, extent - start)
            k = u % self.count
            accs[k] = self._step(axis, str(start), accs[k], active)
        return accs

    def _step(self, axis: Axis, at: str, acc: str, active: int | None = None) -> str:
        nest, x, lanes = self.nest, self.x, self.lanes
        mask = mask_text(active or lanes, lanes) if self.across else None
        out: list[str] = []

        def body() -> None:
            if self.fused and mask is None:
                assert isinstance(x.body, Apply)
                parts = [nest.vector(a, lanes) for a in x.body.args]
                here = nest.levels[-1].block.lines
                nest.w.lines = here
                kinds = [x.dtype] * 3
                out.append(apply(nest.w, "fma", [*parts, acc], kinds, x.dtype, lanes))
                return
            value = nest.vector(x.body, lanes)
            nest.w.lines = nest.levels[-1].block.lines
            if mask is not None:
                neutral = literal(identity(x.kind, x.dtype), x.dtype, lanes)
                value = nest.w.emit(
                    f"select <{lanes} x i1> {mask}, {self.kind} {value}, {self.kind} {neutral}"
                )
            out.append(self._combine(acc, value, lanes))

        if self.across:
            nest.scope(axis, at, body, lanes, mask)
        else:
            nest.scope(axis, at, body)
        return out[0]

    def _combine(self, a: str, b: str, lanes: int) -> str:
        dtype = self.x.dtype
        return apply(self.nest.w, self.x.kind, [a, b], [dtype, dtype], dtype, lanes)

    def _across(self, name: str) -> str:
        """The lanes combined by halves."""
        w, lanes = self.nest.w, self.lanes
        while lanes > 1:
            kind, half = register_type(self.x.dtype, lanes), lanes // 2
            parts = [
                w.emit(
                    f"shufflevector {kind} {name}, {kind} poison, <{half} x i32> "
                    f"<{', '.join(f'i32 {k}' for k in range(first, first + half))}>"
                )
                if half > 1
                else w.emit(f"extractelement {kind} {name}, i64 {first}")
                for first in (0, half)
            ]
            name, lanes = self._combine(parts[0], parts[1], half), half
        return name


class _Position:
    """argmax and argmin: the first extreme, or the first NaN."""

    def __init__(self, nest: Nest, x: Reduce, lanes: int) -> None:
        self.nest, self.x, self.lanes = nest, x, lanes
        self.kind = register_type(x.body.dtype, lanes)

    def emit(self) -> Value:
        best = literal(identity(self.x.kind, self.x.body.dtype), self.x.body.dtype, self.lanes)
        none = literal(-1, int64, self.lanes)
        _, position = self._loops(self.x.bound, [best, none])
        return Value(position, self.lanes)

    def _loops(self, bound: Sequence[Axis], pair: list[str]) -> list[str]:
        nest, axis = self.nest, bound[0]
        carried = [(self.kind, pair[0]), (register_type(int64, self.lanes), pair[1])]
        rest: Callable[[list[str]], list[str]] = (
            (lambda phis: self._loops(bound[1:], phis)) if len(bound) > 1 else self._step
        )

        def iteration(index: str, phis: list[str]) -> list[str]:
            new: list[str] = []
            nest.scope(axis, index, lambda: new.extend(rest(phis)))
            return new

        return nest.loop("0", str(axis.extent), 1, iteration, carried)

    def _step(self, pair: list[str]) -> list[str]:
        nest, x, lanes = self.nest, self.x, self.lanes
        dtype = x.body.dtype
        flat = expr.ravel(x.bound, [a.extent for a in x.bound])
        value, here = nest.vector(x.body, lanes), nest.vector(flat, lanes)
        nest.w.lines = nest.levels[-1].block.lines

        def do(fn: str, a: str, b: str, kind: DType = dtype, to: DType = bool_) -> str:
            return apply(nest.w, fn, [a, b], [kind, kind], to, lanes)

        better = do("gt" if x.kind == "argmax" else "lt", value, pair[0])
        first = do("eq", pair[1], literal(-1, int64, lanes), int64)
        better = do("or", better, first, bool_)
        if dtype.is_floating:  # a NaN beats all numbers, and is beaten by none
            nan = do("ne", value, value)
            number = do("eq", pair[0], pair[0])
            better = do("or", better, do("and", nan, number, bool_), bool_)
        bits, long = register_type(bool_, lanes), register_type(int64, lanes)
        return [
            nest.w.emit(f"select {bits} {better}, {self.kind} {value}, {self.kind} {pair[0]}"),
            nest.w.emit(f"select {bits} {better}, {long} {here}, {long} {pair[1]}"),
        ]


def _is_product(body: Expr) -> bool:
    return isinstance(body, Apply) and body.fn == "mul" and body.dtype.is_floating


def _shifted(nest: Nest, index: str, by: int) -> str:
    if by == 0:
        return index
    nest.w.lines = nest.levels[-1].block.lines
    return nest.w.emit(f"add nuw nsw i64 {index}, {by}")
