"""Assertions on tensors: they hold in both modes, inside a `@dm.function` on every call.

What depends on shapes alone is checked at once, while a function is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import AssertionFailed, ShapeError
from .op import convert, promote
from .ops import logic
from .ops.effects import ASSERT

if TYPE_CHECKING:
    from .op import Op
    from .tensor import Tensor


def assert_(condition: Any, message: str = "assertion failed", *data: Any) -> None:
    """Raise unless all of `condition` is true.

    Args:
        condition: a bool tensor.
        message: what the error says.
        data: tensors that broadcast to the condition's shape; the error shows their elements at the
            first place where it is false.

    Raises:
        AssertionFailed (an AssertionError).
    """
    holds = logic.cast(convert(condition), "bool")
    ASSERT(holds, *(convert(x) for x in data), message=message)


def _compare(relation: Op, words: str, x: Any, y: Any, message: str | None) -> None:
    x, y = promote(x, y)
    text = f"{words} expected" if message is None else f"{message}: {words} expected"
    ASSERT(relation(x, y), x, y, message=text)


def assert_equal(x: Any, y: Any, message: str | None = None) -> None:
    """Raise AssertionFailed unless x == y for all elements, broadcast."""
    _compare(logic.EQUAL, "x == y", x, y, message)


def assert_less(x: Any, y: Any, message: str | None = None) -> None:
    """Raise AssertionFailed unless x < y for all elements, broadcast."""
    _compare(logic.LESS, "x < y", x, y, message)


def assert_less_equal(x: Any, y: Any, message: str | None = None) -> None:
    """Raise AssertionFailed unless x <= y for all elements, broadcast."""
    _compare(logic.LESS_EQUAL, "x <= y", x, y, message)


def assert_greater(x: Any, y: Any, message: str | None = None) -> None:
    """Raise AssertionFailed unless x > y for all elements, broadcast."""
    _compare(logic.GREATER, "x > y", x, y, message)


def assert_all_finite(x: Any, message: str = "a tensor holds NaN or infinity") -> None:
    """Raise AssertionFailed if an element of `x` is NaN or infinite."""
    x = convert(x)
    ASSERT(logic.isfinite(x), x, message=message)


def check_numerics(x: Any, message: str = "a tensor holds NaN or infinity") -> Tensor:
    """`x`; raises AssertionFailed if an element is NaN or infinite."""
    x = convert(x)
    assert_all_finite(x, message)
    return x


def assert_rank(x: Any, rank: int, message: str | None = None) -> None:
    """Raise ShapeError unless `x` has `rank` axes."""
    x = convert(x)
    if x.ndim != rank:
        start = "assert_rank" if message is None else message
        raise ShapeError(f"{start}: rank {rank} expected, got {x.spec}")


def assert_shapes(shapes: Sequence[tuple[Any, Sequence[int | str | None]]]) -> None:
    """Check the shapes of several tensors at once.

    Args:
        shapes: (tensor, sizes) pairs. A size is a number, None for any, or a name: equal names
            stand for equal sizes in all the tensors.

    Raises:
        ShapeError: a shape does not fit; the message names the tensor by its position.
    """
    known: dict[str, int] = {}
    for k, (x, sizes) in enumerate(shapes):
        x = convert(x)
        fits = x.ndim == len(sizes)
        for n, size in zip(x.shape, sizes, strict=False):
            expected = known.setdefault(size, n) if isinstance(size, str) else size
            fits = fits and expected in (n, None)
        if not fits:
            names = ", ".join(f"{name}={n}" for name, n in known.items())
            given = f" with {names}" if names else ""
            raise ShapeError(f"assert_shapes: tensor {k} is {x.spec}, not {list(sizes)}{given}")


__all__ = [
    "AssertionFailed",
    "assert_",
    "assert_all_finite",
    "assert_equal",
    "assert_greater",
    "assert_less",
    "assert_less_equal",
    "assert_rank",
    "assert_shapes",
    "check_numerics",
]
