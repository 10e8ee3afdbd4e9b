"""What the code of a graph depends on, as text: equal text, equal code."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from .graph import CALL, Graph, Literal, Node, OpDef, Structural, topological
from .records import dataclass
from .spec import DType, Spec


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The operations of an engine that are the same in every process.

    Attributes:
        ops: by their names.
        version: changes whenever anything about them does.
    """

    ops: Mapping[str, OpDef]
    version: str


class _Unknown(Exception):
    """Something that may differ from process to process."""


def fingerprint(graph: Graph, catalogue: Catalogue) -> str | None:
    """All that the code of `graph` depends on, but for the machine that it is made for. None where
    a part of it means something in this process only: a Python function, an op of the user's own.

    Nodes are written in the order in which they were made, which compilation follows; those of
    graphs that nodes own among them, because such graphs may share nodes. Lines of the user's code,
    which messages name, count for nothing.
    """
    try:
        return _Writer(catalogue).write(graph)
    except _Unknown:
        return None


def nodes(graph: Graph) -> list[Node]:
    """All that a fingerprint is made of, in its order: also those of graphs that nodes own."""
    return _found(graph)[1]


def numbers(graph: Graph, calls: Iterable[Node]) -> list[int | None]:
    """The places among `nodes(graph)` of those that compute what `calls` do, of operands of the
    same specs, for the same line of the user's code; None where there is no such node."""

    def key(n: Node) -> Hashable:
        return n.op, n.attrs, n.spec, *(x.spec for x in n.inputs), n.site

    wanted = list(calls)
    places: dict[Hashable, int] = {}
    for k, node in enumerate(nodes(graph) if wanted else ()):
        places.setdefault(key(node), k)
    return [places.get(key(n)) for n in wanted]


def _found(graph: Graph) -> tuple[list[Graph], list[Node]]:
    """`graph` and all that its nodes own, and all of their nodes in the order of their creation."""
    graphs, found = [graph], set[Node]()
    known = {id(graph)}
    for g in graphs:  # grows meanwhile
        new = [n for n in (*g.params, *topological([*g.roots(), *g.params])) if n not in found]
        found.update(new)
        owned = [inner for n in new for inner in n.graphs]
        for inner in [*owned, *([] if g.base is None else [g.base])]:
            if id(inner) not in known:
                known.add(id(inner))
                graphs.append(inner)
    return graphs, sorted(found, key=lambda n: n.uid)


class _Writer:
    def __init__(self, catalogue: Catalogue) -> None:
        self._ops = catalogue.ops
        self._graphs: dict[int, int] = {}  # id -> number
        self._nodes: dict[Node, int] = {}

    def write(self, graph: Graph) -> str:
        graphs, found = _found(graph)
        self._graphs = {id(g): k for k, g in enumerate(graphs)}
        lines: list[str] = []
        for node in found:
            lines.append(self._node(node))
            self._nodes[node] = len(self._nodes)
        return "\n".join([*lines, *map(self._graph, graphs)])

    def _node(self, node: Node) -> str:
        op = node.op
        if not isinstance(op, Structural) and self._ops.get(op.name) is not op:
            raise _Unknown
        inputs = [self._nodes[n] for n in node.inputs]
        # the engine's own: compilation does not read it
        attrs = [
            (name, self._value(value))
            for name, value in node.attrs
            if not (op is CALL and name == "derivative")
        ]
        return f"{op.name}{inputs}{attrs}{node.spec!r}"

    def _graph(self, graph: Graph) -> str:
        number = self._nodes
        params = [number[n] for n in graph.params]
        outputs = [number[n] for n in graph.outputs]
        updates = [(k, number[n]) for k, n in graph.updates]
        effects = [number[n] for n in graph.effects]
        base = None if graph.base is None else self._graphs[id(graph.base)]
        return f"graph {params} {outputs} {updates} {effects} {base}"

    def _value(self, x: Any) -> str:
        if x is None or type(x) in (bool, int, float, str, complex):
            return repr(x)
        if type(x) is tuple:
            return f"({','.join(map(self._value, x))},)"
        if isinstance(x, Literal):
            return f"<{x.array.dtype.str}{x.array.shape}{x.array.tobytes().hex()}>"
        if isinstance(x, DType | Spec):
            return f"<{x!r}>"
        if isinstance(x, Graph):
            return f"{{{self._graphs[id(x)]}}}"
        raise _Unknown
