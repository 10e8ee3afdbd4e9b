"""Which results of a graph depend on which of its parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dualmode_compiler.graph import CALL, COND, ITEM, Graph, Node


def dependent(graph: Graph, marked: Collection[int]) -> list[bool]:
    """For each output of `graph`: whether it depends on a parameter with a number in `marked`."""
    reached = {graph.params[k] for k in marked}
    results: dict[Node, list[bool]] = {}
    nodes = Graph(outputs=graph.outputs).nodes()
    for node in sorted(nodes, key=lambda n: n.uid):
        inputs = [n in reached for n in node.inputs]
        if node.op is ITEM:
            found = results[node.inputs[0]][node.attr("index")]
        elif node.graphs:
            results[node] = _owner(node, inputs)
            continue
        else:
            # nothing is known of Python functions, whose gradients are linear if they are no rules
            called = node.effect or any(n.effect and not n.graphs for n in node.inputs)
            found = any(inputs) and not called
        if found:
            reached.add(node)
    return [n in reached for n in graph.outputs]


def _owner(node: Node, inputs: Sequence[bool]) -> list[bool]:
    """Which results of a node that owns graphs do, of which `inputs` do."""
    if not any(inputs):
        return [False] * len(node.graphs[0].outputs)
    if node.op is CALL:
        return dependent(node.attr("body"), _numbers(inputs))
    if node.op is COND:
        index, *operands = inputs
        of = [dependent(g, _numbers(operands)) for g in node.graphs]
        return [index or any(flags) for flags in zip(*of, strict=True)]
    return _loop(node, list(inputs))


def _loop(node: Node, inputs: list[bool]) -> list[bool]:
    body, cond, carried = (node.attr(name) for name in ("body", "cond", "carried"))
    ends = carried + node.attr("scanned")
    while True:
        found = dependent(body, _numbers(inputs))
        if cond is not None and any(dependent(cond, _numbers([*inputs[:carried], *inputs[ends:]]))):
            return [True] * len(found)
        after = [x or y for x, y in zip(found, inputs[:carried], strict=False)]
        if after == inputs[:carried]:
            return [*after, *found[carried:]]
        inputs[:carried] = after


def _numbers(flags: Sequence[bool]) -> list[int]:
    return [k for k, flag in enumerate(flags) if flag]


def rules(node: Node) -> list[object]:
    """The derivatives that calls bring: `node`, and those in graphs that it owns."""
    found = [x for g in node.graphs for n in g.nodes() for x in rules(n)]
    if node.op is CALL and node.attr("derivative") is not None:
        found.append(node.attr("derivative"))
    return found
