"""Loops for many examples at once.

Where examples end a loop at different times, it goes on while any of them does. Those that are done
keep their values, and what they add to stacks does not count: a loop over such a stack, as that of
a gradient, keeps its values there as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from dualmode_compiler import graph as ir
from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import Spec, bool_

from .. import graphs
from ..op import mode
from ..ops import batch as rules
from ..ops import creation, joining, logic, reduction
from ..tensor import Tensor
from ..tracer import Tracer, current_tracer
from .walk import Batch, Value

# the last carried values, the stacks, and which of their entries count
Results = tuple[list[Value], list[Value], Tensor | None]


@dataclass(frozen=True)
class _Task:
    """A loop to run for all examples.

    Attributes:
        what: the loop for one example.
        length: the greatest number of iterations, where it is known.
        state, arrays, fixed: the carried values at first, the scanned arrays by iteration, and the
            fixed values.
        running: which entries of the arrays count, bool[iterations, size]. None: all.
    """

    batch: Batch
    what: graphs.Loop
    length: int | None
    state: list[Value]
    arrays: list[Value]
    fixed: Sequence[Value]
    running: Tensor | None


def run_loop(batch: Batch, node: Node, inputs: Sequence[Value]) -> list[Value]:
    """The results of a LOOP node."""
    what = graphs.Loop(**dict(node.attrs))
    ends = what.carried + what.scanned
    stacks = [n.spec.is_stack for n in node.inputs[what.carried : ends]]
    arrays = list(map(_entries_first, inputs[what.carried : ends], stacks))
    state, fixed = list(inputs[: what.carried]), inputs[ends:]
    running = next((v.running for v in arrays if v.running is not None), None)
    length = what.length
    if length is None and what.cond is None:
        length = arrays[stacks.index(True)].tensor.shape[0]
    task = _Task(batch, what, length, state, arrays, fixed, running)
    state, stacked, running = _eager(task) if current_tracer() is None else _Traced(task).run()
    specs = ir.results(node)[what.carried :]
    return [*state, *(_result(v, s, running) for v, s in zip(stacked, specs, strict=True))]


def _entries_first(value: Value, is_stack: bool) -> Value:
    """A scanned array with its own first axis before that of the examples, as stacks have it."""
    if is_stack or not value.mapped:
        return value
    return Value(rules.moved(value.tensor, 0, 1), True)


def _result(value: Value, spec: Spec, running: Tensor | None) -> Value:
    """What was stacked, as a value of the graph."""
    if spec.is_stack:
        return Value(value.tensor, value.mapped, running)
    return Value(rules.moved(value.tensor, 1, 0), True) if value.mapped else value


def _both(x: Tensor | None, y: Tensor | None) -> Tensor | None:
    if x is None or y is None:
        return y if x is None else x
    return logic.LOGICAL_AND(x, y)


# --- eagerly ------------------------------------------------------------------------------------


def _eager(task: _Task) -> Results:
    batch, what, length, running = task.batch, task.what, task.length, task.running
    state, arrays, fixed = task.state, task.arrays, task.fixed
    stacks: list[list[Value]] = [[] for _ in what.body.outputs[what.carried :]]
    counted: list[Tensor] = []  # for each iteration, the examples that have not ended the loop
    going = None
    step = 0
    while length is None or step < length:
        if what.cond is not None:
            own = batch if going is None else batch.where(going)
            (holds,) = own.run(what.cond, [*state, *fixed])
            if holds.mapped:
                going = _both(going, own.where(holds.tensor).active)
            if not bool(reduction.any(going if holds.mapped else holds.tensor)):
                break
        at = step if not what.reverse else (length or 0) - 1 - step
        now = _both(going, None if running is None else running[at])
        own = batch if now is None else batch.where(now)
        entries = [Value(v.tensor[at], v.mapped) for v in arrays]
        out = own.run(what.body, [*state, *entries, *fixed])
        new, old = out[: what.carried], state
        state = new if now is None else [own.choose(now, *xs) for xs in zip(new, old, strict=True)]
        for stack, entry in zip(stacks, out[what.carried :], strict=True):
            stack.append(entry)
        if now is not None:
            counted.append(now)
        step += 1
    if what.reverse:
        stacks, counted = [s[::-1] for s in stacks], counted[::-1]
    specs = [n.spec for n in what.body.outputs[what.carried :]]
    stacked = [_stack(batch, s, spec) for s, spec in zip(stacks, specs, strict=True)]
    return state, stacked, joining.stack(counted) if counted else None


def _stack(batch: Batch, entries: list[Value], spec: Spec) -> Value:
    if not entries:
        return Value(creation.zeros((0, *spec.shape), spec.dtype))
    if not any(v.mapped for v in entries):
        return Value(joining.stack([v.tensor for v in entries]))
    return Value(joining.stack([batch.spread(v).tensor for v in entries]), True)


# --- traced -------------------------------------------------------------------------------------


class _Traced:
    """A loop of the graph, for all examples.

    Its carried values are those of the loop for one example, then, where examples end at different
    times, which of them go on: bool[size]. So the condition is computed once an iteration. What
    tells which entries of stacks count is the last scanned array, or the last stack.

    Attributes:
        mapped: which carried values are.
        ends_apart: whether examples end at different times.
        stacked: which stacks are mapped.
    """

    def __init__(self, task: _Task) -> None:
        self.batch, self.what, self.first = task.batch, task.what, task.state
        self.arrays, self.fixed, self.running = task.arrays, task.fixed, task.running
        self.specs = [n.spec for n in task.what.body.params[: task.what.carried]]
        self.mapped = [v.mapped for v in task.state]
        self.ends_apart = False
        self.stacked: list[bool] = []

    def run(self) -> Results:
        batch, what, running = self.batch, self.what, self.running
        body = self._settled_body()
        first = [batch.spread(v) if m else v for v, m in zip(self.first, self.mapped, strict=True)]
        inputs = [v.tensor for v in first]
        cond = None if what.cond is None else self._cond()
        if self.ends_apart and what.cond is not None:
            (holds,) = batch.run(what.cond, [*first, *self.fixed])
            going = _both(batch.spread(holds).tensor, batch.active)
            assert going is not None
            inputs.append(going)
        carried = len(inputs)
        inputs += [v.tensor for v in self.arrays]
        inputs += [] if running is None else [running]
        scanned = len(inputs) - carried
        loop = graphs.Loop(body, carried, scanned, cond, what.length, what.reverse)
        results = graphs.loop(loop, [*inputs, *batch.flat(self.fixed)])
        values = [Value(x, m) for x, m in zip(results, self.mapped, strict=False)]
        ends = carried + len(self.stacked)
        stacks = [Value(x, m) for x, m in zip(results[carried:ends], self.stacked, strict=True)]
        return values, stacks, results[-1] if self.ends_apart else running

    def _settled_body(self) -> Graph:
        """The body, where what an iteration maps is mapped from the beginning."""
        while True:
            before = self.mapped
            if self.what.cond is not None and not self.ends_apart:
                self.ends_apart = self._cond_is_mapped()
            body = self._body()
            if self.mapped == before:
                return body

    def _params(self, tracer: Tracer) -> tuple[list[Value], Tensor | None]:
        """The carried values, and which examples go on."""
        size = self.batch.size
        state = [
            Value(tracer.param(s.with_shape((size, *s.shape)) if m else s), m)
            for s, m in zip(self.specs, self.mapped, strict=True)
        ]
        return state, tracer.param(Spec((size,), bool_)) if self.ends_apart else None

    def _cond_is_mapped(self) -> bool:
        assert self.what.cond is not None
        tracer = Tracer()
        with mode(tracer):
            state, _ = self._params(tracer)
            batch, fixed = self.batch.params(tracer, self.fixed)
            (holds,) = batch.run(self.what.cond, [*state, *fixed])
        tracer.close()
        return holds.mapped

    def _cond(self) -> Graph:
        assert self.what.cond is not None
        tracer = Tracer()
        with mode(tracer):
            state, going = self._params(tracer)
            batch, fixed = self.batch.params(tracer, self.fixed)
            if going is not None:
                holds = reduction.ANY(going, axis=(0,), keepdims=False)
            else:
                holds = batch.run(self.what.cond, [*state, *fixed])[0].tensor
            return tracer.finish([tracer.node(holds)])

    def _body(self) -> Graph:
        what = self.what
        tracer = Tracer()
        with mode(tracer):
            state, going = self._params(tracer)
            entries = [Value(tracer.param(_entry(v.tensor)), v.mapped) for v in self.arrays]
            counts = None if self.running is None else tracer.param(_entry(self.running))
            now = _both(going, counts)
            batch, fixed = self.batch.params(tracer, self.fixed)
            own = batch if now is None else batch.where(now)
            out = own.run(what.body, [*state, *entries, *fixed])
            new, stacked = out[: what.carried], out[what.carried :]
            if now is not None:
                new = [own.choose(now, *xs) for xs in zip(new, state, strict=True)]
            new = [own.spread(v) if m else v for v, m in zip(new, self.mapped, strict=True)]
            outputs = [v.tensor for v in (*new, *stacked)]
            if going is not None and what.cond is not None:
                (holds,) = own.run(what.cond, [*new, *fixed])
                outputs.insert(what.carried, logic.LOGICAL_AND(going, own.spread(holds).tensor))
                outputs.append(going)
            self.mapped, self.stacked = [v.mapped for v in new], [v.mapped for v in stacked]
            return tracer.finish([tracer.node(x) for x in outputs])


def _entry(x: Tensor) -> Spec:
    return Spec(x.shape[1:], x.dtype)
