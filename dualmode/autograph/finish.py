"""The pass over a syntax tree after those of the library that converts control flow.

It removes what is not needed here, puts back what `passes` kept aside, and gives all nodes places
in the user's file.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

Place = tuple[int, int, int, int]
Origin = Callable[[ast.AST], Place | None]


class _Strip(ast.NodeTransformer):
    """Without scopes of functions and marks, which are not used here; with what was kept."""

    def __init__(self, kept: list[ast.stmt]) -> None:
        self._kept = kept

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        if not _calls(node.value, "kept"):
            return node
        assert isinstance(node.value, ast.Call)
        number, _, *subject = node.value.args
        assert isinstance(number, ast.Constant)
        assert isinstance(number.value, int)
        statement = self._kept[number.value]
        if isinstance(statement, ast.Match):
            (statement.subject,) = subject
        return statement

    def visit_With(self, node: ast.With) -> Any:
        self.generic_visit(node)
        return node.body if _calls(node.items[0].context_expr, "FunctionScope") else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = [
            d for d in node.decorator_list if not _is_ag(d, "autograph_artifact")
        ]
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> Any:
        # `(break_,)`: reads a name for the analysis
        value = node.value
        if (
            isinstance(value, ast.Tuple)
            and len(value.elts) == 1
            and _reads(value.elts[0], "break_")
        ):
            return None
        return self.generic_visit(node)

    def visit_Try(self, node: ast.Try) -> Any:
        self.generic_visit(node)
        handlers = node.handlers
        returns = len(handlers) == 1 and handlers[0].type is None and len(node.body) == 2
        first = node.body[0]
        if returns and isinstance(first, ast.Assign) and _is_return_flag(first.targets[0]):
            return node.body[::-1]  # the value first: the flag stays as it is if that raises
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if _calls(node, "autograph_artifact"):
            return node.args[0]
        if _calls(node, "ld") and _reads(node, "ag__"):
            return node.args[0]
        if _calls(node, "with_function_scope"):
            thunk = node.args[0]
            assert isinstance(thunk, ast.Lambda)
            return thunk.body
        if isinstance(node.func, ast.Attribute) and node.func.attr == "ret":
            scope = node.func.value
            if isinstance(scope, ast.Name) and scope.id.startswith("fscope"):
                node.func = ast.Attribute(ast.Name("ag__", ast.Load()), "returned", ast.Load())
        return node


def _is_ag(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name)
        and node.value.id == "ag__"
    )


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and _is_ag(node.func, name)


def _reads(node: ast.AST, name: str) -> bool:
    """Whether `node` is the variable, read plainly or by `ag__.ld`."""
    if _calls(node, "ld"):
        assert isinstance(node, ast.Call)
        node = node.args[0]
    return isinstance(node, ast.Name) and node.id.startswith(name)


def _is_return_flag(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id.startswith("do_return")


def finish(
    nodes: Iterable[ast.stmt], kept: list[ast.stmt], origin: Origin, start: tuple[int, int]
) -> list[ast.stmt]:
    """The converted statements, stripped, with all nodes at places in the user's file.

    Args:
        kept: as `passes.prepare` gives it.
        origin: `origin(node)` is the (line, column, end line, end column) that the node had in the
            user's file, or None for a new node.
        start: the line and column of nodes before the first one with a place.
    """
    module = _Strip(kept).visit(ast.Module(list(nodes), []))
    _locate(module, (*start, *start), origin)
    return module.body


def _locate(node: ast.AST, near: Place, origin: Origin) -> None:
    """Places for `node` and all below; a new node is at that of the first old one in it."""
    place = origin(node)
    if place is None and isinstance(node, ast.stmt):
        place = next((p for p in map(origin, ast.walk(node)) if p is not None), None)
    place = place or near
    if hasattr(node, "lineno") or "lineno" in node._attributes:
        target: Any = node
        target.lineno, target.col_offset, target.end_lineno, target.end_col_offset = place
        if isinstance(node, ast.Attribute) and _is_ag(node, node.attr):
            target.end_lineno = target.lineno  # a call is at the last line of its attribute
            target.end_col_offset = target.col_offset
    for child in ast.iter_child_nodes(node):
        _locate(child, place, origin)
