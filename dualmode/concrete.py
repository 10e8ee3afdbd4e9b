"""One trace of a function: the graph for one signature, bound to what the trace captured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from dualmode_compiler.graph import Graph, Node
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.lazy import lazy
from dualmode_compiler.runtime.layout import MISS
from dualmode_compiler.spec import Spec

from . import config, errors, sizes, tree, unpack
from .background import Background
from .callable import GraphFunction, lock
from .donation import Donation
from .memory import Memory
from .op import convert, state
from .signature import Arguments, Static, static_key
from .tensor import Tensor
from .trace import Trace
from .tracer import current_tracer
from .variable import LAYOUT, Variable

if TYPE_CHECKING:
    from dualmode_compiler.profile import Timed

_FREE = nullcontext()
updating: list[None] = []  # by Python code, between reading variables and assigning to them


class Cost:
    """Seconds that were spent on one signature."""

    def __init__(self, trace: float = 0.0) -> None:
        self.trace = trace
        self.compile = 0.0

    @property
    def ms(self) -> float:
        return 1000 * (self.trace + self.compile)


class ConcreteFunction:
    """A function traced for one signature; call it with arguments of that signature.

    Attributes:
        name: the function's.
        graph: the traced computation. Its first parameters are the traced arguments.
        key: the signature.
        needs: why the values of some Python numbers are part of the signature, by their position
            among the arguments.
        creates: True where variables were made while tracing.
        cost: the time that tracing and compiling took.
        background: compile in another thread; until that is done, run op by op.
    """

    def __init__(
        self,
        name: str,
        arguments: Arguments,
        traced: Trace,
        background: bool,
        donate: frozenset[int],
    ) -> None:
        self.name = name
        self.trace = traced
        self.graph: Graph = traced.graph
        self.key = traced.key
        self.needs = traced.needs
        self.creates = traced.creates
        self.captures = traced.captures
        self.cost = Cost(traced.seconds)
        self._arguments = arguments
        self._result = traced.result
        self._traced = traced.traced
        self._params = traced.params
        self._states = traced.states
        self._constants = traced.constants
        self._arrays = traced.arrays
        # what the other arguments have to be
        self._static = [(k, x) for k, x in enumerate(self.key.leaves) if not isinstance(x, Spec)]
        self._static += self.key.values
        self._function = GraphFunction(self.graph, self.name)
        self._entry: Any = None
        self._background = background
        self._compilation: Background | None = None
        self._direct: dict[int, Callable[..., Any] | None] = {}
        self._donation = self._donated(donate) if donate else None

    def _donated(self, donate: frozenset[int]) -> Donation | None:
        """What gives results the memory of the parameters numbered `donate`."""
        paths, names = self.key.form.paths(), self._arguments.paths(self.key.form)
        donated = {
            place: names[k]
            for place, k in enumerate(self._traced)
            if paths[k][0] == 0 and paths[k][1] in donate
        }
        return Donation(self.name, self.graph, self._params, donated) if donated else None

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
        sizes.replay(self.trace.events)
        donation = self._donation if state.plain else None
        if donation is not None and self.ready:
            outputs = self._run_donating(donation, inputs)
            if outputs is not None:
                return self._result.build(outputs)
        result = self._run(inputs)
        if donation is not None:
            donation.use_up(inputs)
        return result

    def _run(self, inputs: Sequence[Any]) -> Any:
        if state.tapes or current_tracer() is not None:
            return self._run_on_tensors(inputs, self._function)
        if not self.ready:
            return self._run_on_tensors(inputs, self._interpreted)
        if self.entry is None:
            return self._run_on_tensors(inputs, self._function)
        out = self._call(inputs)
        if out is MISS:  # an argument that has to be converted, or another call is under way
            arrays = [_array(x, self.name) for x in inputs]
            outputs = [Tensor._wrap(a) for a in self.entry.run(arrays)]
        else:
            outputs = (out,) if self._result.single else out
        return self._result.build(outputs)

    @property
    def ready(self) -> bool:
        """Whether calls run compiled code. Where that is made in the background, the first question
        begins it."""
        if not self._background or self._entry is not None:
            return True
        if self._compilation is None:
            self._compilation = Background(self._compile)
        return self._compilation.done  # if it failed, the next call fails as well, and says why

    def _compile(self) -> None:
        """Make compiled code while other threads trace and run."""
        donation = self._donation
        donated = donation.params if donation else ()
        order = [p for p in self._params if p not in donated]
        order += [*(k for k, _ in self._states), *donated]
        (donation.function if donation else self._function).prepare(order)
        if donation is None:
            _ = self.entry
        else:
            self._donating(donation)

    @lazy
    def _interpreted(self) -> GraphFunction:
        return self._function.interpreted()

    def _donating(self, donation: Donation) -> Any:
        """The entry that takes donated arguments; None where the backend has none."""
        if donation.entry is None:
            with lock:
                donation.entry = self._bind(
                    donation.function, False, donation.params, donation.cells
                )
        return donation.entry

    def _run_donating(self, donation: Donation, inputs: Sequence[Any]) -> list[Any] | None:
        """The results, in the memory of donated arguments; None where that cannot be done now."""
        if self._donating(donation) is None:
            return None
        with lock if updating and self.graph.updates else _FREE:
            return donation.run(inputs)

    def attempt(self, leaves: Sequence[Any], form: Any) -> Any:
        """Run natively if these arguments are of this signature; else `MISS`. For eager calls."""
        if form != self.key.form or self._entry is None or self._donation is not None:
            return MISS
        for k, known in self._static:
            x = leaves[k]
            if not (isinstance(known, Static) and known.value is x) and static_key(x) != known:
                return MISS
        out = self._call([leaves[k] for k in self._traced])
        return out if out is MISS or self._result.single else self._result.build(out)

    def _call(self, inputs: Sequence[Any]) -> Any:
        """Run natively. Updates are not lost: no other thread runs meanwhile, and where one is
        amidst its own, this waits."""
        turn = lock if updating and self.graph.updates else _FREE
        with turn:
            return self._entry.call(*inputs)

    @property
    def entry(self) -> Any:
        """The compiled function's entry from Python; None where the backend has none."""
        if self._entry is None:
            with lock:
                if self._entry is None:
                    self._entry = self._bind(self._function, self._result.single)
        return self._entry

    def _bind(
        self,
        function: GraphFunction,
        single: bool,
        donated: Sequence[int] = (),
        cells: Sequence[Variable] = (),
    ) -> Any:
        """The entry of `function`, whose parameters `donated` are in the variables `cells`."""
        start = time.perf_counter()
        executable = function.executable
        if not hasattr(executable, "bind"):
            return None
        entry = executable.bind(
            LAYOUT,
            [p for p in self._params if p not in donated],
            [*self._states, *zip(donated, cells, strict=True)],
            self._constants,
            single,
            native=config.entry == "native",
        )
        self.cost.compile = time.perf_counter() - start
        return entry

    def direct(self, count: int) -> Callable[..., Any] | None:
        """What takes a call's `count` positional arguments as they are: the entry's call itself, or
        code that takes them apart; None where neither does."""
        if self._donation is not None or self.entry is None:
            return None
        if count not in self._direct:
            self._direct[count] = self._make_direct(count)
        return self._direct[count]

    def _make_direct(self, count: int) -> Callable[..., Any] | None:
        form, single = self.key.form, self._result.single
        flat = form.num_nodes == count + 3  # the pair of arguments, the tuple and the dict
        if flat and single and self._traced == list(range(count)):
            return self.entry.call
        defaults = self._arguments.defaults(count)
        if defaults is None:
            return None
        build = None if single else self._result.build
        return unpack.caller(form, defaults, self._static, self._traced, self.entry.call, build)

    def _run_on_tensors(self, inputs: Sequence[Any], function: GraphFunction) -> Any:
        graph = self.graph
        params: list[Any] = [None] * len(graph.params)
        tracing = current_tracer() is not None
        for k, x in zip(self._params, inputs, strict=True):
            if not tracing:
                _array(x, self.name)
            params[k] = _as_tensor(x, graph.params[k].spec)
        for k, array in self._constants:
            params[k] = Tensor._wrap(array)
        for k, tensor in (*self._arrays, *self.captures):  # those that tapes may follow
            params[k] = tensor
        outputs = len(graph.outputs)
        with _turn() if graph.updates else _FREE:  # no thread's update is lost
            for k, variable in self._states:
                params[k] = variable.read_value()
            results = function(params)
            held = dict(self._states)
            for (k, _), new in zip(graph.updates, results[outputs:], strict=True):
                state.mode.assign(held[k], new)
        return self._result.build(results[:outputs])

    @property
    def _program(self) -> GraphFunction:
        """What eager calls run."""
        return self._function if self._donation is None else self._donation.function

    def explain(self) -> str:
        """What one call runs, step by step: kernels, what each fuses, and calls back to NumPy.

        Of each kernel, the bytes that it moves, its arithmetic, and the time that this predicts
        from what the machine was measured to do; and what it was not fused with, and why.
        """
        executable = self._program.executable
        if isinstance(executable, Interpreter):
            return f"{self.name}: {len(self.graph.nodes())} nodes, run one by one by NumPy"
        from dualmode_compiler import driver

        return driver.explain(executable, costs=True)

    def profile(self, *args: Any, runs: int = 100, **kwargs: Any) -> list[Timed]:
        """How long each step of a call takes, beside what `explain` predicts: the median of so many
        runs, in seconds. Each goes on from the variables that the one before has left; the
        variables themselves stay as they are.

        Raises:
            ValueError: nothing is compiled, so there are no steps.
        """
        executable = self._program.executable
        if isinstance(executable, Interpreter):
            raise ValueError(f"{self.name}: run by NumPy, node by node: there are no steps to time")
        from dualmode_compiler.profile import profile

        leaves, _ = tree.flatten(self._arguments.bind(args, kwargs))
        inputs = [_array(leaves[k], self.name) for k in self._traced]
        arrays = dict(zip(self._params, inputs, strict=True)) | dict(self._constants)
        arrays |= {k: t.numpy() for k, t in (*self._arrays, *self.captures)}
        arrays |= {k: v.numpy() for k, v in self._states}
        return profile(executable, [arrays[k] for k in range(len(self.graph.params))], runs)

    def memory(self) -> Memory:
        """The planned memory of one run, in bytes; see `Memory`."""
        return self._program.memory()

    def __repr__(self) -> str:
        out = ", ".join(str(n.spec) for n in self.graph.outputs)
        return f"<dm.ConcreteFunction {self.name}({self._arguments.describe(self.key)}) -> {out}>"


@contextmanager
def _turn() -> Iterator[None]:
    """Inside the block, other threads neither update variables nor go straight to native code."""
    with lock:
        config.detours.append(None)
        updating.append(None)
        try:
            yield
        finally:
            updating.pop()
            config.detours.pop()


def _array(x: Any, name: str) -> Any:
    """The array of an argument of the function `name`."""
    value = x._value if isinstance(x, Tensor) else x
    if isinstance(value, Node):
        raise errors.leaked_error(value, name)
    return value


def _as_tensor(x: Any, spec: Spec) -> Tensor:
    """A traced argument as a tensor; Python numbers keep their own precision."""
    if not spec.weak or isinstance(x, Tensor):
        return convert(x)
    tracer = current_tracer()
    if tracer is not None:
        return tracer.weak(x, spec.dtype)
    return Tensor._wrap(np.asarray(x, spec.dtype.numpy))
