"""Tracing: the mode in which ops become nodes of a graph.

A `Tracer` is in force while the body of a `@dm.function` runs for the first time with a signature.
Tensors stand for nodes; variables stand for state parameters, read once and updated at the end.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from dualmode_compiler import spec as specs
from dualmode_compiler.graph import LOOP, PARAM, TOKEN, Graph, Node, Site, Structural, topological
from dualmode_compiler.interpret import Interpreter
from dualmode_compiler.records import dataclass
from dualmode_compiler.spec import DType, Spec

from . import errors, op, sizes
from .eager import EAGER
from .op import Mode, Op, state
from .ops.conversion import CAST, READ_VARIABLE
from .tensor import Operators, Tensor
from .variable import Variable

Array = np.ndarray[Any, Any]
_PYTHON = (specs.bool_, specs.int64, specs.float64)  # the precision of traced Python numbers
# elements; larger constants are parameters, so that graphs and code stay small, and so are all
# tensors from outside, which tapes may follow
_SMALL = 1


@dataclass(frozen=True, slots=True)
class Need:
    """Why the value of a Python number was needed while tracing: for `use`, at `site`."""

    use: str
    site: Site | None

    def __str__(self) -> str:
        return f"{self.use} at {errors.describe_site(self.site)}"


@dataclass(frozen=True, eq=False, slots=True)
class Source:
    """A variable as what gradients go to, whatever is assigned to it in a loop."""

    variable: Variable

    @property
    def spec(self) -> Spec:
        return self.variable.spec


class Tracer:
    """Executes ops by adding nodes to `graph`.

    Attributes:
        graph: what has been traced so far.
        outer: the mode around this one.
        states: (parameter index, variable) for each variable that was read or assigned.
        constants: (parameter index, array) for each array that was captured.
        arrays: the same, with the tensor that holds the array.
        captures: (parameter index, tensor) for each tensor of an outer trace that was captured.
        sources: (parameter index, source) for each variable that a loop's body read.
        repeats: whether this traces the body of a loop.
        creates: whether variables may be made while tracing.
        created: those that were made.
        advanced: new values of states that initial values of variables used up.
        needs: why the value of a Python number was needed, by the number's name.
        site: stands in for the user's line, when nodes are replayed rather than made by user code.
        local: what callers remember for as long as this trace lasts.
    """

    def __init__(
        self, outer: Mode = EAGER, creates: bool = True, needs: dict[Any, Need] | None = None
    ) -> None:
        self.graph = Graph()
        self.outer = outer
        self.states: list[tuple[int, Variable]] = []
        self.constants: list[tuple[int, Array]] = []
        self.arrays: list[tuple[int, Tensor]] = []
        self.captures: list[tuple[int, Tensor]] = []
        self.sources: list[tuple[int, Source]] = []
        self.repeats = False
        self.creates = creates
        self.created: list[Variable] = []
        self.advanced: list[tuple[Variable, Tensor]] = []
        self.needs: dict[Any, Need] = {} if needs is None else needs
        self.site: Site | None = None
        self.local: dict[Any, Any] = {}
        self._rows: dict[int, tuple[Tensor, list[Tensor]]] = {}  # by id of the first entry
        self._known: dict[Node, tuple[Any, Any]] = {}  # name and value of Python numbers
        self._names: dict[Node, str] = {}  # of parameters, for messages
        self._owned: set[Node] = set()
        self._values: dict[int, Tensor] = {}  # by id of the variable: what it holds now
        self._starts: dict[int, Tensor] = {}  # what it held at first
        self._sources: dict[int, Tensor] = {}  # what stands for it in all iterations
        self._params: dict[int, Node] = {}  # by id of a captured object
        self._plain: dict[int, Tensor] = {}  # what was made of numbers and arrays, by id
        self._alive: list[Any] = []  # so that ids stay unique

    # --- the mode ---------------------------------------------------------------------------------

    def execute(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
        nodes = [self.node(x, op.name) for x in args]
        if nodes and nodes[0].spec.is_stack:
            return self._on_stacks(op, args, attrs)
        attrs = {name: _static(x) for name, x in attrs.items()}
        try:
            spec = op.infer(*(n.spec for n in nodes), **attrs)
        except (TypeError, ValueError) as error:
            raise errors.locate(error, self.site) from None
        if nodes and op is not CAST and all(n.spec.weak for n in nodes) and spec.dtype in _PYTHON:
            spec = Spec(spec.shape, spec.dtype, weak=True)
        return self._own(self.graph.add(op, nodes, attrs, self.site or errors.user_site(), spec))

    def own_graphs(
        self, op: Structural, args: Sequence[Tensor], attrs: dict[str, Any]
    ) -> list[Tensor]:
        """Add a node that owns graphs; its results."""
        nodes = [self.node(x, op.name) for x in args]
        attrs = {name: _static(x) for name, x in attrs.items()}
        site = self.site or errors.user_site()
        return [
            self._own(n) for n in self.graph.items(self.graph.add(op, nodes, attrs, site, TOKEN))
        ]

    def _on_stacks(self, op: Op, args: tuple[Tensor, ...], attrs: dict[str, Any]) -> Tensor:
        """An op on the entries of stacks, one by one: the sum of two gradients."""
        entries = Tracer()
        inputs = [entries.param(Spec(x.shape[1:], x.dtype)) for x in args]
        body = entries.finish([entries.execute(op, tuple(inputs), attrs)._value])
        return self.own_graphs(
            LOOP,
            args,
            {
                "body": body,
                "cond": None,
                "carried": 0,
                "scanned": len(args),
                "length": None,
                "reverse": False,
            },
        )[0]

    def convert(self, x: Any, dtype: DType | None = None) -> Tensor:
        tensor = EAGER.convert(sizes.plain(x), dtype)  # enters the graph where an op uses it
        if not isinstance(x, Operators):
            self._plain[id(tensor)] = tensor
        return CAST(tensor, dtype=dtype) if dtype is not None and tensor.weak else tensor

    def weak(self, x: Any, dtype: DType) -> Tensor:
        """A Python number, traced or not, as a weak tensor of `dtype`."""
        if isinstance(x, Tensor):
            node = self.node(x)
            if node.spec.dtype is dtype:
                return x
        else:
            node = self.graph.const(np.asarray(sizes.plain(x), dtype.numpy))
        spec = Spec(node.spec.shape, dtype, weak=True)
        return self._own(self.graph.add(CAST, [node], {"dtype": dtype}, spec=spec))

    def whole(self, rows: Sequence[Tensor]) -> Tensor | None:
        known = self._rows.get(id(rows[0]))
        if known is None or len(rows) != len(known[1]):
            return None
        return known[0] if all(map(operator.is_, rows, known[1])) else None

    def entries(self, x: Tensor) -> list[Tensor]:
        """The entries of `x`; stacked again, they are `x`."""
        rows = [x[k] for k in range(x.shape[0])]
        if rows:
            self._rows[id(rows[0])] = x, rows
        return rows

    def done(self) -> tuple[Any, ...]:
        """What changes when traced code has an effect, or assigns a variable."""
        starts = self._starts
        new = [(k, id(x)) for k, x in self._values.items() if x is not starts[k]]
        return len(self.graph.effects), *new

    def read(self, variable: Variable) -> Tensor:
        value = self.present(variable)
        if not variable.dtype.is_inexact:
            return value
        source = self._source(variable) if self.repeats else self._starts[id(variable)]
        return value if value is source else self.execute(READ_VARIABLE, (value, source), {})

    def present(self, variable: Variable) -> Tensor:
        """What `variable` holds now."""
        found = self._values.get(id(variable))
        if found is None:
            node = self._param(variable, variable.spec, f"variable {variable.name!r}")
            self.states.append((node.attr("index"), variable))
            found = self._values[id(variable)] = self._starts[id(variable)] = Tensor._wrap(node)
        return found

    def _source(self, variable: Variable) -> Tensor:
        """What gets the gradient of `variable` from all iterations of this trace."""
        found = self._sources.get(id(variable))
        if found is None:
            found = self.param(variable.spec, f"variable {variable.name!r}")
            self._sources[id(variable)] = found
            self.sources.append((found._value.attr("index"), Source(variable)))
        return found

    def assign(self, variable: Variable, value: Tensor) -> None:
        self.present(variable)
        self._values[id(variable)] = value

    def variable_created(self, variable: Variable) -> None:
        if not self.creates:
            raise errors.VariableError(
                f"Variable: a Variable {variable.spec} was created on a later call of a function, "
                "which would make a new one each time it is traced. Create it outside of the "
                "function, or once, on the first call: if self.w is None: self.w = dm.Variable(...)"
            )
        self.created.append(variable)

    def value_needed(self, x: Tensor, use: str) -> Array:
        """The value of a traced tensor that depends on Python numbers and captured tensors only,
        and on no effect.

        The trace then holds for these numbers only; `needs` remembers which, and why.

        Raises:
            TracedValueError: it depends on more than that.
        """
        node = self.node(x)
        nodes = list(topological([node]))
        leaves = [n for n in nodes if n.op is PARAM]
        constants = {self.graph.params[k]: array for k, array in self.constants}
        outer = {self.graph.params[k]: x for k, x in self.captures}
        known = all(n in self._known or n in constants or n in outer for n in leaves)
        if not known or any(n.effect for n in nodes):  # effects happen on each call
            raise errors.traced_value_error(node, use, self._names.get(node))
        for leaf in leaves:
            if leaf in outer:
                constants[leaf] = self.outer.value_needed(outer[leaf], use)
            elif leaf in self._known:
                self.needs.setdefault(self._known[leaf][0], Need(use, errors.user_site()))
                constants[leaf] = self._number(leaf, use)
        return evaluate(node, constants)

    # --- what enters a trace ----------------------------------------------------------------------

    def param(self, spec: Spec, name: str = "an argument") -> Tensor:
        """A new parameter of the graph; `name` is for messages."""
        node = self.graph.param(spec)
        self._names[node] = name
        return self._own(node)

    def number(self, spec: Spec, name: str, key: Any, value: Any) -> Tensor:
        """A new parameter for a Python number (or a traced one) whose value may be asked for;
        `needs` will remember it by `key`."""
        tensor = self.param(spec, name)
        self._known[tensor._value] = key, value
        return tensor

    def node(self, x: Tensor, use: str = "the result") -> Node:
        """The node that `x` stands for in this graph; eager and outer tensors are captured.

        Raises:
            TracedValueError: `x` was traced in a function that is done; `use` says what for.
        """
        value = x._value
        if not isinstance(value, Node):
            return self._constant(x)
        return value if value in self._owned else self._foreign(x, value, use)

    def owns(self, node: Node) -> bool:
        return node in self._owned

    def _own(self, node: Node) -> Tensor:
        self._owned.add(node)
        return Tensor._wrap(node)

    def _param(self, thing: Any, spec: Spec, name: str) -> Node:
        """A parameter that stands for `thing`, which is kept alive."""
        node = self._params[id(thing)] = self.param(spec, name)._value
        self._alive.append(thing)
        return node

    def literal(self, value: Any) -> Tensor:
        """A constant of the graph."""
        return self._own(self.graph.const(value))

    def _constant(self, x: Tensor) -> Node:
        array = x._value
        if array.size <= _SMALL and id(x) in self._plain:
            return self.literal(array)._value
        node = self._params.get(id(x))
        if node is None:
            node = self._param(x, x.spec, "a captured tensor")
            self.constants.append((node.attr("index"), array))
            self.arrays.append((node.attr("index"), x))
        return node

    def _foreign(self, x: Tensor, value: Node, use: str) -> Node:
        mode = self.outer
        while isinstance(mode, Tracer):
            if mode.owns(value):
                break
            mode = mode.outer
        else:
            raise errors.leaked_error(value, use)
        node = self._params.get(id(value))
        if node is None:
            node = self._param(value, value.spec, "a tensor of the function around this one")
            self.captures.append((node.attr("index"), x))
        return node

    def _number(self, param: Node, use: str) -> Array:
        _, value = self._known[param]
        if isinstance(value, Tensor):  # a number that an outer trace passed on
            value = self.outer.value_needed(value, use)
        return np.asarray(value, param.spec.dtype.numpy)

    # --- the end of a trace -----------------------------------------------------------------------

    def finish(self, outputs: Iterable[Node]) -> Graph:
        """Close the trace. The graph gives `outputs` and the new value of each changed variable."""
        graph = self.graph
        graph.outputs = list(outputs)
        for index, variable in self.states:
            new = self.node(self._values[id(variable)])
            if new is not graph.params[index]:
                graph.updates.append((index, new))
        self.close()
        return graph

    def close(self) -> None:
        self._values.clear()
        self._rows.clear()
        self.local.clear()

    def initial_value(self, x: Tensor) -> Tensor:
        """The present value of `x`, for a variable that is created from it while tracing.

        Raises:
            VariableError: it depends on an argument of the function.
        """
        node = self.node(x)
        feeds: dict[Node, Array] = {}
        for leaf in topological([node]):
            if leaf.op is PARAM:
                feeds[leaf] = self._present(leaf)
        self._advance(feeds)
        return Tensor._wrap(evaluate(node, feeds))

    def _present(self, param: Node) -> Array:
        index = param.attr("index")
        for k, variable in self.states:
            if k == index:
                return variable._tensor._value
        for k, array in self.constants:
            if k == index:
                return array
        if param in self._known:
            return self._number(param, "the initial value of a variable")
        raise errors.VariableError(
            "Variable: its initial value depends on an argument of the function that is being "
            f"traced, {self._names[param]}, so it has no value yet; create it from a constant, "
            "a shape or a random draw"
        )

    def _advance(self, feeds: dict[Node, Array]) -> None:
        """Note how far states that an initial value was made from have moved, to keep that.

        A trace in which variables are created is not run; the generator of a random initial value
        must not give the same numbers again.
        """
        for k, variable in self.states:
            param, now = self.graph.params[k], self._values[id(variable)]
            if param in feeds and now._value is not param:
                known = all(n in feeds for n in topological([self.node(now)]) if n.op is PARAM)
                if known:
                    value = Tensor._wrap(evaluate(self.node(now), feeds))
                    self.advanced.append((variable, value))


def evaluate(node: Node, feeds: dict[Node, Array]) -> Array:
    """The value of `node` where its parameters have the values in `feeds`."""
    (value,), _ = Interpreter(Graph(params=list(feeds), outputs=[node])).run(list(feeds.values()))
    return value


def current_tracer() -> Tracer | None:
    """The innermost trace in progress in this thread, if any."""
    mode = state.mode
    return mode if isinstance(mode, Tracer) else None


@contextmanager
def init_scope() -> Iterator[None]:
    """Leave all traces: ops inside the block run eagerly, and no tape records them.

    For what must happen once rather than on each call, such as creating variables.
    """
    with op.mode(EAGER):
        yield


def _static(x: Any) -> Any:
    """An attribute of an op, with the values of traced numbers in it."""
    if isinstance(x, tuple | list):
        return tuple(map(_static, x))
    return x.item() if isinstance(x, Operators) else sizes.plain(x)
