"""Constant folding."""

from __future__ import annotations

import numpy as np

from ..graph import CONST, Graph, Node
from ..rewrite import apply_rules, rebuild

LARGEST = 256  # elements: a bigger result is better computed than stored


def fold(graph: Graph) -> Graph:
    """Nodes of constants become constants, by their NumPy kernels: 2 + 3 --> 5.

    Nodes that own graphs have no kernel and stay; the graphs that they own are folded.
    """

    def visit(node: Node, new: Graph) -> Node:
        ready = node.inputs and all(n.op is CONST for n in node.inputs)
        if not ready or node.graphs or node.op.effect or node.spec.size > LARGEST:
            return apply_rules(node, new)
        arrays = [n.attr("value").array for n in node.inputs]
        with np.errstate(all="ignore"):
            value = np.asarray(node.op.kernel(*arrays, **dict(node.attrs)))
        out = new.const(value)
        if (
            out.spec.with_dtype(node.spec.dtype) is not out.spec
            or out.spec.shape != node.spec.shape
        ):
            return node
        return new.add(out.op, (), out.attrs, node.site, node.spec)

    return rebuild(graph, visit)
