"""What every valid graph satisfies. Tests run this after every pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .graph import CALL, COND, CONST, ITEM, LOOP, PARAM, Graph, Node, results
from .spec import Spec, bool_, int32


class InvalidGraph(Exception):
    """A graph breaks an invariant; the message says which node and how."""


def verify(graph: Graph) -> None:
    """Check the invariants of `graph`, and of the graphs that its nodes own.

    * a parameter is in `params`, at its own index;
    * a node's spec is what its op infers (but for weakness, which ops do not know);
    * an input is older than its reader, attributes are sorted and hashable;
    * an update has the shape and dtype of the state, which is updated once;
    * every effect is among `effects`, in order of creation (those of a graph that extends another,
      `Graph.base`, may be among that one's);
    * a node that owns graphs is read by `ITEM`s alone, and nothing else is read by them;
    * what it owns updates no state, and takes and gives what the comments in `graph` say;
    * a stack is read by loops that scan it, in the graph in which it is made.

    Raises:
        InvalidGraph: one of them does not hold.
    """
    _Verifier().graph(graph)


def _like(a: Spec, b: Spec) -> bool:
    return (a.shape, a.dtype) == (b.shape, b.dtype)


class _Verifier:
    """One verification: each graph is checked once, however many nodes own it."""

    def __init__(self) -> None:
        self._done: set[Graph] = set()

    def graph(self, graph: Graph) -> None:
        if graph in self._done:
            return
        self._done.add(graph)
        params = set(graph.params)
        for k, node in enumerate(graph.params):
            if node.op is not PARAM or node.attr("index") != k:
                raise InvalidGraph(f"parameter {k} is {node}")
        effects = {e for g in (graph, *_bases(graph)) for e in g.effects}
        for node in graph.nodes():
            if node.op is PARAM and node not in params:
                raise InvalidGraph(f"{node} is a parameter of another graph")
            if node.effect and node not in effects:
                raise InvalidGraph(f"{node} has an effect that would be lost")
            _check_node(node)
            self._owned(node)
        _check_results(graph)
        order = [n.uid for n in graph.effects]
        if order != sorted(order):
            raise InvalidGraph("effects are out of order")

    def _owned(self, node: Node) -> None:
        for k, owned in enumerate(node.graphs):
            try:
                if owned.updates:
                    raise InvalidGraph("it updates states")
                self.graph(owned)
            except InvalidGraph as error:
                raise InvalidGraph(f"graph {k} of {node}: {error}") from None


def _bases(graph: Graph) -> list[Graph]:
    found: list[Graph] = []
    while (base := graph.base) is not None:
        found.append(graph := base)
    return found


def _check_results(graph: Graph) -> None:
    for node in (*graph.params, *graph.outputs, *(n for _, n in graph.updates)):
        if node.spec.is_stack or node.graphs:
            raise InvalidGraph(f"{node} cannot leave or enter a graph")
    seen: set[int] = set()
    for k, node in graph.updates:
        state = graph.params[k]
        if not _like(node.spec, state.spec):
            raise InvalidGraph(f"state {state} is updated by {node}")
        if k in seen:
            raise InvalidGraph(f"state {state} is updated twice")
        seen.add(k)
    for node in graph.effects:
        if not node.effect:
            raise InvalidGraph(f"{node} is among the effects and has none")


def _check_node(node: Node) -> None:
    if node.op is PARAM:
        return
    names = [k for k, _ in node.attrs]
    if names != sorted(names):
        raise InvalidGraph(f"{node}: attributes are not sorted: {names}")
    hash(node.attrs)
    if any(n.uid >= node.uid for n in node.inputs):
        raise InvalidGraph(f"{node} reads a younger node")
    if node.op is ITEM:
        _check_item(node)
        return
    if any(n.graphs for n in node.inputs):
        raise InvalidGraph(f"{node} reads a node that owns graphs; only items do")
    if node.op is not LOOP and any(n.spec.is_stack for n in node.inputs):
        raise InvalidGraph(f"{node} reads a stack; only loops do")
    if node.op in _OWNERS:
        _OWNERS[node.op](node)
    elif node.graphs:
        raise InvalidGraph(f"{node} cannot own graphs")
    elif node.op is not CONST:
        wanted = node.op.infer(*(n.spec for n in node.inputs), **dict(node.attrs))
        if not _like(wanted, node.spec):
            raise InvalidGraph(f"{node}: the op infers {wanted}")


# --- nodes that own graphs ------------------------------------------------------------------------


def _check_item(node: Node) -> None:
    index = node.attr("index")
    if len(node.inputs) != 1 or not node.inputs[0].graphs:
        raise InvalidGraph(f"{node} reads a node that owns no graphs")
    specs = results(node.inputs[0])
    if not 0 <= index < len(specs):
        raise InvalidGraph(f"{node}: result {index} of {len(specs)}")
    if not _like(node.spec, specs[index]):
        raise InvalidGraph(f"{node}: result {index} is {specs[index]}")


def _check_specs(node: Node, what: str, found: Sequence[Spec], wanted: Sequence[Spec]) -> None:
    if len(found) != len(wanted) or not all(map(_like, found, wanted)):
        raise InvalidGraph(f"{node}: {what} are {list(found)}, not {list(wanted)}")


def _specs(nodes: Sequence[Node]) -> list[Spec]:
    return [n.spec for n in nodes]


def _check_cond(node: Node) -> None:
    branches: tuple[Graph, ...] = node.attr("branches")
    _check_specs(node, "the numbers of branches", _specs(node.inputs[:1]), [Spec((), int32)])
    for g in branches:
        _check_specs(node, "parameters of a branch", _specs(g.params), _specs(node.inputs[1:]))
        _check_specs(node, "results of a branch", _specs(g.outputs), _specs(branches[0].outputs))


def _check_call(node: Node) -> None:
    _check_specs(node, "parameters", _specs(node.attr("body").params), _specs(node.inputs))


def _check_loop(node: Node) -> None:
    body, cond = node.attr("body"), node.attr("cond")
    carried, length = node.attr("carried"), node.attr("length")
    ends = carried + node.attr("scanned")
    specs = _specs(node.inputs)
    if len(specs) < ends or len(body.outputs) < carried:
        raise InvalidGraph(f"{node}: {len(specs)} operands, {len(body.outputs)} results")
    if any(s.is_stack for s in (*specs[:carried], *specs[ends:])):
        raise InvalidGraph(f"{node} reads a stack that it does not scan")
    entries = [_entry(node, s, length, cond is None) for s in specs[carried:ends]]
    takes = [*specs[:carried], *entries, *specs[ends:]]
    _check_specs(node, "parameters of the body", _specs(body.params), takes)
    _check_specs(node, "new values", _specs(body.outputs[:carried]), specs[:carried])
    if cond is not None:
        _check_condition(node, cond, [*specs[:carried], *specs[ends:]])
    elif length is None and not any(s.is_stack for s in specs[carried:ends]):
        raise InvalidGraph(f"{node}: nothing tells the number of iterations")


def _entry(node: Node, spec: Spec, length: int | None, all_of_it: bool) -> Spec:
    """What a loop of `length` iterations takes of a scanned array at a time."""
    enough = bool(spec.shape) and (
        length is None or (spec.shape[0] == length if all_of_it else spec.shape[0] >= length)
    )
    if not enough:
        raise InvalidGraph(f"{node}: {length} iterations over {spec}")
    return spec.with_shape(spec.shape[1:])


def _check_condition(node: Node, cond: Graph, takes: Sequence[Spec]) -> None:
    _check_specs(node, "parameters of the condition", _specs(cond.params), takes)
    _check_specs(node, "results of the condition", _specs(cond.outputs), [Spec((), bool_)])
    if node.attr("reverse") or (node.attr("scanned") and node.attr("length") is None):
        raise InvalidGraph(f"{node} has a condition, so it cannot scan without end or go backwards")


_OWNERS: dict[Any, Any] = {COND: _check_cond, CALL: _check_call, LOOP: _check_loop}
