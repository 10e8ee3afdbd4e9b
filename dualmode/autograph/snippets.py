"""New parts of a function's syntax tree, with places in the user's file."""

from __future__ import annotations

import ast

from .source import copy


def fstring(x: ast.JoinedStr) -> ast.expr:
    """An f-string as a call with its parts."""
    parts: list[ast.expr] = []
    for part in x.values:
        if isinstance(part, ast.FormattedValue):
            spec = part.format_spec or ast.Constant("")
            pair = [part.value, ast.Constant(part.conversion), spec]
            parts.append(ast.Tuple(pair, ast.Load()))
        else:
            parts.append(part)
    found = ast.parse("ag__.fstring()", mode="eval").body
    assert isinstance(found, ast.Call)
    found.args = parts
    place(found.func, x)
    for new in (y for part in parts for y in ast.walk(part)):
        if "lineno" in new._attributes and not hasattr(new, "lineno"):
            ast.copy_location(new, x)
    return ast.copy_location(found, x)


def note(target: ast.AST, at: ast.AST) -> ast.stmt | None:
    """A statement that notes that the attribute or item `target` is written."""
    if not isinstance(target, ast.Attribute | ast.Subscript) or not _is_plain(target):
        return None
    if not isinstance(target.ctx, ast.Store):
        return None
    item = isinstance(target, ast.Subscript)
    new = placed(f"ag__.places.{'item' if item else 'attribute'}()", at)
    assert isinstance(new, ast.Expr)
    assert isinstance(new.value, ast.Call)
    named = target.slice if isinstance(target, ast.Subscript) else ast.Constant(target.attr)
    new.value.args = [copy(target.value), ast.copy_location(copy(named), target)]
    return new


def _is_plain(x: ast.AST) -> bool:
    """Whether evaluating `x` twice is like evaluating it once."""
    if isinstance(x, ast.Attribute):
        return _is_plain(x.value)
    if isinstance(x, ast.Subscript):
        return _is_plain(x.value) and _is_plain(x.slice)
    return isinstance(x, ast.Name | ast.Constant)


def with_notes(node: ast.FunctionDef) -> ast.FunctionDef:
    """With notes at its start of the outer variables that it writes."""
    for k, x in enumerate(node.body):
        if isinstance(x, ast.Nonlocal | ast.Global):
            notes = [placed(f"ag__.places.variable(lambda: {n}, {n!r})", x) for n in x.names]
            node.body[k + 1 : k + 1] = notes
    return node


def parsed(text: str) -> ast.stmt:
    """The statement `text`."""
    return ast.parse(text).body[0]


def placed(text: str, at: ast.AST) -> ast.stmt:
    """The statement `text` at the place of `at`."""
    node = parsed(text)
    place(node, at)
    return node


def place(node: ast.AST, at: ast.AST) -> None:
    """Give all of `node` the place of `at`."""
    for x in ast.walk(node):
        if hasattr(x, "lineno"):
            ast.copy_location(x, at)
