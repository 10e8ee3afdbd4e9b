"""Rewriting a graph by the rules that its ops own, to a fixed point."""

from __future__ import annotations

from collections.abc import Callable

from .graph import PARAM, Graph, Node

LIMIT = 32  # rewrites of one node before we call a set of rules circular


def rebuild(graph: Graph, visit: Callable[[Node, Graph], Node]) -> Graph:
    """A new graph in which every needed node is `visit(copy of the node, new graph)`.

    The copy already reads rewritten inputs. Parameters, outputs, updates and effects keep their
    order.
    """
    new = Graph(params=list(graph.params), log=list(graph.log))
    image: dict[Node, Node] = {}
    for node in sorted(graph.nodes(), key=lambda n: n.uid):  # so that effects keep their order
        if node.op is PARAM:
            image[node] = node
            continue
        inputs = [image[n] for n in node.inputs]
        copy = new.add(node.op, inputs, node.attrs, node.site, node.spec)
        image[node] = visit(copy, new)
    new.outputs = [image[n] for n in graph.outputs]
    new.updates = [(k, image[n]) for k, n in graph.updates]
    new.effects = [image[n] for n in graph.effects]
    return new


def apply_rules(node: Node, graph: Graph) -> Node:
    """`node` after the rules of its op, and of the ops that it turns into, fire no more.

    Raises:
        RuntimeError: a rule changed the spec, or the rules run in a circle.
    """
    for _ in range(LIMIT):
        for rule in node.op.simplify:
            found = rule(node, graph)
            if found is not None and found is not node:
                break
        else:
            return node
        name = getattr(rule, "__name__", "rule")
        if found.spec is not node.spec:
            raise RuntimeError(f"{name} changed {node.spec} to {found.spec} in {node}")
        graph.log.append(f"{name}: {node} --> {found}")
        node = found
    raise RuntimeError(f"the rewrite rules of {node.op.name} do not end: {graph.log[-4:]}")
