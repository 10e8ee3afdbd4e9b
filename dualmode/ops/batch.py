"""How ops act on arrays of examples: the families of rules that `vmap` follows.

A rule is `(op, size, args, mapped, attrs) -> Tensor`. Those of `args` that `mapped` marks hold one
value for each of `size` examples along a new first axis; the others hold the same value for all. At
least one is mapped. The result holds one value for each example along its first axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dualmode_compiler.spec import int64

if TYPE_CHECKING:
    from ..op import Op
    from ..tensor import Tensor

Args = tuple["Tensor", ...]
Mapped = tuple[bool, ...]
Attrs = dict[str, Any]
Shape = tuple[int, ...]

# The ops that rules are written with are built on this module, so rules import them when they run.


# --- helpers ------------------------------------------------------------------------------------


def spread(x: Tensor, size: int) -> Tensor:
    """`x`, the same for all examples, once for each of them."""
    from .shape import BROADCAST_TO

    return BROADCAST_TO(x, shape=(size, *x.shape))


def moved(x: Tensor, source: int, destination: int) -> Tensor:
    """`x` with one axis moved."""
    from .shape import PERMUTE_DIMS

    if source == destination:
        return x
    axes = [k for k in range(x.ndim) if k != source]
    axes.insert(destination, source)
    return PERMUTE_DIMS(x, axes=tuple(axes))


def _aligned(args: Args, mapped: Mapped) -> list[Tensor]:
    """`args` so that they broadcast: the axes of each example stand at the end."""
    from .shape import RESHAPE

    rank = max(x.ndim - m for x, m in zip(args, mapped, strict=True))
    out = []
    for x, m in zip(args, mapped, strict=True):
        missing = rank + 1 - x.ndim
        if m and missing:
            x = RESHAPE(x, shape=(x.shape[0], *(1,) * missing, *x.shape[1:]))
        out.append(x)
    return out


def _all_mapped(size: int, args: Args, mapped: Mapped) -> list[Tensor]:
    return [x if m else spread(x, size) for x, m in zip(args, mapped, strict=True)]


# --- families -----------------------------------------------------------------------------------


def elementwise(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Operands that broadcast; the attributes do not name axes."""
    return op(*_aligned(args, mapped), **attrs)


def leading(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Ops that take any number of leading axes, the same ones on all operands."""
    return op(*_all_mapped(size, args, mapped), **attrs)


def normalized(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """The op over the last axis whose result is scaled and shifted by vectors; examples may have
    vectors of their own."""
    from . import creation

    x, *vectors = args
    if not any(mapped[1:]):
        return op(*args, **attrs)
    n, dtype = x.shape[-1:], x.dtype
    y = op(x, creation.ones(n, dtype), creation.zeros(n, dtype), **attrs)
    y, scale, offset = _aligned((y, *vectors), mapped)
    return y * scale + offset


def along_axes(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Ops with the attribute `axis`: one axis, or several."""
    axis = attrs["axis"]
    shifted = axis + 1 if isinstance(axis, int) else tuple(k + 1 for k in axis)
    return op(*_all_mapped(size, args, mapped), **{**attrs, "axis": shifted})


def position(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Positions along one axis, or in row-major order along all."""
    from .shape import RESHAPE

    axis, keepdims = attrs["axis"], attrs["keepdims"]
    if len(axis) == 1:
        return along_axes(op, size, args, mapped, attrs)
    (x,) = args
    flat = RESHAPE(x, shape=(size, math.prod(x.shape[1:])))
    out = op(flat, axis=(1,), keepdims=False)
    return RESHAPE(out, shape=(size, *(1,) * (x.ndim - 1))) if keepdims else out


def to_shape(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Ops with the attribute `shape`, that of an example's result."""
    from .shape import RESHAPE

    (x,), shape = args, attrs["shape"]
    if op is not RESHAPE and x.ndim - 1 < len(shape):  # broadcasting aligns the last axes
        x = RESHAPE(x, shape=(size, *(1,) * (len(shape) + 1 - x.ndim), *x.shape[1:]))
    return op(x, shape=(size, *shape))


def permuted(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """The op whose attribute `axes` is an order of all axes."""
    return op(*args, axes=(0, *(k + 1 for k in attrs["axes"])))


def sliced(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """The op with a range for each axis."""
    start, stop, step = attrs["start"], attrs["stop"], attrs["step"]
    return op(*args, start=(0, *start), stop=(size, *stop), step=(1, *step))


def padded(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """The op with the attributes `low`, `high` and `interior`, a number for each axis."""
    widths = {name: (0, *attrs[name]) for name in ("low", "high", "interior")}
    return op(*args, **widths, value=attrs["value"])


def matmul(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Leading axes broadcast. Where all examples share a matrix, they become rows of one product,
    which runs far faster than a small product for each."""
    a, b = args
    transpose_a, transpose_b = attrs["transpose_a"], attrs["transpose_b"]
    from .shape import RESHAPE

    if mapped == (True, False) and a.ndim == 3 and b.ndim == 2 and not transpose_a:
        rows = RESHAPE(a, shape=(size * a.shape[1], a.shape[2]))
        out = op(rows, b, **attrs)
        return RESHAPE(out, shape=(size, a.shape[1], out.shape[1]))
    column = b.ndim == 3 and b.shape[1 if transpose_b else 2] == 1
    if mapped == (False, True) and a.ndim == 2 and column:
        rows = RESHAPE(b, shape=(size, math.prod(b.shape[1:])))
        out = op(rows, a, transpose_a=False, transpose_b=not transpose_a)
        return RESHAPE(out, shape=(size, out.shape[1], 1))
    return op(*_aligned(args, mapped), **attrs)


# --- indices ------------------------------------------------------------------------------------


def take(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Entries of an array along `axis`, at indices."""
    x, indices = args
    axis = attrs["axis"]
    if not mapped[1]:
        return op(x, indices, axis=axis + 1)
    if not mapped[0]:
        return moved(op(x, _in_range(indices, x.shape[axis]), axis=axis), axis, 0)
    rows, at = _as_rows(x, axis), _rows_of(indices, x.shape[axis + 1])
    return _to_axis(op(rows, at, axis=0), axis, indices.ndim - 1)


def scatter(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """An array with updates of its entries along `axis`, at indices."""
    from .shape import RESHAPE

    axis = attrs["axis"]
    x, indices, updates = args
    x, updates = _all_mapped(size, (x, updates), (mapped[0], mapped[2]))
    if not mapped[1]:
        return op(x, indices, updates, axis=axis + 1)
    front = moved(x, axis + 1, 1)
    new = _from_axis(updates, axis, indices.ndim - 1)
    out = op(_as_rows(x, axis), _rows_of(indices, x.shape[axis + 1]), new, axis=0)
    return moved(RESHAPE(out, shape=front.shape), 1, axis + 1)


def _as_rows(x: Tensor, axis: int) -> Tensor:
    """The entries along `axis` of all examples, [size * n, ...]."""
    from .shape import RESHAPE

    front = moved(x, axis + 1, 1)
    return RESHAPE(front, shape=(front.shape[0] * front.shape[1], *front.shape[2:]))


def _rows_of(indices: Tensor, n: int) -> Tensor:
    """Where the entries that each example's `indices` name are among the rows of all."""
    from . import creation
    from .elementwise import ADD
    from .shape import RESHAPE

    size = indices.shape[0]
    first = creation.ARANGE(start=0, step=n, size=size, dtype=int64)
    first = RESHAPE(first, shape=(size, *(1,) * (indices.ndim - 1)))
    return ADD(_in_range(indices, n), first)


def _in_range(indices: Tensor, n: int) -> Tensor:
    """Indices counted from the start, int64.

    Those of examples for which the code does not run, as they are done with a loop, may be any
    numbers; they must not name the entries of other examples.
    """
    from .conversion import cast
    from .elementwise import remainder

    at = cast(indices, int64)
    return remainder(at, n) if n else at


def _to_axis(x: Tensor, axis: int, rank: int) -> Tensor:
    """[size, indices..., before..., after...] as [size, before..., indices..., after...]."""
    return _reordered(x, range(1 + rank, 1 + rank + axis), range(1, 1 + rank))


def _from_axis(x: Tensor, axis: int, rank: int) -> Tensor:
    """The inverse of `_to_axis`."""
    return _reordered(x, range(1 + axis, 1 + axis + rank), range(1, 1 + axis))


def _reordered(x: Tensor, first: Sequence[int], second: Sequence[int]) -> Tensor:
    from .shape import PERMUTE_DIMS

    axes = (0, *first, *second, *range(1 + len(first) + len(second), x.ndim))
    return PERMUTE_DIMS(x, axes=axes) if axes != tuple(range(x.ndim)) else x


# --- ops without a rule -------------------------------------------------------------------------


def one_by_one(op: Op, size: int, args: Args, mapped: Mapped, attrs: Attrs) -> Tensor:
    """Execute `op` for one example after another: right for every op, slow."""
    from . import creation
    from .joining import stack

    if size:
        outs = [
            op(*(x[k] if m else x for x, m in zip(args, mapped, strict=True)), **attrs)
            for k in range(size)
        ]
        return stack(outs)
    specs = (x.spec.with_shape(x.shape[m:]) for x, m in zip(args, mapped, strict=True))
    out = op.infer(*specs, **attrs)
    return creation.zeros((size, *out.shape), out.dtype)
