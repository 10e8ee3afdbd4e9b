"""What is called as it is: the engine, Python's own library and installed packages."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

from .. import errors
from .source import ByCode

F = TypeVar("F", bound=Callable[..., Any])

_asked: ByCode[str] = ByCode()  # not to be converted, or to be converted although installed

# why the code of a function runs as it was written
unconverted: ByCode[str] = ByCode()
kept: ByCode[str] = ByCode()  # by one @dm.function, others may convert it


def is_engine(code: CodeType) -> bool:
    """Whether this is code of the engine."""
    return code.co_filename.startswith(errors.ENGINE)


def is_foreign(code: CodeType) -> bool:
    """Whether a function with this code is called as it is."""
    asked = _asked.get(code)
    return asked == "keep" if asked else errors.is_foreign(code.co_filename)


def do_not_convert(function: F) -> F:
    """Mark a function, as a decorator, to be called as it is, also in converted code."""
    return _mark(function, "keep", "it is marked by do_not_convert")


def convert(function: F) -> F:
    """Mark a function of an installed package, as a decorator, to be converted like the user's."""
    return _mark(function, "convert", None)


def _mark(function: F, how: str, why: str | None) -> F:
    inner: Any = function
    while not hasattr(inner, "__code__"):
        inner = getattr(inner, "python_function", None) or getattr(inner, "__func__", None)
        inner = inner or getattr(function, "func", None)
        if inner is None:
            raise TypeError(f"autograph: expected a Python function, got {function!r}")
    _asked.set(inner.__code__, how)
    if why:
        unconverted.set(inner.__code__, why)
    return function


def why(code: CodeType) -> str | None:
    """Why the control flow of a function's code is not converted; None where it is."""
    reason = unconverted.get(code) or kept.get(code)
    if reason is None and is_foreign(code):
        reason = "it belongs to an installed package; mark it by dm.autograph.convert"
    if reason is None and code.co_name in _COMPREHENSIONS:
        reason = "comprehensions stay Python's; write a for statement"
    return reason


_COMPREHENSIONS = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")


errors.why_unconverted = why
