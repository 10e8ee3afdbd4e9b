"""Graphs as functions of tensors: replayed, differentiated, and owned by nodes of other graphs.

A branch, a loop or a call is one node that owns graphs (`dualmode_compiler.graph`). Its gradient is
such a node again, so tapes that listen record it, for every order:

* a branch and a call compute again, within the graph of the gradient, what that needs;
* a loop is run again by a longer body, which stacks what the gradient needs of every iteration; the
  compiler runs only the longer one. The gradient goes through the iterations from last to first.

Griewank and Walther, "Evaluating Derivatives", 2nd edition, 2008, chapters 3 and 12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dualmode_compiler.graph import (
    CALL,
    COND,
    CONST,
    ITEM,
    LOOP,
    PARAM,
    Graph,
    Node,
    Structural,
    map_graphs,
    topological,
)

from . import op
from .op import Op, state
from .ops import creation, elementwise
from .tape import GradientTape
from .tensor import Tensor
from .tracer import Tracer, current_tracer

Grads = Sequence[Tensor | None]
Derivative = Callable[[Grads, list[Tensor], Sequence[Tensor]], Grads]


def replay(graph: Graph, args: Sequence[Tensor]) -> dict[Node, Tensor]:
    """Execute the nodes of `graph` in the current mode; the tensor of each node with a value."""
    tracer = current_tracer()
    saved = tracer.site if tracer else None
    values: dict[Node, Tensor] = dict(zip(graph.params, args, strict=True))
    results: dict[Node, list[Tensor]] = {}
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
                if node.graphs:
                    results[node] = _again(node, inputs)
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
        again = bool(node.graphs) and node not in effects
        attrs = map_graphs(node.attrs, _silent) if again else node.attrs
        copies[node] = (
            graph.const(node.attr("value"))
            if node.op is CONST
            else graph.add(node.op, inner, attrs, node.site, node.spec)
        )


def _silent(graph: Graph) -> Graph:
    if not any(n.effect for n in topological(graph.outputs)) and not graph.effects:
        return graph
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

    def __init__(self, graph: Graph, given: Sequence[bool]) -> None:
        results = [*graph.outputs, *(n for _, n in graph.updates)]
        tracer = Tracer()
        with op.mode(tracer):
            params = [tracer.param(n.spec) for n in graph.params]
            sources = [x for x in params if x.dtype.is_inexact]
            with GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(sources)
                values = replay(graph, params)
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

    def reads(self) -> list[Node]:
        """The graph's nodes, other than constants, that the gradients read.

        Stacks are none of them, since a stack has no entries of its own kind: their loop is run
        again.
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
            if node in self._forward and not node.spec.is_stack:
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

        def run(graphs: list[Graph], inputs: list[Tensor]) -> list[Tensor]:
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

    def vjp(grads: Grads, results: list[Tensor], inputs: Sequence[Tensor]) -> Grads:
        return _LoopGradient(what, inputs, grads).run()

    attrs = {name: getattr(what, name) for name in what.__dataclass_fields__}
    return _apply(LOOP, inputs, attrs, vjp)


def _apply(
    op: Structural, inputs: Sequence[Tensor], attrs: dict[str, Any], vjp: Derivative
) -> list[Tensor]:
    tracer = current_tracer()
    assert tracer is not None, "graphs are owned by nodes of graphs"
    results = tracer.own_graphs(op, inputs, attrs)
    for tape in state.tapes:
        tape.record_call(inputs, results, lambda grads: vjp(grads, results, inputs))
    return results


def _again(node: Node, inputs: list[Tensor]) -> list[Tensor]:
    """What `node` does, with other inputs."""
    attrs = dict(node.attrs)
    if node.op is COND:
        return cond(attrs["branches"], inputs[0], inputs[1:])
    if node.op is CALL:
        return call(operands=inputs, **attrs)
    return loop(Loop(**attrs), inputs)


def _pull_back(
    graphs: Sequence[Graph],
    grads: Grads,
    operands: Sequence[Tensor],
    run: Callable[[list[Graph], list[Tensor]], list[Tensor]],
) -> Grads:
    """The gradients of `operands` of one of `graphs`, which `run` chooses.

    The graphs of the gradient take the operands and `grads` where there are some.
    """
    outputs = graphs[0].outputs
    given = [g is not None and n.spec.dtype.is_inexact for g, n in zip(grads, outputs, strict=True)]
    gradients = [Gradient(g, given) for g in graphs]
    wanted = [k for k in range(len(operands)) if any(g.grads[k] is not None for g in gradients)]
    if not wanted:
        return [None] * len(operands)
    backward = []
    for graph, gradient in zip(graphs, gradients, strict=True):
        inputs = [*(gradient.image[n] for n in graph.params), *gradient.cotangents]
        found = [gradient.grads[k] for k in wanted]
        specs = [operands[k].spec for k in wanted]
        backward.append(_with_zeros(found, specs, inputs, gradient.effects))
    seeds = [g for g, used in zip(grads, given, strict=True) if used and g is not None]
    results = dict(zip(wanted, run(backward, [*operands, *seeds]), strict=True))
    return [results.get(k) for k in range(len(operands))]


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


class _LoopGradient:
    """One call of a loop's vjp.

    The loop runs backwards over what was saved of each iteration. It carries the gradients of the
    carried values and sums those of the fixed values; it stacks those of the scanned entries.

    Attributes:
        moving: the carried values that have gradients: all with a floating dtype.
        fixed, scanned: the parameters of the body, of either kind, that get a gradient.
        saved: the body's nodes that are saved of each iteration.
        entries, constants: the scanned and the fixed parameters that the gradient reads.
    """

    def __init__(self, what: Loop, inputs: Sequence[Tensor], grads: Grads) -> None:
        self.what, self.inputs, self.body = what, inputs, what.body
        ends = what.carried + what.scanned
        self.moving = [k for k in range(what.carried) if inputs[k].dtype.is_inexact]
        self.of_carried = [grads[k] for k in self.moving]
        self.of_stacked = [g for g in grads[what.carried :] if g is not None]
        given = [k in self.moving for k in range(what.carried)]
        self.gradient = Gradient(self.body, [*given, *(g is not None for g in grads[len(given) :])])
        found = [k for k, g in enumerate(self.gradient.grads) if g is not None]
        self.scanned = [k for k in found if what.carried <= k < ends]
        self.fixed = [k for k in found if k >= ends]
        params = self.body.params
        reads = self.gradient.reads()
        self.entries = [n for n in params[what.carried : ends] if n in reads]
        self.constants = [n for n in params[ends:] if n in reads]
        kept = {*self.entries, *self.constants}
        self.saved = [n for n in reads if n not in kept]
        if what.cond is not None and not self.saved:  # a stack tells the number of iterations
            self.saved = [self.body.const(np.empty(0, np.uint8))]
        if what.cond is None and what.length is None and not self.saved:
            counting = next(k for k, x in enumerate(inputs) if x.spec.is_stack)
            if params[counting] not in self.entries:
                self.entries.append(params[counting])

    def run(self) -> Grads:
        what, inputs = self.what, self.inputs
        start = [
            _zeros(inputs[k]) if g is None else g
            for k, g in zip(self.moving, self.of_carried, strict=True)
        ]
        start += [_zeros(inputs[k]) for k in self.fixed]
        arrays = [*self._stacks(), *(inputs[n.attr("index")] for n in self.entries)]
        arrays += self.of_stacked
        results = loop(
            Loop(
                body=self._backward(),
                carried=len(start),
                scanned=len(arrays),
                length=what.length if what.cond is None else None,
                reverse=not what.reverse,
            ),
            [*start, *arrays, *(inputs[n.attr("index")] for n in self.constants)],
        )
        found = dict(zip([*self.moving, *self.fixed, *self.scanned], results, strict=True))
        return [found.get(k) for k in range(len(inputs))]

    def _stacks(self) -> list[Tensor]:
        """What is saved, of all iterations."""
        if not self.saved:
            return []
        body, base = self.body, self.what
        longer = Graph(body.params, [*body.outputs, *self.saved], base=body)
        return loop(replace(base, body=longer), self.inputs)[len(body.outputs) :]

    def _backward(self) -> Graph:
        """The gradient of one iteration."""
        gradient, params = self.gradient, self.body.params
        grads = gradient.grads
        moving = gradient.cotangents[: len(self.moving)]
        stacked = gradient.cotangents[len(self.moving) :]
        image = [gradient.image.get(n, n) for n in (*self.saved, *self.entries)]
        constants = [gradient.image[n] for n in self.constants]
        wanted = [*self.moving, *self.fixed, *self.scanned]
        roots = [g for g in (grads[k] for k in wanted) if g is not None]
        inner, used = extract(roots, [*moving, *image, *stacked, *constants], gradient.effects)
        tracer = Tracer()
        with op.mode(tracer):
            of_moving = [tracer.param(n.spec) for n in moving]
            sums = [tracer.param(params[k].spec) for k in self.fixed]
            rest = [tracer.param(n.spec) for n in (*image, *stacked, *constants)]
            feeds = dict(
                zip([*moving, *image, *stacked, *constants], of_moving + rest, strict=True)
            )
            values = replay(inner, [feeds[n] for n in used])
            found = iter(inner.outputs)
            of = {k: values[next(found)] for k in wanted if grads[k] is not None}
            pairs = zip(self.moving, of_moving, strict=True)
            outputs = [of[k] if k in of else _zeros(x) for k, x in pairs]
            outputs += [elementwise.add(x, of[k]) for k, x in zip(self.fixed, sums, strict=True)]
            outputs += [of[k] for k in self.scanned]
            return tracer.finish([tracer.node(x) for x in outputs])


def _zeros(x: Tensor) -> Tensor:
    return creation.zeros(x.shape, dtype=x.dtype)
