"""What is native: tensors whose values are not known while tracing, and code that is traced as a
branch or a loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dualmode_compiler.graph import Node

from .. import control
from ..errors import ShapeError
from ..ops import conversion
from ..tensor import Operators, Tensor
from ..tracer import current_tracer


class _Depth(threading.local):
    value = 0
    unrolled = 0


_depth = _Depth()


def depth() -> int:
    """How many native branches and loops are around the code that is being traced."""
    return _depth.value


@contextmanager
def inside() -> Iterator[None]:
    """While the code of a native branch or loop is traced."""
    _depth.value += 1
    try:
        yield
    finally:
        _depth.value -= 1


@contextmanager
def unrolled() -> Iterator[None]:
    """While iterations are traced one by one, of a loop that may turn native later."""
    _depth.unrolled += 1
    try:
        yield
    finally:
        _depth.unrolled -= 1


def prints() -> bool:
    """Whether what is printed now is printed each time the code runs, whatever it is."""
    return _depth.value > 0 or _depth.unrolled > 0


def is_traced(x: Any) -> bool:
    """Whether `x` is a tensor or variable of the function that is being traced."""
    if not isinstance(x, Operators) or current_tracer() is None:
        return False
    return not isinstance(x, Tensor) or isinstance(x._value, Node)


def is_unknown(x: Any) -> bool:
    """Whether `x` is a traced tensor that depends on more than Python numbers.

    The values of Python numbers that are arguments can be asked for; the trace then holds for
    these values only.
    """
    if not is_traced(x):
        return False
    tensor = x._read()
    if not tensor.weak or tensor.ndim:
        return not tensor.weak
    return control.known_scalar(tensor, "the value") is None


def condition(x: Any, what: str) -> Tensor | None:
    """`x` as the condition of a native branch or loop; None where its truth is known.

    Raises:
        ShapeError: it is no scalar.
    """
    if not is_unknown(x):
        return None
    tensor = x._read()
    if tensor.ndim:
        raise ShapeError(
            f"{what} is {tensor.spec}, not a scalar; reduce it by dm.all, dm.any or an index"
        )
    return tensor if tensor.dtype.kind == "b" else conversion.cast(tensor, "bool")
