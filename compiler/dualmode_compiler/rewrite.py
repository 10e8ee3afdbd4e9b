"""Rewriting graphs: by the rules that ops own, to a fixed point; and what owns graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .graph import ITEM, PARAM, Graph, Node, map_graphs, topological

LIMIT = 32  # rewrites of one node before we call a set of rules circular
Results = Sequence[Node | None]  # of a node that owns graphs; None: nobody reads that one
Replace = Callable[[Node, list[Node], Graph], Results]


def rebuild(graph: Graph, visit: Callable[[Node, Graph], Node]) -> Graph:
    """A new graph in which every needed node is `visit(copy of the node, new graph)`.

    The copy already reads rewritten inputs, and the graphs that it owns are rebuilt. Parameters,
    outputs, updates and effects keep their order.
    """
    inner: dict[Graph, Graph] = {}

    def rebuilt(sub: Graph) -> Graph:
        if sub not in inner:
            inner[sub] = rebuild(sub, visit)
            new.log += inner[sub].log
        return inner[sub]

    new = Graph(params=list(graph.params), log=list(graph.log))
    image: dict[Node, Node] = {}
    for node in sorted(graph.nodes(), key=lambda n: n.uid):  # so that effects keep their order
        if node.op is PARAM:
            image[node] = node
            continue
        inputs = [image[n] for n in node.inputs]
        attrs = map_graphs(node.attrs, rebuilt) if node.graphs else node.attrs
        copy = new.add(node.op, inputs, attrs, node.site, node.spec)
        image[node] = visit(copy, new)
        if copy.effect and image[node] is not copy:
            new.effects.remove(copy)
    new.outputs = [image[n] for n in graph.outputs]
    new.updates = [(k, image[n]) for k, n in graph.updates]
    return new


def rebuild_owners(graph: Graph, replace: Replace) -> Graph:
    """A new graph in which `replace(node, its new inputs, new graph)` gives the results of every
    needed node that owns graphs; other nodes are copied. `graph` itself where none owns graphs.

    `replace` is given the node as it was; the graphs that it owns are left to it.
    """
    if not owns_graphs(graph):
        return graph
    new = Graph(params=list(graph.params), log=list(graph.log))
    image = replay(graph.roots(), {n: n for n in graph.params}, new, replace)
    new.outputs = [image[n] for n in graph.outputs]
    new.updates = [(k, image[n]) for k, n in graph.updates]
    return new


def owns_graphs(graph: Graph) -> bool:
    """Whether a node of `graph` owns graphs."""
    return any(n.graphs for n in graph.nodes())


def replay(
    roots: Iterable[Node], given: dict[Node, Node], new: Graph, replace: Replace | None = None
) -> dict[Node, Node]:
    """Adds to `new` copies of the nodes that `roots` need, effects in their order.

    Args:
        given: the images of the parameters.
        replace: as for `rebuild_owners`; without it, nodes that own graphs are copied too.

    Returns:
        The image of each node, other than those that `replace` has seen.
    """
    image = dict(given)
    results: dict[Node, Results] = {}
    for node in sorted(topological(roots), key=lambda n: n.uid):
        if node in image:
            continue
        if node.op is ITEM and node.inputs[0] in results:
            found = results[node.inputs[0]][node.attr("index")]
            assert found is not None, f"{node} is read"
            image[node] = found
            continue
        inputs = [image[n] for n in node.inputs]
        if node.graphs and replace is not None:
            results[node] = replace(node, inputs, new)
        else:
            image[node] = new.add(node.op, inputs, node.attrs, node.site, node.spec)
    return image


def items_read(graph: Graph) -> dict[Node, set[int]]:
    """Of each needed node that owns graphs: the numbers of its results that somebody reads."""
    read: dict[Node, set[int]] = {}
    for node in graph.nodes():
        if node.graphs:
            read.setdefault(node, set())
        elif node.op is ITEM:
            read.setdefault(node.inputs[0], set()).add(node.attr("index"))
    return read


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
