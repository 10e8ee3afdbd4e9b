"""Tracing a function for one signature: its graph, and what that stands on."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any

import numpy as np

from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.lazy import lazy
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec

from . import op, sizes, tree
from .eager import EAGER
from .op import state
from .ops.conversion import strong
from .signature import Arguments, Key, number_value
from .sizes import Event
from .tensor import Tensor
from .tracer import Need, Tracer
from .variable import Variable

Needs = dict[int, Need]  # by position among the leaves of the arguments


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
                found.nodes.append(tracer.node(strong(x)))
                x = _Output(len(found.nodes) - 1)
            found.leaves.append(sizes.plain(x))
        return found

    @lazy
    def single(self) -> bool:
        """True where the result is one traced tensor and nothing around it."""
        return len(self.leaves) == 1 and self.form.is_leaf() and len(self.nodes) == 1

    def build(self, outputs: Sequence[Any]) -> Any:
        """The result for these values of the traced tensors."""
        if self.single:
            return outputs[0]
        leaves = [outputs[x.index] if isinstance(x, _Output) else x for x in self.leaves]
        return tree.unflatten(self.form, leaves)


@dataclass
class Trace:
    """What running Python code once for a signature has found.

    Attributes:
        key: the signature.
        graph: the computation.
        result: what the function returns.
        needs: why the values of some Python numbers are part of the signature.
        traced: the positions of the arguments that runs are given, among the leaves of all.
        params: the parameters of the graph that they are.
        states, constants, arrays, captures: what the other parameters are (see `Tracer`).
        creates: whether variables were made.
        changed: the arguments whose lists and dicts the code changed; callers do not see that.
        events: what the code asked of the sizes of traced tensors.
        seconds: how long it took.
    """

    key: Key
    graph: Graph
    result: Result
    needs: Needs
    traced: list[int]
    params: list[int]
    states: list[tuple[int, Variable]]
    constants: list[tuple[int, np.ndarray[Any, Any]]]
    arrays: list[tuple[int, Tensor]]
    captures: list[tuple[int, Tensor]]
    creates: bool
    changed: list[str]
    events: list[Event]
    seconds: float


def trace(
    arguments: Arguments,
    key: Key,
    call: Callable[..., Any],
    leaves: Sequence[Any],
    needs: Needs,
    creates: bool,
) -> Trace:
    """Run `call` with traced tensors in the place of its arguments, `leaves`.

    Args:
        needs: those known from earlier traces; new ones are added.
        creates: whether the function may make variables.
    """
    start = time.perf_counter()
    known = [k for k, _ in key.values]
    traced = [k for k, x in enumerate(key.leaves) if isinstance(x, Spec) and k not in known]
    tracer = Tracer(state.mode, creates, needs)
    inputs = _inputs(tracer, arguments, key, leaves)
    nodes = [inputs[k]._value for k in traced]
    with op.mode(tracer), sizes.recording() as events:
        args, kwargs = tree.unflatten(key.form, inputs)
        result = Result.of(call(*args, **kwargs), tracer)
        graph = tracer.finish(result.nodes)
    key = key.given(sorted({*known, *needs}), leaves)
    for k, node in zip(traced, nodes, strict=True):
        if k in needs:
            value = number_value(leaves[k])
            tracer.constants.append((node.attr("index"), np.asarray(value, node.spec.dtype.numpy)))
    run = [(k, n) for k, n in zip(traced, nodes, strict=True) if k not in needs]
    for variable, new in tracer.advanced:
        EAGER.assign(variable, new)
    return Trace(
        key,
        graph,
        result,
        needs,
        [k for k, _ in run],
        [n.attr("index") for _, n in run],
        tracer.states,
        tracer.constants,
        tracer.arrays,
        tracer.captures,
        bool(tracer.created),
        _changed(arguments, (args, kwargs), inputs, key.form),
        events,
        time.perf_counter() - start,
    )


def _changed(arguments: Arguments, given: Any, inputs: list[Any], form: Any) -> list[str]:
    """The names of the arguments that are no longer made of `inputs`."""
    leaves, found = tree.flatten(given)
    if found == form and all(map(operator.is_, leaves, inputs)):
        return []
    names, before = arguments.names, tree.unflatten(form, inputs)
    pairs = [*zip(names, given[0], before[0], strict=False)]
    pairs += [(name, given[1][name], x) for name, x in before[1].items()]
    return [name for name, new, old in pairs if not _alike(new, old)]


def _alike(a: Any, b: Any) -> bool:
    (mine, form), (theirs, other) = tree.flatten(a), tree.flatten(b)
    return form == other and all(map(operator.is_, mine, theirs))


def _inputs(tracer: Tracer, arguments: Arguments, key: Key, leaves: Sequence[Any]) -> list[Any]:
    """`leaves` with parameters of the trace for those that are traced."""
    known = [k for k, _ in key.values]
    paths = arguments.paths(key.form)
    inputs = list(leaves)
    for k, spec in enumerate(key.leaves):
        if not isinstance(spec, Spec):
            continue
        name = f"argument {paths[k]}"
        if k in known:
            inputs[k] = tracer.weak(number_value(leaves[k]), spec.dtype)
        elif spec.weak:
            inputs[k] = tracer.number(spec, name, k, leaves[k])
        else:
            inputs[k] = tracer.param(spec, name)
    return inputs
