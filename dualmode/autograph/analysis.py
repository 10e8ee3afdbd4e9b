"""Whether a function has to be converted: most have no control flow of their own, and call the
engine only.

What the names in it stand for is followed as far as it is plain to see. Where it is not, the answer
is yes: conversion is right for every function, it only takes a few milliseconds.
"""

from __future__ import annotations

import ast
import builtins
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..errors import is_foreign
from . import allowed, native
from .source import ByCode, FunctionNode

_FLOW = (
    *(ast.If, ast.IfExp, ast.While, ast.For, ast.BoolOp, ast.Assert, ast.Raise),
    *(ast.Match, ast.ClassDef, ast.NamedExpr, ast.Delete, *FunctionNode.__args__),
)
_DATA = str | bytes | int | float | complex | bool | None | np.ndarray | np.generic | np.dtype
_UNKNOWN = object()
# in whatever statement
_OVERRIDDEN = (
    *(builtins.print, builtins.max, builtins.min),
    *(builtins.len, builtins.int, builtins.float),
)
_free: ByCode[bool] = ByCode()  # whether code is free of control flow of its own


def needed(function: FunctionType, node: FunctionNode) -> bool:
    """Whether `function`, whose syntax tree is `node`, may meet control flow on tensors.

    Parameters are taken for data: what calls them, or gives them to functions, needs conversion.
    """
    code = function.__code__
    free = _free.get(code)
    if free is None:
        free = not any(_flows(x) for s in _body(node) for x in ast.walk(s))
        _free.set(code, free)
    if native.depth() and any(_writes(x) for s in _body(node) for x in ast.walk(s)):
        return True
    return not free or not _Names(function, node).harmless()


def _body(node: FunctionNode) -> list[Any]:
    return [node.body] if isinstance(node, ast.Lambda) else node.body


def _flows(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    return isinstance(node, _FLOW) or (isinstance(node, ast.Compare) and len(node.ops) > 1)


def _writes(node: ast.AST) -> bool:
    """Whether it may write what is outside of its function."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        return isinstance(node.ctx, ast.Store)
    return isinstance(node, ast.Nonlocal | ast.Global)


class _Names:
    """What the expressions in a function stand for: whether they can be anything but data and
    functions that are called as they are."""

    def __init__(self, function: FunctionType, node: FunctionNode) -> None:
        self._function = function
        self._node = node
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        self._closure = dict(cells)
        self._assigned: dict[str, list[ast.AST]] = {}
        for x in (x for s in _body(node) for x in ast.walk(s)):
            if isinstance(x, ast.Assign):
                for target in x.targets:
                    self._assign(target, x.value)
            elif isinstance(x, ast.AugAssign | ast.AnnAssign):
                self._assign(x.target, x.value)
            elif isinstance(x, ast.comprehension):
                self._assign(x.target, x.iter)
            elif isinstance(x, ast.withitem) and x.optional_vars is not None:
                self._assign(x.optional_vars, x.context_expr)
        self._trusted: set[str] = set()

    def _assign(self, target: ast.AST, value: ast.AST | None) -> None:
        for x in ast.walk(target):
            if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store) and value is not None:
                self._assigned.setdefault(x.id, []).append(value)

    def harmless(self) -> bool:
        """Whether every call is one of a function that is called as it is, with such arguments."""
        for x in (x for s in _body(self._node) for x in ast.walk(s)):
            if isinstance(x, ast.Call) and not self._known(x):
                return False
            if isinstance(x, ast.Name) and _is_overridden(self._value(x)):
                return False
        return True

    def _known(self, x: ast.AST) -> bool:
        if isinstance(x, ast.Name):
            if x.id in self._assigned:
                return self._all_known(x.id)
            if x.id in self._parameters():
                return False
        value = self._value(x)
        if value is not _UNKNOWN:
            return _as_it_is(value)
        if isinstance(x, ast.Attribute):
            return self._known(x.value)
        if isinstance(x, ast.Call):
            parts = [*x.args, *(k.value for k in x.keywords)]
            return self._known(x.func) and all(map(self._argument, parts))
        if isinstance(x, ast.Name):
            return False
        return all(map(self._argument, ast.iter_child_nodes(x)))

    def _argument(self, x: ast.AST) -> bool:
        """Whether `x` may be given to a function that is called as it is."""
        if isinstance(x, ast.Name) and x.id in self._parameters() and x.id not in self._assigned:
            return True
        if isinstance(x, ast.expr_context | ast.operator | ast.unaryop | ast.cmpop):
            return True
        if isinstance(x, ast.Constant):
            return True
        if isinstance(x, ast.Name | ast.Attribute | ast.Call):
            if isinstance(x, ast.Attribute) and self._argument(x.value):
                return True
            return self._known(x)
        return all(map(self._argument, ast.iter_child_nodes(x)))

    def _all_known(self, name: str) -> bool:
        if name in self._trusted:
            return True
        self._trusted.add(name)  # for what is made of itself
        if all(map(self._argument, self._assigned[name])):
            return True
        self._trusted.discard(name)
        return False

    def _parameters(self) -> set[str]:
        a = self._node.args
        return {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x}

    def _value(self, x: ast.AST) -> Any:
        """What a name around the function, or an attribute of a module, stands for."""
        if isinstance(x, ast.Attribute):
            owner = self._value(x.value)
            return vars(owner).get(x.attr, _lazy(owner, x.attr)) if _is_module(owner) else _UNKNOWN
        if not isinstance(x, ast.Name) or x.id in self._assigned or x.id in self._parameters():
            return _UNKNOWN
        cell = self._closure.get(x.id)
        if cell is not None:
            try:
                return cell.cell_contents
            except ValueError:
                return _UNKNOWN
        around = self._function.__globals__
        return around.get(x.id, getattr(builtins, x.id, _UNKNOWN))


def _is_overridden(x: Any) -> bool:
    return any(x is f for f in _OVERRIDDEN)


def _is_module(x: Any) -> bool:
    return isinstance(x, ModuleType)


def _lazy(module: ModuleType, name: str) -> Any:
    """An attribute that a module of the engine makes when it is asked for."""
    found = module.__name__.startswith("dualmode") and hasattr(module, name)
    return getattr(module, name) if found else _UNKNOWN


def _as_it_is(x: Any) -> bool:
    """Whether calls of `x`, of its attributes and of what it holds need no conversion."""
    if isinstance(x, _DATA):
        return True
    if isinstance(x, FunctionType):
        return allowed.is_foreign(x.__code__)
    if isinstance(x, MethodType):
        return _as_it_is(x.__func__)
    if isinstance(x, BuiltinFunctionType):
        return not _is_overridden(x)
    kind = x if isinstance(x, type) else type(x)
    if isinstance(x, list | tuple | dict):
        return all(map(_as_it_is, x.values() if isinstance(x, dict) else x))
    if isinstance(x, ModuleType):
        return is_foreign(getattr(x, "__file__", None) or "<frozen")
    return kind.__module__ == "builtins" or _is_foreign_class(kind)


def _is_foreign_class(kind: type) -> bool:
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None) or "<frozen"
    return is_foreign(file)
