"""What every valid graph satisfies. Tests run this after every pass."""

from __future__ import annotations

from .graph import CONST, PARAM, Graph, Node


class InvalidGraph(Exception):
    """A graph breaks an invariant; the message says which node and how."""


def verify(graph: Graph) -> None:
    """Check the invariants of `graph`.

    * a parameter is in `params`, at its own index;
    * a node's spec is what its op infers (but for weakness, which ops do not know);
    * an input is older than its reader, attributes are sorted and hashable;
    * an update has the shape and dtype of the state, which is updated once;
    * every effect is among `effects`, in order of creation.

    Raises:
        InvalidGraph: one of them does not hold.
    """
    for k, node in enumerate(graph.params):
        if node.op is not PARAM or node.attr("index") != k:
            raise InvalidGraph(f"parameter {k} is {node}")
    for node in graph.nodes():
        _check_node(node, graph)
    seen: set[int] = set()
    for k, node in graph.updates:
        state = graph.params[k]
        if (node.spec.shape, node.spec.dtype) != (state.spec.shape, state.spec.dtype):
            raise InvalidGraph(f"state {state} is updated by {node}")
        if k in seen:
            raise InvalidGraph(f"state {state} is updated twice")
        seen.add(k)
    order = [n.uid for n in graph.effects]
    if order != sorted(order):
        raise InvalidGraph("effects are out of order")


def _check_node(node: Node, graph: Graph) -> None:
    if node.op is PARAM:
        if node not in graph.params:
            raise InvalidGraph(f"{node} is a parameter of another graph")
        return
    names = [k for k, _ in node.attrs]
    if names != sorted(names):
        raise InvalidGraph(f"{node}: attributes are not sorted: {names}")
    hash(node.attrs)
    if any(n.uid >= node.uid for n in node.inputs):
        raise InvalidGraph(f"{node} reads a younger node")
    if node.op.effect and node not in graph.effects:
        raise InvalidGraph(f"{node} has an effect that would be lost")
    if node.op is CONST:
        return
    wanted = node.op.infer(*(n.spec for n in node.inputs), **dict(node.attrs))
    if (wanted.shape, wanted.dtype) != (node.spec.shape, node.spec.dtype):
        raise InvalidGraph(f"{node}: the op infers {wanted}")
