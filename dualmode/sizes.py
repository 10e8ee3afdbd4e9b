"""Sizes of traced tensors: integers that note what Python code asks of them.

A graph that was traced at some sizes may be computed anew for others (`relax`), without running the
Python code again. That is right only where the code would have gone the same way: so sizes that it
reads while tracing are `Size`s, which log every comparison, and arithmetic that is not linear, with
the outcome. At other sizes, the same outcome has to follow.

What Python does in C without asking a subclass of int is not seen: an item of a list by a size, a
float on the left of an operator (`0.5 < n`). Traces at several sizes have to be alike all the same.
"""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

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


def of(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes of a traced tensor, as Python code sees them."""
    return shape if _log.events is None else tuple(map(Size, shape))


def need_value(n: int) -> int:
    """`n` as a plain number, on which the code depends in a way that is not followed."""
    n = int.__index__(n)
    _note("the value", (n,), n)
    return n


def whole(x: Any) -> int:
    """`int(x)`, which leaves a size what it is."""
    return x if type(x) is Size else int(x)


def length(x: Any) -> int:
    """`len(x)`, which is still a size where `x` is a traced tensor."""
    shape = getattr(x, "shape", None)
    return shape[0] if type(shape) is tuple and shape and type(shape[0]) is Size else len(x)


def floating(x: Any = 0.0) -> float:
    """`float(x)`, which still follows from sizes where `x` does."""
    return x * 1.0 if type(x) in PYTHON else float(x)


def integer(*args: Any, **base: Any) -> int:
    """`int(x)`, which still follows from sizes where `x` does."""
    x = args[0] if len(args) == 1 and not base else None
    if type(x) is Size:
        return x
    return Size(int(x)) if type(x) is _Ratio else int(*args, **base)


def _note(operation: str, operands: tuple[Any, ...], outcome: Any) -> Any:
    events = _log.events
    if events is not None:
        site = errors.user_site()
        events.append(Event(operation, tuple(map(plain, operands)), plain(outcome), site))
    return outcome


def plain(x: Any) -> Any:
    """`x`, or the Python number that it stands for."""
    if isinstance(x, Size):
        return int.__index__(x)
    return float.__add__(x, 0.0) if isinstance(x, _Ratio) else x


def _linear(function: Callable[..., Any], wrapper: Any = None) -> Any:
    """An operation that keeps linear what is linear: nothing to note."""

    def method(self: Any, *others: Any) -> Any:
        return (wrapper or _wrap)(function(plain(self), *map(plain, others)))

    return method


def _noted(name: str, function: Callable[..., Any]) -> Any:
    def method(self: Any, *others: Any) -> Any:
        outcome = function(plain(self), *map(plain, others))
        if outcome is not NotImplemented:
            _note(name, (self, *others), outcome)
        return _wrap(outcome)

    return method


def _wrap(x: Any) -> Any:
    if type(x) is int:
        return Size(x)
    return _Ratio(x) if type(x) is float else x


def _number(function: Callable[..., Any], reverse: bool = False) -> Callable[..., Any]:
    """`function` where the other operand is a Python number."""

    def apply(a: Any, b: Any) -> Any:
        if type(b) is not int and type(b) is not float:
            return NotImplemented
        return function(b, a) if reverse else function(a, b)

    return apply


_REVERSIBLE = ("floordiv", "mod", "pow", "and_", "or_", "xor", "lshift", "rshift")
OPERATIONS: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in ("lt", "le", "gt", "ge", "eq", "ne", "mul", "truediv", *_REVERSIBLE)
} | {"floor": math.floor, "ceil": math.ceil, "round": round, "int": int, "bool": bool, "abs": abs}
OPERATIONS |= {
    f"r{name}": lambda a, b, f=OPERATIONS[name]: f(b, a) for name in (*_REVERSIBLE, "truediv")
}


class _Noting:
    """The operations of `Size` and of quotients of sizes."""

    __slots__ = ()

    for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
        locals()[f"__{_name}__"] = _noted(_name, _number(OPERATIONS[_name]))
    for _name in _REVERSIBLE:
        _method = _name.rstrip("_")
        locals()[f"__{_method}__"] = _noted(_name, _number(OPERATIONS[_name]))
        locals()[f"__r{_method}__"] = _noted(f"r{_name}", _number(OPERATIONS[f"r{_name}"]))
    for _name in ("add", "sub"):
        locals()[f"__{_name}__"] = _linear(_number(getattr(operator, _name)))
        locals()[f"__r{_name}__"] = _linear(_number(getattr(operator, _name), reverse=True))
    __neg__ = _linear(operator.neg)
    __pos__ = _linear(operator.pos)
    __abs__ = _noted("abs", abs)
    __floor__ = _noted("floor", math.floor)
    __ceil__ = _noted("ceil", math.ceil)
    __round__ = _noted("round", round)
    __trunc__ = _noted("int", int)

    def __mul__(self, other: Any) -> Any:
        if type(other) not in _NUMBERS:
            return NotImplemented
        out = _wrap(plain(self) * plain(other))
        if type(other) is Size or type(other) is _Ratio:
            _note("mul", (self, other), out)
        return out

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if type(other) not in _NUMBERS:
            return NotImplemented
        out = _wrap(plain(self) / plain(other))
        if type(other) is Size or type(other) is _Ratio:
            _note("truediv", (self, other), out)
        return out

    def __rtruediv__(self, other: Any) -> Any:
        if type(other) not in _NUMBERS:
            return NotImplemented
        return _note("rtruediv", (self, other), _wrap(plain(other) / plain(self)))

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __bool__(self) -> bool:
        return _note("bool", (self,), bool(plain(self)))

    def __float__(self) -> float:
        value = plain(self)
        _note("the value", (value,), value)
        return float(value)

    def __int__(self) -> int:
        value = plain(self)
        if type(value) is int:
            _note("the value", (value,), value)
            return value
        return _note("int", (value,), int(value))

    def __hash__(self) -> int:
        value = plain(self)
        _note("the value", (value,), value)
        return hash(value)

    def __reduce__(self) -> Any:
        value = plain(self)
        return type(value), (value,)


class Size(_Noting, int):
    """The size of an axis of a traced tensor, or what follows from sizes by arithmetic."""

    __slots__ = ()

    def bit_length(self) -> int:
        return need_value(self).bit_length()


class _Ratio(_Noting, float):
    """A quotient, or another floating-point number, that follows from sizes."""

    __slots__ = ()


_NUMBERS = {int, float, Size, _Ratio}
PYTHON = {Size: int, _Ratio: float}
"""The Python types that these stand for."""
