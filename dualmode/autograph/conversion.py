"""Functions with their control flow written as calls of `operators`.

The library diastatic-malt rewrites syntax trees. Here they are found, prepared, and compiled: in
the user's own file and lines, so that tracebacks and messages need no map.
"""

from __future__ import annotations
import __future__

import ast
import threading
import warnings
from inspect import CO_OPTIMIZED
from types import CodeType, FunctionType
from typing import Any

from dualmode_compiler.records import dataclass

from . import passes, source
from .finish import finish
from .source import ByCode

_FUTURE = 0
for _name in __future__.all_feature_names:
    _FUTURE |= getattr(__future__, _name).compiler_flag


@dataclass(frozen=True)
class Converted:
    """The converted form of one function's code.

    Attributes:
        factory: code of a function that makes the converted one, within the same closure.
        tree: its syntax tree.
    """

    factory: CodeType
    tree: ast.stmt


generated: ByCode[bool] = ByCode()
_converted: ByCode[Converted] = ByCode()
_lock = threading.RLock()


def instance(function: FunctionType) -> FunctionType:
    """The converted form of `function`, with its globals, closure and defaults.

    Raises:
        source.SourceError, passes.Unsupported: it cannot be converted.
    """
    return _instantiate(converted(function), function)


def is_converted(code: CodeType) -> bool:
    """Whether the converted form of a function with this code is known."""
    return _converted.get(code) is not None


def converted(function: FunctionType) -> Converted:
    """The converted code of `function`; made once."""
    code = function.__code__
    found = _converted.get(code)
    if found is None:
        with _lock:
            found = _converted.get(code)
            if found is None:
                with warnings.catch_warnings():
                    # of the library, which makes nodes without all their fields
                    warnings.simplefilter("ignore", DeprecationWarning)
                    found = _convert(function)
                _converted.set(code, found)
    return found


def _instantiate(what: Converted, function: FunctionType) -> FunctionType:
    from . import operators  # which convert what they call

    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    closure = tuple([cells[name] for name in what.factory.co_freevars])
    factory = FunctionType(what.factory, function.__globals__, "factory", None, closure)
    new = factory(operators)
    new.__defaults__ = function.__defaults__
    new.__kwdefaults__ = function.__kwdefaults__
    new.__name__, new.__qualname__ = function.__name__, function.__qualname__
    new.__module__, new.__doc__ = function.__module__, function.__doc__
    vars(new).update(vars(function))
    return new


def _convert(function: FunctionType) -> Converted:
    from . import rewriting  # imports the library

    original, owner = source.find(function)
    code = function.__code__
    prepared, kept = passes.prepare(original, owner)
    names = {*function.__globals__, *code.co_freevars, *_names(prepared)}
    root = rewriting.rewrite(prepared, kept, names)
    name = _unused("lambda_" if isinstance(root, ast.Lambda) else root.name, names)
    if isinstance(root, ast.Lambda):
        root = ast.Assign([ast.Name(name, ast.Store())], root)
    else:
        root.name = name
    start = original.lineno, original.col_offset
    (tree,) = finish([root], kept, rewriting.origin, start)
    factory = _compile(tree, name, function, start[0])
    _mark(factory)
    return Converted(factory, tree)


def _names(node: ast.AST) -> set[str]:
    return {x.id for x in ast.walk(node) if isinstance(x, ast.Name)}


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    return name


def _compile(tree: ast.stmt, name: str, function: FunctionType, line: int) -> CodeType:
    """Code of `def factory(ag__): <tree>; return <name>` within the closure of `function`."""
    module = ast.parse("def closure():\n def factory(ag__):\n  return None\n return factory")
    closure = module.body[0]
    assert isinstance(closure, ast.FunctionDef)
    factory = closure.body[0]
    assert isinstance(factory, ast.FunctionDef)
    assert isinstance(factory.body[0], ast.Return)
    free = [
        ast.Assign([ast.Name(x, ast.Store())], ast.Constant(None))
        for x in function.__code__.co_freevars
    ]
    closure.body[:0] = free
    factory.body[0].value = ast.Name(name, ast.Load())
    for node in ast.walk(module):
        if "lineno" in node._attributes:
            target: Any = node
            target.lineno = target.end_lineno = line
            target.col_offset = target.end_col_offset = 0
    factory.body.insert(0, tree)
    flags = function.__code__.co_flags & _FUTURE
    code = compile(module, function.__code__.co_filename, "exec", flags, dont_inherit=True)
    (closure_code,) = (c for c in code.co_consts if isinstance(c, CodeType))
    (factory_code,) = (c for c in closure_code.co_consts if isinstance(c, CodeType))
    original = function.__code__
    constants = tuple(
        c.replace(co_name=original.co_name, co_qualname=original.co_qualname)
        if isinstance(c, CodeType)
        else c
        for c in factory_code.co_consts
    )
    return factory_code.replace(co_consts=constants)


def _mark(code: CodeType) -> None:
    """Remember that `code`, and all in it, is converted."""
    generated.set(code, True)
    for c in code.co_consts:
        if isinstance(c, CodeType) and c.co_flags & CO_OPTIMIZED:  # classes are as they were
            _mark(c)
