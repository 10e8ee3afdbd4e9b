"""The passes of diastatic-malt, with ours in the place of some of them.

Imported when a function is first converted, as this imports the library.
"""

from __future__ import annotations

import ast
import importlib.util  # the library takes it for granted
from typing import Any

from malt.converters import (
    break_statements,
    continue_statements,
    functions,
    variables,
)
from malt.core import converter
from malt.pyct import anno, cfg, naming, qual_names, transformer
from malt.pyct.static_analysis import activity, reaching_definitions

from . import expressions
from .finish import Place

assert importlib.util


def rewrite(node: Any, kept: list[ast.stmt], names: set[str]) -> Any:
    """A prepared function with its control flow as calls.

    Args:
        kept: statements that were put aside; they get their places, as all nodes do.
        names: those that new names must differ from.
    """
    for x in (x for tree in (node, *kept) for x in ast.walk(tree)):
        if isinstance(x, ast.expr | ast.stmt | ast.excepthandler | ast.arg | ast.pattern):
            place = x.lineno, x.col_offset, x.end_lineno, x.end_col_offset
            anno.setanno(x, anno.Basic.ORIGIN, place)
    info = transformer.EntityInfo(
        name="f", source_code="", source_file="", future_features=(), namespace=dict.fromkeys(names)
    )
    options = converter.ProgramContext(options=converter.STANDARD_OPTIONS)
    context = transformer.Context(info, naming.Namer(info.namespace), options)
    graphs = cfg.build(node)
    node = qual_names.resolve(node)
    node = activity.resolve(node, context, None)
    node = reaching_definitions.resolve(node, context, graphs)
    anno.dup(node, {anno.Static.DEFINITIONS: anno.Static.ORIG_DEFINITIONS})
    node = functions.transform(node, context)
    node = expressions.directives(node, context)
    node = break_statements.transform(node, context)
    node = expressions.asserts(node, context)
    node = continue_statements.transform(node, context)
    node = expressions.returns(node, context)
    node = expressions.calls(node, context)
    node = expressions.flow(node, context)
    node = expressions.conditionals(node, context)
    node = expressions.logic(node, context)
    for x in ast.walk(node):
        if isinstance(x, ast.NamedExpr):  # copies of an argument are marked as read
            x.target.ctx = ast.Store()
    return variables.transform(node, context)


def origin(node: ast.AST) -> Place | None:
    """The place that a node had in the user's file; None for a new one."""
    place: Any = anno.getanno(node, anno.Basic.ORIGIN, default=None)
    return place
