"""What is the same in every iteration of a loop is computed once, before it.

Aho, Lam, Sethi, Ullman, "Compilers", 2nd edition, 2006, section 9.5.1 (loop-invariant code motion).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from .. import expr
from ..element import element
from ..expr import Buffer, Const, Load
from ..graph import CONST, ITEM, LOOP, PARAM, Graph, Node, map_graphs
from ..rewrite import Results, rebuild_owners, replay
from ..spec import Spec


def hoist(graph: Graph) -> Graph:
    """Costly values of a loop that depend on fixed values alone become fixed values; also in graphs
    that nodes own.

    Index maps and what costs no more than to load it stay inside, and so does what is larger than
    its operands, unless it costs much: storing it would cost more than computing it again. Effects
    and nodes that own graphs stay; so does what the host computes, which may raise, unless there
    certainly is an iteration.
    """
    inner = cache(hoist)  # graphs that several nodes own stay one

    def replace(node: Node, inputs: list[Node], new: Graph) -> Results:
        attrs = dict(map_graphs(node.attrs, inner))
        if node.op is LOOP:
            inputs = [*inputs, *_move(attrs, inputs, new)]
        return new.items(new.add(node.op, inputs, attrs, node.site, node.spec))

    return rebuild_owners(graph, replace)


def _move(attrs: dict[str, object], inputs: list[Node], new: Graph) -> list[Node]:
    """Moves what is worth it out of the graphs of a loop into `new`: further fixed values."""
    body, cond, carried, scanned = (attrs[k] for k in ("body", "cond", "carried", "scanned"))
    assert isinstance(body, Graph) and isinstance(carried, int) and isinstance(scanned, int)
    certain = cond is None and attrs["length"] not in (None, 0)
    found = {"body": _worth(body, carried + scanned, certain)}
    if isinstance(cond, Graph):
        found["cond"] = _worth(cond, carried, certain)
    fixed = inputs[carried + scanned :]
    moved: list[Node] = []
    for name, nodes in found.items():
        graph = attrs[name]
        assert isinstance(graph, Graph)
        params = graph.params[len(graph.params) - len(fixed) :]
        image = replay(nodes, dict(zip(params, fixed, strict=True)), new)
        moved += [image[n] for n in nodes]
    if moved:
        new.log += [f"hoist: {n}" for n in moved]
        specs = [n.spec for n in moved]
        attrs["body"] = _reading(body, specs, found["body"], 0)
        if isinstance(cond, Graph):
            attrs["cond"] = _reading(cond, specs, found["cond"], len(found["body"]))
    return moved


def _reading(old: Graph, specs: Sequence[Spec], nodes: Sequence[Node], first: int) -> Graph:
    """`old` with further parameters, from number `first` of which it reads the values `nodes`."""
    new = Graph()
    given = {n: new.param(n.spec) for n in old.params}
    more = [new.param(s) for s in specs]
    given.update(zip(nodes, more[first:], strict=False))
    image = replay(old.roots(), given, new)
    new.outputs = [image[n] for n in old.outputs]
    return new


def _worth(graph: Graph, first: int, certain: bool) -> list[Node]:
    """The values that are worth computing outside, of those that depend on the parameters from
    number `first` on alone; none of them is needed for another one only."""
    # with all of code generation: only where there is a loop to compile
    from ..clusters import RECOMPUTE
    from ..lower import CHEAP

    own: dict[Node, float] = {}
    total: dict[Node, float] = {}
    largest: dict[Node, int] = {}  # of the parameters that a value depends on
    for node in graph.nodes():
        if node.op is CONST or (node.op is PARAM and node.attr("index") >= first):
            own[node] = total[node] = 0
            largest[node] = 0 if node.op is CONST else node.spec.size
        elif _movable(node) and all(n in own for n in node.inputs):
            work = _work(node)
            if certain or work < math.inf:
                own[node] = work
                total[node] = work + sum(total[n] for n in node.inputs)
                largest[node] = max(largest[n] for n in node.inputs)
    found: list[Node] = []
    seen: set[Node] = set()
    stack = graph.roots()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        worth = own.get(node, 0) > 0 and total[node] > CHEAP
        if worth and (node.spec.size <= largest[node] or own[node] > RECOMPUTE):
            found.append(node)
        else:
            stack.extend(node.inputs)
    return found


def _movable(node: Node) -> bool:
    return bool(node.inputs) and not (node.effect or node.graphs or node.op is ITEM)


def _work(node: Node) -> float:
    """Additions for one element; 0 for an index map, infinity for what the host computes."""
    from ..cost import cost

    with expr.fresh():
        operands = [Buffer(f"x{k}", n.spec) for k, n in enumerate(node.inputs)]
        _, value = element(node.op, node.spec, operands, dict(node.attrs))
        if value is None:
            return math.inf
        return 0 if isinstance(value, Load | Const) else cost(value, {})[0]
