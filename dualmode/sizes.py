"""Sizes of traced tensors: integers that note what Python code asks of them.

A graph that was traced at some sizes may be computed anew for others (`relax`), without running the
Python code again. That is right only where the code would have gone the same way: so sizes that it
reads while tracing are `Size`s, which log every comparison and all arithmetic, with the outcome. At
other sizes the arithmetic is done again, and comparisons must have the same outcome.

They pass for int and float, but are no subclasses: C code (an item of a list, a hash, the text in
an f-string, NumPy) reads the number of a subclass without asking, and has to ask these. Such a
number counts by its value: the code is traced for each.
"""

from __future__ import annotations

import math
import operator
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from dualmode_compiler.graph import Site

from . import errors


class Event(NamedTuple):
    """`outcome` is what `operation` gave for `operands`, at the user's line `site`.

    Operations: those in `OPERATIONS`, and "the value", which says that the operand itself counts.
    """

    operation: str
    operands: tuple[Any, ...]
    outcome: Any
    site: Site | None


class _Log(threading.local):
    events: list[Event] | None = None


_log = _Log()


@contextmanager
def recording() -> Iterator[list[Event]]:
    """What sizes are asked inside the block, in this thread, but for inner blocks."""
    outer, events = _log.events, []
    _log.events = events
    try:
        yield events
    finally:
        _log.events = outer


def replay(events: list[Event]) -> None:
    """Note what a trace that is used inside this one has asked."""
    if _log.events is not None:
        _log.events += events


def of(shape: tuple[int, ...]) -> Any:
    """The sizes of a traced tensor, as Python code sees them."""
    return shape if _log.events is None else tuple(map(Size, shape))


def need_value(n: Any) -> int:
    """`n` as a plain number, on which the code depends in a way that is not followed."""
    return _read(n)


def whole(x: Any) -> Any:
    """`int(x)`, which leaves a size what it is."""
    return x if type(x) is Size else int(x)


def length(x: Any) -> Any:
    """`len(x)`, which is still a size where `x` is a traced tensor."""
    shape = getattr(x, "shape", None)
    return shape[0] if type(shape) is tuple and shape and type(shape[0]) is Size else len(x)


def floating(x: Any = 0.0) -> float:
    """`float(x)`, which still follows from sizes where `x` does."""
    return x * 1.0 if type(x) in PYTHON else float(x)


def integer(*args: Any, **base: Any) -> Any:
    """`int(x)`, which still follows from sizes where `x` does."""
    x: Any = args[0] if len(args) == 1 and not base else None
    if type(x) is Size:
        return x
    return x.__trunc__() if type(x) is _Ratio else int(*args, **base)


def _note(operation: str, operands: tuple[Any, ...], outcome: Any) -> Any:
    events = _log.events
    if events is not None:
        site = None if operation in _PLAIN_LINES else errors.user_site()
        events.append(Event(operation, tuple(map(plain, operands)), plain(outcome), site))
    return outcome


def plain(x: Any) -> Any:
    """`x`, or the Python number that it stands for."""
    return x._value if type(x) in PYTHON else x


def index(x: Any) -> Any:
    """`operator.index(x)`, which leaves a size what it is."""
    return x if type(x) is Size else operator.index(x)


def follow(operation: str, *operands: Any) -> Any:
    """The outcome of one of `OPERATIONS`, which is still a size where it follows from sizes."""
    outcome = OPERATIONS[operation](*map(plain, operands))
    if _log.events is None or not any(type(x) in PYTHON for x in operands):
        return outcome
    return _wrap(_note(operation, operands, outcome))


def _noted(name: str, function: Callable[..., Any]) -> Any:
    def method(self: Any, *others: Any) -> Any:
        if not all(type(x) in _NUMBERS for x in others):
            if not isinstance(others[0], bool | int | float | complex):
                return NotImplemented
            return function(_read(self), *others)  # a kind of number that is not followed
        outcome = function(plain(self), *map(plain, others))
        return _wrap(_note(name, (self, *others), outcome))

    return method


def _wrap(x: Any) -> Any:
    if type(x) is int:
        return Size(x)
    return _Ratio(x) if type(x) is float else x


def _read(x: Any) -> Any:
    """The number, which is used in a way that is not followed."""
    value = plain(x)
    return _note("the value", (value,), value)


def _reading(function: Callable[..., Any]) -> Any:
    return lambda self, *args: function(_read(self), *args)


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
_BITWISE = ("and_", "or_", "xor", "lshift", "rshift")
_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
_UNARY: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("neg", "pos", "abs", "invert")},
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "trunc": math.trunc,
    "bool": bool,
}
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in (*_COMPARISONS, *_BINARY, *_BITWISE)},
    **_UNARY,
}
OPERATIONS |= {
    f"r{name}": lambda a, b, f=OPERATIONS[name]: f(b, a) for name in (*_BINARY, *_BITWISE)
}
OPERATIONS |= {  # further ones that the engine asks for
    "range length": lambda start, stop, step: len(range(start, stop, step)),
    "slice start": lambda n, *bounds: range(n)[slice(*bounds)].start,
    "slice stop": lambda n, *bounds: range(n)[slice(*bounds)].stop,
    "slice length": lambda n, *bounds: len(range(n)[slice(*bounds)]),
}
_PLAIN_LINES = frozenset({"add", "radd", "sub", "rsub", "mul", "rmul", "neg", "pos"})


class _Number:
    """What passes for a Python number."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    for _name in _COMPARISONS:
        locals()[f"__{_name}__"] = _noted(_name, OPERATIONS[_name])
    for _name in (*_BINARY, *_BITWISE):
        _method = _name.rstrip("_")
        locals()[f"__{_method}__"] = _noted(_name, OPERATIONS[_name])
        locals()[f"__r{_method}__"] = _noted(f"r{_name}", OPERATIONS[f"r{_name}"])
    for _name, _function in _UNARY.items():
        locals()[f"__{_name}__"] = _noted(_name, _function)
    for _function in (int, float, complex, hash, repr, str, format):
        locals()[f"__{_function.__name__}__"] = _reading(_function)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self.__class__, name):
            raise AttributeError(f"{self.__class__.__name__} has no attribute {name!r}")
        return getattr(_read(self), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(_read(self), dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        inputs = tuple(_read(x) if isinstance(x, _Number) else x for x in inputs)
        return getattr(ufunc, method)(*inputs, **keywords)

    def __reduce__(self) -> Any:
        value = _read(self)
        return type(value), (value,)


class Size(_Number):
    """The size of an axis of a traced tensor, or an integer that follows from sizes."""

    __slots__ = ()
    __class__ = property(lambda _: int)  # type: ignore[assignment]

    def __index__(self) -> int:
        if errors.is_internal(sys._getframe(1).f_code.co_filename):
            return self._value  # what the engine makes of it is in the graph
        return _read(self)


class _Ratio(_Number):
    """A quotient, or another floating-point number, that follows from sizes."""

    __slots__ = ()
    __class__ = property(lambda _: float)  # type: ignore[assignment]


_NUMBERS = {bool, int, float, Size, _Ratio}
PYTHON = {Size: int, _Ratio: float}
"""The Python types that these stand for."""
