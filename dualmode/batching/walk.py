"""Execute a graph of one example for many examples, in the current mode.

Every node is executed once, by the batch rule of its op (`ops.batch`) on values that hold all
examples along their first axis; nodes that depend on no example are executed as they are. Tapes
listen as to any ops, so gradients pass to every order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dualmode_compiler.graph import CONST, ITEM, Graph, Node, running
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec, int32

from .. import graphs
from ..op import Op, mode
from ..ops import batch, conversion, creation, joining, logic, reduction
from ..ops.indexing import TAKE
from ..ops.shape import RESHAPE
from ..tensor import Tensor
from ..tracer import Tracer, current_tracer


@dataclass(frozen=True, slots=True)
class Value:
    """What a node of the graph stands for.

    Attributes:
        tensor: the value; of a mapped one, those of all examples along the first axis, and along
            the second one of a stack, whose first axis is a loop's iterations.
        mapped: whether examples differ.
        running: of the stack of a loop that ends at a different time for each example: whether an
            entry counts, bool[iterations, size].
    """

    tensor: Tensor
    mapped: bool = False
    running: Tensor | None = None


class Batch:
    """A number of examples.

    Attributes:
        size: how many.
        active: bool[size]: for which of them the code runs that is executed now, where examples
            take different branches or end a loop at different times. The others are computed as
            well; nobody reads that, but their effects must not happen. None: it runs for all.
    """

    def __init__(self, size: int, active: Tensor | None = None) -> None:
        self.size = size
        self.active = active

    def run(self, graph: Graph, inputs: Sequence[Value]) -> list[Value]:
        """The outputs and the updates of `graph` for one value per parameter."""
        from . import control  # which runs graphs by this class

        values: dict[Node, Value] = dict(zip(graph.params, inputs, strict=True))
        results: dict[Node, list[Value]] = {}
        for node in sorted(graph.nodes(), key=lambda n: n.uid):
            if node in values:
                continue
            if node.op is CONST:
                values[node] = Value(_literal(node))
                continue
            if node.op is ITEM:
                values[node] = results[node.inputs[0]][node.attr("index")]
                continue
            args = [values[n] for n in node.inputs]
            with _site_of(node):
                if node.graphs:
                    results[node] = control.run(self, node, args)
                elif node.effect:
                    values[node] = self._effect(_op(node), args, dict(node.attrs))
                else:
                    values[node] = self._apply(_op(node), args, dict(node.attrs))
        return [values[n] for n in (*graph.outputs, *(n for _, n in graph.updates))]

    def spread(self, value: Value) -> Value:
        """The value once for each example, also where it is the same for all."""
        return value if value.mapped else Value(batch.spread(value.tensor, self.size), True)

    def choose(self, which: Tensor, x: Value, y: Value) -> Value:
        """`x` for the examples that bool[size] `which` marks, `y` for the others."""
        if x.tensor is y.tensor:
            return x
        x, y = self.spread(x), self.spread(y)
        which = RESHAPE(which, shape=(self.size, *(1,) * (x.tensor.ndim - 1)))
        return Value(logic.WHERE(which, x.tensor, y.tensor), True)

    def where(self, which: Tensor) -> Batch:
        """This batch for code that runs only for the examples that `which` marks."""
        active = self.active
        return Batch(self.size, which if active is None else logic.LOGICAL_AND(active, which))

    def flat(self, values: Sequence[Value]) -> list[Tensor]:
        """`values` and the active examples as tensors, to pass to a graph."""
        stacks = [v.running for v in values if v.running is not None]
        active = [] if self.active is None else [self.active]
        return [*(v.tensor for v in values), *stacks, *active]

    def params(self, tracer: Tracer, values: Sequence[Value]) -> tuple[Batch, list[Value]]:
        """What stands for this batch and `values` in a new graph, of `flat(values)`."""
        tensors = [tracer.param(v.tensor.spec) for v in values]
        stacks = [None if v.running is None else tracer.param(v.running.spec) for v in values]
        active = None if self.active is None else tracer.param(self.active.spec)
        inner = [
            Value(x, v.mapped, running)
            for x, v, running in zip(tensors, values, stacks, strict=True)
        ]
        return Batch(self.size, active), inner

    def _apply(self, op: Op, inputs: list[Value], attrs: dict[str, Any]) -> Value:
        args, mapped = _parts(inputs)
        if not any(mapped):
            return Value(op(*args, **attrs))
        rule = op.batch or batch.one_by_one
        return Value(rule(op, self.size, args, mapped, attrs), True)

    def _effect(self, op: Op, inputs: list[Value], attrs: dict[str, Any]) -> Value:
        """Once where examples are alike, else for one after another; for active ones only."""
        active = self.active
        args, mapped = _parts(inputs)
        out = op.infer(*(example_spec(v) for v in inputs), **attrs)
        if self.size == 0:
            return Value(creation.zeros(out.shape, out.dtype))
        if active is None:
            return self._apply(op, inputs, attrs)
        if op.batch is None and any(mapped):
            found = []
            for k in range(self.size):
                one = [x[k] if m else x for x, m in zip(args, mapped, strict=True)]
                found.append(when(active[k], lambda *xs: op(*xs, **attrs), one, out))
            return Value(joining.stack(found), True)
        # what has a rule checks its operands: in place of an example that is not active it looks
        # at one that is
        first = reduction.ARGMAX(active, axis=(0,), keepdims=False)
        known = [
            self.choose(active, v, Value(TAKE(v.tensor, first, axis=0))) if v.mapped else v
            for v in inputs
        ]

        def check(*xs: Tensor) -> Tensor:
            values = [Value(x, m) for x, m in zip(xs, mapped, strict=True)]
            return Batch(self.size)._apply(op, values, attrs).tensor

        some = reduction.ANY(active, axis=(0,), keepdims=False)
        return Value(when(some, check, [v.tensor for v in known], out))


def when(holds: Tensor, effect: Callable[..., Tensor], args: Sequence[Tensor], out: Spec) -> Tensor:
    """`effect(*args)`, of spec `out`, where the scalar `holds` is true; else zeros."""

    def nothing(*_: Tensor) -> Tensor:
        return creation.zeros(out.shape, out.dtype)

    outer = current_tracer()
    if outer is None:
        return (effect if bool(holds) else nothing)(*args)
    branches: list[Graph] = []
    for run in (effect, nothing):
        tracer = Tracer()
        tracer.site = outer.site
        with mode(tracer):
            result = run(*(tracer.param(x.spec) for x in args))
            branches.append(tracer.finish([tracer.node(result)]))
    return graphs.cond(branches, conversion.CAST(logic.LOGICAL_NOT(holds), dtype=int32), args)[0]


def example_spec(value: Value) -> Spec:
    """The spec of one example."""
    spec = value.tensor.spec
    if not value.mapped:
        return spec
    axis = 1 if spec.is_stack else 0
    return spec.with_shape((*spec.shape[:axis], *spec.shape[axis + 1 :]))


def _parts(values: Sequence[Value]) -> tuple[tuple[Tensor, ...], tuple[bool, ...]]:
    return tuple(v.tensor for v in values), tuple(v.mapped for v in values)


@contextmanager
def _site_of(node: Node) -> Iterator[None]:
    """Errors name the line that made `node`."""
    tracer = current_tracer()
    holder: Any = tracer or running
    saved, holder.site = holder.site, node.site
    try:
        yield
    finally:
        holder.site = saved


def _op(node: Node) -> Op:
    assert isinstance(node.op, Op)
    return node.op


def _literal(node: Node) -> Tensor:
    tracer, value = current_tracer(), node.attr("value")
    return tracer.literal(value) if tracer else Tensor._wrap(value.array)
