"""Loop variables in both modes, and traced loops: one node of the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dualmode_compiler.graph import Node
from dualmode_compiler.spec import DType, Spec, bool_, default

from . import graphs, op, sizes, tree
from .branches import PRECISION, common
from .errors import DTypeError, ShapeError, VariableError
from .op import convert
from .ops import conversion, creation
from .ops.conversion import CAST, strong
from .subtrace import (
    Subtrace,
    assign,
    assigned,
    describe,
    labels,
    loop_operand,
    subtrace,
    union,
)
from .tensor import Operators, Tensor
from .tracer import Tracer

Values = tuple[Any, ...]


class State:
    """The loop variables: how they nest, and what each must stay.

    Python numbers among the first values become tensors. They take the dtype that an iteration
    gives them, as they would take that of another operand.
    """

    def __init__(self, first: Any, names: Sequence[str] | None, weak: bool = False) -> None:
        """`names` are those of the parts of `first`; `weak` says that Python numbers stay such as
        long as iterations make Python numbers of them."""
        self._leaves, self.form = tree.flatten(first)
        self.names = labels(self.form, names, "loop variable ")
        self._moving = [_is_tensor(x) for x in self._leaves]
        self._numbers = [_is_number(x) for x in self._leaves]
        self._dtypes = [
            _dtype(x) if m else None for x, m in zip(self._leaves, self._moving, strict=True)
        ]
        self._weak = [False] * len(self._leaves)
        for k, dtype in enumerate(self._dtypes):
            if weak and self._numbers[k] and dtype is not None and dtype.kind in PRECISION:
                self._weak[k], self._dtypes[k] = True, PRECISION[dtype.kind]

    @property
    def moving_names(self) -> list[str]:
        """The names of those that are tensors."""
        return [name for name, moving in zip(self.names, self._moving, strict=True) if moving]

    @property
    def has_numbers(self) -> bool:
        """Whether a Python number is among the first values."""
        return any(self._numbers)

    def first(self) -> Any:
        """The first values, as tensors of their own, which tapes tell from those outside."""
        return self.build([conversion.identity(x) for x in self.tensors()])

    def tensors(self) -> list[Tensor]:
        """Those of the first values that are tensors."""
        return [self._tensor(k) for k, moving in enumerate(self._moving) if moving]

    def _tensor(self, k: int) -> Any:
        x, dtype = self._leaves[k], self._dtypes[k]
        if dtype is None:
            return x
        if self._weak[k]:
            return op.state.mode.weak(x, dtype)
        if isinstance(x, Tensor) and x.weak:
            return CAST(x, dtype=dtype)
        return convert(x, dtype)

    def build(self, tensors: Sequence[Tensor]) -> Any:
        """The loop variables with these tensors."""
        found = iter(tensors)
        leaves = [next(found) if m else x for m, x in zip(self._moving, self._leaves, strict=True)]
        return tree.unflatten(self.form, leaves)

    def following(self, before: Any, after: Any) -> Any:
        """What an iteration made of the loop variables `before`, as tensors.

        Raises:
            ShapeError, DTypeError: a loop variable does not stay what it was.
        """
        tensors = self.accept(after, [x.spec for x in tree.leaves(before) if _is_tensor(x)])
        return self.build(tensors)

    def accept(self, after: Any, before: Sequence[Spec]) -> list[Tensor]:
        """The tensors among `after`, the loop variables behind an iteration.

        A Python number among the first values may take another dtype: then `tensors` changes.

        Raises:
            ShapeError, DTypeError: a loop variable does not stay what it was, of spec `before`.
        """
        leaves, form = tree.flatten(after)
        if form != self.form:
            raise ShapeError(
                "the loop variables change their structure: "
                f"{describe(self.form, self._leaves)} becomes {describe(form, leaves)} "
                "after an iteration; let the body return what it takes"
            )
        specs = iter(before)
        out = []
        for k, x in enumerate(leaves):
            if self._moving[k]:
                out.append(self._accept(k, x, next(specs)))
            elif x is not self._leaves[k] and not _equal(x, self._leaves[k]):
                raise DTypeError(
                    f"{self.names[k]} is {self._leaves[k]!r}, which is no tensor, and becomes "
                    f"{x!r} after an iteration; give it a tensor as its first value"
                )
        return out

    def _accept(self, k: int, x: Any, before: Spec) -> Tensor:
        name = self.names[k]
        if not _is_tensor(x):
            raise DTypeError(
                f"{name} is {before} and becomes {x!r}, which is no tensor, after an iteration"
            )
        if before.weak and _is_number(x) and _dtype(x).kind in PRECISION:
            kind = max(before.dtype.kind, _dtype(x).kind, key="bif".index)
            self._dtypes[k] = PRECISION[kind]
            return op.state.mode.weak(x, PRECISION[kind])
        if before.weak:
            before = Spec(before.shape, default(before.dtype))
            self._weak[k], self._dtypes[k] = False, before.dtype
        tensor = _number(x, before) if _is_number(x) else convert(x)
        if tensor.shape != before.shape:
            raise ShapeError(
                f"{name} is {before} and becomes {tensor.spec} after an iteration; "
                "the shape of a loop variable stays as it is before the loop: start from the "
                "final shape and write parts by x.at[i].set(y)"
            )
        if tensor.dtype is not before.dtype:
            first = self._leaves[k]
            if not (self._numbers[k] and common([first], [tensor]) is tensor.dtype):
                raise DTypeError(
                    f"{name} is {before} and becomes {tensor.spec} after an iteration; "
                    f"convert it with dm.astype, or start from a {tensor.dtype}"
                )
            self._dtypes[k] = tensor.dtype
        return tensor


def _number(x: Any, like: Spec) -> Tensor:
    """A Python number as a tensor, of the dtype `like` if that can hold its kind."""
    dtype = common([x], [like])
    dtype = dtype if dtype is like.dtype else common([x], [])
    return CAST(x, dtype=dtype) if isinstance(x, Tensor) else convert(x, dtype)


def _is_tensor(x: Any) -> bool:
    return isinstance(x, Operators | bool | int | float | complex) or hasattr(x, "__array__")


def _is_number(x: Any) -> bool:
    return isinstance(x, bool | int | float | complex) or getattr(x, "weak", False)


def _dtype(x: Any) -> DType:
    return default(x.dtype) if isinstance(x, Tensor) and x.weak else op.dtype_of(x)


def _equal(x: Any, y: Any) -> bool:
    return type(x) is type(y) and bool(x == y)


def as_tuple(x: Any, count: int) -> Values:
    """What a body with `count` loop variables returns, as a tuple of them."""
    if count == 1 and not (isinstance(x, list | tuple) and len(x) == 1):
        return (x,)
    return tuple(x) if isinstance(x, list | tuple) else (x,)


def pair(x: Any) -> tuple[Any, Any]:
    """What a body of `scan` returns.

    Raises:
        ShapeError: no pair.
    """
    if not isinstance(x, list | tuple) or len(x) != 2:
        raise ShapeError(f"scan: the function gives (carry, y), not {type(x).__name__}: {x!r}")
    return x[0], x[1]


# --- traced loops ---------------------------------------------------------------------------------


def repeat(
    cond: Callable[..., Any],
    body: Callable[..., Any],
    first: Values,
    limit: Any,
    names: Sequence[str] | None,
    entries: Sequence[Tensor] = (),
    weak: bool = False,
) -> Values:
    """`while_loop` in a trace; the body also gets an entry of each of `entries`, which are at least
    `limit` long. `weak` as for `State`."""
    state = State(first, names, weak)

    def run(values: Values, *xs: Tensor) -> tuple[Values, None]:
        return as_tuple(body(*values, *xs), len(first)), None

    trace, outputs, _ = _trace_body(state, run, [Spec(x.shape[1:], x.dtype) for x in entries])
    specs = [x.spec for x in state.tensors()]
    test = subtrace(cond, specs, state.build, state.moving_names, repeats=True)
    if test.assigned():
        raise VariableError(
            f"while_loop: the condition assigns {test.assigned()[0].name}; assign in the body"
        )
    variables = assigned([trace])
    fixed = union([trace, test], variables)
    carried = [*range(len(specs)), *variables]
    numbers = range(len(specs), len(specs) + len(entries))
    outputs += [trace.value(v) for v in variables]
    what = graphs.Loop(
        body=trace.close(outputs, [*carried, *numbers, *fixed]),
        carried=len(outputs),
        scanned=len(entries),
        cond=test.close([_condition(test)], [*carried, *fixed]),
        length=None if limit is None else sizes.whole(limit),
    )
    start = [*state.tensors(), *map(loop_operand, variables)]
    found = graphs.loop(what, [*start, *entries, *map(loop_operand, fixed)])
    assign(variables, found[len(specs) :])
    return state.build(found[: len(specs)])


def _condition(test: Subtrace) -> Node:
    with op.mode(test.tracer):
        found = convert(test.leaves[0]) if len(test.leaves) == 1 else None
        if found is None or found.ndim:
            what = found.spec if found is not None else f"{len(test.leaves)} values"
            raise ShapeError(
                f"while_loop: the condition is {what}, not a scalar; "
                "reduce it by dm.all, dm.any or an index"
            )
        return test.tracer.node(conversion.cast(found, bool_))


def scan(
    f: Callable[..., Any],
    init: Any,
    entries: Sequence[Tensor],
    form: Any,
    length: int,
    reverse: bool,
    names: Sequence[str] | None,
    weak: bool = False,
) -> tuple[Any, Any]:
    """`scan` in a trace. `weak` as for `State`."""
    state = State(init, names, weak)
    count = len(state.tensors())

    def run(carry: Any, *xs: Tensor) -> tuple[Any, Any]:
        return pair(f(carry, tree.unflatten(form, xs)))

    specs = [Spec(x.shape[1:], x.dtype) for x in entries]
    trace, outputs, y = _trace_body(state, run, specs)
    leaves, y_form = tree.flatten(y)
    with op.mode(trace.tracer):
        stacked = [trace.tracer.node(strong(x)) for x in leaves]
    variables = assigned([trace])
    fixed = union([trace], variables)
    numbers = range(count, count + len(entries))
    outputs += [trace.value(v) for v in variables]
    what = graphs.Loop(
        body=trace.close([*outputs, *stacked], [*range(count), *variables, *numbers, *fixed]),
        carried=len(outputs),
        scanned=len(entries),
        length=length,
        reverse=reverse,
    )
    first = [*state.tensors(), *map(loop_operand, variables)]
    found = graphs.loop(what, [*first, *entries, *map(loop_operand, fixed)])
    assign(variables, found[count : len(outputs)])
    carry = state.build(found[:count])
    return carry, tree.unflatten(y_form, found[len(outputs) :])


def _trace_body(
    state: State, run: Callable[..., tuple[Any, Any]], entries: Sequence[Spec]
) -> tuple[Subtrace, list[Node], Any]:
    """Trace `run(loop variables, *entries)`, which gives the next loop variables and something
    else: the trace, the nodes of the next loop variables, the other.

    Numbers may take another dtype in it; then it is traced again.
    """
    while True:
        specs = [x.spec for x in state.tensors()]

        def args(params: list[Tensor], count: int = len(specs)) -> Values:
            return (state.build(params[:count]), *params[count:])

        trace = subtrace(run, [*specs, *entries], args, state.moving_names, repeats=True)
        after, rest = tree.unflatten(trace.form, trace.leaves)
        with op.mode(trace.tracer):
            nodes = [trace.tracer.node(x) for x in state.accept(after, specs)]
        if [x.spec for x in state.tensors()] == specs:
            return trace, nodes, rest


def settle(state: State, run: Callable[..., tuple[Any, Any]], entries: Sequence[Spec]) -> Any:
    """What no eager iterations give: the dtypes that numbers would take in one, and `run`'s other
    result as empty tensors [0, ...]."""
    tracer = Tracer(creates=False)
    with op.mode(tracer):
        trace, _, rest = _trace_body(state, run, entries)
        leaves, form = tree.flatten(rest)
        with op.mode(trace.tracer):
            found = [strong(x).spec for x in leaves]
    return tree.unflatten(form, [creation.zeros((0, *s.shape), dtype=s.dtype) for s in found])
