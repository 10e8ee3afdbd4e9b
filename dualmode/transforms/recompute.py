"""`remat`: the backward pass computes a function's inner values again instead of keeping them.

Griewank and Walther, "Algorithm 799: revolve", 2000; T. Chen, B. Xu, C. Zhang and C. Guestrin,
"Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import graphs, op, tree
from ..autograph.calls import converted_call
from ..eager import Eager
from ..errors import require_function
from ..op import Mode, Op, Recorder, state
from ..ops.conversion import strong
from ..subtrace import assign, assigned, operand, subtrace, union
from ..tape import GradientTape, UserVjp
from ..tensor import Operators, Tensor
from ..tracer import current_tracer
from ..variable import Variable

Gradients = Sequence[Tensor | None]


def remat(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` without its inner values in memory: rematerialization, or checkpointing. A decorator.

    The forward pass keeps what `f` takes and gives; the backward pass runs `f` again for what its
    gradient needs. That costs one more run of `f`, and memory for the inner values of one such
    function at a time, in both modes. Results and gradients are those of `f`: the second run reads
    the values that Variables had in the first one, so random numbers are the same; it changes no
    Variable, prints nothing and checks no assertion.

    Args:
        f: a function of any arguments; it may read and change Variables. Its result is a tensor or
            a nested structure of tensors.

    Returns:
        A function of the same arguments and results.

    Raises:
        TypeError: `f` is no function.
        GradientError: when differentiated in a compiled function, where a loop of unknown length in
            `f` calls Python functions without inputs: these would have to be called a second time.
    """
    require_function("remat", f)

    @functools.wraps(f, updated=())
    def function(*args: Any, **kwargs: Any) -> Any:
        run = functools.partial(converted_call, f, args, kwargs)
        if current_tracer() is not None:
            return _traced(run)
        return _Run(run).record() if state.tapes else run()

    return function


def _traced(run: Callable[[], Any]) -> Any:
    """One node of the trace, which is computed by itself."""
    trace = subtrace(run, (), lambda _: ())
    places = [k for k, x in enumerate(trace.leaves) if isinstance(x, Operators)]
    with op.mode(trace.tracer):
        outputs = [trace.tracer.node(strong(trace.leaves[k])) for k in places]
    variables = assigned([trace])
    captures = [*union([trace], variables), *variables]
    outputs += [trace.value(v) for v in variables]
    body = trace.close(outputs, captures)
    found = graphs.call(body, [operand(x) for x in captures], inline=False)
    assign(variables, found[len(places) :])
    leaves = list(trace.leaves)
    for k, x in zip(places, found, strict=False):
        leaves[k] = x
    return tree.unflatten(trace.form, leaves)


class _Run:
    """One eager run, to be repeated for its gradient.

    Attributes:
        values: what variables held at first.
        effects: the values of effects, such as calls of Python functions, in order.
    """

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self.values: dict[int, tuple[Variable, Tensor]] = {}
        self.effects: list[Tensor] = []

    def record(self) -> Any:
        inputs = _Inputs(state.tapes)
        with _within(_First(self), (inputs,)):
            leaves, form = tree.flatten(self._run())
            leaves = [x._read() if isinstance(x, Operators) else x for x in leaves]
            for x in leaves:
                inputs.note(x)
        places = [k for k, x in enumerate(leaves) if isinstance(x, Tensor)]
        outputs = [Tensor._wrap(leaves[k]._value) for k in places]
        sources = list(inputs.found.values())

        def vjp(grads: Gradients) -> Gradients:
            return self._pull_back(grads, places, sources)

        for tape in state.tapes:
            tape.record_call(sources, outputs, UserVjp(vjp, "custom_gradient", certain=False))
        for k, y in zip(places, outputs, strict=True):
            leaves[k] = y
        return tree.unflatten(form, leaves)

    def _pull_back(
        self, grads: Gradients, places: list[int], sources: list[Tensor | Variable]
    ) -> Gradients:
        smooth = [x for x in sources if x.dtype.is_inexact]
        with GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(smooth)
            with _within(_Again(self), state.tapes):
                leaves = tree.leaves(self._run())
                leaves = [x._read() if isinstance(x, Operators) else x for x in leaves]
        pairs = [
            (leaves[k], g)
            for k, g in zip(places, grads, strict=True)
            if g is not None and leaves[k].dtype.is_inexact
        ]
        if not pairs:
            return [None] * len(sources)
        targets, seeds = map(list, zip(*pairs, strict=True))
        found = tape.gradient(targets, smooth, output_gradients=seeds)
        by_source = {id(x): g for x, g in zip(smooth, found, strict=True)}
        return [by_source.get(id(x)) for x in sources]


@contextmanager
def _within(mode: Mode, tapes: tuple[Recorder, ...]) -> Iterator[None]:
    saved = state.mode, state.tapes
    state.mode, state.tapes = mode, tapes
    try:
        yield
    finally:
        state.mode, state.tapes = saved


class _Within(Eager):
    """Eager mode within that of a run around this one."""

    def __init__(self) -> None:
        self._outer = state.mode

    def execute(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
        return self._outer.execute(op, args, attrs)

    def value_needed(self, x: Tensor, use: str) -> Any:
        return self._outer.value_needed(x, use)

    def read(self, variable: Variable) -> Tensor:
        return self._outer.read(variable)

    def assign(self, variable: Variable, value: Tensor) -> None:
        self._outer.assign(variable, value)


class _First(_Within):
    """Keeps what a second run needs to be like this one."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def execute(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
        out = super().execute(op, args, attrs)
        if op.effect:
            self._run.effects.append(out)
        return out

    def read(self, variable: Variable) -> Tensor:
        found = super().read(variable)
        self._run.values.setdefault(id(variable), (variable, found))
        return found

    def assign(self, variable: Variable, value: Tensor) -> None:
        self.read(variable)
        super().assign(variable, value)


class _Again(_Within):
    """Finds the first run's variables and effects, and changes nothing outside."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._values = dict(run.values)
        self._effects = iter(run.effects)

    def execute(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
        if op.effect:
            return Tensor._wrap(next(self._effects)._value)
        return super().execute(op, args, attrs)

    def read(self, variable: Variable) -> Tensor:
        found = self._values.get(id(variable))
        return super().read(variable) if found is None else found[1]

    def assign(self, variable: Variable, value: Tensor) -> None:
        self._values[id(variable)] = variable, Tensor._wrap(value._value)


class _Inputs:
    """A recorder of what a run reads that other recorders follow: tensors, and variables."""

    def __init__(self, outer: tuple[Recorder, ...]) -> None:
        self._outer = outer
        self.found: dict[int, Tensor | Variable] = {}

    def note(self, x: Any) -> None:
        if isinstance(x, Variable):
            if x.dtype.is_inexact:
                self.found[id(x)] = x
        elif isinstance(x, Tensor) and self.follows(x):
            self.found[id(x)] = x

    def follows(self, x: Tensor) -> bool:
        return any(tape.follows(x) for tape in self._outer)

    def record(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any], out: Tensor) -> None:
        for x in args:
            self.note(x)

    def record_read(self, variable: Variable, out: Tensor) -> None:
        self.note(variable)

    def record_call(self, inputs: Sequence[Any], outputs: Sequence[Tensor], vjp: Any) -> None:
        for x in inputs:
            self.note(x)
