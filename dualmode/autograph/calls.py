"""Calls in converted code: what they call is converted as well."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CellType, FunctionType, MethodType
from typing import Any

from .. import control
from ..errors import ConversionError
from ..host import numpy_function, py_function
from ..tracer import current_tracer
from . import allowed, analysis, conversion, source
from .allowed import kept, unconverted
from .passes import Unsupported
from .source import SourceError


def converted_call(f: Any, args: tuple[Any, ...], keywords: dict[str, Any] | None) -> Any:
    """`f(*args, **keywords)`, where `f` follows its control flow on traced tensors."""
    if current_tracer() is not None:
        f = called(f)
        if _calls_back(f):
            wanted = callable if _takes_functions(f) else _is_function
            args = tuple([called(x) if wanted(x) else x for x in args])
            if keywords:
                keywords = {k: called(x) if wanted(x) else x for k, x in keywords.items()}
    return f(*args, **keywords) if keywords else f(*args)


_FUNCTIONS = (FunctionType, MethodType, functools.partial)
_LATER = (py_function, numpy_function)
_CALLERS = (map, filter, sorted, functools.reduce)


def _is_function(x: Any) -> bool:
    return type(x) in _FUNCTIONS


def _takes_functions(f: Any) -> bool:
    """Whether all callable arguments of `f` are there to be called."""
    return getattr(f, "__module__", None) in (control.__name__, "dualmode.vmap")


def _calls_back(f: Any) -> bool:
    """Whether `f`, of Python or the engine, calls functions that it is given while tracing."""
    if type(f) is FunctionType:
        return allowed.is_engine(f.__code__) and f not in _LATER
    return any(f is caller for caller in _CALLERS)


def called(f: Any) -> Callable[..., Any]:
    """What to call in the place of `f` while a function is traced."""
    kind = type(f)
    if kind is FunctionType:
        return _function(f)
    if kind is MethodType:
        inner = called(f.__func__)
        return f if inner is f.__func__ else MethodType(inner, f.__self__)
    if kind is functools.partial:
        inner = called(f.func)
        return f if inner is f.func else functools.partial(inner, *f.args, **f.keywords)
    from .builtin import overrides

    if id(f) in overrides:
        return overrides[id(f)]
    if kind is type:
        return _constructor(f)
    method = getattr(kind, "__call__", None)  # noqa: B004 - its code is wanted
    if type(method) is FunctionType and not isinstance(f, type):
        inner = _function(method)
        return f if inner is method else MethodType(inner, f)
    return f


def _constructor(cls: Any) -> Any:
    """A class, or what makes an instance of it by its converted `__init__`."""
    plain = type(cls.__init__) is FunctionType and cls.__new__ is object.__new__
    init = _function(cls.__init__) if plain else None
    if init is None or init is cls.__init__:
        return cls

    def make(*args: Any, **keywords: Any) -> Any:
        new = cls.__new__(cls)
        init(new, *args, **keywords)
        return new

    return make


def _wrapper(f: FunctionType) -> FunctionType:
    """A function of the engine that wraps one of the user's: the same around the converted one."""
    inner = getattr(f, "__wrapped__", None)
    made = called(inner) if type(inner) is FunctionType else inner
    cells = f.__closure__
    if made is inner or cells is None:
        return f
    closure = tuple([CellType(made) if _content(c) is inner else c for c in cells])
    new = FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, closure)
    new.__kwdefaults__ = f.__kwdefaults__
    vars(new).update(vars(f))
    return new


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def entry(f: Any) -> Callable[..., Any]:
    """What a trace runs of the function `f`, which the user asked to be traced."""
    inner = getattr(f, "__func__", f)
    if type(inner) is FunctionType and not allowed.is_engine(inner.__code__):
        made = _function(inner, asked=True)
        return f if made is inner else made if inner is f else MethodType(made, f.__self__)
    return called(f)


def keep(f: Any) -> Any:
    """`f` itself, which the user asked not to be converted."""
    inner = getattr(f, "__func__", f)
    if type(inner) is FunctionType:
        kept.set(inner.__code__, "it is a @dm.function with autograph=False")
    return f


def _function(f: FunctionType, asked: bool = False) -> FunctionType:
    code = f.__code__
    if allowed.is_engine(code):
        return _wrapper(f)
    if (
        conversion.generated.get(code)
        or (not asked and allowed.is_foreign(code))
        or unconverted.get(code) is not None
    ):
        return f
    try:
        if conversion.is_converted(code) or analysis.needed(f, source.find(f)[0]):
            return conversion.instance(f)
    except SourceError as error:
        unconverted.set(code, str(error))
    except Unsupported as error:
        unconverted.set(code, f"{error} (line {error.line})")
    except RecursionError:
        raise
    except Exception as error:
        raise ConversionError(
            f"{f.__name__}: its control flow cannot be converted: {type(error).__name__}: {error}; "
            "write the part that depends on tensors as a function of its own, or use dm.cond and "
            "dm.while_loop in a function marked by dm.autograph.do_not_convert",
            site=(code.co_filename, code.co_firstlineno),
        ) from error
    return f
