"""What nobody reads is not computed by branches, calls and loops, nor given to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..graph import COND, CONST, LOOP, PARAM, Graph, Node, results, topological
from ..rewrite import Results, items_read, rebuild_owners, replay


def prune(graph: Graph) -> Graph:
    """Nodes that own graphs take and give only what is needed; also in graphs that nodes own.

    * results that nobody reads are dropped, and equal ones given once; a carried value of a loop is
      read if the condition, an effect, or a result that is read depends on it;
    * operands that no graph reads are dropped, equal ones given once, constants moved inside;
    * a carried value that never changes becomes a fixed one, and its result the initial value; a
      result that is the same operand or constant in all branches becomes that.

    What then has no results and no effects is gone. Numbers of results change, so all `ITEM`s do.
    """
    read = items_read(graph)

    def replace(node: Node, inputs: list[Node], new: Graph) -> Results:
        wanted = sorted(read[node])
        if node.op is LOOP:
            return _loop(node, inputs, wanted, new)
        return _choice(node, inputs, wanted, new)

    return rebuild_owners(graph, replace)


class _Operands:
    """The operands that are left, and what became of the old ones.

    Attributes:
        nodes: operands, in order.
        places: for the number of an old operand its place among them, or a constant.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.places: dict[int, int | Node] = {}

    def take(self, numbers: Iterable[int], inputs: list[Node]) -> None:
        """Operands that stay as they are."""
        for k in numbers:
            self.places[k] = len(self.nodes)
            self.nodes.append(inputs[k])

    def share(self, numbers: Iterable[int], inputs: list[Node], constants: bool = True) -> None:
        """Operands of which equal ones become one; with `constants`, those move inside."""
        seen: dict[Node, int] = {}
        for k in numbers:
            x = inputs[k]
            if x.op is CONST and constants:
                self.places[k] = x
                continue
            if x not in seen:
                seen[x] = len(self.nodes)
                self.nodes.append(x)
            self.places[k] = seen[x]

    def graph(self, old: Graph, numbers: Sequence[int], hidden: Sequence[int] = ()) -> Graph:
        """`old`, whose parameters were the operands `numbers`, with those left as parameters, but
        for the `hidden` ones."""
        places = [self.places.get(k) for k in numbers]
        specs = dict(zip(places[::-1], (n.spec for n in old.params[::-1]), strict=True))
        new = Graph()
        params = {p: new.param(specs[p]) for p in range(len(self.nodes)) if p not in hidden}
        given: dict[Node, Node] = {}
        for param, place in zip(old.params, places, strict=True):
            if isinstance(place, int):
                given[param] = params[place]
            elif place is not None:
                given[param] = _constant(place, new)
        image = replay(old.roots(), given, new)
        new.outputs = [image[n] for n in old.outputs]
        return new


def _constant(node: Node, new: Graph) -> Node:
    return new.add(CONST, (), node.attrs, node.site, node.spec)


def _read(graph: Graph) -> set[int]:
    """The numbers of the parameters that `graph` needs."""
    return {n.attr("index") for n in graph.nodes() if n.op is PARAM}


# --- branches and calls ---------------------------------------------------------------------------


def _choice(node: Node, inputs: list[Node], read: list[int], new: Graph) -> Results:
    first = int(node.op is COND)
    operands = inputs[first:]
    found: list[Node | None] = [None] * len(results(node))
    asked: dict[tuple[Node, ...], list[int]] = {}
    for k in read:
        outputs = tuple(g.outputs[k] for g in node.graphs)
        found[k] = _same_in_all(outputs, operands, new)
        if found[k] is None:
            asked.setdefault(outputs, []).append(k)
    graphs = [
        prune(Graph(g.params, [outputs[b] for outputs in asked], effects=g.effects))
        for b, g in enumerate(node.graphs)
    ]
    if not asked and not any(g.effects for g in graphs):
        return found
    taken = _Operands()
    taken.share(sorted(set[int]().union(*map(_read, graphs))), operands)
    graphs = [taken.graph(g, range(len(operands))) for g in graphs]
    attrs = dict(node.attrs)
    attrs |= {"branches": tuple(graphs)} if node.op is COND else {"body": graphs[0]}
    owner = new.add(node.op, [*inputs[:first], *taken.nodes], attrs, node.site, node.spec)
    for item, numbers in zip(new.items(owner), asked.values(), strict=True):
        for k in numbers:
            found[k] = item
    return found


def _same_in_all(outputs: tuple[Node, ...], operands: list[Node], new: Graph) -> Node | None:
    """The value of a result that is the same operand, or the same constant, in every branch."""
    one = outputs[0]
    if any((n.op, n.attrs) != (one.op, one.attrs) for n in outputs):
        return None
    if one.op is PARAM:
        return operands[one.attr("index")]
    return _constant(one, new) if one.op is CONST else None


# --- loops ----------------------------------------------------------------------------------------


def _loop(node: Node, inputs: list[Node], read: list[int], new: Graph) -> Results:
    body, carried = node.attr("body"), node.attr("carried")
    still = [k for k in range(carried) if body.outputs[k] is body.params[k]]
    moving = [k for k in _needed(node, read) if k not in still]
    stacked = list(dict.fromkeys(body.outputs[k] for k in read if k >= carried))
    outputs = [*(body.outputs[k] for k in moving), *stacked]
    small = prune(Graph(body.params, outputs, effects=body.effects))
    test = None if node.attr("cond") is None else prune(node.attr("cond"))
    found: list[Node | None] = [None] * len(body.outputs)
    for k in still:
        found[k] = inputs[k]
    if not (outputs or small.effects or (test and test.effects)):
        return found
    owner = _smaller(node, inputs, new, small, test, moving, still)
    items = new.items(owner)
    for k, item in zip(moving, items, strict=False):
        found[k] = item
    by_output = dict(zip(stacked, items[len(moving) :], strict=True))
    for k in read:
        if k >= carried:
            found[k] = by_output[body.outputs[k]]
    return found


def _needed(node: Node, read: list[int]) -> list[int]:
    """The carried values that are read, or on which something depends that is."""
    body, cond, carried = node.attr("body"), node.attr("cond"), node.attr("carried")
    needed = {k for k in read if k < carried}
    if cond is not None:
        needed |= {k for k in _read(cond) if k < carried}
    roots = [*(body.outputs[k] for k in read if k >= carried), *body.effects]
    while True:
        reached = topological([*roots, *(body.outputs[k] for k in needed)])
        more = {n.attr("index") for n in reached if n.op is PARAM and n.attr("index") < carried}
        if more <= needed:
            return sorted(needed)
        needed |= more


def _smaller(
    node: Node,
    inputs: list[Node],
    new: Graph,
    body: Graph,
    cond: Graph | None,
    moving: list[int],
    still: list[int],
) -> Node:
    """The loop with this body and condition, which carries only the `moving` values."""
    carried, ends = node.attr("carried"), node.attr("carried") + node.attr("scanned")
    of_cond = [*range(carried), *range(ends, len(inputs))]
    used = _read(body)
    if cond is not None:
        used |= {of_cond[k] for k in _read(cond)}
    taken = _Operands()
    taken.take(moving, inputs)
    scanned = [k for k in range(carried, ends) if k in used]
    if cond is None and node.attr("length") is None:
        stacks = [k for k in range(carried, ends) if inputs[k].spec.is_stack]
        if not used.intersection(stacks):
            scanned.append(stacks[0])  # which tells how many iterations there are
    taken.share(scanned, inputs, constants=False)
    arrays = range(len(moving), len(taken.nodes))
    taken.share([k for k in [*still, *range(ends, len(inputs))] if k in used], inputs)
    attrs = dict(node.attrs) | {"carried": len(moving), "scanned": len(arrays)}
    attrs["body"] = taken.graph(body, range(len(inputs)))
    attrs["cond"] = None if cond is None else taken.graph(cond, of_cond, arrays)
    return new.add(LOOP, taken.nodes, attrs, node.site, node.spec)
