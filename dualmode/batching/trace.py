"""A function of one example, traced once and executed for many."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dualmode_compiler.passes.merge import merge

from ..errors import VariableError
from ..op import mode, state
from ..tensor import Tensor
from ..tracer import Tracer, current_tracer
from ..variable import Variable
from .walk import Batch, Value, example_spec

Function = Callable[[list[Tensor]], Sequence[Tensor | None]]


def batched(
    fn: Function, inputs: Sequence[Value], batch: Batch, names: Sequence[str]
) -> list[Value | None]:
    """The results of `fn`, a function of one example, for all of them, in the current mode.

    `fn` is called once, with tensors of one example. It may read whatever is around it, and assign
    variables.

    Args:
        names: of the inputs, for messages.

    Raises:
        VariableError: a variable is assigned a value that differs between examples.
    """
    trace = Tracer(state.mode)
    outer = current_tracer()
    if outer is not None:
        trace.creates, trace.created, trace.advanced = outer.creates, outer.created, outer.advanced
    try:
        with mode(trace):
            params = [
                trace.param(example_spec(v), name) for v, name in zip(inputs, names, strict=True)
            ]
            found = fn(params)
            graph = trace.finish([trace.node(x) for x in found if x is not None])
    finally:
        trace.close()
    around = dict((*trace.arrays, *trace.captures))
    around.update((k, variable.read_value()) for k, variable in trace.states)
    captured = [Value(around[k]) for k in range(len(inputs), len(graph.params))]
    # a loop and its gradient's, which extends it, are one before rules for batches tell them apart
    results = iter(batch.run(merge(graph), [*inputs, *captured]))
    outputs = [None if x is None else next(results) for x in found]
    variables = dict(trace.states)
    for k, _ in graph.updates:
        _assign(variables[k], next(results), batch.size)
    return outputs


def _assign(variable: Variable, value: Value, size: int) -> None:
    if value.mapped:
        raise VariableError(
            f"vmap: variable {variable.name!r} ({variable.spec}) is assigned a value that differs "
            f"between the {size} examples; let the function return that value, and assign what "
            "is made of all of them, such as their mean, outside of vmap"
        )
    variable.assign(value.tensor)
