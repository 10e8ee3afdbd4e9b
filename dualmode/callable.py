"""A graph as a differentiable function of tensors.

Called eagerly it runs compiled; called inside a trace its nodes are replayed there; called under a
tape it is recorded as one entry, whose gradient is again such a function: so to every order.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dualmode_compiler.graph import CONST, Graph, Node
from dualmode_compiler.interpret import Interpreter

from . import config
from .again import calls_in_open_loops
from .graphs import Gradient, extract, record, replay
from .op import state
from .tensor import Tensor
from .tracer import current_tracer

lock = threading.RLock()  # one trace or compilation at a time


def compile_graph(graph: Graph, name: str) -> Any:
    """The executable of `graph` by `config.backend`: its `run(arrays)` gives outputs and states."""
    stacks = any(n.spec.is_stack for n in (*graph.params, *graph.outputs))
    if config.backend == "interpret" or stacks:
        from dualmode_compiler.passes.merge import merge

        return Interpreter(merge(graph))  # else a loop and its gradient's both run its effects
    from dualmode_compiler import driver

    return driver.compile(graph, name=name)


@dataclass(frozen=True)
class Memory:
    """The memory of one run of a compiled function in bytes, as planned at its compilation.

    Attributes:
        arguments: what it reads: arguments, Variables and captured arrays.
        results: what it gives; new values of Variables are written over the old ones.
        scratch: values in between, at offsets given by lifetimes; but for what a loop keeps of a
            number of iterations that is not known. 0 with the backend "interpret", which plans
            nothing.
        kept: what a tape around the call keeps of it until the gradient is computed; but for
            what loops keep of a number of iterations that is not known.
    """

    arguments: int
    results: int
    scratch: int
    kept: int

    @property
    def peak(self) -> int:
        """All that exists at once while it runs, with no tape around the call."""
        return self.arguments + self.results + self.scratch


class GraphFunction:
    """`graph` as a function of one tensor per parameter.

    Its results are the graph's outputs, then the new values of its updated states.
    """

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph = graph
        self.name = name
        self._executable: Any = None
        self._pullbacks: dict[tuple[bool, ...], _Pullback] = {}

    @property
    def results(self) -> list[Node]:
        return [*self.graph.outputs, *(n for _, n in self.graph.updates)]

    @property
    def executable(self) -> Any:
        """What the backend made of the graph, at the first request."""
        if self._executable is None:
            with lock:
                if self._executable is None:
                    self._executable = compile_graph(self.graph, self.name)
        return self._executable

    def memory(self) -> Memory:
        """See `Memory`."""
        graph = self.graph
        kept = self._forward.graph.outputs[len(graph.outputs) :]
        return Memory(
            arguments=sum(n.spec.nbytes for n in graph.params),
            results=sum(n.spec.nbytes for n in graph.outputs),
            scratch=getattr(self.executable, "arena", 0),
            kept=sum(n.spec.nbytes for n in kept if not n.spec.is_stack),
        )

    def __call__(self, args: Sequence[Tensor]) -> list[Tensor]:
        if current_tracer() is not None:
            values = replay(self.graph, args)
            return [values[n] for n in self.results]
        if state.tapes and any(x.dtype.is_inexact for x in args):
            return self._record(args)
        return self._run(args)

    def _run(self, args: Sequence[Tensor]) -> list[Tensor]:
        outputs, states = self.executable.run([x._value for x in args])
        return [Tensor._wrap(a) for a in (*outputs, *states)]

    # --- gradients --------------------------------------------------------------------------------

    def _record(self, args: Sequence[Tensor]) -> list[Tensor]:
        forward = self._forward
        results = forward._run(args)

        def vjp(grads: list[Tensor | None]) -> list[Tensor | None]:
            return forward._pull_back(args, results, grads)

        record(self.graph.nodes(), args, results, vjp)
        return self._own_results(results)

    def _own_results(self, results: list[Tensor]) -> list[Tensor]:
        """Without the residuals that `_forward` adds behind the outputs."""
        outputs, states = len(self.graph.outputs), len(self.graph.updates)
        return results[:outputs] + results[len(results) - states :]

    @cached_property
    def _forward(self) -> GraphFunction:
        """This function with further outputs: the values that its first-order gradient needs."""
        graph = self.graph
        with lock:
            given = [n.spec.dtype.is_inexact for n in self.results]
            gradient = Gradient(graph, given, calls_in_open_loops(graph))
        known = set(graph.outputs)
        residuals = [n for n in gradient.residuals() if n not in known]
        if not residuals:
            return self
        return GraphFunction(
            Graph(
                params=graph.params,
                outputs=[*graph.outputs, *residuals],
                updates=graph.updates,
                effects=graph.effects,
                _interned=graph._interned,  # so that what is computed twice is one node
            ),
            self.name,
        )

    def _pull_back(
        self, args: Sequence[Tensor], results: list[Tensor], grads: list[Tensor | None]
    ) -> list[Tensor | None]:
        given = tuple(
            g is not None and y.dtype.is_inexact for g, y in zip(grads, results, strict=True)
        )
        pullback = self._pullbacks.get(given)
        if pullback is None:
            with lock:
                pullback = self._pullbacks[given] = _Pullback(self, given)
        return pullback(args, results, grads)


class _Pullback:
    """Gradients of a function's parameters from those of some of its results.

    What is not among parameters and results is computed again.
    """

    def __init__(self, function: GraphFunction, given: tuple[bool, ...]) -> None:
        graph, results = function.graph, function.results
        gradient = Gradient(graph, given, calls_in_open_loops(graph))
        image = gradient.image
        # a node may be several results, and a result may be a parameter: the first place counts
        places: dict[Node, int] = {}
        for k, node in enumerate([*graph.params, *results]):
            if node.op is not CONST:
                places.setdefault(image[node], k)
        roots = [g for g in gradient.grads if g is not None]
        backward, used = extract(roots, [*gradient.cotangents, *places], gradient.effects)
        self._given = given
        self._sources = [g is not None for g in gradient.grads]
        self._cotangents = [used.index(c) if c in used else -1 for c in gradient.cotangents]
        self._function = GraphFunction(backward, f"gradient of {function.name}")
        index = {node: k for k, node in enumerate(gradient.cotangents)}
        count = len(gradient.cotangents)
        self._feeds = [index[n] if n in index else count + places[n] for n in used]

    def __call__(
        self, args: Sequence[Tensor], results: list[Tensor], grads: list[Tensor | None]
    ) -> list[Tensor | None]:
        cotangents = [g for g, used in zip(grads, self._given, strict=True) if used]
        values: list[Any] = [*cotangents, *args, *results]
        found = iter(self._function([values[k] for k in self._feeds]))
        return [next(found) if some else None for some in self._sources]
