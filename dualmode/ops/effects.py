"""Ops that are executed for what they do: print, check, raise. They run in program order.

Their result is an empty tensor that nobody reads. Compiled code calls the NumPy kernel back; a
lower rule says whether that has anything to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.spec import Spec, uint8

from ..errors import AssertionFailed, OutOfRangeError, locate
from ..op import Op, convert
from . import batch, rules

_TOKEN = Spec((0,), uint8)


def _effect_infer(*xs: Spec, **attrs: Any) -> Spec:
    return _TOKEN


def _done() -> np.ndarray[Any, Any]:
    return np.empty(0, np.uint8)


# --- print --------------------------------------------------------------------------------------


class _Stream:
    """Where a print goes: a name of a stream of `sys`, a file's path, a stream, a logger."""

    __slots__ = ("target",)

    def __init__(self, target: Any) -> None:
        standard = {id(sys.stdout): "stdout", id(sys.stderr): "stderr"}
        self.target = standard.get(id(target), "stdout" if target is None else target)
        named = self.target in ("stdout", "stderr") if isinstance(self.target, str) else True
        if not (named or self.target.startswith(_FILE)):
            raise locate(
                ValueError(
                    f"print: file is 'stdout', 'stderr', '{_FILE}PATH', a stream or a function of "
                    f"a text, not {target!r}"
                )
            )

    def write(self, text: str, flush: bool) -> None:
        target = self.target
        if isinstance(target, str) and target.startswith(_FILE):
            with open(target[len(_FILE) :], "a", encoding="utf-8") as file:
                file.write(text)
        elif callable(target):  # a logger ends lines by itself
            target(text.removesuffix("\n"))
        else:
            stream = getattr(sys, target) if isinstance(target, str) else target
            print(text, end="", file=stream, flush=flush)


_FILE = "file://"
STDOUT = _Stream(None)
Show = Callable[[np.ndarray[Any, Any]], str]


def _print_kernel(
    *arrays: Any, texts: tuple[str | Show, ...], stream: _Stream = STDOUT, flush: bool = True
) -> np.ndarray[Any, Any]:
    values = iter(arrays)
    stream.write("".join(t if isinstance(t, str) else t(next(values)) for t in texts), flush)
    return _done()


def _value(summarize: int | None) -> Show:
    if summarize is None:
        return str
    if summarize < 0:
        return partial(np.array2string, threshold=sys.maxsize)
    return partial(np.array2string, threshold=0, edgeitems=summarize)


def _repr(value: np.ndarray[Any, Any]) -> str:
    """As Python prints a tensor."""
    return repr(convert(value))


def _number(value: np.ndarray[Any, Any]) -> str:
    return str(value.item())


class Text:
    """An f-string with traced values: put together when it is printed.

    Attributes:
        parts: texts, and (value, conversion, format) of what stands between braces.
    """

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts

    def __str__(self) -> str:
        return "".join(x if isinstance(x, str) else formatted(x[0], x[1], x[2]) for x in self.parts)


_CONVERSIONS: dict[int, Callable[[Any], Any]] = {ord("r"): repr, ord("s"): str, ord("a"): ascii}


def formatted(value: Any, conversion: int, spec: str) -> str:
    """`{value!conversion:spec}` of an f-string."""
    return format(_CONVERSIONS.get(conversion, lambda x: x)(value), spec)


def _shown_as(conversion: int, spec: str, weak: bool) -> Show:
    return lambda x: formatted(x.item() if weak else convert(x), conversion, spec)


# `texts` holds what to print; functions that make texts of the tensors stand in their places
PRINT = Op("print", infer=_effect_infer, kernel=_print_kernel, effect=True)


class _Words:
    """What a print is made of: texts, and tensors in their places."""

    def __init__(self, show: Show) -> None:
        self.show = show
        self.texts: list[str | Show] = []
        self.tensors: list[Any] = []

    def add(self, x: Any, quoted: bool = False) -> None:
        """Append `x`; strings within structures are `quoted`, as in Python."""
        if isinstance(x, Text):
            for part in x.parts:
                if isinstance(part, str):
                    self.texts.append(part)
                elif hasattr(part[0], "_read"):
                    self.tensors.append(convert(part[0]))
                    self.texts.append(_shown_as(part[1], part[2], self.tensors[-1].weak))
                else:
                    self.texts.append(formatted(*part))
            return
        number = isinstance(x, np.ndarray | np.generic) and x.dtype.kind in _KINDS
        if number or hasattr(x, "_read"):
            tensor = convert(x)
            self.texts.append(_number if tensor.weak else self.show)
            self.tensors.append(tensor)
        elif isinstance(x, dict) and holds_tensors(x):
            self._joined("{", "}", x.items(), keys=True)
        elif isinstance(x, tuple) and hasattr(x, "_fields") and holds_tensors(x):
            fields = zip(x._fields, x, strict=True)  # type: ignore[attr-defined]
            self._joined(f"{type(x).__name__}(", ")", fields, keys=False)
        elif isinstance(x, tuple) and holds_tensors(x):
            self._joined("(", ",)" if len(x) == 1 else ")", x)
        elif isinstance(x, list) and holds_tensors(x):
            self._joined("[", "]", x)
        else:
            self.texts.append(repr(x) if quoted else str(x))

    def _joined(self, start: str, end: str, items: Any, keys: bool | None = None) -> None:
        self.texts.append(start)
        for k, item in enumerate(items):
            if k:
                self.texts.append(", ")
            if keys is not None:
                key, item = item
                self.texts.append(f"{key!r}: " if keys else f"{key}=")
            self.add(item, quoted=True)
        self.texts.append(end)


_KINDS = "biufc"


def holds_tensors(x: Any) -> bool:
    """Whether nested lists, tuples and dicts contain a tensor or variable."""
    if isinstance(x, Text):
        return True
    if isinstance(x, dict):
        x = x.values()
    elif not isinstance(x, list | tuple):
        return hasattr(x, "_read")
    return any(holds_tensors(v) for v in x)


def print_(
    *args: Any,
    sep: str = " ",
    end: str = "\n",
    summarize: int | None = None,
    file: Any = None,
    flush: bool = True,
    output_stream: Any = None,
    name: Any = None,
) -> None:
    """Print values each time the code runs, in a `@dm.function` as well.

    Args:
        args: tensors, variables and arrays print their values, also within lists, tuples and
            dicts; anything else as `str` gives it when the function is traced.
        sep, end: as in Python's print.
        summarize: how many elements to show at each end of every axis; -1 shows all; by default
            NumPy's print options decide.
        file, output_stream: standard output unless given; "stderr", a stream, a function that
            takes the text (as a logger's), or "file://PATH", to append to a file.
        flush: as in Python's print, but by default true.
        name: not used; for TensorFlow's signature.

    Raises:
        ValueError: `file` is another.
    """
    stream = _Stream(file if output_stream is None else output_stream)
    _print(args, sep, end, stream, _value(summarize), flush)


def python_print(
    *args: Any, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
) -> None:
    """Print each time the code runs just what Python's print does of eager tensors."""
    sep, end = " " if sep is None else sep, "\n" if end is None else end
    _print(args, sep, end, _Stream(file), _repr, flush)


def _print(
    args: tuple[Any, ...], sep: str, end: str, stream: _Stream, show: Show, flush: bool
) -> None:
    words = _Words(show)
    for k, x in enumerate(args):
        if k:
            words.texts.append(sep)
        words.add(x)
    words.texts.append(end)
    PRINT(*words.tensors, texts=tuple(words.texts), stream=stream, flush=flush)


# --- assertions ---------------------------------------------------------------------------------


_SHOWN = 3  # offending elements that a message shows


def _assert_kernel(
    holds: np.ndarray[Any, Any],
    *data: np.ndarray[Any, Any],
    message: str,
    summarize: int | None = None,
) -> np.ndarray[Any, Any]:
    if holds.all():
        return _done()
    places = [tuple(map(int, at)) for at in np.argwhere(~holds)]
    shown = places[: _SHOWN if summarize is None else summarize if summarize >= 0 else len(places)]
    found = [_offence(data, holds.shape, at) for at in shown if at or data]
    count = f", {len(places)} of {holds.size} elements" if holds.ndim else ""
    raise AssertionFailed(message + (": " if found and data else "") + ", ".join(found) + count)


def _fails(i: Any, out: Spec, holds: expr.Reader, *data: expr.Reader, **_: Any) -> expr.Expr:
    bound = [expr.Axis(n) for n in holds.spec.shape]
    return expr.apply("not", expr.reduce("and", bound, holds(bound)))


def _offence(
    data: tuple[np.ndarray[Any, Any], ...], shape: tuple[int, ...], at: tuple[int, ...]
) -> str:
    values = " and ".join(str(np.broadcast_to(x, shape)[at]) for x in data)
    return values + (f" at {list(at)}" if at else "")


# raises unless all of a bool tensor holds; `message` and the first offending data say why
ASSERT = Op("assert", infer=_effect_infer, kernel=_assert_kernel, lower=_fails, effect=True)


def check_indices(indices: np.ndarray[Any, Any], *, size: int, name: str) -> None:
    """Raise OutOfRangeError unless all `indices` lie in -size .. size - 1."""
    if indices.size:
        low, high = int(indices.min()), int(indices.max())
        if low < -size or high >= size:
            bad = low if low < -size else high
            raise OutOfRangeError(f"{name}: index {bad} is out of range for an axis of size {size}")


def _check_indices_kernel(
    indices: np.ndarray[Any, Any], size: int, name: str
) -> np.ndarray[Any, Any]:
    check_indices(indices, size=size, name=name)
    return _done()


def _out_of_range(i: Any, out: Spec, indices: expr.Reader, *, size: int, name: str) -> expr.Expr:
    bound = [expr.Axis(n) for n in indices.spec.shape]
    x = indices(bound)
    signed, unsigned = rules.index_types(x.dtype, size)
    if x.dtype.kind == "i":  # -size .. size - 1 becomes 0 .. 2 * size - 1, and all else is beyond
        x = expr.apply("add", expr.cast(x, signed), expr.const(size, signed))
        size *= 2
    bad = expr.apply("ge", expr.cast(x, unsigned), expr.const(size, unsigned))
    return expr.reduce("or", bound, bad)


CHECK_INDICES = Op(
    "check_indices",
    infer=_effect_infer,
    kernel=_check_indices_kernel,
    lower=_out_of_range,
    effect=True,
    batch=batch.elementwise,
)
