"""What converted code calls, as `ag__`. On all but traced tensors, Python's own meaning."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from dualmode_compiler.graph import CONST, PARAM, Node, topological

from ..errors import locate
from ..graphs import replay
from ..op import Op, convert
from ..ops import conversion, logic
from ..ops.effects import ASSERT, Text
from ..subtrace import Subtrace, operand, subtrace, union
from ..tensor import Tensor
from . import native, places
from .calls import called, converted_call
from .lists import list_append
from .repetition import for_stmt, while_stmt
from .statements import if_stmt, raised
from .undefined import Undefined, UndefinedReturnValue, caught, ld, ldu

__all__ = [
    "Undefined",
    "UndefinedReturnValue",
    "and_",
    "assert_stmt",
    "called",
    "caught",
    "compare",
    "converted_call",
    "for_stmt",
    "fstring",
    "if_exp",
    "if_stmt",
    "keywords",
    "ld",
    "ldu",
    "list_append",
    "not_",
    "or_",
    "places",
    "raised",
    "returned",
    "while_stmt",
]

keywords = dict
Thunk = Callable[[], Any]


def not_(x: Any) -> Any:
    """`not x`."""
    test = native.condition(x, "the operand of `not`")
    return not x if test is None else logic.logical_not(test)


def and_(first: Thunk, second: Thunk) -> Any:
    """`first() and second()`."""
    x = first()
    test = native.condition(x, "an operand of `and`")
    if test is None:
        return x and second()
    return _choose(test, second, x, False)


def or_(first: Thunk, second: Thunk) -> Any:
    """`first() or second()`."""
    x = first()
    test = native.condition(x, "an operand of `or`")
    if test is None:
        return x or second()
    return _choose(test, second, x, True)


def _choose(test: Tensor, second: Thunk, x: Any, keep: bool) -> Any:
    """`x` where `test` is `keep`, else `second()`, which is evaluated only then.

    A second condition that cannot fail, and does nothing, is evaluated in either case: that is
    cheaper than a branch.
    """

    def run() -> Any:
        with native.inside():
            return second()

    with places.Written() as written:
        simple = _simple(subtrace(run, (), lambda _: ())) if x.dtype.kind == "b" else None
    if written.take_back():
        simple = None
    if isinstance(simple, bool):
        return simple if simple is keep else test
    if simple is not None:
        return (logic.logical_or if keep else logic.logical_and)(test, simple)
    branches = (lambda: x, second) if keep else (second, lambda: x)
    return _chosen(test, *branches, "the operand")


def _simple(trace: Subtrace) -> Tensor | bool | None:
    """The result of `trace` in the trace around it, if that is a condition made of scalars."""
    (value, *more) = trace.leaves or [None]
    if not more and isinstance(value, bool) and not (trace.graph.effects or trace.assigned()):
        return value
    if more or not isinstance(value, Tensor) or value.ndim or value.dtype.kind != "b":
        return None
    root = trace.tracer.node(value)
    nodes = topological([root])
    scalar = all(n.op is PARAM or (n.spec.size == 1 and _is_plain(n)) for n in nodes)
    if trace.graph.effects or trace.assigned() or not scalar:
        return None
    captures = union([trace])
    graph = trace.close([root], captures)
    return replay(graph, [operand(c) for c in captures])[graph.outputs[0]]


def _is_plain(node: Node) -> bool:
    return node.op is CONST or (isinstance(node.op, Op) and node.op.lower is not None)


_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "is": operator.is_,
    "is not": operator.is_not,
    "in": lambda x, y: x in y,
    "not in": lambda x, y: x not in y,
}


def compare(left: Any, *steps: tuple[str, Thunk]) -> Any:
    """A chain of comparisons, each operand evaluated at most once: `left < a < b`."""
    (relation, operand), *rest = steps
    right = operand()
    holds = _RELATIONS[relation](left, right)
    return and_(lambda: holds, lambda: compare(right, *rest)) if rest else holds


def if_exp(test: Any, if_true: Thunk, if_false: Thunk, text: str) -> Any:
    """`if_true() if test else if_false()`."""
    known = native.condition(test, "the condition of a conditional expression")
    if known is None:
        return if_true() if test else if_false()

    return _chosen(known, if_true, if_false, f"the conditional expression on {text}")


def _chosen(test: Tensor, if_true: Thunk, if_false: Thunk, name: str) -> Any:
    """`if_true()` where `test` holds, else `if_false()`."""
    result: Any = Undefined(name)

    def block(thunk: Thunk) -> Thunk:
        def run() -> None:
            nonlocal result
            result = thunk()

        return run

    def put(values: Sequence[Any]) -> None:
        nonlocal result
        (result,) = values

    if_stmt(test, block(if_true), block(if_false), lambda: (result,), put, [name], 1)
    return result


def assert_stmt(test: Any, message: Thunk | None) -> None:
    """`assert test, message()`."""
    if not native.is_unknown(test):
        if not test:
            raise AssertionError(*(() if message is None else (message(),)))
        return
    holds = conversion.cast(convert(test), "bool")
    ASSERT(holds, message="assertion failed" if message is None else str(message()))


def fstring(*parts: Any) -> Any:
    """An f-string that is printed: each time the code runs, where it holds traced tensors."""
    text = Text(parts)
    traced = any(native.is_traced(x[0]) for x in parts if not isinstance(x, str))
    return text if traced else str(text)


def returned(value: Any, done: Any) -> Any:
    """What a converted function returns: `value` if it met a `return`, which `done` says."""
    if isinstance(value, UndefinedReturnValue) or value is None:
        return None
    if native.is_unknown(done):
        raise locate(
            TypeError(
                "the function returns a value on some paths, and none on others; which path is "
                "taken depends on tensors: add a return at its end"
            )
        )
    return value
