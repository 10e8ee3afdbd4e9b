"""Assertions on tensors: they hold in both modes, inside a `@dm.function` on every call.

Names and meaning are TensorFlow 2's. Those that compare values raise AssertionFailed, which is an
AssertionError; its message shows the first elements for which they do not hold (three unless
`summarize` says how many; -1: all). What depends on shapes and dtypes alone is checked at once,
while a function is traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler.spec import dtype as as_dtype

from . import config
from . import op as op_module
from .errors import AssertionFailed, DTypeError, ShapeError
from .op import Op, convert, dtype_of, promote
from .ops import conversion, elementwise, logic
from .ops.effects import ASSERT

if TYPE_CHECKING:
    from dualmode_compiler.spec import DType

    from .tensor import Tensor


def assert_(condition: Any, message: str = "assertion failed", *data: Any) -> None:
    """Raise unless all of `condition` is true.

    Args:
        condition: a bool tensor.
        message: what the error says.
        data: tensors that broadcast to the condition's shape; the error shows their elements at the
            first places where it is false.

    Raises:
        AssertionFailed (an AssertionError).
    """
    holds = conversion.cast(convert(condition), "bool")
    ASSERT(holds, *(convert(x) for x in data), message=message)


# --- two tensors ----------------------------------------------------------------------------------


def _compare(
    relation: Op, words: str, x: Any, y: Any, message: str | None, summarize: int | None
) -> None:
    x, y = promote(x, y)
    _check(relation(x, y), words, (x, y), message, summarize)


def _check(
    holds: Tensor, words: str, data: Sequence[Any], message: str | None, summarize: int | None
) -> None:
    text = f"{words} expected" if message is None else f"{message}: {words} expected"
    ASSERT(holds, *data, message=text, summarize=summarize)


def assert_equal(
    x: Any, y: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x == y for all elements, broadcast."""
    _compare(logic.EQUAL, "x == y", x, y, message, summarize)


def assert_none_equal(
    x: Any, y: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x != y for all elements, broadcast."""
    _compare(logic.NOT_EQUAL, "x != y", x, y, message, summarize)


def assert_less(
    x: Any, y: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x < y for all elements, broadcast."""
    _compare(logic.LESS, "x < y", x, y, message, summarize)


def assert_less_equal(
    x: Any, y: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x <= y for all elements, broadcast."""
    _compare(logic.LESS_EQUAL, "x <= y", x, y, message, summarize)


def assert_greater(
    x: Any, y: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x > y for all elements, broadcast."""
    _compare(logic.GREATER, "x > y", x, y, message, summarize)


def assert_greater_equal(
    x: Any, y: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x >= y for all elements, broadcast."""
    _compare(logic.GREATER_EQUAL, "x >= y", x, y, message, summarize)


def assert_near(
    x: Any,
    y: Any,
    rtol: float | None = None,
    atol: float | None = None,
    message: str | None = None,
    summarize: int | None = None,
    name: Any = None,
) -> None:
    """Raise AssertionFailed unless |x - y| <= atol + rtol |y| for all elements, broadcast.

    Args:
        x, y: of floating, complex or integer dtypes.
        rtol, atol: relative and absolute tolerance; ten times the spacing of the dtype's numbers
            at 1 unless given, for integers 0.
    """
    x, y = promote(x, y)
    precision = 10 * _epsilon(x.dtype)
    rtol = precision if rtol is None else rtol
    atol = precision if atol is None else atol
    distance = elementwise.abs(elementwise.subtract(x, y))
    bound = elementwise.add(elementwise.multiply(elementwise.abs(y), rtol), atol)
    words = f"|x - y| <= {atol:.3g} + {rtol:.3g} |y|"
    _check(logic.less_equal(distance, bound), words, (x, y), message, summarize)


def _epsilon(dtype: DType) -> float:
    """The spacing of the numbers of `dtype` at 1; 0 for integers."""
    if dtype.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(dtype.numpy).eps) if dtype.is_inexact else 0.0


# --- one tensor -----------------------------------------------------------------------------------


def _against_zero(
    relation: Op, words: str, x: Any, message: str | None, summarize: int | None
) -> None:
    x = convert(x)
    x, zero = promote(x, 0)
    _check(relation(x, zero), words, (x,), message, summarize)


def assert_positive(
    x: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x > 0 for all elements."""
    _against_zero(logic.GREATER, "x > 0", x, message, summarize)


def assert_negative(
    x: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x < 0 for all elements."""
    _against_zero(logic.LESS, "x < 0", x, message, summarize)


def assert_non_negative(
    x: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x >= 0 for all elements."""
    _against_zero(logic.GREATER_EQUAL, "x >= 0", x, message, summarize)


def assert_non_positive(
    x: Any, message: str | None = None, summarize: int | None = None, name: Any = None
) -> None:
    """Raise AssertionFailed unless x <= 0 for all elements."""
    _against_zero(logic.LESS_EQUAL, "x <= 0", x, message, summarize)


def assert_all_finite(
    x: Any, message: str = "a tensor holds NaN or infinity", name: Any = None
) -> None:
    """Raise AssertionFailed if an element of `x` is NaN or infinite."""
    x = convert(x)
    ASSERT(logic.isfinite(x), x, message=message)


def check_numerics(
    x: Any, message: str = "a tensor holds NaN or infinity", name: Any = None
) -> Tensor:
    """`x`; raises AssertionFailed if an element is NaN or infinite."""
    x = convert(x)
    assert_all_finite(x, message)
    return x


# --- shapes and dtypes ----------------------------------------------------------------------------


def _starts(name: str, message: str | None) -> str:
    return name if message is None else message


def assert_rank(x: Any, rank: int, message: str | None = None, name: Any = None) -> None:
    """Raise ShapeError unless `x` has `rank` axes."""
    assert_rank_in(x, (rank,), _starts("assert_rank", message))


def assert_rank_at_least(x: Any, rank: int, message: str | None = None, name: Any = None) -> None:
    """Raise ShapeError unless `x` has `rank` axes or more."""
    x = convert(x)
    if x.ndim < rank:
        start = _starts("assert_rank_at_least", message)
        raise ShapeError(f"{start}: rank {rank} or more expected, got {x.spec}")


def assert_rank_in(
    x: Any, ranks: Iterable[int], message: str | None = None, name: Any = None
) -> None:
    """Raise ShapeError unless the number of axes of `x` is one of `ranks`."""
    x, ranks = convert(x), tuple(ranks)
    if x.ndim not in ranks:
        start, wanted = _starts("assert_rank_in", message), " or ".join(map(str, ranks))
        raise ShapeError(f"{start}: rank {wanted} expected, got {x.spec}")


def assert_scalar(x: Any, message: str | None = None, name: Any = None) -> Tensor:
    """`x` as a tensor; raises ShapeError unless it has no axes."""
    x = convert(x)
    assert_rank_in(x, (0,), _starts("assert_scalar", message))
    return x


def assert_shapes(
    shapes: Mapping[Any, Sequence[Any]] | Sequence[tuple[Any, Sequence[Any]]],
    data: Sequence[Any] = (),
    summarize: int | None = None,
    message: str | None = None,
    name: Any = None,
) -> None:
    """Check the shapes of several tensors at once.

    Args:
        shapes: (tensor, sizes) pairs, or a dict of them. A size is a number, None for any, or a
            name: equal names stand for equal sizes in all the tensors. `...` at the start stands
            for any number of axes.
        data, summarize, name: not used; for TensorFlow's signature.
        message: what the error starts with.

    Raises:
        ShapeError: a shape does not fit; the message names the tensor by its position.
    """
    known: dict[str, int] = {}
    pairs = shapes.items() if isinstance(shapes, Mapping) else shapes
    for k, (x, sizes) in enumerate(pairs):
        x, sizes = convert(x), tuple(sizes)
        shape, wanted = x.shape, sizes
        if sizes[:1] == (...,):
            wanted = sizes[1:]
            shape = x.shape[max(0, x.ndim - len(wanted)) :]
        fits = len(shape) == len(wanted)
        for n, size in zip(shape, wanted, strict=False):
            expected = known.setdefault(size, n) if isinstance(size, str) else size
            fits = fits and expected in (n, None)
        if not fits:
            names = ", ".join(f"{name}={n}" for name, n in known.items())
            given = f" with {names}" if names else ""
            listed = ", ".join("..." if s is ... else repr(s) for s in sizes)
            start = _starts("assert_shapes", message)
            raise ShapeError(f"{start}: tensor {k} is {x.spec}, not [{listed}]{given}")


def assert_type(tensor: Any, tf_type: Any, message: str | None = None, name: Any = None) -> None:
    """Raise DTypeError unless the dtype of `tensor` is `tf_type`."""
    found, wanted = dtype_of(tensor), as_dtype(tf_type)
    if found is not wanted:
        raise DTypeError(f"{_starts('assert_type', message)}: {wanted} expected, got {found}")


def assert_integer(x: Any, message: str | None = None, name: Any = None) -> None:
    """Raise DTypeError unless `x` is of an integer dtype."""
    found = dtype_of(x)
    if not found.is_integer:
        raise DTypeError(
            f"{_starts('assert_integer', message)}: an integer dtype expected, got {found}"
        )


def assert_same_float_dtype(tensors: Sequence[Any] | None = None, dtype: Any = None) -> DType:
    """The one floating dtype of all `tensors`: `dtype` if that is given, float32 if none is.

    Raises:
        DTypeError: it is not the same, or not floating.
    """
    wanted = None if dtype is None else as_dtype(dtype)
    for k, x in enumerate(tensors or ()):
        found = dtype_of(x)
        wanted = wanted or found
        if found is not wanted:
            raise DTypeError(f"assert_same_float_dtype: tensor {k} is {found}, not {wanted}")
    wanted = wanted or as_dtype(None)
    if not wanted.is_floating:
        raise DTypeError(f"assert_same_float_dtype: {wanted} is not a floating dtype")
    return wanted


# --- every op -------------------------------------------------------------------------------------

_plain_call: Callable[..., Any] = Op.__call__


def _checked_call(self: Op, *args: Any, **attrs: Any) -> Any:
    out = _plain_call(self, *args, **attrs)
    if not self.effect and out.dtype.is_inexact:
        with op_module.no_tapes():
            finite = _plain_call(logic.ISFINITE, out)
            _plain_call(ASSERT, finite, out, message=f"{self.name}: a result is NaN or infinite")
    return out


def enable_check_numerics() -> None:
    """From now on, raise AssertionFailed when any op's result is NaN or infinite, with its line.

    Functions that are traced meanwhile keep the checks; those traced before have none. It is slow:
    for finding where a NaN comes from.
    """
    if Op.__call__ is not _checked_call:
        Op.__call__ = _checked_call
        config.interpreted.append(None)  # so that every op goes through it


def disable_check_numerics() -> None:
    """End what `enable_check_numerics` began."""
    if Op.__call__ is _checked_call:
        Op.__call__ = _plain_call
        config.interpreted.pop()


__all__ = [
    "AssertionFailed",
    "assert_",
    "assert_all_finite",
    "assert_equal",
    "assert_greater",
    "assert_greater_equal",
    "assert_integer",
    "assert_less",
    "assert_less_equal",
    "assert_near",
    "assert_negative",
    "assert_non_negative",
    "assert_non_positive",
    "assert_none_equal",
    "assert_positive",
    "assert_rank",
    "assert_rank_at_least",
    "assert_rank_in",
    "assert_same_float_dtype",
    "assert_scalar",
    "assert_shapes",
    "assert_type",
    "check_numerics",
    "disable_check_numerics",
    "enable_check_numerics",
]
