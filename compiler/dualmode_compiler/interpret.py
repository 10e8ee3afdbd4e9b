"""Runs graphs node by node with the ops' NumPy kernels: the oracle for compiled code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .graph import CALL, COND, CONST, ITEM, LOOP, PARAM, Graph, Node, OpDef, results, running
from .spec import Spec

Array = np.ndarray[Any, Any]
Run = Callable[[Graph, Sequence[Array]], list[Array]]  # a graph's outputs for its parameters


class Interpreter:
    """`graph` as a callable on arrays; the same results as compiled code, slowly.

    Nodes run in the order in which they were made, so effects keep theirs. A value is dropped as
    soon as its last reader has run.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._nodes = sorted(graph.nodes(), key=lambda n: n.uid)
        self._interpreters: dict[Graph, Interpreter] = {}
        kept = set(graph.roots())
        last: dict[Node, Node] = {}
        for node in self._nodes:
            last.update(dict.fromkeys(node.inputs, node))
        self._dead: dict[Node, list[Node]] = {}
        for node, reader in last.items():
            if node not in kept:
                self._dead.setdefault(reader, []).append(node)

    def run(self, arrays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """The outputs and the new values of updated states, for one array per parameter.

        Never writes to `arrays`; a result may be one of them.

        Raises:
            ValueError: the number of arrays is not the number of parameters.
        """
        values: dict[Node, Array] = dict(zip(self._graph.params, arrays, strict=True))
        with np.errstate(all="ignore"):  # as compiled code and eager mode have it
            try:
                self._compute(values)
            finally:
                running.site = None
        outputs = [values[n] for n in self._graph.outputs]
        return outputs, [values[n] for _, n in self._graph.updates]

    def _compute(self, values: dict[Node, Any]) -> None:
        for node in self._nodes:
            if node.op is CONST:
                values[node] = node.attr("value").array
            elif node.op is not PARAM:
                inputs = [values[n] for n in node.inputs]
                values[node] = self._value(node, inputs)
                for dead in self._dead.get(node, ()):
                    del values[dead]

    def _value(self, node: Node, inputs: list[Any]) -> Any:
        if node.op is ITEM:
            return inputs[0][node.attr("index")]
        if node.graphs:
            return _CONTROL[node.op](node, inputs, self._inner)
        running.site = node.site
        return np.asarray(node.op.kernel(*inputs, **dict(node.attrs)))

    def _inner(self, graph: Graph, arrays: Sequence[Array]) -> list[Array]:
        known = self._interpreters.get(graph)
        if known is None:
            known = self._interpreters[graph] = Interpreter(graph)
        values: dict[Node, Any] = dict(zip(graph.params, arrays, strict=True))
        known._compute(values)
        return [values[n] for n in graph.outputs]


def _cond(node: Node, inputs: list[Array], run: Run) -> list[Array]:
    index, *operands = inputs
    branches = node.attr("branches")
    k = int(index)
    return run(branches[k if 0 <= k < len(branches) else -1], operands)


def _call(node: Node, inputs: list[Array], run: Run) -> list[Array]:
    return run(node.attr("body"), inputs)


def _loop(node: Node, inputs: list[Array], run: Run) -> list[Array]:
    body, cond, limit = node.attr("body"), node.attr("cond"), node.attr("length")
    carried, scanned, reverse = (node.attr(x) for x in ("carried", "scanned", "reverse"))
    state, arrays = inputs[:carried], inputs[carried : carried + scanned]
    fixed = inputs[carried + scanned :]
    if cond is None and limit is None:
        limit = next(
            len(a) for a, n in zip(arrays, node.inputs[carried:], strict=False) if n.spec.is_stack
        )
    stacks: list[list[Array]] = [[] for _ in body.outputs[carried:]]
    step = 0
    while limit is None or step < limit:
        if cond is not None and not run(cond, [*state, *fixed])[0]:
            break
        at = limit - 1 - step if reverse and limit is not None else step
        out = run(body, [*state, *(np.asarray(a[at]) for a in arrays), *fixed])
        state = out[:carried]
        for stack, entry in zip(stacks, out[carried:], strict=True):
            stack.append(entry)
        step += 1
    if reverse:
        stacks = [stack[::-1] for stack in stacks]
    specs = results(node)[carried:]
    return [*state, *(_stacked(x, s) for x, s in zip(stacks, specs, strict=True))]


def _stacked(entries: list[Array], spec: Spec) -> Array:
    shape = (len(entries), *spec.shape[1:])
    return np.stack(entries) if entries else np.empty(shape, spec.dtype.numpy)


_CONTROL: dict[OpDef, Callable[[Node, list[Array], Run], list[Array]]] = {
    COND: _cond,
    CALL: _call,
    LOOP: _loop,
}
