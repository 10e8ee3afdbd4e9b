"""Graphs computed a second time, where their effects must not take place again.

A gradient that computes inner values of a branch or a call again needs what the effects in there
gave, as calls of Python functions do. The first run gives it, as further results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dualmode_compiler.graph import (
    CALL,
    COND,
    CONST,
    ITEM,
    LOOP,
    PARAM,
    TOKEN,
    Graph,
    Node,
    map_graphs,
    topological,
)
from dualmode_compiler.passes.merge import Union, groups, result_of
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec

from .op import Op
from .ops.shape import BROADCAST_TO
from .tensor import Tensor


class Again:
    """A second run of `graph`.

    Args:
        keeps: effects that give values take place again. So do those in a loop whose number of
            iterations is not known: what they gave in all of them cannot leave a graph.

    Attributes:
        values: nodes by which the first run gives what effects gave.
        graph: the outputs, as a function of the parameters and of these values.
    """

    def __init__(self, graph: Graph, keeps: bool = False) -> None:
        self._first, self._keeps = graph, keeps
        self.values: list[Node] = []
        self.graph = Graph()
        images = {n: self.graph.param(n.spec) for n in graph.params}
        results: dict[Node | Union, list[Node]] = {}
        unions = groups(Graph(outputs=graph.outputs))
        for node in sorted(topological(graph.outputs), key=lambda n: n.uid):
            if node in images:
                continue
            if node.op is ITEM:
                images[node] = results[node.inputs[0]][node.attr("index")]
                continue
            inputs = [images[n] for n in node.inputs]
            if node in unions:
                union = unions[node]
                if union not in results:
                    longer = graph.add(node.op, node.inputs, union.attrs(node), node.site, TOKEN)
                    results[union] = self._owner(longer, inputs)
                results[node] = union.results(node, results[union])
            elif node.graphs:
                results[node] = self._owner(node, inputs)
            else:
                images[node] = self._image(node, inputs)
        self.graph.outputs = [images[n] for n in graph.outputs]

    @property
    def first(self) -> Graph:
        """The first run, which also gives `values`."""
        return self._first.extended(self.values)

    def _image(self, node: Node, inputs: list[Node]) -> Node:
        if node.op is CONST:
            return self.graph.const(node.attr("value"))
        if not node.effect or self._keeps:
            return self.graph.add(node.op, inputs, node.attrs, node.site, node.spec)
        value = self._given([node])[0]
        assert isinstance(node.op, Op)
        if node.op.vjp is None:
            return value
        body = Graph()
        body.outputs = [body.param(n.spec) for n in (value, *inputs)][:1]
        known = {"body": body, "inline": True, "derivative": Known(node.op, node.attrs)}
        owner = self.graph.add(CALL, [value, *inputs], known, node.site, TOKEN)
        return self.graph.items(owner)[0]

    def _given(self, values: Sequence[Node]) -> list[Node]:
        """New parameters, for `values` of the first run."""
        self.values += values
        return [self.graph.param(n.spec) for n in values]

    # --- nodes that own graphs --------------------------------------------------------------------

    def _owner(self, node: Node, inputs: list[Node]) -> list[Node]:
        """The results of `node` in the second run."""
        keeps = self._keeps or _is_open(node)
        if not any(map(_has_effects, node.graphs)):
            attrs = node.attrs
        elif keeps:
            attrs = map_graphs(node.attrs, lambda g: Again(g, keeps).graph)
        elif node.op is COND:
            return self._cond(node, inputs)
        else:
            return self._body(node, inputs)
        return self._add(node, inputs, attrs)

    def _add(self, node: Node, inputs: Sequence[Node], attrs: Any) -> list[Node]:
        return self.graph.items(self.graph.add(node.op, inputs, attrs, node.site, TOKEN))

    def _from_first(self, node: Node, attrs: dict[str, Any], count: int) -> list[Node]:
        """The last `count` results of `node` in the first run, with these attributes."""
        first = self._first
        given = {**dict(node.attrs), **attrs}
        owner = first.add(node.op, node.inputs, given, node.site, TOKEN)
        items = first.items(owner)
        return self._given([result_of(first, owner, x) for x in items[len(items) - count :]])

    def _body(self, node: Node, inputs: list[Node]) -> list[Node]:
        """A call, or a loop of a known number of iterations, which stacks the values."""
        inner = Again(node.attr("body"))
        body, count = inner.graph, len(inner.values)
        values = self._from_first(node, {"body": inner.first}, count)
        attrs = {**dict(node.attrs), "body": body}
        if node.op is LOOP:
            own = len(node.attr("body").params)
            ends = node.attr("carried") + node.attr("scanned")
            body.set_params([*body.params[:ends], *body.params[own:], *body.params[ends:own]])
            attrs["scanned"] += count
            return self._add(node, [*inputs[:ends], *values, *inputs[ends:]], attrs)
        return self._add(node, [*inputs, *values], attrs)

    def _cond(self, node: Node, inputs: list[Node]) -> list[Node]:
        first, graphs = again(node.attr("branches"))
        count = len(graphs[0].params) - len(node.attr("branches")[0].params)
        values = self._from_first(node, {"branches": tuple(first)}, count) if count else []
        return self._add(node, [*inputs, *values], {"branches": tuple(graphs)})


def again(branches: Sequence[Graph]) -> tuple[list[Graph], list[Graph]]:
    """The first and the second run of what one of `branches` computes, with the same operands.

    In the first run they also give values of effects, in the second they take them: each those of
    all, with zeros for those of others. Where there are none the first list is empty.
    """
    if not any(map(_has_effects, branches)):
        return [], list(branches)
    inner = [Again(g) for g in branches]
    specs = [[n.spec for n in x.values] for x in inner]
    first = []
    for k, (branch, x) in enumerate(zip(branches, inner, strict=True)):
        own, params = len(branch.params), x.graph.params
        parts = [x.values if i == k else _zeros(branch, s) for i, s in enumerate(specs)]
        places = [params[own:] if i == k else _places(s) for i, s in enumerate(specs)]
        first.append(branch.extended([n for part in parts for n in part]))
        x.graph.set_params([*params[:own], *(n for part in places for n in part)])
    return first if any(specs) else [], [x.graph for x in inner]


def _has_effects(graph: Graph) -> bool:
    return bool(graph.effects) or any(
        n.effect or any(map(_has_effects, n.graphs)) for n in topological(graph.outputs)
    )


def calls_in_open_loops(graph: Graph) -> bool:
    """Whether a node of `graph` is a loop of unknown length whose effects give values.

    A second run would have other values. What such loops stack leaves their graph, which is then
    interpreted: compiled code has no room for results whose sizes it does not know.
    """
    return any(_is_open(n) and any(map(_gives_values, n.graphs)) for n in graph.nodes())


def first_without_inputs(nodes: Iterable[Node]) -> Node | None:
    """An effect that gives a value without any inputs, also in graphs that `nodes` own."""
    for node in nodes:
        if node.effect and not node.inputs and not node.graphs and node.spec is not TOKEN:
            return node
        for graph in node.graphs:
            found = first_without_inputs(graph.nodes())
            if found is not None:
                return found
    return None


def _is_open(node: Node) -> bool:
    return node.op is LOOP and (node.attr("cond") is not None or node.attr("length") is None)


def _gives_values(graph: Graph) -> bool:
    return any(
        any(map(_gives_values, n.graphs)) or (n.effect and n.spec is not TOKEN)
        for n in graph.nodes()
    )


def _places(specs: Sequence[Spec]) -> list[Node]:
    return [Node(PARAM, (), (), s, None) for s in specs]


def _zeros(graph: Graph, specs: Sequence[Spec]) -> list[Node]:
    return [
        graph.add(BROADCAST_TO, [graph.const(np.zeros((), s.dtype.numpy))], {"shape": s.shape})
        for s in specs
    ]


@dataclass(frozen=True)
class Known:
    """The derivative of the effect `op`, where its result is the first operand."""

    op: Op
    attrs: tuple[tuple[str, Any], ...]

    def __call__(
        self,
        grads: Sequence[Tensor | None],
        results: Sequence[Tensor],
        operands: Sequence[Tensor],
    ) -> list[Tensor | None]:
        none: list[Tensor | None] = [None] * len(operands)
        if grads[0] is None or self.op.vjp is None:
            return none
        found = self.op.vjp(grads[0], results[0], *operands[1:], **dict(self.attrs))
        return [None, *(g if g is None or isinstance(g, Tensor) else g() for g in found)]
