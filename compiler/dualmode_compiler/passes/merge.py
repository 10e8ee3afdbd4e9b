"""Loops that compute the same and more become one loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ..graph import LOOP, Graph, Node, map_graphs
from ..rewrite import Results, rebuild_owners


def merge(graph: Graph) -> Graph:
    """Loops over the same inputs whose bodies extend one graph (`Graph.base`) become one loop,
    which gives the results of all of them; also in graphs that nodes own.

    The gradient of a loop runs it again with a longer body, which stacks what the gradient needs:
    the loop itself then costs nothing. The effects are those of the first of the loops; a later one
    that has effects of its own stays as it is. It must run before any other pass, since rebuilt
    graphs have no base.
    """
    while groups := _groups(graph):  # loops that read merged ones may have equal inputs then
        graph = rebuild_owners(graph, partial(_merged, groups, {}))
    done: dict[Graph, Graph] = {}

    def inner(sub: Graph) -> Graph:
        if sub not in done:
            done[sub] = merge(sub)
        return done[sub]

    def replace(node: Node, inputs: list[Node], new: Graph) -> Results:
        attrs = map_graphs(node.attrs, inner)
        return new.items(new.add(node.op, inputs, attrs, node.site, node.spec))

    return rebuild_owners(graph, replace)


@dataclass(eq=False)
class _Union:
    """A body with the outputs of several, and for each of these the numbers of its outputs."""

    body: Graph
    places: dict[Graph, list[int]]


def _groups(graph: Graph) -> dict[Node, _Union]:
    """For each loop that can be merged with others: the union of their bodies."""
    found: dict[object, list[Node]] = {}
    for node in sorted(graph.nodes(), key=lambda n: n.uid):
        if node.op is LOOP:
            attrs = tuple(x for x in node.attrs if x[0] != "body")
            group = found.setdefault((node.inputs, attrs, _chain(node.attr("body"))[0]), [])
            if not (group and node.effect):
                group.append(node)
    unions: dict[Node, _Union] = {}
    for group in found.values():
        if len(group) > 1:
            unions.update(dict.fromkeys(group, _union([n.attr("body") for n in group])))
    return unions


def _chain(body: Graph) -> list[Graph]:
    """`body` after all that it extends, the first one first."""
    chain = [body]
    while (base := chain[-1].base) is not None:
        chain.append(base)
    return chain[::-1]


def _union(bodies: Sequence[Graph]) -> _Union:
    first = _chain(bodies[0])[0]
    outputs = list(first.outputs)
    places = {first: list(range(len(outputs)))}
    for body in bodies:
        for base, longer in zip(_chain(body), _chain(body)[1:], strict=False):
            if longer not in places:
                more = longer.outputs[len(base.outputs) :]
                end = len(outputs)
                places[longer] = [*places[base], *range(end, end + len(more))]
                outputs += more
    return _Union(Graph(first.params, outputs, effects=bodies[0].effects), places)


def _merged(
    unions: dict[Node, _Union],
    made: dict[_Union, list[Node]],
    node: Node,
    inputs: list[Node],
    new: Graph,
) -> Results:
    union = unions.get(node)
    if union is None:
        return new.items(new.add(node.op, inputs, node.attrs, node.site, node.spec))
    if union not in made:
        attrs = {**dict(node.attrs), "body": union.body}
        made[union] = new.items(new.add(LOOP, inputs, attrs, node.site, node.spec))
    return [made[union][k] for k in union.places[node.attr("body")]]
