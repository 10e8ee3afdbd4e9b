"""Branches, calls and loops that compute the same and more become one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from ..graph import COND, ITEM, Attrs, Graph, Node, map_graphs
from ..records import dataclass
from ..rewrite import Results, rebuild_owners


def merge(graph: Graph) -> Graph:
    """Branches, calls and loops of the same inputs whose graphs extend the same ones (`Graph.base`)
    become one, which gives the results of all of them; also in graphs that nodes own.

    A gradient runs such a node again with longer graphs, which also give what the gradient needs:
    the node itself then costs nothing. The effects are those of the first one; a later one that
    has effects of its own stays as it is. It must run before any other pass, since rebuilt graphs
    have no base.
    """
    while found := groups(graph):  # those that read merged ones may have equal inputs then
        graph = rebuild_owners(graph, partial(_merged, found, {}))
    inner = cache(merge)  # graphs that several nodes own stay one

    def replace(node: Node, inputs: list[Node], new: Graph) -> Results:
        attrs = map_graphs(node.attrs, inner)
        return new.items(new.add(node.op, inputs, attrs, node.site, node.spec))

    return rebuild_owners(graph, replace)


def common(node: Node) -> tuple[Any, ...]:
    """What `node`, which owns graphs, has in common with all that it can be merged with."""
    return node.op, node.inputs, map_graphs(node.attrs, lambda g: g.root)


def result_of(graph: Graph, owner: Node, item: Node) -> Node:
    """`item`, a result of a node that can be merged with `owner`, as a result of a node of `graph`,
    where `owner` is: always the same node for the same result."""
    k, graphs = item.attr("index"), item.inputs[0].graphs
    count = len(graphs[0].root.outputs)
    if k < count:
        return graph.add(ITEM, [owner], {"index": k}, item.site, item.spec)
    more = iter([g.root.extended(g.outputs[k : k + 1]) for g in graphs[: _giving(owner)]])
    attrs = map_graphs(owner.attrs, lambda g: next(more, g))
    return graph.items(graph.add(owner.op, owner.inputs, attrs, owner.site, owner.spec))[count]


def _giving(node: Node) -> int:
    """How many of the graphs of `node` give its results."""
    return len(node.graphs) if node.op is COND else 1  # a loop's condition gives none


@dataclass(eq=False)
class Union:
    """The graphs of several nodes, with the outputs of all of them.

    Attributes:
        graphs: in the order of the nodes' attributes; without effects of their own.
        places: for the graphs of each node, the numbers of its results.
    """

    graphs: tuple[Graph, ...]
    places: dict[tuple[Graph, ...], list[int]]

    def attrs(self, node: Node) -> Attrs:
        """The attributes of `node`, one of these nodes, with these graphs."""
        longer = iter(self.graphs)
        return map_graphs(node.attrs, lambda _: next(longer))

    def results(self, node: Node, found: Sequence[Any]) -> list[Any]:
        """The results of `node`, among those that were `found` for all of them."""
        return [found[k] for k in self.places[node.graphs]]


def groups(graph: Graph) -> dict[Node, Union]:
    """For each node that can be merged with others: the union of their graphs."""
    found: dict[object, list[Node]] = {}
    for node in sorted(graph.nodes(), key=lambda n: n.uid):
        if node.graphs:
            group = found.setdefault(common(node), [])
            if not (group and node.effect):
                group.append(node)
    unions: dict[Node, Union] = {}
    for group in found.values():
        if len(group) > 1:
            unions.update(dict.fromkeys(group, _union(group)))
    return unions


def _union(group: Sequence[Node]) -> Union:
    first = group[0].graphs
    giving = _giving(group[0])
    roots = [g.root for g in first[:giving]]
    count = len(roots[0].outputs)
    more: list[tuple[Node, ...]] = []
    numbers: dict[tuple[Node, ...], int] = {}
    places: dict[tuple[Graph, ...], list[int]] = {}
    for node in group:
        places[node.graphs] = list(range(count))
        for result in zip(*(g.outputs[count:] for g in node.graphs[:giving]), strict=True):
            if result not in numbers:
                numbers[result] = count + len(more)
                more.append(result)
            places[node.graphs].append(numbers[result])
    union = (root.extended([result[k] for result in more]) for k, root in enumerate(roots))
    return Union((*union, *first[giving:]), places)


def _merged(
    unions: dict[Node, Union],
    made: dict[Union, list[Node]],
    node: Node,
    inputs: list[Node],
    new: Graph,
) -> Results:
    union = unions.get(node)
    if union is None:
        return new.items(new.add(node.op, inputs, node.attrs, node.site, node.spec))
    if union not in made:
        longer = iter(union.graphs)  # with the effects of the first node
        attrs = map_graphs(
            node.attrs,
            lambda g: Graph(g.params, next(longer).outputs, effects=g.effects, base=g.root),
        )
        made[union] = new.items(new.add(node.op, inputs, attrs, node.site, node.spec))
    return union.results(node, made[union])
