"""Traces of parts of a function: branches and bodies, which become graphs that nodes own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dualmode_compiler.graph import PARAM, Graph, Node
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec

from . import op, tree
from .op import state
from .tensor import Tensor
from .tracer import Source, Tracer, current_tracer
from .variable import Variable


@dataclass
class Subtrace:
    """A function traced by itself, within the trace around it.

    Attributes:
        tracer: what traced it; open, so that results can still be converted.
        form: how the results nest.
        leaves: the results: tensors and other values.
        given: how many parameters stand for the arguments; captures follow.
    """

    tracer: Tracer
    form: Any
    leaves: list[Any]
    given: int

    @property
    def graph(self) -> Graph:
        return self.tracer.graph

    def captured(self) -> dict[Any, tuple[Any, Node]]:
        """What the function read of its surroundings, and the parameters that stand for it, by
        identity: a variable, an array's tensor, or a traced tensor's node."""
        tracer, params = self.tracer, self.graph.params
        found: list[tuple[int, Any]] = [
            *tracer.states,
            *tracer.arrays,
            *tracer.captures,
            *tracer.sources,
        ]
        return {identity(x): (x, params[k]) for k, x in found}

    def assigned(self) -> list[Variable]:
        """The variables that have new values, in the order of first use."""
        params = self.graph.params
        return [v for k, v in self.tracer.states if self.value(v) is not params[k]]

    def value(self, variable: Variable) -> Node:
        """The last value of `variable`, which becomes a parameter if it was not."""
        return self.tracer.node(self.tracer.present(variable))

    def close(self, outputs: Sequence[Node], params: Sequence[Any]) -> Graph:
        """The graph that gives `outputs`.

        Args:
            params: its parameters in order: the number of an argument, or what was captured (a
                tensor of the surroundings, or a variable). All captures must be among them.
        """
        known, graph, own = self.captured(), self.graph, self.graph.params
        found: list[Node] = []
        for x in params:
            if isinstance(x, int):
                found.append(own[x])
            else:
                captured = known.get(identity(x))
                found.append(captured[1] if captured else Node(PARAM, (), (), x.spec, None))
        graph.outputs = list(outputs)
        graph.set_params(found)
        self.tracer.close()
        return graph


def identity(x: Any) -> Any:
    """What a captured thing is known by."""
    if isinstance(x, Source):
        return Source, id(x.variable)
    return id(x._value if isinstance(x, Tensor) and isinstance(x._value, Node) else x)


def subtrace(
    fn: Callable[..., Any],
    specs: Sequence[Spec],
    args: Callable[[list[Tensor]], Sequence[Any]],
    names: Sequence[str] = (),
    repeats: bool = False,
) -> Subtrace:
    """Trace `fn(*args(parameters))`, with one parameter for each of `specs`.

    Args:
        names: of the parameters, for messages.
        repeats: whether it is run any number of times.
    """
    outer = current_tracer()
    assert outer is not None
    tracer = Tracer(outer, outer.creates)
    tracer.repeats = repeats
    tracer.created, tracer.advanced, tracer.site = outer.created, outer.advanced, outer.site
    labels = [*names, *(["a loop variable"] * (len(specs) - len(names)))]
    params = [tracer.param(s, name) for s, name in zip(specs, labels, strict=True)]
    with op.mode(tracer):
        leaves, form = tree.flatten(fn(*args(params)))
        leaves = [x.read_value() if isinstance(x, Variable) else x for x in leaves]
    return Subtrace(tracer, form, leaves, len(specs))


def union(traces: Sequence[Subtrace], variables: Sequence[Variable] = ()) -> list[Any]:
    """What any of `traces` captured, but for `variables`: tensors of the surroundings, and other
    variables."""
    found: dict[Any, Any] = {}
    for trace in traces:
        for key, (x, _) in trace.captured().items():
            found.setdefault(key, x)
    for variable in variables:
        found.pop(id(variable), None)
    return list(found.values())


def assigned(traces: Sequence[Subtrace]) -> list[Variable]:
    """The variables that any of `traces` assigns."""
    return list(dict.fromkeys(v for trace in traces for v in trace.assigned()))


def operand(x: Any) -> Tensor:
    """A captured thing as a tensor of the mode around."""
    if isinstance(x, Source):
        return x.variable.read_value()
    return x.read_value() if isinstance(x, Variable) else x


def loop_operand(x: Any) -> Tensor:
    """The same for a loop, where gradients of variables go to their sources."""
    return state.mode.read(x) if isinstance(x, Variable) else operand(x)


def assign(variables: Sequence[Variable], values: Sequence[Tensor]) -> None:
    """New values, computed by graphs, for variables."""
    for variable, value in zip(variables, values, strict=True):
        state.mode.assign(variable, value)


def describe(form: Any, leaves: Sequence[Any]) -> str:
    """A structure for messages: the specs of its tensors, and its other values."""
    return tree.describe(form, [str(x.spec) if isinstance(x, Tensor) else repr(x) for x in leaves])


def labels(form: Any, names: Sequence[str] | None, other: str) -> list[str]:
    """What messages call the leaves of a sequence: `names[k]` within its part k, if given."""
    found = []
    for path in tree.paths(form):
        position, _, rest = path[1:].partition("]")
        known = names is not None and path.startswith("[") and position.isdigit()
        if known and names is not None and int(position) < len(names):
            found.append(f"{names[int(position)]}{rest}")
        else:
            found.append(f"{other}{path}")
    return found
