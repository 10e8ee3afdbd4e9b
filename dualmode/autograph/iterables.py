"""What native loops go through, without an iterator: `dm.range`, tensors, and pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dualmode_compiler import spec as specs

from .. import sizes
from ..errors import ShapeError, TracedValueError
from ..op import convert, state
from ..ops import conversion, logic
from ..tensor import Operators, Tensor
from . import native


class Range:
    """`dm.range(stop)`, `dm.range(start, stop, step=1)`: a range that `for` need not unroll.

    Like Python's range, with int32 tensors as items. In a `@dm.function`, a `for` statement over it
    is a loop of the compiled code; bounds that are traced tensors are allowed there.

    Args:
        start, stop, step: integers, or integer tensors of one element.

    Raises:
        TypeError: a bound is no integer.
        ValueError: the step is 0.
    """

    def __init__(self, *bounds: Any, python: bool = False) -> None:
        self.python = python  # as Python's range: the items are numbers
        if not 1 <= len(bounds) <= 3:
            raise TypeError(f"range: expected 1 to 3 arguments, got {len(bounds)}")
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        self.start, self.stop, self.step = map(_bound, (start, stop, step))
        if not isinstance(self.step, Tensor) and self.step == 0:
            raise ValueError("range: the step must not be 0")

    @property
    def known(self) -> range | None:
        """The same numbers where they are known; None where a bound is traced."""
        bounds = self.start, self.stop, self.step
        return None if any(isinstance(b, Tensor) for b in bounds) else range(*bounds)

    def __iter__(self) -> Iterator[Tensor]:
        return (convert(i, specs.int32) for i in self._python("iterated by Python"))

    def __len__(self) -> int:
        return len(self._python("asked for its length"))

    def __getitem__(self, index: int) -> Tensor:
        return convert(self._python("indexed")[index], specs.int32)

    def _python(self, use: str) -> range:
        known = self.known
        if known is None:
            raise TracedValueError(
                f"dm.range: a range whose bounds are traced tensors cannot be {use}; go through "
                "it by a for statement, or give it Python ints"
            )
        return known

    def __repr__(self) -> str:
        return f"dm.range({self.start}, {self.stop}, {self.step})"


def _bound(x: Any) -> Any:
    if isinstance(x, Operators):
        if x.ndim or not x.dtype.is_integer:
            raise TypeError(f"range: a bound is {x.dtype}{list(x.shape)}, not an integer")
        if native.is_unknown(x):
            tensor = x._read()
            return conversion.cast(tensor, specs.int32)
        return int(x)
    try:
        return sizes.index(x)
    except TypeError:
        raise TypeError(
            f"range: a bound is {type(x).__name__} {x!r}, not an integer; use int() or dm.cast"
        ) from None


class Enumerated:
    """`enumerate` of what can be looped over natively."""

    def __init__(self, inner: Any, start: Any) -> None:
        self.inner = inner
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        return enumerate(self.inner, self.start)


class Zipped:
    """`zip` of what can be looped over natively."""

    def __init__(self, parts: Sequence[Any], strict: bool) -> None:
        self.parts = parts
        self.strict = strict

    def __iter__(self) -> Iterator[Any]:
        return zip(*self.parts, strict=self.strict)


class Steps:
    """A native loop's items by number.

    Attributes:
        length: how many; an int, or a traced int32 tensor.
        arrays: tensors whose entry of that number is needed.
        item: `item(number, entries)`.
    """

    def __init__(
        self,
        length: Any,
        arrays: Sequence[Tensor],
        item: Callable[[Tensor, Sequence[Tensor]], Any],
    ) -> None:
        self.length = length
        self.arrays = list(arrays)
        self.item = item

    def unrolled(self) -> Iterator[Any]:
        """The items, whose number is known."""
        if not isinstance(self.length, int):
            raise ShapeError(
                "set_loop_options: loop variables change their shape only in a loop with a known "
                "number of iterations; use a Python int in dm.range"
            )
        return (self.item(number(k), [x[k] for x in self.arrays]) for k in range(self.length))


def is_native(x: Any) -> bool:
    """Whether a `for` statement goes through `x` natively."""
    if isinstance(x, Range):
        return True
    if isinstance(x, Enumerated | Zipped):
        return True
    return isinstance(x, Operators) and native.is_traced(x) and x.ndim > 0


def steps(x: Any) -> Steps:
    """The items of `x`, which is native."""
    if isinstance(x, Range):
        return _range_steps(x)
    if isinstance(x, Enumerated):
        inner, start = steps(x.inner), x.start
        return Steps(
            inner.length, inner.arrays, lambda i, e: (_counted(i) + start, inner.item(i, e))
        )
    if isinstance(x, Zipped):
        return _zip_steps(x)
    tensor = x._read()
    return Steps(tensor.shape[0], [tensor], lambda _, entries: entries[0])


def _range_steps(r: Range) -> Steps:
    start, step = r.start, r.step

    def item(i: Tensor, _: Any) -> Any:
        x = _times(i, step) + start
        return _counted(x) if r.python else x

    if not any(isinstance(b, Tensor) for b in (start, r.stop, step)):
        length = sizes.follow("range length", r.start, r.stop, r.step)
        return Steps(length, [], item)
    distance = r.stop - start
    if isinstance(step, int) and abs(step) == 1:
        length = distance * step
    else:
        sign = logic.where(logic.greater(step, 0), 1, -1)
        length = -((-distance * sign) // abs(step))
    return Steps(length, [], item)


def _counted(i: Tensor) -> Tensor:
    """A native loop's number of an item as Python's own."""
    return state.mode.weak(i, specs.int64)


def _times(i: Tensor, step: Any) -> Tensor:
    return i if isinstance(step, int) and step == 1 else i * step


def _zip_steps(x: Zipped) -> Steps:
    parts = [steps(p) for p in x.parts]
    known = [p.length for p in parts if isinstance(p.length, int)]
    if x.strict and known and min(known) != max(known):
        raise ValueError(f"zip: the lengths differ: {known}")
    length: Any = min(known) if known else None
    for p in parts:
        if not isinstance(p.length, int):
            n = p.length
            length = n if length is None else logic.where(logic.less(n, length), n, length)

    def item(i: Tensor, entries: Sequence[Tensor]) -> Any:
        out, at = [], 0
        for p in parts:
            out.append(p.item(i, entries[at : at + len(p.arrays)]))
            at += len(p.arrays)
        return tuple(out)

    return Steps(length, [a for p in parts for a in p.arrays], item)


def number(k: int) -> Tensor:
    """An int32 scalar."""
    return Tensor._wrap(np.asarray(k, np.int32))
