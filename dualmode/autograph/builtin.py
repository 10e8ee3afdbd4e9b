"""Python's builtin functions on traced tensors."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Callable
from typing import Any

from .. import errors, sizes
from ..errors import SideEffectWarning, locate
from ..ops import effects
from . import elements, iterables, native

_MADE_ONCE = (
    "print: a text was made of a tensor once, while tracing, when that had no value; give the "
    "tensor to print by itself or in an f-string within the call"
)


def _print(*values: Any, file: Any = None, **rest: Any) -> None:
    if native.prints() or effects.holds_tensors(values):
        if builtins.any(isinstance(x, str) and "TracedTensor(" in x for x in values):
            site = errors.user_site() or ("<unknown>", 1)
            warnings.warn_explicit(_MADE_ONCE, SideEffectWarning, *site)
        effects.python_print(*values, file=file, **rest)
    else:
        builtins.print(*values, file=file, **rest)


def _range(*args: Any) -> Any:
    if builtins.any(map(native.is_unknown, args)):
        return iterables.Range(*args, python=True)
    return builtins.range(*args)


def _enumerate(iterable: Any, start: Any = 0) -> Any:
    if iterables.is_native(iterable) or elements.is_dataset(iterable):
        return iterables.Enumerated(iterable, start)
    return builtins.enumerate(iterable, start)


def _refuse_datasets(name: str, instead: str, *parts: Any) -> None:
    """Python would go through a dataset once, while tracing."""
    if builtins.any(map(elements.is_dataset, parts)):
        raise locate(TypeError(f"{name}() of a dataset in a @dm.function; use {instead}"))


def _zip(*parts: Any, strict: bool = False) -> Any:
    _refuse_datasets("zip", "dm.data.Dataset.zip(...)", *parts)
    if parts and builtins.all(map(iterables.is_native, parts)):
        return iterables.Zipped(parts, strict)
    return builtins.zip(*parts, strict=strict)


def _extreme(name: str) -> Callable[..., Any]:
    plain = getattr(builtins, name)

    def extreme(*args: Any, **keywords: Any) -> Any:
        values = args[0] if len(args) == 1 and isinstance(args[0], list | tuple) else args
        if keywords or len(values) < 2 or not builtins.any(map(native.is_unknown, values)):
            return plain(*args, **keywords)
        from ..ops import logic

        wins = logic.less if name == "min" else logic.greater
        out = values[0]
        for x in values[1:]:
            out = logic.where(wins(x, out), x, out)
        return out

    return extreme


overrides: dict[int, Callable[..., Any]] = {
    id(builtins.print): _print,
    id(builtins.len): sizes.length,
    id(builtins.int): sizes.integer,
    id(builtins.float): sizes.floating,
    id(builtins.range): _range,
    id(builtins.enumerate): _enumerate,
    id(builtins.zip): _zip,
    id(builtins.max): _extreme("max"),
    id(builtins.min): _extreme("min"),
}
