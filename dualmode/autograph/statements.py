"""Branches: `if` and `raise`. Those that depend on traced tensors become native."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from dualmode_compiler.graph import Node
from dualmode_compiler.spec import Spec, uint8

from .. import op, tree
from ..branches import branch, zero_number
from ..errors import ShapeError, describe_site, locate, user_site
from ..op import Op
from ..ops import conversion, creation, logic
from ..subtrace import Subtrace
from ..tensor import Tensor
from . import lists, native, places
from .lists import Growing
from .places import Place
from .undefined import Undefined

Block = Callable[[], Any]
Get = Callable[[], tuple[Any, ...]]
Set = Callable[[Sequence[Any]], None]
LABELS = ("False", "True")


class Variables(NamedTuple):
    """What a block assigns: how to read and write these variables, and their names."""

    get: Get
    put: Set
    names: Sequence[str]

    def and_one(self, name: str, get: Callable[[], Any], put: Callable[[Any], None]) -> Variables:
        """These, and another one at the end."""

        def put_all(values: Sequence[Any]) -> None:
            *own, last = values
            self.put(own)
            put(last)

        return Variables(lambda: (*self.get(), get()), put_all, [*self.names, name])


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
    _Branches(known, get, put, names, outputs).run(body, orelse)


class _Branches:
    """One native `if`: the variables of its branches, and what these write elsewhere."""

    def __init__(
        self, test: Tensor, get: Get, put: Set, names: Sequence[str], outputs: int
    ) -> None:
        self._test, self._get, self._put = test, get, put
        self._entry = get()
        self._names = list(names)
        self._loose = range(outputs, len(names))  # need not be alike
        self._site = describe_site(user_site())
        # what each branch writes elsewhere, with the values; and all of these places
        self._written: list[tuple[list[Place], list[Any]]] = []
        self._elsewhere: dict[Any, Place] = {}

    def run(self, body: Block, orelse: Block) -> None:
        index = conversion.cast(self._test, "int32")
        blocks = [functools.partial(self._trace, block) for block in (orelse, body)]
        try:
            found = branch(index, blocks, (), LABELS, self._names, self._adapt)
        except BaseException:
            self._put(self._entry)
            raise
        own = len(self._entry)
        self._put([lists.joined(x, y) for x, y in zip(self._entry, found[:own], strict=True)])
        for place, x in zip(self._elsewhere.values(), found[own:], strict=True):
            place.put(x)

    def _trace(self, block: Block) -> tuple[Any, ...]:
        """The variables behind a branch."""
        self._put([lists.fork(x) for x in self._entry])
        never = False
        with places.Written() as written:
            try:
                with native.inside():
                    block()
                values = tuple(self._get())
            except Diverged:
                values, never = (_NEVER,) * len(self._entry), True
            found = written.found(self._get, self._entry)
        self._written.append((found, [_NEVER if never else p.get() for p in found]))
        for place in found:
            place.put(place.before)
        return values

    def _adapt(self, traces: Sequence[Subtrace]) -> None:
        """Make results of what the branches write elsewhere, and all results alike."""
        self._elsewhere.update((p.key, p) for found, _ in self._written for p in found)
        self._names.extend(p.name for p in self._elsewhere.values())
        for trace, (found, values) in zip(traces, self._written, strict=True):
            after = dict(zip([p.key for p in found], values, strict=True))
            row = tree.unflatten(trace.form, trace.leaves)
            row += tuple(after.get(key, p.before) for key, p in self._elsewhere.items())
            trace.leaves, trace.form = tree.flatten(row)
        _unify(traces, self._names, self._test, self._site, self._loose)


def _unify(
    traces: Sequence[Subtrace], names: Sequence[str], test: Tensor, site: str, loose: range
) -> None:
    """Give the variables behind the branches one structure."""
    rows = [list(tree.unflatten(t.form, t.leaves)) for t in traces]
    for k, name in enumerate(names):
        values = [_known(x, test, bool(place)) for place, x in enumerate(row[k] for row in rows)]
        if k in loose and not _alike(values):
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
    return not truth if is_negation(test, x) else x


def is_negation(test: Any, x: Any) -> bool:
    """Whether the traced condition `test` is `not x`."""
    node = test._value
    return node.op is logic.LOGICAL_NOT and _uncast(node.inputs[0]) is x._value


def _uncast(node: Node) -> Node:
    """What a condition was made of, where that was a Python bool."""
    of_bool = node.op is conversion.CAST and node.inputs[0].spec.dtype is node.spec.dtype
    return node.inputs[0] if of_bool else node


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
            return zero_number(leaf)
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
