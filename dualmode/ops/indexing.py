"""Indexing: slices, integer arrays, boolean masks, and updates of the elements they select."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.records import dataclass
from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.spec import int64

from .. import sizes
from ..dispatch import moved
from ..errors import DTypeError, OutOfRangeError, ShapeError, locate
from ..op import Op, convert, state
from . import conversion, creation, logic, rules, shape
from . import elementwise as ew
from .effects import CHECK_INDICES, check_indices
from .gather import SCATTER_ADD, SCATTER_SET, TAKE
from .shape import BROADCAST_TO, PERMUTE_DIMS, RESHAPE
from .slicing import SLICE

if TYPE_CHECKING:
    from ..tensor import Tensor

Shape = tuple[int, ...]


# --- take ---------------------------------------------------------------------------------------


def _in_range(indices: Any, size: int, name: str) -> Tensor:
    """`indices` as an integer tensor; those out of range raise, in both modes alike."""
    indices = convert(indices)
    if not indices.dtype.is_integer:
        raise DTypeError(f"{name}: indices are integers, got {indices.spec}")
    if type(indices._value) is np.ndarray:
        check_indices(indices._value, size=size, name=name)
    else:
        CHECK_INDICES(indices, size=size, name=name)
    return indices


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The elements of `x` at `indices` along `axis`.

    Args:
        x: any tensor.
        indices: integers of any shape; negative ones count from the end.
        axis: None takes from `x` flattened.

    Returns:
        A tensor of the shape of `x`, with `axis` replaced by the axes of `indices`.

    Raises:
        OutOfRangeError (an IndexError): an index is out of range, in compiled code as well.
        DTypeError: `indices` are no integers.
    """
    out: Any = MISS if axis is None else moved(TAKE, x, indices, axis)
    if out is not MISS:
        return out
    x = convert(x)
    if axis is None:
        x, axis = shape.flatten(x), 0
    axis = rules.normalize_axes(axis, x.ndim, "take")[0]
    return TAKE(x, _in_range(indices, x.shape[axis], "take"), axis=axis)


def gather(params: Any, indices: Any, axis: int = 0) -> Tensor:
    """`take` along the first axis by default, as TensorFlow's `gather`."""
    return take(params, indices, axis)


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Tensor:
    """For each position, the element of `x` whose index along `axis` is given by `indices` there.

    `indices` has the rank of `x`; sizes of the other axes are equal or 1.

    Raises:
        OutOfRangeError (an IndexError), DTypeError, ShapeError.
    """
    x, indices = convert(x), convert(indices)
    axis = rules.normalize_axes(axis, x.ndim, "take_along_axis")[0]
    if indices.ndim != x.ndim:
        raise ShapeError(f"take_along_axis: ranks differ: {x.spec} and {indices.spec}")
    n = x.shape[axis]
    at = _wrapped(_in_range(indices, n, "take_along_axis"), n)
    grid: list[Any] = list(_open_grid(x.shape))
    grid[axis] = at
    return TAKE(shape.flatten(x), _flat_index(grid, x.shape), axis=0)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices counted from the end, in int64."""
    at = conversion.cast(indices, int64)
    return logic.where(logic.less(at, 0), ew.add(at, size), at)


def _open_grid(sizes: Shape) -> list[Tensor]:
    """Positions along each axis, shaped to broadcast against each other."""
    return [
        RESHAPE(
            creation.ARANGE(start=0, step=1, size=n, dtype=int64),
            shape=tuple(n if j == k else 1 for j in range(len(sizes))),
        )
        for k, n in enumerate(sizes)
    ]


def _flat_index(indices: Sequence[Tensor], sizes: Shape) -> Tensor:
    """The row-major position in `sizes` of the broadcast `indices`, one for each axis."""
    flat = indices[0]
    for at, n in zip(indices[1:], sizes[1:], strict=True):
        flat = ew.add(ew.multiply(flat, n), at)
    return flat


# --- x[key] -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Parsed:
    """An index taken apart: slices first, then arrays along some axes, then the final shape.

    Attributes:
        start, stop, step: for each axis of the tensor.
        shape: of the result of the slices, with integers dropped and new axes put in.
        arrays: integer arrays by their axis in `shape`.
        first: True where the arrays' axes come first, because slices part them.
    """

    start: list[int]
    stop: list[int]
    step: list[int]
    shape: list[int]
    arrays: dict[int, Any]
    first: bool = False


def getitem(x: Any, key: Any) -> Tensor:
    """`x[key]` by NumPy's rules.

    `key` holds integers, slices, None, an ellipsis, integer arrays and boolean masks. A mask makes
    the shape of the result depend on values, so that inside a function it must be known.

    Raises:
        OutOfRangeError (an IndexError): an index is out of range, or there are too many.
        DTypeError: something that is no index.
    """
    out = moved(TAKE, x, key, 0)
    if out is not MISS:
        return out
    x = convert(x)
    parsed = _parse(x, key if isinstance(key, tuple) else (key,))
    y = SLICE(x, start=tuple(parsed.start), stop=tuple(parsed.stop), step=tuple(parsed.step))
    y = RESHAPE(y, shape=tuple(parsed.shape)) if y.shape != tuple(parsed.shape) else y
    return _take_arrays(y, parsed) if parsed.arrays else y


_INTEGER = (int, np.integer)
_BASIC = (int, slice, type(None), EllipsisType)
_KNOWN = (*_BASIC, np.integer)


def is_basic(key: Any) -> bool:
    """True for integers, slices, None, an ellipsis, and tuples of them: NumPy's basic indexing."""
    if type(key) is not tuple:
        return type(key) in _BASIC
    return all(type(k) in _BASIC for k in key)


def _expand(x: Tensor, keys: tuple[Any, ...]) -> list[Any]:
    """One entry for each axis of `x`, and the Nones between: masks and the ellipsis written out."""
    items: list[Any] = []
    for k in keys:
        if isinstance(k, _KNOWN) and not isinstance(k, bool):
            items.append(k)
            continue
        if isinstance(k, str | bytes | dict | set):
            raise DTypeError(
                f"getitem: {k!r} is no index of a tensor; indices are integers, slices, None, "
                "..., integer tensors and boolean masks"
            )
        at = convert(k)
        if at.dtype.kind == "b":
            items.extend(_mask(x, at, sum(i is not None and i is not Ellipsis for i in items)))
        elif at.ndim == 0 and at.dtype.is_integer and type(at._value) is np.ndarray:
            items.append(int(at._value))
        else:
            items.append(at)
    used = sum(k is not None and k is not Ellipsis for k in items)
    dots = sum(k is Ellipsis for k in items)
    if used > x.ndim or dots > 1:
        what = "more than one ellipsis" if dots > 1 else f"{used} indices"
        raise OutOfRangeError(f"getitem: {what} for {x.spec}, which has {x.ndim} axes")
    where = next((n for n, k in enumerate(items) if k is Ellipsis), len(items))
    return [*items[:where], *[slice(None)] * (x.ndim - used), *items[where + 1 :]]


def _mask(x: Tensor, mask: Tensor, axis: int) -> list[Tensor]:
    """The positions of the True elements of a boolean mask over the axes from `axis` on."""
    if mask.ndim == 0:
        raise DTypeError("getitem: a single bool is no index of a tensor; a mask has axes")
    if mask.shape != x.shape[axis : axis + mask.ndim]:
        raise ShapeError(
            f"getitem: mask {mask.spec} does not match axes {axis} to {axis + mask.ndim - 1} of "
            f"{x.spec}"
        )
    return _nonzero(mask, "a boolean mask")


def _parse(x: Tensor, keys: tuple[Any, ...]) -> _Parsed:
    items = _expand(x, keys)
    advanced = not all(isinstance(k, _KNOWN) for k in items)
    out = _Parsed([], [], [], [], {})
    axes = iter(x.shape)
    runs = 0  # of neighbouring arrays
    joined = False
    for k in items:
        if k is None:
            out.shape.append(1)
            joined = False
            continue
        n = next(axes)
        if isinstance(k, slice):
            start, stop, step, length = _range(k, n)
            out.shape.append(length)
            joined = False
        elif not advanced and isinstance(k, _INTEGER):
            at = _position(sizes.index(k), n, len(out.start), x)
            start, stop, step = at, at + 1, 1
        else:  # beside arrays, an integer is an array without axes
            out.arrays[len(out.shape)] = k
            runs, joined = runs + (not joined), True
            start, stop, step = 0, n, 1
            out.shape.append(n)
        out.start.append(start)
        out.stop.append(stop)
        out.step.append(step)
    out.first = runs > 1
    return out


def _range(k: slice, size: int) -> tuple[int, int, int, int]:
    """Start, stop, step and length of a slice."""
    try:
        k.indices(size)
    except (TypeError, ValueError) as error:  # a bound that is no integer, or a step of 0
        raise locate(error) from None
    bounds = [None if b is None else sizes.index(b) for b in (k.start, k.stop, k.step)]
    length = sizes.follow("slice length", size, *bounds)
    if length == 0:
        return 0, 0, 1, 0
    start, stop = (sizes.follow(f"slice {end}", size, *bounds) for end in ("start", "stop"))
    return start, stop, 1 if bounds[2] is None else bounds[2], length


def _position(k: int, size: int, axis: int, x: Tensor) -> int:
    if not -size <= k < size:
        raise OutOfRangeError(f"getitem: index {k} is out of range for axis {axis} of {x.spec}")
    return k % size


def _take_arrays(x: Tensor, parsed: _Parsed) -> Tensor:
    """`x` at the arrays, which broadcast together, along their axes."""
    axes = list(parsed.arrays)
    arrays = [_in_range(k, x.shape[a], "getitem") for a, k in parsed.arrays.items()]
    if len(axes) == 1:
        return TAKE(x, arrays[0], axis=axes[0])
    lengths = tuple(x.shape[a] for a in axes)
    rest = [a for a in range(x.ndim) if a not in axes]
    front = PERMUTE_DIMS(x, axes=(*axes, *rest))
    tail = front.shape[len(axes) :]
    rows = RESHAPE(front, shape=(math.prod(lengths), *tail))
    at = _flat_index([_wrapped(k, n) for k, n in zip(arrays, lengths, strict=True)], lengths)
    y = TAKE(rows, at, axis=0)
    if parsed.first or axes[0] == 0:
        return y
    lead = range(at.ndim, at.ndim + axes[0])
    order = (*lead, *range(at.ndim), *range(at.ndim + axes[0], y.ndim))
    return PERMUTE_DIMS(y, axes=order)


# --- x.at[key] ----------------------------------------------------------------------------------


class At:
    """`x.at[key].set(v)`: the functional form of `x[key] = v`."""

    __slots__ = ("_x",)

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def __getitem__(self, key: Any) -> Selected:
        return Selected(self._x, key)


class Selected:
    """The elements of a tensor that an index selects."""

    __slots__ = ("_key", "_x")

    def __init__(self, x: Tensor, key: Any) -> None:
        self._x = x
        self._key = key

    def set(self, values: Any) -> Tensor:
        """The tensor with `values` (broadcast) at the index; at equal indices the last stays."""
        return self._update(SCATTER_SET, values)

    def add(self, values: Any) -> Tensor:
        """The tensor with `values` (broadcast) added at the index; equal indices add up."""
        return self._update(SCATTER_ADD, values)

    def _update(self, scatter: Op, values: Any) -> Tensor:
        x = self._x
        out = moved(scatter, x, self._key, values, 0)
        if out is not MISS:
            return out
        parsed = _parse(x, self._key if isinstance(self._key, tuple) else (self._key,))
        if len(parsed.arrays) == 1 and parsed.shape == [*x.shape] == [*parsed.stop]:
            ((axis, indices),) = parsed.arrays.items()
            at = _in_range(indices, x.shape[axis], "getitem")
            wanted = (*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])
            return scatter(x, at, BROADCAST_TO(convert(values, x.dtype), shape=wanted), axis=axis)
        positions = creation.ARANGE(start=0, step=1, size=x.size, dtype=int64)
        at = getitem(RESHAPE(positions, shape=x.shape), self._key)
        new = BROADCAST_TO(convert(values, x.dtype), shape=at.shape)
        flat = scatter(shape.flatten(x), at, new, axis=0)
        return RESHAPE(flat, shape=x.shape)


# --- nonzero, one_hot ---------------------------------------------------------------------------


def nonzero(x: Any) -> tuple[Tensor, ...]:
    """The positions of the elements that are not zero: one int64 vector for each axis.

    Its shape depends on values, so `x` must be known: inside a function use `where` instead.

    Raises:
        TracedValueError: `x` is traced.
    """
    return tuple(_nonzero(convert(x), "nonzero"))


def _nonzero(x: Tensor, use: str) -> list[Tensor]:
    value = x._value
    known = value if type(value) is np.ndarray else state.mode.value_needed(x, use)
    return [convert(k) for k in np.nonzero(known)]


def one_hot(indices: Any, depth: int, dtype: Any = specs.float32, axis: int = -1) -> Tensor:
    """1 at the position that each index names and 0 elsewhere, along a new axis of size `depth`.

    Args:
        indices: integers; one that is negative or not below `depth` gives zeros only.
        depth: number of classes.
        dtype: of the result.
        axis: where the result has its new axis.
    """
    indices = convert(indices)
    if not indices.dtype.is_integer:
        raise DTypeError(f"one_hot: indices are integers, got {indices.spec}")
    depth = sizes.index(depth)
    if depth < 0:
        raise ShapeError(f"one_hot: a negative depth, {depth}")
    axis = rules.normalize_axes(axis, indices.ndim + 1, "one_hot")[0]
    ramp = creation.ARANGE(start=0, step=1, size=depth, dtype=int64)
    ramp = RESHAPE(ramp, shape=(depth, *(1,) * (indices.ndim - axis)))
    at = conversion.cast(shape.expand_dims(indices, axis), int64)
    return conversion.cast(logic.equal(at, ramp), dtype)
