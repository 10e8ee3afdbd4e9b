"""Graphs as functions of tensors: replayed, differentiated, and owned by nodes of other graphs.

A branch, a loop or a call is one node that owns graphs (`dualmode_compiler.graph`). Its gradient is
such a node again, so tapes that listen record it, for every order:

* a branch and a call compute again, within the graph of the gradient, what that needs (`again`);
* a loop is run again by a longer body, which stacks what the gradient needs of every iteration; the
  compiler runs only the longer one. The gradient goes through the iterations from last to first.

Griewank and Walther, "Evaluating Derivatives", 2nd edition, 2008, chapters 3 and 12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dualmode_compiler.graph import (
    CALL,
    COND,
    CONST,
    ITEM,
    LOOP,
    PARAM,
    Attrs,
    Graph,
    Node,
    Structural,
    map_graphs,
    topological,
)
from dualmode_compiler.passes.merge import Union, common, groups, result_of
from dualmode_compiler.records import dataclass

from . import errors, op
from .again import Known, again, first_without_inputs
from .dependence import rules
from .op import Op, state
from .ops import creation
from .tape import CallVjp, GradientTape, UserVjp
from .tensor import Tensor
from .tracer import Tracer, current_tracer

Grads = Sequence[Tensor | None]
Derivative = Callable[[Grads, list[Tensor], Sequence[Tensor]], Grads]


def replay(
    graph: Graph, args: Sequence[Tensor], unions: Mapping[Node, Union] | None = None
) -> dict[Node, Tensor]:
    """Execute the nodes of `graph` in the current mode; the tensor of each node with a value.

    Args:
        unions: nodes that own graphs are executed as one that does what all of them do, but for
            effects.
    """
    tracer = current_tracer()
    saved = tracer.site if tracer else None
    values: dict[Node, Tensor] = dict(zip(graph.params, args, strict=True))
    results: dict[Node | Union, list[Tensor]] = {}
    unions = unions or {}
    try:
        for node in sorted(graph.nodes(), key=lambda n: n.uid):
            if node in values:
                continue
            if node.op is CONST:
                value = node.attr("value")
                values[node] = tracer.literal(value) if tracer else Tensor._wrap(value.array)
            elif node.op is ITEM:
                values[node] = results[node.inputs[0]][node.attr("index")]
            else:
                if tracer:
                    tracer.site = node.site
                inputs = [values[n] for n in node.inputs]
                union = unions.get(node)
                if union is not None:
                    if union not in results:
                        results[union] = _again(node, inputs, union.attrs(node))
                    results[node] = union.results(node, results[union])
                elif node.graphs:
                    results[node] = _again(node, inputs, node.attrs)
                else:
                    assert isinstance(node.op, Op)
                    values[node] = node.op(*inputs, **dict(node.attrs))
    finally:
        if tracer:
            tracer.site = saved
    return values


def extract(
    roots: Sequence[Node], inputs: Sequence[Node], effects: Sequence[Node] = ()
) -> tuple[Graph, list[Node]]:
    """A graph that computes `roots` from `inputs`, and the inputs that it takes, in order.

    It has these `effects`. Others have taken place already, where it computes something again; they
    stay only where they give values, as calls of Python functions do.

    Raises:
        GradientError: one of those has no inputs, so that it would give something else.
    """
    graph = Graph()
    stop = set(inputs)
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(n, False) for n in reversed([*roots, *effects])]
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            if node not in stop:
                stack.extend((n, False) for n in reversed(node.inputs))
    used = [n for n in inputs if n in seen]
    copies = {n: graph.param(n.spec) for n in used}
    order.sort(key=lambda n: n.uid)  # effects in their order
    repeated = first_without_inputs(n for n in order if n not in stop and n not in effects)
    if repeated is not None:
        raise errors.locate(
            errors.GradientError(
                "gradient: it has to run a loop again whose number of iterations is not known, in "
                "a branch, a remat or another loop; so what a dataset, a generator or a Python "
                "function without inputs gave in there would have to come a second time. Take the "
                "gradient inside of that loop, or give the loop a known number of iterations"
            ),
            repeated.site,
        )
    _copy(order, copies, graph, set(effects))
    graph.outputs = [copies[n] for n in roots]
    return graph, used


def _copy(
    order: Iterable[Node], copies: dict[Node, Node], graph: Graph, effects: set[Node]
) -> None:
    """Add `order` to `graph`; see `extract`."""
    for node in order:
        if node in copies:
            continue
        inner = [copies[n] for n in node.inputs]
        changes = node not in effects and any(map(_has_effects, node.graphs))
        attrs = map_graphs(node.attrs, _silent) if changes else node.attrs
        copies[node] = (
            graph.const(node.attr("value"))
            if node.op is CONST
            else graph.add(node.op, inner, attrs, node.site, node.spec)
        )


def _has_effects(graph: Graph) -> bool:
    return bool(graph.effects) or any(n.effect for n in topological(graph.outputs))


def _silent(graph: Graph) -> Graph:
    found = Graph()
    copies = {n: found.param(n.spec) for n in graph.params}
    _copy(topological(graph.outputs), copies, found, set())
    found.outputs = [copies[n] for n in graph.outputs]
    return found


class Gradient:
    """The gradient of a graph's results, traced over a copy of its nodes.

    Attributes:
        cotangents: nodes for the gradients of the results that are `given` one.
        grads: nodes for the gradients of the parameters, None where there is none.
        effects: of rules that users give for gradients, in order.
        image: for each node of the graph, its copy in the trace.
    """

    def __init__(self, graph: Graph, given: Sequence[bool], stacks: bool = False) -> None:
        """With `stacks` what a loop stacks is a result also if its length is not known."""
        self._stacks = stacks
        results = [*graph.outputs, *(n for _, n in graph.updates)]
        tracer = Tracer()
        with op.mode(tracer):
            params = [tracer.param(n.spec) for n in graph.params]
            sources = [x for x in params if x.dtype.is_inexact]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                values = replay(graph, params, groups(graph))  # so each has one gradient
            targets = [values[n] for n, g in zip(results, given, strict=True) if g]
            forward = {x._value for x in values.values()}
            effects = len(tracer.graph.effects)
            seeds = [tracer.param(t.spec) for t in targets]
            found = tape.gradient(targets, sources, output_gradients=seeds) if targets else ()
            tracer.close()
        by_source = {id(x): g for x, g in zip(sources, found, strict=bool(targets))}
        self.cotangents: list[Node] = [x._value for x in seeds]
        self.grads: list[Node | None] = [
            None if g is None else tracer.node(g) for g in map(by_source.get, map(id, params))
        ]
        self.effects: list[Node] = tracer.graph.effects[effects:]
        self.image: dict[Node, Node] = {n: x._value for n, x in values.items()}
        self._forward = forward
        self._keep_results(graph, tracer.graph)

    def _keep_results(self, graph: Graph, trace: Graph) -> None:
        """Take what the gradient has nodes that own graphs give besides their results for results
        of `graph`, which may give them as well."""
        owners = {
            common(self.image[n].inputs[0]): n.inputs[0]
            for n in graph.nodes()
            if n.op is ITEM and self.image[n].op is ITEM
        }
        same: dict[Node, Node] = {}  # several nodes of the trace may be one of the graph
        for node in topological([*(g for g in self.grads if g is not None), *self.effects]):
            if node.op is not ITEM or node in self._forward or not self._may_leave(node):
                continue
            owner = owners.get(common(node.inputs[0]))
            if owner is not None:
                origin = result_of(graph, owner, node)
                same[node] = self.image.setdefault(origin, node)
                self._forward.add(same[node])
        if any(a is not b for a, b in same.items()):
            self._replace(same, trace)

    def _may_leave(self, node: Node) -> bool:
        return self._stacks or not node.spec.is_stack

    def _replace(self, same: dict[Node, Node], trace: Graph) -> None:
        """Read other nodes instead of those that `same` names."""
        image = dict(same)
        roots = [*(g for g in self.grads if g is not None), *self.effects]
        for node in sorted(topological(roots), key=lambda n: n.uid):
            if node in image:
                continue
            inputs = [image[n] for n in node.inputs]
            moved = node.effect or inputs != list(node.inputs)  # effects stay in order
            image[node] = (
                trace.add(node.op, inputs, node.attrs, node.site, node.spec) if moved else node
            )
        self.grads = [None if g is None else image[g] for g in self.grads]
        self.effects = [image[n] for n in self.effects]

    def reads(self) -> list[Node]:
        """The graph's nodes, other than constants, that the gradients read.

        Stacks are none of them, since they do not leave a graph: their loop is run again.
        """
        origin = {image: n for n, image in self.image.items()}
        roots = [*(g for g in self.grads if g is not None), *self.effects]
        read: dict[Node, None] = {}
        seen: set[Node] = set()
        stack = roots[::-1]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            if node in self._forward and self._may_leave(node):
                read[node] = None
            else:
                stack.extend(node.inputs[::-1])
        return [origin[n] for n in read if n.op is not CONST]

    def residuals(self) -> list[Node]:
        """Those of them that are no parameters."""
        return [n for n in self.reads() if n.op is not PARAM]


# --- nodes that own graphs ------------------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """The attributes of a LOOP node; see `dualmode_compiler.graph`."""

    body: Graph
    carried: int
    scanned: int = 0
    cond: Graph | None = None
    length: int | None = None
    reverse: bool = False


def cond(branches: Sequence[Graph], index: Tensor, operands: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of branch number `index` (int32; the last for all others) for `operands`."""

    def vjp(grads: Grads, results: list[Tensor], inputs: Sequence[Tensor]) -> Grads:
        index, *operands = inputs

        def run(graphs: Sequence[Graph], inputs: Sequence[Tensor]) -> list[Tensor]:
            return cond(graphs, index, inputs)

        return [None, *_pull_back(branches, grads, operands, run)]

    return _apply(COND, [index, *operands], {"branches": tuple(branches)}, vjp)


def call(
    body: Graph,
    operands: Sequence[Tensor],
    inline: bool = True,
    derivative: Derivative | None = None,
) -> list[Tensor]:
    """The outputs of `body` for `operands`.

    Args:
        inline: False computes it by itself, so that no value inside outlives it.
        derivative: `(gradients of the results, results, operands) -> gradients of the operands`,
            run in the mode then current; by default that of the body.
    """

    def vjp(grads: Grads, results: list[Tensor], operands: Sequence[Tensor]) -> Grads:
        if derivative is not None:
            return derivative(grads, results, operands)
        return _pull_back([body], grads, operands, lambda graphs, x: call(graphs[0], x, inline))

    return _apply(CALL, operands, {"body": body, "inline": inline, "derivative": derivative}, vjp)


def loop(what: Loop, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The last carried values and the stacked results, for the initial carried values, the scanned
    arrays and the fixed values."""
    scanned = inputs[what.carried : what.carried + what.scanned]
    counted = what.cond is None and what.length is None
    if counted and not any(x.spec.is_stack for x in scanned):  # stacks that have left their graph
        what = replace(what, length=scanned[0].shape[0])

    def vjp(grads: Grads, results: list[Tensor], inputs: Sequence[Tensor]) -> Grads:
        from .reversal import LoopGradient  # which is built on this module

        return LoopGradient(what, inputs, grads).run()

    attrs = {name: getattr(what, name) for name in what.__dataclass_fields__}
    return _apply(LOOP, inputs, attrs, vjp)


def _apply(
    op: Structural, inputs: Sequence[Tensor], attrs: dict[str, Any], vjp: Derivative
) -> list[Tensor]:
    tracer = current_tracer()
    assert tracer is not None, "graphs are owned by nodes of graphs"
    results = tracer.own_graphs(op, inputs, attrs)
    if state.tapes:
        owner = tracer.node(results[0]).inputs if results else ()
        record(owner, inputs, results, lambda grads: vjp(grads, results, inputs))
    return results


def record(
    nodes: Iterable[Node], inputs: Sequence[Tensor], results: Sequence[Tensor], vjp: CallVjp
) -> None:
    """Tell the tapes of a call, which executes `nodes`, with its vjp."""
    found = [rule for n in nodes for rule in rules(n) if not isinstance(rule, Known)]
    if found:
        vjp = UserVjp(vjp, getattr(found[0], "name", "custom_gradient"))
    for tape in state.tapes:
        tape.record_call(inputs, results, vjp)


def _again(node: Node, inputs: list[Tensor], known: Attrs) -> list[Tensor]:
    """What `node` does, with other inputs and attributes."""
    attrs = dict(known)
    if node.op is COND:
        return cond(attrs["branches"], inputs[0], inputs[1:])
    if node.op is CALL:
        return call(operands=inputs, **attrs)
    return loop(Loop(**attrs), inputs)


def _pull_back(
    graphs: Sequence[Graph],
    grads: Grads,
    operands: Sequence[Tensor],
    run: Callable[[Sequence[Graph], Sequence[Tensor]], list[Tensor]],
) -> Grads:
    """The gradients of `operands` of one of `graphs`, which `run` chooses.

    The graphs of the gradient take the operands, what effects gave, and `grads` where there are
    some.
    """
    outputs, count = graphs[0].outputs, len(operands)
    given = [g is not None and n.spec.dtype.is_inexact for g, n in zip(grads, outputs, strict=True)]
    first, graphs = again(graphs)
    values = run(first, operands)[len(outputs) :] if first else []
    gradients = [Gradient(g, given) for g in graphs]
    wanted = [k for k in range(count) if any(g.grads[k] is not None for g in gradients)]
    if not wanted:
        return [None] * count
    backward = []
    for graph, gradient in zip(graphs, gradients, strict=True):
        inputs = [*(gradient.image[n] for n in graph.params), *gradient.cotangents]
        found = [gradient.grads[k] for k in wanted]
        specs = [operands[k].spec for k in wanted]
        backward.append(_with_zeros(found, specs, inputs, gradient.effects))
    seeds = [g for g, used in zip(grads, given, strict=True) if used and g is not None]
    results = dict(zip(wanted, run(backward, [*operands, *values, *seeds]), strict=True))
    return [results.get(k) for k in range(count)]


def _with_zeros(
    roots: Sequence[Node | None],
    specs: Sequence[Any],
    inputs: list[Node],
    effects: Sequence[Node],
) -> Graph:
    """A graph that computes `roots` from all of `inputs`; zeros where there is no root."""
    inner, used = extract([n for n in roots if n is not None], inputs, effects)
    tracer = Tracer()
    with op.mode(tracer):
        params = {n: tracer.param(n.spec) for n in inputs}
        values = replay(inner, [params[n] for n in used])
        found = iter(inner.outputs)
        outputs = [
            creation.zeros(s.shape, dtype=s.dtype) if n is None else values[next(found)]
            for n, s in zip(roots, specs, strict=True)
        ]
        return tracer.finish([tracer.node(x) for x in outputs])
