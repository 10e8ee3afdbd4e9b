"""`custom_gradient`: a function that brings its own gradient, as in TensorFlow 2.

The function runs like any code; what it returns is passed through a step that only the tapes see,
whose vjp is the user's. In a trace that step is a CALL node of the identity: it costs nothing and
takes the rule along, wherever the graph is differentiated. The rule itself is traced at once, so
that what it reads of the function's inner values becomes an operand of the step; those values have
their true derivatives, which is what second and higher orders need.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dualmode_compiler.graph import PARAM, Graph, Node
from dualmode_compiler.spec import Spec

from .. import graphs, op, tree
from ..autograph.calls import converted_call
from ..errors import GradientError, ShapeError, require_function
from ..op import Op, convert, dtype_of, state
from ..ops import creation
from ..ops.conversion import strong
from ..tape import UserVjp
from ..tensor import Tensor
from ..tracer import Tracer, current_tracer
from ..variable import Variable
from .arguments import name_of

Gradients = Sequence[Tensor | None]
_NUMBERS = (Tensor, Variable, np.ndarray, np.generic, int, float, complex)


def custom_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function a gradient of its own. A decorator, also of methods.

        @dm.custom_gradient
        def log1pexp(x):
            e = dm.exp(x)
            return dm.log(1 + e), lambda upstream: upstream * (1 - 1 / (1 + e))

    Args:
        f: returns `(result, grad_fn)`. The result is a tensor or a nested structure. `grad_fn`
            takes one gradient for each tensor of the result, zeros where there is none, and returns
            one (or None) for each tensor, array or number among the arguments of the call, in the
            order of the function's parameters, however they are passed; numbers and integers at the
            end may be left out. Where `f` reads trainable Variables that are no arguments,
            `grad_fn` also takes `variables=`, their list, and returns a pair: the gradients of the
            arguments, and a list with those of the variables. Second orders differentiate
            `grad_fn`.

    Returns:
        A function of the same arguments that gives the result alone.

    Raises:
        GradientError: when called: `f` returns no such pair, or reads variables that `grad_fn` does
            not take. When differentiated: another number of gradients is needed.
        ShapeError: when differentiated: a gradient is not of its argument's shape.
    """
    require_function("custom_gradient", f)
    signature = inspect.signature(f)

    @functools.wraps(f, updated=())
    def function(*args: Any, **kwargs: Any) -> Any:
        tracer = current_tracer()
        if tracer is None and not state.tapes:
            return _pair(f, f(*args, **kwargs))[0]
        with _reads() as read:
            result, grad_fn = _pair(f, converted_call(f, args, kwargs))
            leaves, form = tree.flatten(result)
            leaves = [strong(x) for x in leaves]
        given = list(signature.bind(*args, **kwargs).arguments.values())
        rule = _Rule(f, grad_fn, given, read, [y.spec for y in leaves])
        results = rule.record(leaves) if tracer is None else _Step(rule, tracer).call(leaves)
        return tree.unflatten(form, results)

    return function


def _pair(f: Callable[..., Any], result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2 or not callable(result[1]):
        raise GradientError(
            f"custom_gradient: {name_of(f)} has to return (result, grad_fn), a pair whose second "
            f"part is a function, not a {type(result).__name__}"
        )
    return result


class _Reads:
    """A recorder of which trainable variables are read."""

    def __init__(self) -> None:
        self.variables: dict[int, Variable] = {}

    def record(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any], out: Tensor) -> None:
        pass

    def follows(self, x: Tensor) -> bool:
        return False

    def record_read(self, variable: Variable, out: Tensor) -> None:
        if variable.trainable and variable.dtype.is_inexact:
            self.variables[id(variable)] = variable

    def record_call(self, inputs: Any, outputs: Any, vjp: Any) -> None:
        for x in inputs:
            if isinstance(x, Variable):
                self.record_read(x, x._tensor)


@contextmanager
def _reads() -> Iterator[_Reads]:
    found, saved = _Reads(), state.tapes
    state.tapes = (*saved, found)
    try:
        yield found
    finally:
        state.tapes = saved


class _Rule:
    """What `grad_fn` says, for one call.

    Attributes:
        sources: what gets gradients: tensors among the arguments, and variables as they are read.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        grad_fn: Callable[..., Any],
        arguments: list[Any],
        read: _Reads,
        results: list[Spec],
    ) -> None:
        self.f, self.grad_fn, self.results = f, grad_fn, results
        self.name = f"custom_gradient of {name_of(f)}"
        given = [x for x in tree.leaves(arguments) if isinstance(x, _NUMBERS)]
        known = {id(x) for x in given}
        self.variables = [v for key, v in read.variables.items() if key not in known]
        if self.variables and not _takes_variables(grad_fn):
            names = ", ".join(repr(v.name) for v in self.variables)
            raise GradientError(
                f"{self.name}: it reads trainable variables ({names}), so its grad_fn has to take "
                "variables=None as a keyword argument, and to return (gradients of the arguments, "
                "[gradients of the variables]); or pass the variables as arguments"
            )
        found = [*given, *self.variables]
        self.places = [
            k for k, x in enumerate(found) if isinstance(x, Tensor | Variable) and not x.weak
        ]
        self.given = len(given)
        # those that have a gradient, and all before them
        self.least = max((k + 1 for k, x in enumerate(given) if _smooth(x)), default=0)
        self.sources = [x._read() for x in (found[k] for k in self.places)]

    def record(self, results: list[Tensor]) -> list[Tensor]:
        """Tell the tapes, in eager mode."""
        outputs = [Tensor._wrap(y._value) for y in results]
        for tape in state.tapes:
            tape.record_call(self.sources, outputs, UserVjp(self, self.name))
        return outputs

    def __call__(self, grads: Gradients) -> list[Tensor | None]:
        """The gradients of the sources from those of the results."""
        upstream = _filled(grads, self.results)
        of_variables: list[Any] = []
        if self.variables:
            named = {"variables": list(self.variables)}
            found = converted_call(self.grad_fn, tuple(upstream), named)
            if not isinstance(found, tuple) or len(found) != 2:
                raise GradientError(
                    f"{self.name}: with variables its grad_fn returns a pair (gradients of the "
                    f"arguments, [gradients of the variables]), not a {type(found).__name__}"
                )
            found, of_variables = found[0], _flat(found[1])
        else:
            found = converted_call(self.grad_fn, tuple(upstream), None)
        return self._checked(_flat(found), of_variables)

    def _checked(self, found: list[Any], of_variables: list[Any]) -> list[Tensor | None]:
        if not self.least <= len(found) <= self.given:
            raise GradientError(
                f"{self.name}: its grad_fn returns {_count(len(found), 'gradient')} for "
                f"{_count(self.given, 'argument')}; return one for each tensor or number, or None"
            )
        if len(of_variables) != len(self.variables):
            raise GradientError(
                f"{self.name}: its grad_fn returns {_count(len(of_variables), 'gradient')} for "
                f"{_count(len(self.variables), 'variable')}"
            )
        found = [*found, *([None] * (self.given - len(found))), *of_variables]
        return [
            None if found[k] is None else self._fitting(found[k], x, k)
            for k, x in zip(self.places, self.sources, strict=True)
        ]

    def _fitting(self, g: Any, x: Tensor, k: int) -> Tensor | None:
        if not x.dtype.is_inexact:
            return None
        g = convert(g, x.dtype)
        if g.shape != x.shape:
            what = "argument" if k < self.given else "variable"
            raise ShapeError(
                f"{self.name}: the gradient {g.spec} is not of the shape of its {what}, {x.spec}"
            )
        return g


def _filled(grads: Gradients, specs: Sequence[Spec]) -> list[Tensor]:
    """`grads`, with zeros where there is none."""
    return [
        creation.zeros(s.shape, dtype=s.dtype) if g is None else g
        for s, g in zip(specs, grads, strict=True)
    ]


def _smooth(x: Any) -> bool:
    """Whether argument `x` has a gradient."""
    return (
        isinstance(x, Tensor | Variable | np.ndarray)
        and dtype_of(x).is_inexact
        and not (isinstance(x, Tensor) and x.weak)
    )


def _takes_variables(grad_fn: Callable[..., Any]) -> bool:
    parameters = inspect.signature(grad_fn).parameters
    return "variables" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _flat(grads: Any) -> list[Any]:
    """Nested gradients as a list, in which None stands for a gradient as well."""
    if isinstance(grads, dict):
        return [g for key in sorted(grads) for g in _flat(grads[key])]
    if isinstance(grads, list | tuple):
        return [g for part in grads for g in _flat(part)]
    return [grads]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


class _Backward(Tracer):
    """Traces the `grad_fn` of `function`."""

    def __init__(self, outer: Tracer, function: Any) -> None:
        super().__init__(outer, creates=False)
        self.function = function


def _under_way(f: Callable[..., Any]) -> bool:
    """True while a gradient of `f` is being traced: rules that call each other never end."""
    mode: Any = state.mode
    while isinstance(mode, Tracer):
        if isinstance(mode, _Backward) and mode.function is f:
            return True
        mode = mode.outer
    return False


class _Step:
    """The step of a trace that takes a rule along; the derivative of its CALL node.

    Its operands are the function's results, then the rule's sources, then what the rule reads.
    """

    def __init__(self, rule: _Rule, tracer: Tracer) -> None:
        self._rule: _Rule | None = rule
        self.name = rule.name
        self._tracer = tracer
        self._specs = rule.results
        self._operands: list[Node] = []  # where the rule is still to be traced
        self._reads: list[Tensor] = []
        self._graph: Graph | None = None
        self._some: list[bool] = []
        self._error: Exception | None = None

    def call(self, results: list[Tensor]) -> list[Tensor]:
        rule = self._rule
        assert rule is not None
        later = _under_way(rule.f)
        if not later:
            self._trace(rule, Variable.read_value)
            self._rule = None
        operands = [*results, *rule.sources, *self._reads]
        if later:
            self._operands = [self._tracer.node(x) for x in operands]
        body = Graph()
        params = [body.param(x.spec) for x in operands]
        body.outputs = params[: len(results)]
        return graphs.call(body, operands, derivative=self)

    def _trace(self, rule: _Rule, read: Callable[[Variable], Tensor]) -> None:
        """Trace the rule, as a function of gradients and of what it reads; variables by `read`."""
        tracer = _Backward(self._tracer, rule.f)
        with op.mode(tracer):
            upstream = [tracer.param(s, "a gradient") for s in rule.results]
            try:
                grads = rule(upstream)
            except Exception as error:  # it matters to those who ask for the gradient
                self._error = error
                return
            self._some = [g is not None for g in grads]
            graph = tracer.finish([tracer.node(g) for g in grads if g is not None])
        if graph.updates:
            raise GradientError(
                f"{rule.name}: its grad_fn assigns to a variable; do that in the function itself"
            )
        reads: dict[int, Tensor] = dict(tracer.captures)
        reads.update(tracer.arrays)
        reads.update((k, read(v)) for k, v in tracer.states)
        self._reads = [reads[k] for k in range(len(upstream), len(graph.params))]
        self._graph = graph

    def __call__(
        self, grads: Gradients, results: list[Tensor], operands: Sequence[Tensor]
    ) -> Gradients:
        if self._graph is None and self._rule is not None:
            self._trace(self._rule, self._tracer.read)
        if self._error is not None:
            raise self._error
        assert self._graph is not None
        upstream = _filled(grads, self._specs)
        ends = len(self._specs) + len(self._some)
        known = operands[ends:] if self._rule is None else self._computed(self._rule, operands)
        values = graphs.replay(self._graph, [*upstream, *known])
        found = iter([values[n] for n in self._graph.outputs])
        of_sources = [next(found) if some else None for some in self._some]
        rest = [None] * (len(operands) - ends)
        return [*([None] * len(self._specs)), *of_sources, *rest]

    def _computed(self, rule: _Rule, operands: Sequence[Tensor]) -> list[Tensor]:
        """What the rule reads, from the operands: it was traced after the step was made."""
        roots = [self._tracer.node(x) for x in self._reads]
        graph, used = graphs.extract(roots, self._operands)
        if any(n.op is PARAM and n not in graph.params for n in graph.nodes()):
            raise GradientError(
                f"{rule.name}: its grad_fn is called within itself, and then reads values "
                "that are no arguments; pass them as arguments"
            )
        places = {n: k for k, n in enumerate(self._operands)}
        values = graphs.replay(graph, [operands[places[n]] for n in used])
        return [values[n] for n in graph.outputs]
