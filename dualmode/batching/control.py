"""Branches and calls for many examples at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dualmode_compiler.graph import CALL, COND, Graph, Node
from dualmode_compiler.records import dataclass

from .. import graphs
from ..op import convert, mode, no_tapes
from ..ops import logic, reduction
from ..tensor import Tensor
from ..tracer import Tracer, current_tracer
from .loop import run_loop
from .trace import batched
from .walk import Batch, Value

Grads = Sequence[Tensor | None]


def run(batch: Batch, node: Node, inputs: Sequence[Value]) -> list[Value]:
    """The results of `node`, which owns graphs."""
    if node.op is COND:
        return _cond(batch, node.attr("branches"), inputs[0], inputs[1:])
    return _call(batch, node, inputs) if node.op is CALL else run_loop(batch, node, inputs)


# --- branches -----------------------------------------------------------------------------------


def _cond(
    batch: Batch, branches: Sequence[Graph], index: Value, operands: Sequence[Value]
) -> list[Value]:
    if index.mapped:
        return _each_its_own(batch, branches, index.tensor, operands)
    if current_tracer() is None:
        k = int(index.tensor)
        return batch.run(branches[k if 0 <= k < len(branches) else -1], operands)
    mapped = [False] * len(branches[0].outputs)
    while True:
        traced = [_traced(batch, branch, operands, mapped) for branch in branches]
        found = [any(flags) for flags in zip(*(flags for _, flags in traced), strict=True)]
        if all(flags == found for _, flags in traced):
            break
        mapped = found
    results = graphs.cond([g for g, _ in traced], index.tensor, batch.flat(operands))
    return [Value(x, m) for x, m in zip(results, found, strict=True)]


def _each_its_own(
    batch: Batch, branches: Sequence[Graph], index: Tensor, operands: Sequence[Value]
) -> list[Value]:
    """Computes every branch; each example takes the results of its own."""
    takes = [logic.EQUAL(index, convert(k, index.dtype)) for k in range(len(branches) - 1)]
    last: Tensor | None = None
    for taken in takes:
        others = logic.LOGICAL_NOT(taken)
        last = others if last is None else logic.LOGICAL_AND(last, others)
    *firsts, results = [
        (batch if chosen is None else batch.where(chosen)).run(branch, operands)
        for branch, chosen in zip(branches, [*takes, last], strict=True)
    ]
    for chosen, found in zip(takes, firsts, strict=True):
        results = [batch.choose(chosen, x, y) for x, y in zip(found, results, strict=True)]
    return results


def _traced(
    batch: Batch, graph: Graph, operands: Sequence[Value], mapped: Sequence[bool]
) -> tuple[Graph, list[bool]]:
    """`graph` for all examples, as a graph of `batch.flat(operands)`, and which of its results are
    mapped: at least those that `mapped` marks."""
    tracer = Tracer()
    with mode(tracer):
        inner, values = batch.params(tracer, operands)
        results = inner.run(graph, values)
        results = [inner.spread(v) if m else v for v, m in zip(results, mapped, strict=True)]
        outputs = [tracer.node(v.tensor) for v in results]
        return tracer.finish(outputs), [v.mapped for v in results]


# --- calls --------------------------------------------------------------------------------------


def _call(batch: Batch, node: Node, operands: Sequence[Value]) -> list[Value]:
    body, inline, derivative = (node.attr(name) for name in ("body", "inline", "derivative"))
    given = tuple(v.mapped for v in operands)
    # a derivative of one's own knows results of one example only: then all of them are mapped
    mapped = [derivative is not None and any(given)] * len(body.outputs)
    inputs = batch.flat(operands)
    rule = None if derivative is None else _Derivative(derivative, given, batch.size)
    if current_tracer() is not None:
        graph, mapped = _traced(batch, body, operands, mapped)
        results = graphs.call(graph, inputs, inline, rule)
        return [Value(x, m) for x, m in zip(results, mapped, strict=True)]
    if rule is None:
        return batch.run(body, operands)
    with no_tapes():
        found = batch.run(body, operands)
    found = [batch.spread(v) if m else v for v, m in zip(found, mapped, strict=True)]
    results = [Tensor._wrap(v.tensor._value) for v in found]
    graphs.record([node], inputs, results, lambda grads: rule(grads, results, inputs))
    return [Value(x, v.mapped) for x, v in zip(results, found, strict=True)]


@dataclass(frozen=True)
class _Derivative:
    """The derivative of a call for all examples, made of that for one.

    Attributes:
        of_one: `(gradients of results, results, operands) -> gradients of operands`.
        mapped: which operands are; the call has further ones, which have no gradient.
        size: the number of examples.
    """

    of_one: Callable[..., Grads]
    mapped: tuple[bool, ...]
    size: int

    @property
    def name(self) -> str:
        return getattr(self.of_one, "name", "custom_gradient")

    def __call__(
        self, grads: Grads, results: Sequence[Tensor], operands: Sequence[Tensor]
    ) -> Grads:
        some = any(self.mapped)
        batch = Batch(self.size)
        given = {k: g for k, g in enumerate(grads) if g is not None}
        count = len(self.mapped)
        inputs = [Value(x, m) for x, m in zip(operands, self.mapped, strict=False)]
        inputs += [Value(y, some) for y in results]
        inputs += [Value(g, some) for g in given.values()]

        def run(xs: list[Tensor]) -> Grads:
            own, ys, gs = xs[:count], xs[count : count + len(results)], xs[count + len(results) :]
            all_grads: list[Tensor | None] = [None] * len(grads)
            for k, g in zip(given, gs, strict=True):
                all_grads[k] = g
            return self.of_one(all_grads, ys, own)

        found = batched(run, inputs, batch, ["a value of the derivative"] * len(inputs))
        out: list[Tensor | None] = []
        for value, mapped in zip(found, self.mapped, strict=True):
            if value is None or not some:
                out.append(None if value is None else value.tensor)
            else:
                spread = batch.spread(value).tensor
                out.append(spread if mapped else reduction.SUM(spread, axis=(0,), keepdims=False))
        return [*out, *[None] * (len(operands) - count)]
