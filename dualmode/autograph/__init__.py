"""Python's control flow on tensors, in functions that are traced.

`@dm.function` converts `if`, `while`, `for`, `break`, `continue`, early `return`, `and`, `or`,
`not`, conditional expressions, `assert`, `raise` and `print`, in the function and in what it calls.
Where they depend on traced tensors they become native branches and loops; otherwise they are
Python's own.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from types import FunctionType
from typing import Any

from ..errors import ConversionError
from . import conversion
from .allowed import convert, do_not_convert
from .calls import called
from .passes import Unsupported
from .source import SourceError

__all__ = [
    "called",
    "convert",
    "do_not_convert",
    "set_loop_options",
    "to_code",
]


def to_code(function: Any) -> str:
    """The source of the converted form of a function, to read.

    Raises:
        TypeError: no Python function.
        ConversionError: it cannot be converted; says why.
    """
    inner: Any = getattr(function, "python_function", function)
    inner = getattr(inner, "__func__", inner)
    if not isinstance(inner, FunctionType):
        raise TypeError(f"to_code: expected a Python function, got {inner!r}")
    try:
        return ast.unparse(conversion.converted(inner).tree)
    except (SourceError, Unsupported) as error:
        raise ConversionError(f"to_code: {inner.__name__} is not converted: {error}") from None


def set_loop_options(
    *, maximum_iterations: int | None = None, shape_invariants: Sequence[Any] | None = None
) -> None:
    """Options of the native loop in whose body this stands. Elsewhere it does nothing.

    Args:
        maximum_iterations: the native loop ends after as many, if not before.
        shape_invariants: declares (variable, shape) pairs whose shape changes in the loop. It must
            have a known number of iterations, and is unrolled while tracing.
    """
