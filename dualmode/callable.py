"""A graph as a differentiable function of tensors.

Called eagerly it runs compiled; called inside a trace its nodes are replayed there; called under a
tape it is recorded as one entry, whose gradient is again such a function: so to every order.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from dualmode_compiler.graph import CONST, Graph, Node
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.lazy import lazy
from dualmode_compiler.runtime.layout import MISS

from . import config, errors, kernels
from .again import calls_in_open_loops
from .background import tracing as lock
from .graphs import Gradient, extract, record, replay
from .memory import Memory
from .op import state
from .tensor import Tensor
from .tracer import current_tracer
from .variable import LAYOUT


def compile_graph(graph: Graph, name: str) -> Any:
    """The executable of `graph` by `config.backend`: its `run(arrays)` gives outputs and states."""
    stacks = any(n.spec.is_stack for n in (*graph.params, *graph.outputs))
    if config.backend == "interpret" or stacks:
        return _interpreter(graph)
    from dualmode_compiler import driver

    return driver.compile(
        graph,
        name,
        catalogue=kernels.catalogue(),
        report=_check_budget,
        optimization=config.optimization,
        tune=config.tune == "measure",
    )


def _interpreter(graph: Graph) -> Interpreter:
    from dualmode_compiler.passes.merge import merge

    return Interpreter(merge(graph))  # else a loop and its gradient's both run its effects


def _check_budget(executable: Any) -> None:
    """Warn where compilation took longer than the user wants it to."""
    seconds: dict[str, float] = executable.seconds
    total = sum(seconds.values())
    if not 0 < config.compile_budget < total:
        return
    longest = sorted(seconds, key=lambda stage: seconds[stage], reverse=True)[:3]
    where = ", ".join(f"{stage} {seconds[stage]:.1f} s" for stage in longest)
    warnings.warn(
        f"{executable.name}: compiling took {total:.1f} s, more than the compile_budget of "
        f"{config.compile_budget:g} s: {where}; {len(executable.traced.nodes())} operations. Loops "
        "that Python unrolls make graphs long: dm.scan or dm.fori_loop is compiled once",
        errors.CompilationWarning,
        stacklevel=2,
    )


class GraphFunction:
    """`graph` as a function of one tensor per parameter.

    Its results are the graph's outputs, then the new values of its updated states.

    Args:
        own: nobody else binds its executable, so calls may go to an entry of its own.
    """

    def __init__(self, graph: Graph, name: str, own: bool = False) -> None:
        self.graph = graph
        self.name = name
        self._own = own
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

    def prepare(self, order: Sequence[int]) -> None:
        """Make the executable without keeping other threads from tracing.

        Args:
            order: the parameters that it will be bound to first, those of the call and the states.
        """
        executable = compile_graph(self.graph, self.name)
        if hasattr(executable, "prepare"):
            executable.prepare(order)
        with lock:
            self._executable = self._executable or executable

    def interpreted(self) -> GraphFunction:
        """The same, computed op by op."""
        made = GraphFunction(self.graph, self.name)
        made._executable = _interpreter(self.graph)
        return made

    def memory(self) -> Memory:
        """See `Memory`."""
        return Memory(self.name, self.graph, self.executable, lambda: self._forward.graph)

    def __call__(self, args: Sequence[Tensor]) -> list[Tensor]:
        if current_tracer() is not None:
            values = replay(self.graph, args)
            return [values[n] for n in self.results]
        if state.tapes and any(x.dtype.is_inexact for x in args):
            return self._record(args)
        return self._run(args)

    @lazy
    def _entry(self) -> Any:
        """What takes the parameters as they are and may miss; None where there is no such entry."""
        params, executable = self.graph.params, self.executable
        unfit = self.graph.updates or any(n.spec.weak for n in params)
        if not self._own or unfit or not hasattr(executable, "bind"):
            return None
        with lock:
            native = config.entry == "native"
            return executable.bind(LAYOUT, range(len(params)), (), (), native=native)

    def _run(self, args: Sequence[Tensor]) -> list[Tensor]:
        out: Any = MISS if self._entry is None else self._entry.call(*args)
        if out is not MISS:
            return list(out or ())
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

    @lazy
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
            own=True,
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
        self._function = GraphFunction(backward, f"gradient of {function.name}", own=True)
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
