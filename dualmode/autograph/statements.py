"""Branches: `if` and `raise`. Those that depend on traced tensors become native."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dualmode_compiler.spec import Spec, default, uint8

from .. import op, tree
from ..branches import branch
from ..errors import ShapeError, describe_site, locate, user_site
from ..op import Op
from ..ops import creation, logic
from ..subtrace import Subtrace
from ..tensor import Tensor
from . import lists, native
from .lists import Growing
from .undefined import Undefined

Block = Callable[[], Any]
Get = Callable[[], tuple[Any, ...]]
Set = Callable[[Sequence[Any]], None]
LABELS = ("False", "True")


class Diverged(BaseException):
    """Ends the trace of a native branch that ends by raising an exception when it runs."""


class _Never:
    """The value of every variable behind the end of a branch that raises."""


_NEVER = _Never()


def if_stmt(
    test: Any, body: Block, orelse: Block, get: Get, put: Set, names: Sequence[str], outputs: int
) -> None:
    """`if test: body() else: orelse()`.

    Args:
        get, put: read and write the variables that the branches assign.
        names: of these.
        outputs: how many of them, the first ones, are used afterwards in this function.
    """
    known = native.condition(test, "the condition of `if`")
    if known is None:
        (body if test else orelse)()
        return
    entry = get()
    site = describe_site(user_site())

    def run(block: Block) -> Callable[[], tuple[Any, ...]]:
        def traced() -> tuple[Any, ...]:
            put([lists.fork(x) for x in entry])
            try:
                with native.inside():
                    block()
            except Diverged:
                return (_NEVER,) * len(names)
            return tuple(get())

        return traced

    def adapt(traces: Sequence[Subtrace]) -> None:
        _unify(traces, names, known, site, outputs)

    try:
        found = branch(
            logic.cast(known, "int32"), [run(orelse), run(body)], (), LABELS, names, adapt
        )
    except BaseException:
        put(entry)
        raise
    put([lists.joined(before, x) for before, x in zip(entry, found, strict=True)])


def _unify(
    traces: Sequence[Subtrace], names: Sequence[str], test: Tensor, site: str, outputs: int
) -> None:
    """Give the variables behind the branches one structure."""
    rows = [list(tree.unflatten(t.form, t.leaves)) for t in traces]
    for k, name in enumerate(names):
        values = [_known(x, test, bool(place)) for place, x in enumerate(row[k] for row in rows)]
        if k >= outputs and not _alike(values):
            values = [Undefined(name, f"it differs between the branches of the `if` at {site}")] * 2
        for row, x in zip(rows, _together(traces, name, values, site), strict=True):
            row[k] = x
    for trace, row in zip(traces, rows, strict=True):
        trace.leaves, trace.form = tree.flatten(tuple(row))


def _alike(values: Sequence[Any]) -> bool:
    """Whether the values of a variable that is not used afterwards can be joined all the same."""
    (xs, form), (ys, other) = map(tree.flatten, values)
    return form == other and all(
        x.spec == y.spec if isinstance(x, Tensor) and isinstance(y, Tensor) else x is y
        for x, y in zip(xs, ys, strict=True)
    )


def _known(x: Any, test: Tensor, truth: bool) -> Any:
    """`x` behind the branch where `test` has this truth: its value where that follows."""
    if not isinstance(x, Tensor):
        return x
    if x._value is test._value:
        return truth
    node = test._value
    negated = node.op is logic.LOGICAL_NOT and node.inputs[0] is x._value
    return not truth if negated else x


def _together(traces: Sequence[Subtrace], name: str, values: list[Any], site: str) -> Sequence[Any]:
    """The values of one variable behind all branches, as they can be joined."""
    defined = [x for x in values if not isinstance(x, Undefined | _Never)]
    if lists.grow_alike(defined):
        values = [list(x.added) if isinstance(x, Growing) else x for x in values]
        defined = [x for x in values if isinstance(x, list)]
    lacking = [x for x in values if isinstance(x, Undefined)]
    if not defined:
        first = lacking[0] if lacking else Undefined(name)
        return [first] * len(values)
    guarded = name.startswith("retval_")  # used only where a `return` was met
    if lacking and not guarded:
        place = next(k for k, x in enumerate(values) if isinstance(x, Undefined))
        why = lacking[0].why or (
            f"it has no value where the condition is {LABELS[place]} at {site}; assign it before "
            "the `if` as well, or in both branches"
        )
        return [Undefined(name, why)] * len(values)
    out = []
    for trace, x in zip(traces, values, strict=True):
        if isinstance(x, Undefined | _Never):
            with op.mode(trace.tracer):
                x = placeholder(defined[0])
        out.append(x)
    forms = [tree.flatten(x)[1] for x in out]
    if forms[0] != forms[1]:
        shown = [f"{brief(x)} where {label}" for x, label in zip(out, LABELS, strict=True)]
        what = "the result" if guarded else name
        raise locate(
            ShapeError(
                f"{what}: the branches of the `if` give different structures: {shown[0]}, "
                f"{shown[1]}; give it the same nesting of tensors in both"
            )
        )
    return out


def brief(x: Any) -> str:
    """A value in messages."""
    if isinstance(x, list | tuple | dict):
        return f"a {type(x).__name__} of {len(x)}"
    return str(x.spec) if isinstance(x, Tensor) else repr(x)


def placeholder(x: Any) -> Any:
    """A value like `x`, with zeros for its tensors."""

    def zero(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.weak:
            return {"i": 0, "f": 0.0, "c": 0j, "b": False}[default(leaf.dtype).kind]
        return creation.zeros(leaf.shape, dtype=leaf.dtype)

    return tree.map(zero, x)


# --- exceptions -----------------------------------------------------------------------------------


def _raise_kernel(error: Any) -> np.ndarray[Any, Any]:
    raise copy.copy(error.error)


class _Raised:
    """An exception as an attribute of an op."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


RAISE = Op("raise", infer=lambda **_: Spec((0,), uint8), kernel=_raise_kernel, effect=True)


def raised(error: Any, handled: bool = False) -> Any:
    """What a `raise` statement raises: in a native branch the exception waits until that runs.

    Args:
        handled: whether a `try` around the statement may handle it.
    """
    if not native.depth() or isinstance(error, Diverged):
        return error
    if handled:
        return locate(
            TypeError(
                "a raise within try, in a branch that depends on tensors, cannot be compiled; "
                "raise outside of the try, or use dm.debugging.assert_"
            )
        )
    if isinstance(error, type):
        error = error()
    RAISE(error=_Raised(error))
    return Diverged()
