"""Calls, known branches and loops without iterations give way to what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from ..graph import CALL, COND, CONST, LOOP, Graph, Node, map_graphs, results
from ..rewrite import Replace, Results, rebuild_owners, replay


def inline(graph: Graph) -> Graph:
    """Nodes that own graphs are replaced by the nodes of a graph where it is known that this runs,
    and runs once; also in graphs that nodes own.

    * a call, unless it asks to be computed by itself (`inline=False`): its body;
    * a branch whose number is a constant: that graph;
    * a loop with one iteration that scans and stacks nothing: its body;
    * a loop with none: its initial values, and stacks of size 0.
    """
    inner = cache(inline)  # graphs that several nodes own stay one

    def replace(node: Node, inputs: list[Node], new: Graph) -> Results:
        body, args = _known(node, inputs)
        if body is not None:
            new.log.append(f"inline: {node}")
            return _spliced(body, args, new, replace)
        if node.op is LOOP and node.attr("length") == 0 and not _has_stacks(node):
            new.log.append(f"inline: {node}")
            return _initial(node, inputs, new)
        attrs = map_graphs(node.attrs, inner)
        return new.items(new.add(node.op, inputs, attrs, node.site, node.spec))

    return rebuild_owners(graph, replace)


def _known(node: Node, inputs: list[Node]) -> tuple[Graph | None, Sequence[Node]]:
    """The graph that certainly runs, once, and its arguments."""
    if node.op is CALL and node.attr("inline"):
        return node.attr("body"), inputs
    if node.op is COND and inputs[0].op is CONST:
        branches, k = node.attr("branches"), int(inputs[0].attr("value").array)
        return branches[k if 0 <= k < len(branches) else -1], inputs[1:]
    if node.op is LOOP and node.attr("length") == 1 and node.attr("cond") is None:
        body = node.attr("body")
        if node.attr("scanned") == 0 and len(body.outputs) == node.attr("carried"):
            return body, inputs
    return None, ()


def _spliced(body: Graph, args: Sequence[Node], new: Graph, replace: Replace) -> list[Node]:
    image = replay(body.roots(), dict(zip(body.params, args, strict=True)), new, replace)
    return [image[n] for n in body.outputs]


def _has_stacks(node: Node) -> bool:
    return any(s.is_stack for s in results(node)[node.attr("carried") :])


def _initial(node: Node, inputs: list[Node], new: Graph) -> Results:
    carried = node.attr("carried")
    empty = [np.empty(s.shape, s.dtype.numpy) for s in results(node)[carried:]]
    return [*inputs[:carried], *(new.const(a) for a in empty)]
