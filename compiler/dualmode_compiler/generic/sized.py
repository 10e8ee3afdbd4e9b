"""One element of an op's result, with sizes that are known only when it is computed.

A lower rule computes with sizes that are numbers. It is asked twice, for different ones: where both
answers are the same but for the sizes themselves, these become values that are read from memory.
Otherwise, as for a rule that decides by a size, there is no kernel for any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import expr
from ..element import element
from ..expr import Affine, Apply, Axis, Buffer, Const, Expr, Load, Reduce
from ..graph import OpDef
from ..records import dataclass
from ..spec import DType, Spec, int64

NAMES = ("n", "m")  # of sizes, in the order in which a kernel gets them
_TRIALS = ({"n": 8192, "m": 320}, {"n": 12345, "m": 455})
Shape = tuple[str, ...]  # an array's, as names


@dataclass(frozen=True, slots=True)
class Sized:
    """What a kernel computes.

    Attributes:
        operands: what it reads; every load has one index, the place among all elements.
        sizes: where it reads the sizes, in the order of `NAMES`.
        result, shape: what it stores.
        axes: the result's index: an axis for each size in `shape`.
        value: the element there.
    """

    operands: list[Buffer]
    sizes: Buffer
    result: Buffer
    shape: Shape
    axes: list[Axis]
    value: Expr

    def size(self, name: str) -> Expr:
        return _size(self.sizes, name)

    @property
    def place(self) -> Expr:
        """Where in the result the element is stored."""
        return _place(self.axes, self.shape, self.sizes)


def lower(op: OpDef, operands: Sequence[tuple[DType, Shape]], attrs: Mapping[str, Any]) -> Any:
    """What a kernel of `op` computes from operands of these dtypes and shapes; None where it has
    none.

    Raises:
        TypeError: the op does not take these dtypes.
    """
    first, second = (_Trial(op, operands, attrs, sizes) for sizes in _TRIALS)
    if first.value is None or second.value is None or first.shape is None:
        return None
    merge = _Merge(first, second, [shape for _, shape in operands])
    try:
        value = merge.both(first.value, second.value)
    except _Differ:
        return None
    result = Buffer("y", first.result)
    return Sized(first.buffers, merge.sizes, result, first.shape, first.axes, value)


class _Trial:
    """The element for certain sizes."""

    def __init__(
        self,
        op: OpDef,
        operands: Sequence[tuple[DType, Shape]],
        attrs: Mapping[str, Any],
        sizes: Mapping[str, int],
    ) -> None:
        self.numbers = sizes
        specs = [Spec([sizes[name] for name in shape], d) for d, shape in operands]
        self.buffers = [Buffer(f"x{k}", s) for k, s in enumerate(specs)]
        self.result = op.infer(*specs, **attrs)
        names = {number: name for name, number in sizes.items()}
        known = all(number in names for number in self.result.shape)
        self.shape = tuple(names[number] for number in self.result.shape) if known else None
        index, self.value = element(op, self.result, self.buffers, attrs)
        self.axes = [a for a in index if isinstance(a, Axis)]


class _Differ(Exception):
    """The trials differ in more than sizes."""


class _Merge:
    """Two trials as one expression: that of the first, with sizes read from memory."""

    def __init__(self, first: _Trial, second: _Trial, shapes: Sequence[Shape]) -> None:
        self.sizes = Buffer("sizes", Spec((len(NAMES),), int64))
        self._numbers = [(name, first.numbers[name], second.numbers[name]) for name in NAMES]
        self._axes = dict(zip(first.axes, second.axes, strict=True))
        pairs = zip(first.buffers, second.buffers, shapes, strict=True)
        self._buffers = {a: (b, shape) for a, b, shape in pairs}
        self._memo: dict[tuple[Expr, Expr], Expr] = {}

    def both(self, a: Expr, b: Expr) -> Expr:
        found = self._memo.get((a, b))
        if found is None:
            if type(a) is not type(b) or a.dtype is not b.dtype:
                raise _Differ
            found = self._memo[a, b] = self._merge(a, b)
        return found

    def _all(self, xs: Sequence[Expr], ys: Sequence[Expr]) -> list[Expr]:
        if len(xs) != len(ys):
            raise _Differ
        return [self.both(x, y) for x, y in zip(xs, ys, strict=True)]

    def _merge(self, a: Any, b: Any) -> Expr:
        if isinstance(a, Axis):
            return a if self._axes.get(a) is b else self._differ()
        if isinstance(a, Const):
            return a if a is b else self._known(a, b)
        if isinstance(a, Affine):
            coefficients = [c for _, c in a.terms], [c for _, c in b.terms]
            if coefficients[0] != coefficients[1]:
                raise _Differ
            atoms = self._all([x for x, _ in a.terms], [x for x, _ in b.terms])
            total = self.both(expr.const(a.const, int64), expr.const(b.const, int64))
            for atom, c in zip(atoms, coefficients[0], strict=True):
                total = total + atom * c
            return total
        if isinstance(a, Load):
            other, shape = self._buffers[a.buffer]
            if other is not b.buffer:
                raise _Differ
            return expr.load(a.buffer, [_place(self._all(a.index, b.index), shape, self.sizes)])
        if isinstance(a, Apply) and a.fn == b.fn:
            return expr.apply(a.fn, *self._all(a.args, b.args), dtype=a.dtype)
        if isinstance(a, Reduce) and a.kind == b.kind and len(a.bound) == len(b.bound) == 1:
            self._bind(a.bound[0], b.bound[0])
            return expr.reduce(a.kind, a.bound, self.both(a.body, b.body))
        return self._differ()

    def _bind(self, a: Axis, b: Axis) -> None:
        """Reductions are over the axis of size n."""
        if (a.extent, b.extent) != self._numbers[0][1:] or self._axes.setdefault(a, b) is not b:
            raise _Differ

    def _known(self, a: Const, b: Const) -> Expr:
        """A constant that is a size, or an index that is as far from one in both trials."""
        for name, first, second in self._numbers:
            if (a.value, b.value) == (first, second):
                return expr.cast(_size(self.sizes, name), a.dtype)
            if a.dtype is int64 and a.value - first == b.value - second:
                return _size(self.sizes, name) + (a.value - first)
        return self._differ()

    def _differ(self) -> Expr:
        raise _Differ


def _size(sizes: Buffer, name: str) -> Expr:
    return expr.load(sizes, [expr.const(NAMES.index(name), int64)])


def _place(index: Sequence[Expr], shape: Shape, sizes: Buffer) -> Expr:
    """The place of the element at `index` of an array."""
    place: Expr = expr.const(0, int64)
    for i, name in zip(index, shape, strict=True):
        place = i if isinstance(place, Const) else place * _size(sizes, name) + i
    return place
