"""A few small ops, for graphs that tests write by hand or as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dualmode_compiler import expr
from dualmode_compiler.graph import CONST, Graph, Node
from dualmode_compiler.spec import Spec


@dataclass(frozen=True, eq=False)
class SmallOp:
    """An op of which everything can be chosen."""

    name: str
    infer: Callable[..., Spec] = lambda x, *_, **__: x
    kernel: Callable[..., Any] = lambda x, *_, **__: x
    lower: Any = None
    simplify: tuple[Callable[[Node, Graph], Node | None], ...] = ()
    effect: bool = False


def same_specs(x: Spec, y: Spec) -> Spec:
    if x is not y:
        raise TypeError(f"add: {x} and {y}")
    return x


def _of_constant(node: Node, value: float) -> Node | None:
    """The other input of a node one of whose inputs is all `value`."""
    for x, y in (node.inputs, node.inputs[::-1]):
        if y.op is CONST and (y.attr("value").array == value).all():
            return x
    return None


def add_zero(node: Node, graph: Graph) -> Node | None:
    """x + 0 --> x"""
    return _of_constant(node, 0)


def multiply_one(node: Node, graph: Graph) -> Node | None:
    """x * 1 --> x"""
    return _of_constant(node, 1)


def multiply_zero(node: Node, graph: Graph) -> Node | None:
    """x * 0 --> 0"""
    dead = any(x.op is CONST and not x.attr("value").array.any() for x in node.inputs)
    return graph.const(np.zeros(node.spec.shape, node.spec.dtype.numpy)) if dead else None


def double_negative(node: Node, graph: Graph) -> Node | None:
    """-(-x) --> x"""
    (x,) = node.inputs
    return x.inputs[0] if x.op is NEGATIVE else None


ADD = SmallOp(
    "add",
    same_specs,
    np.add,
    lambda i, out, x, y: expr.apply("add", x(i), y(i)),
    simplify=(add_zero,),
)
MULTIPLY = SmallOp(
    "multiply",
    same_specs,
    np.multiply,
    lambda i, out, x, y: expr.apply("mul", x(i), y(i)),
    simplify=(multiply_one, multiply_zero),
)
NEGATIVE = SmallOp(
    "negative",
    kernel=np.negative,
    lower=lambda i, out, x: expr.apply("neg", x(i)),
    simplify=(double_negative,),
)
SHOW = SmallOp("show", kernel=lambda x, **_: x, effect=True)
TAGGED = SmallOp("tagged")  # takes any attributes
OPS: dict[str, Any] = {op.name: op for op in (ADD, MULTIPLY, NEGATIVE, SHOW, TAGGED)}
