"""One trace of a function: the graph for one signature, bound to what the trace captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.runtime.layout import MISS, Layout
from dualmode_compiler.spec import Spec, default

from . import config, op, tree
from .callable import GraphFunction, lock
from .eager import EAGER
from .op import convert, state
from .ops.logic import CAST
from .signature import Arguments, Key, Static, number_value, static_key
from .tensor import Tensor
from .tracer import Need, Tracer, current_tracer
from .variable import Variable

Needs = dict[int, Need]  # by position among the leaves of the arguments
LAYOUT = Layout(tensor=Tensor, tensor_slot="_value", variable=Variable, variable_slot="_tensor")


@dataclass(frozen=True, slots=True)
class _Output:
    """The place of a traced result among a graph's outputs."""

    index: int


@dataclass
class Result:
    """What a traced function returns: traced tensors, and values that are the same on each call."""

    form: Any = None
    leaves: list[Any] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    @classmethod
    def of(cls, value: Any, tracer: Tracer) -> Result:
        leaves, form = tree.flatten(value)
        found = cls(form)
        for x in leaves:
            if isinstance(x, Variable):
                x = x.read_value()
            if isinstance(x, Tensor) and isinstance(x._value, Node):
                if x.weak:
                    x = CAST(x, dtype=default(x.dtype))
                found.nodes.append(tracer.node(x))
                x = _Output(len(found.nodes) - 1)
            found.leaves.append(x)
        return found

    @cached_property
    def single(self) -> bool:
        """True where the result is one traced tensor and nothing around it."""
        return len(self.leaves) == 1 and self.form.is_leaf() and len(self.nodes) == 1

    def build(self, outputs: Sequence[Any]) -> Any:
        """The result for these values of the traced tensors."""
        if self.single:
            return outputs[0]
        leaves = [outputs[x.index] if isinstance(x, _Output) else x for x in self.leaves]
        return tree.unflatten(self.form, leaves)


class ConcreteFunction:
    """A function traced for one signature; call it with arguments of that signature.

    Attributes:
        name: the function's.
        graph: the traced computation. Its first parameters are the traced arguments.
        key: the signature.
        needs: why the values of some Python numbers are part of the signature, by their position
            among the arguments.
        creates: True where variables were made while tracing.
    """

    def __init__(
        self,
        name: str,
        arguments: Arguments,
        key: Key,
        call: Callable[..., Any],
        leaves: Sequence[Any],
        needs: Needs,
        creates: bool,
    ) -> None:
        """Trace `call` with `leaves` in the place of its arguments.

        Args:
            needs: those known from earlier traces; new ones are added while tracing.
            creates: whether the function may make variables.
        """
        self.name = name
        self._arguments = arguments
        known = [k for k, _ in key.values]
        traced = [k for k, x in enumerate(key.leaves) if isinstance(x, Spec) and k not in known]
        tracer = Tracer(state.mode, creates, needs)
        inputs = list(leaves)
        paths = arguments.paths(key.form)
        for k in known:
            spec = key.leaves[k]
            assert isinstance(spec, Spec)
            inputs[k] = tracer.weak(number_value(leaves[k]), spec.dtype)
        for k in traced:
            spec = key.leaves[k]
            assert isinstance(spec, Spec)
            name = f"argument {paths[k]}"
            inputs[k] = (
                tracer.number(spec, name, k, leaves[k]) if spec.weak else tracer.param(spec, name)
            )
        nodes = [inputs[k]._value for k in traced]
        with op.mode(tracer):
            args, kwargs = tree.unflatten(key.form, inputs)
            self._result = Result.of(call(*args, **kwargs), tracer)
            self.graph: Graph = tracer.finish(self._result.nodes)
        self.needs = needs
        self.key = key.given(sorted({*known, *self.needs}), leaves)
        for k, node in zip(traced, nodes, strict=True):
            if k not in needs:
                continue
            value = number_value(leaves[k])
            tracer.constants.append((node.attr("index"), np.asarray(value, node.spec.dtype.numpy)))
        # the arguments that runs are given, and the parameters of the graph that they are
        run = [(k, n) for k, n in zip(traced, nodes, strict=True) if k not in needs]
        self._traced = [k for k, _ in run]
        self._params = [n.attr("index") for _, n in run]
        # what the other arguments have to be
        self._static = [(k, x) for k, x in enumerate(key.leaves) if not isinstance(x, Spec)]
        self._static += self.key.values
        self._states = tracer.states
        self._constants = tracer.constants
        self.captures = tracer.captures
        self.creates = bool(tracer.created)
        for variable, value in tracer.advanced:
            EAGER.assign(variable, value)
        self._function = GraphFunction(self.graph, self.name)
        self._entry: Any = None

    @property
    def variables(self) -> list[Variable]:
        """The variables that the function reads or changes."""
        return [v for _, v in self._states]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with arguments of this signature.

        Raises:
            TypeError: the arguments are of another signature.
        """
        leaves, form = tree.flatten(self._arguments.bind(args, kwargs))
        found = self._arguments.key(form, leaves).given((k for k, _ in self.key.values), leaves)
        if found != self.key:
            raise TypeError(
                f"{self.name}: traced for ({self._arguments.describe(self.key)}), "
                f"called with ({self._arguments.describe(found)}); "
                "call the function itself to trace it for other arguments"
            )
        return self.run(leaves)

    def run(self, leaves: Sequence[Any]) -> Any:
        """Run with these leaves of the arguments, which are of this signature."""
        inputs = [leaves[k] for k in self._traced]
        if state.tapes or current_tracer() is not None or self.entry is None:
            return self._run_on_tensors(inputs)
        out = self.entry.call(*inputs)
        if out is MISS:  # an argument that has to be converted, or another call is under way
            arrays = [x._value if isinstance(x, Tensor) else x for x in inputs]
            outputs = [Tensor._wrap(a) for a in self.entry.run(arrays)]
        else:
            outputs = (out,) if self._result.single else out
        return self._result.build(outputs)

    def attempt(self, leaves: Sequence[Any], form: Any) -> Any:
        """Run natively if these arguments are of this signature; else `MISS`. For eager calls."""
        if form != self.key.form or self._entry is None:
            return MISS
        for k, known in self._static:
            x = leaves[k]
            if not (isinstance(known, Static) and known.value is x) and static_key(x) != known:
                return MISS
        out = self._entry.call(*[leaves[k] for k in self._traced])
        return out if out is MISS or self._result.single else self._result.build(out)

    @property
    def entry(self) -> Any:
        """The compiled function's entry from Python; None where the backend has none."""
        if self._entry is None:
            with lock:
                executable = self._function.executable
                if self._entry is None and hasattr(executable, "bind"):
                    self._entry = executable.bind(
                        LAYOUT,
                        self._params,
                        self._states,
                        self._constants,
                        "single" if self._result.single else "tuple",
                        native=config.entry == "native",
                    )
        return self._entry

    def direct(self, count: int) -> Callable[..., Any] | None:
        """The entry's call, where it can take a call's `count` positional arguments as they are."""
        form = self.key.form
        if self._traced != list(range(count)) or not self._result.single:
            return None
        flat = form.num_nodes == count + 3  # the pair of arguments, the tuple and the dict
        return self.entry.call if flat and self.entry is not None else None

    def _run_on_tensors(self, inputs: Sequence[Any]) -> Any:
        graph = self.graph
        params: list[Any] = [None] * len(graph.params)
        for k, x in zip(self._params, inputs, strict=True):
            params[k] = _as_tensor(x, graph.params[k].spec)
        for k, array in self._constants:
            params[k] = Tensor._wrap(array)
        for k, tensor in self.captures:
            params[k] = tensor
        outputs = len(graph.outputs)
        with lock if graph.updates else nullcontext():  # no thread's update is lost
            for k, variable in self._states:
                params[k] = variable.read_value()
            results = self._function(params)
            held = dict(self._states)
            for (k, _), new in zip(graph.updates, results[outputs:], strict=True):
                state.mode.assign(held[k], new)
        return self._result.build(results[:outputs])

    def explain(self) -> str:
        """What one call runs, step by step: kernels, what each fuses, and calls back to NumPy."""
        executable = self._function.executable
        if isinstance(executable, Interpreter):
            return f"{self.name}: {len(self.graph.nodes())} nodes, run one by one by NumPy"
        from dualmode_compiler import driver

        return driver.explain(executable)

    def __repr__(self) -> str:
        out = ", ".join(str(n.spec) for n in self.graph.outputs)
        return f"<dm.ConcreteFunction {self.name}({self._arguments.describe(self.key)}) -> {out}>"


def _as_tensor(x: Any, spec: Spec) -> Tensor:
    """A traced argument as a tensor; Python numbers keep their own precision."""
    if not spec.weak or isinstance(x, Tensor):
        return convert(x)
    tracer = current_tracer()
    if tracer is not None:
        return tracer.weak(x, spec.dtype)
    return Tensor._wrap(np.asarray(x, spec.dtype.numpy))
