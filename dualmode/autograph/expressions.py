"""Passes over expressions and directives that take the place of the library's own.

Imported when a function is first converted, as this imports the library.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from malt.converters import call_trees, control_flow, logical_expressions, return_statements
from malt.core import converter
from malt.pyct import anno, cfg, qual_names, templates
from malt.pyct.static_analysis import activity, liveness, reaching_definitions, reaching_fndefs

from .passes import FRAME_READERS
from .source import FunctionNode

_OPTIONS = "set_loop_options"


class _Calls(call_trees.CallTreeTransformer):
    """`f(x, *y, k=z)` becomes `ag__.converted_call(f, (x, *y), dict(k=z))`."""

    def visit_Call(self, node: ast.Call) -> Any:  # noqa: N802
        name = str(anno.getanno(node.func, anno.Basic.QN, default=""))
        for field in ("func", "args", "keywords"):
            value = getattr(node, field)
            visited = [self.visit(x) for x in value] if isinstance(value, list) else None
            setattr(node, field, self.visit(value) if visited is None else visited)
        plain = name in FRAME_READERS or name.startswith(("ag__.", "fscope", "lscope"))
        if plain or name.endswith(".set_trace"):
            return node
        keywords: ast.expr = ast.Constant(None)
        if node.keywords:
            keywords = templates.replace_as_expression("ag__.keywords()")
            keywords.keywords = node.keywords  # type: ignore[attr-defined]
        return templates.replace_as_expression(
            "ag__.converted_call(func, args, keywords)",
            func=node.func,
            args=ast.Tuple(node.args, ast.Load()),
            keywords=keywords,
        )


def calls(node: Any, context: Any) -> Any:
    """Calls, which convert what they call."""
    return _Calls(context).visit(qual_names.resolve(node))


class _Logic(logical_expressions.LogicalExpressionTransformer):
    """`and`, `or`, `not`, and chains of comparisons, whose operands are evaluated once."""

    def visit_Compare(self, node: ast.Compare) -> Any:  # noqa: N802
        self.generic_visit(node)
        if len(node.ops) == 1:
            return node
        steps = [
            ast.Tuple([ast.Constant(_SYMBOLS[type(op)]), self._as_lambda(x)], ast.Load())
            for op, x in zip(node.ops, node.comparators, strict=True)
        ]
        call: Any = templates.replace_as_expression("ag__.compare(first)", first=node.left)
        call.args += steps
        return call


_SYMBOLS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}


def logic(node: Any, context: Any) -> Any:
    """Logical expressions and chains of comparisons."""
    return _Logic(context).visit(node)


class _Returns(return_statements.ReturnStatementsTransformer):
    """Returns within blocks. Loops without one of their own do not ask whether one was met."""

    def visit_For(self, node: ast.For) -> Any:  # noqa: N802
        return self._loop(node, super().visit_For)

    def visit_While(self, node: ast.While) -> Any:  # noqa: N802
        return self._loop(node, super().visit_While)

    def _loop(self, node: Any, visit: Callable[[Any], Any]) -> Any:
        block = self.state[return_statements._Block]
        before = block.return_used
        block.return_used = False
        node = visit(node)
        block.return_used |= before
        return node


def returns(node: Any, context: Any) -> Any:
    """Functions with one return, at their end."""
    for transform in (return_statements.ConditionalReturnRewriter, _Returns):
        node = activity.resolve(qual_names.resolve(node), context, None)
        more = (True,) if transform is _Returns else ()
        node = transform(context, *more).visit(node)
    return node


class _Asserts(converter.Base):
    """`assert x, y` becomes `ag__.assert_stmt(x, lambda: y)`."""

    def visit_Assert(self, node: ast.Assert) -> Any:  # noqa: N802
        self.generic_visit(node)
        if not __debug__:
            return ast.Pass()
        message = ast.Constant(None) if node.msg is None else None
        return templates.replace(
            "ag__.assert_stmt(test, message)"
            if message is not None
            else "ag__.assert_stmt(test, lambda: message)",
            test=node.test,
            message=message or node.msg,
        )


def asserts(node: Any, context: Any) -> Any:
    """Assertions, which run on each call."""
    return _Asserts(context).visit(node)


class _Directives(converter.Base):
    """Takes `set_loop_options(...)` out of a loop and gives it to the loop."""

    def _loop(self, node: Any) -> Any:
        self.generic_visit(node)
        for k, statement in enumerate(node.body):
            call = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(call, ast.Call) and _called(call.func) == _OPTIONS:
                options = {word.arg: word.value for word in call.keywords if word.arg}
                anno.setanno(node, anno.Basic.DIRECTIVES, {_directive(): options})
                node.body[k] = ast.copy_location(ast.Pass(), statement)
                break
        return node

    visit_For = visit_While = _loop  # noqa: N815


def _called(function: ast.AST) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _directive() -> Any:
    from malt.lang import directives

    return directives.set_loop_options


def directives(node: Any, context: Any) -> Any:
    """The options of loops."""
    return _Directives(context).visit(node)


class _Conditionals(converter.Base):
    """`a if x else b` becomes `ag__.if_exp(x, lambda: a, lambda: b, "x")`."""

    def visit_IfExp(self, node: ast.IfExp) -> Any:  # noqa: N802
        text = ast.unparse(node.test)
        self.generic_visit(node)
        return templates.replace_as_expression(
            "ag__.if_exp(test, lambda: body, lambda: orelse, text)",
            test=node.test,
            body=node.body,
            orelse=node.orelse,
            text=ast.Constant(text),
        )


def conditionals(node: Any, context: Any) -> Any:
    """Conditional expressions, before their conditions are converted."""
    return _Conditionals(context).visit(node)


class _ControlFlow(control_flow.ControlFlowTransformer):
    """`if`, `while` and `for` as calls.

    Global variables that they assign are seen outside, variables that inner functions read by
    these, and all variables by what handles an exception.
    """

    _tries = 0
    _captured: frozenset[str] = frozenset()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # noqa: N802
        around, self._captured = self._captured, frozenset(_captured(node))
        made = super().visit_FunctionDef(node)
        self._captured = around
        return made

    def visit_Try(self, node: ast.Try) -> ast.AST:  # noqa: N802
        self._tries += 1
        self.generic_visit(node)
        self._tries -= 1
        return node

    def _get_block_basic_vars(self, modified: Any, live_in: Any, live_out: Any) -> frozenset[Any]:
        found = super()._get_block_basic_vars(modified, live_in, live_out)
        seen = modified if self._tries else self.state[control_flow._Function].scope.globals
        seen = {s for s in modified if s in seen or str(s) in self._captured}
        return found | frozenset(s for s in seen if not s.is_composite())

    def _get_block_vars(self, node: Any, modified: Any) -> Any:
        """Those that only inner functions read need not be alike behind branches."""
        names, undefined, outputs = super()._get_block_vars(node, modified)
        live: Any = anno.getanno(node, anno.Static.LIVE_VARS_IN)
        live = live | anno.getanno(node, anno.Static.LIVE_VARS_OUT)
        inner = [
            s
            for s in names[:outputs]
            if str(s) in self._captured and s not in live and s in undefined
        ]
        first = [s for s in names[:outputs] if s not in inner]
        return [*first, *inner, *names[outputs:]], undefined, len(first)


def _captured(function: ast.AST) -> Iterator[str]:
    """The names that functions within `function` read."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, FunctionNode):
            own = {x.arg for x in ast.walk(child.args) if isinstance(x, ast.arg)}
            names = (x for x in ast.walk(child) if isinstance(x, ast.Name))
            yield from {x.id for x in names if isinstance(x.ctx, ast.Load)} - own
        else:
            yield from _captured(child)


def flow(node: Any, context: Any) -> Any:
    """Control flow statements."""
    graphs = cfg.build(node)
    node = qual_names.resolve(node)
    node = activity.resolve(node, context, None)
    node = reaching_definitions.resolve(node, context, graphs)
    node = reaching_fndefs.resolve(node, context, graphs)
    node = liveness.resolve(node, context, graphs)
    return _ControlFlow(context).visit(node)
