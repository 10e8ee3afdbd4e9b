"""Loops: `while` and `for`. Those that depend on traced tensors become native."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import loops, tree
from ..control import scan
from ..errors import ShapeError, locate
from ..ops import logic
from ..tensor import Tensor
from ..tracer import current_tracer
from . import elements, iterables, lists, native
from .lists import Growing
from .statements import Block, Diverged, Get, Set, brief, if_stmt, placeholder
from .undefined import Undefined

Options = dict[str, Any]


def while_stmt(
    test: Callable[[], Any], body: Block, get: Get, put: Set, names: Sequence[str], options: Options
) -> None:
    """`while test(): body()`.

    As long as the condition's truth is known, the loop is Python's: so iterations may come before
    the native loop, as with `while True` and a break.
    """
    while True:
        truth = test()
        if native.condition(truth, "the condition of `while`") is not None:
            break
        if not truth:
            return
        body()
    if "shape_invariants" in options:
        raise locate(
            ShapeError(
                "set_loop_options: loop variables change their shape only in a loop with a known "
                "number of iterations; use for with a Python int in dm.range"
            )
        )
    loop = _Loop(get, put, names)
    loop.run_while(test, lambda _: body(), None, options.get("maximum_iterations"))


def for_stmt(
    iterated: Any,
    extra_test: Callable[[], Any] | None,
    body: Callable[[Any], Any],
    get: Get,
    put: Set,
    names: Sequence[str],
    options: Options,
) -> None:
    """`for item in iterated: body(item)`, which goes on while `extra_test()` holds."""
    if current_tracer() is not None and elements.is_dataset(iterated):
        _over_dataset(elements.Elements(iterated), extra_test, body, get, put, names)
        return
    if current_tracer() is None or not iterables.is_native(iterated):
        _unrolled(iterated, extra_test, body, get, put, names)
        return
    steps = iterables.steps(iterated)
    limit = options.get("maximum_iterations")
    if limit is not None and isinstance(steps.length, int):
        steps.length = min(steps.length, int(limit))
    if "shape_invariants" in options:
        _unrolled(steps.unrolled(), extra_test, body, get, put, names)
        return
    if isinstance(steps.length, int) and not steps.length:
        return
    loop = _Loop(get, put, names, certain=isinstance(steps.length, int))
    if isinstance(steps.length, int) and extra_test is None:
        loop.run_fixed(body, steps)
    else:
        loop.run_while(extra_test, body, steps, limit)


def _over_dataset(
    data: elements.Elements,
    extra_test: Callable[[], Any] | None,
    body: Callable[[Any], Any],
    get: Get,
    put: Set,
    names: Sequence[str],
) -> None:
    if not data.kinds:
        return
    data.start()
    loop = _Loop(get, put, names, certain=bool(data.count))

    def branch(test: Any, if_true: Block, if_false: Block) -> None:
        if_stmt(test, if_true, if_false, get, put, names, len(names))

    def run(kind: Any) -> None:
        elements.choose(data, kind, body, branch)

    if data.count is not None and extra_test is None:
        loop.run_fixed(run, iterables.Steps(data.count, [], lambda i, _: data.advance()))
    else:
        loop.run_while(extra_test, run, data)


def _unrolled(
    items: Iterable[Any],
    extra_test: Callable[[], Any] | None,
    body: Callable[[Any], Any],
    get: Get,
    put: Set,
    names: Sequence[str],
) -> None:
    """Python's own loop. Where a break depends on a tensor, the iterations behind it are
    branches."""
    if extra_test is None:
        for item in items:
            body(item)
        return
    goes_on = extra_test()
    if not native.is_unknown(goes_on) and not goes_on:
        return
    for item in items:
        if native.is_unknown(goes_on):
            run = lambda item=item: body(item)  # noqa: E731
            if_stmt(goes_on, run, lambda: None, get, put, names, len(names))
        else:
            body(item)
        goes_on = extra_test()
        if not native.is_unknown(goes_on) and not goes_on:
            return


class _Again(Exception):
    """A trace of a body showed that some loop variables are to be treated in another way."""


class _Loop:
    """One native loop: its variables before, within and behind it.

    Attributes:
        first: their values before the loop.
        growing: those that are lists to which iterations append.
        behind: what variables without a value are behind the loop.
    """

    def __init__(self, get: Get, put: Set, names: Sequence[str], certain: bool = False) -> None:
        """`certain` says that there is an iteration."""
        self._get, self._put, self.names = get, put, names
        self._entry = get()
        self._certain = certain
        self.first = list(self._entry)
        self.growing: list[int] = []
        self.behind: dict[int, Undefined] = {}

    @property
    def carried(self) -> list[int]:
        return [k for k in range(len(self.names)) if k not in self.growing]

    def run_fixed(self, body: Callable[[Any], Any], steps: iterables.Steps) -> None:
        """Run `steps.length` iterations, which is an int."""

        def step(carry: tuple[Any, ...], entries: list[Tensor]) -> tuple[Any, Any]:
            i, *values = carry
            out, added = self._iteration(values, lambda: body(steps.item(i, entries)))
            return (i + 1, *out), added

        def attempt() -> None:
            carry = (iterables.number(0), *[self.first[k] for k in self.carried])
            names = ("the number of iterations", *[self.names[k] for k in self.carried])
            (_, *values), added = scan(step, carry, steps.arrays, steps.length, names=names)
            rows = {
                k: lists.extended(self._entry[k], lists.unstacked(stacked, steps.length))
                for k, stacked in zip(self.growing, added, strict=True)
            }
            self._finish(values, rows)

        self._until_settled(attempt)

    def run_while(
        self,
        test: Callable[[], Any] | None,
        body: Callable[[Any], Any],
        steps: iterables.Steps | elements.Elements | None,
        limit: int | None = None,
    ) -> None:
        """Run while `test()` holds and, if given, there are `steps`.

        The first loop variable is the number of the iteration, or the kind of the element.
        """
        data = steps if isinstance(steps, elements.Elements) else None
        steps = steps if isinstance(steps, iterables.Steps) else None
        length = None if steps is None else steps.length
        limit = length if isinstance(length, int) else limit

        def goes_on(i: Tensor, *values: Any) -> Any:
            below = None if length is None or isinstance(length, int) else logic.less(i, length)
            below = below if data is None else logic.greater_equal(i, 0)
            if test is None:
                return below
            self._enter(values)
            with native.inside():
                truth = test()
            return truth if below is None else logic.logical_and(below, truth)

        def iterate(i: Tensor, *rest: Any) -> tuple[Any, ...]:
            count = len(self.carried)
            values, entries = rest[:count], rest[count:]
            out, _ = self._iteration(
                values, lambda: body(i if steps is None else steps.item(i, entries))
            )
            if self.growing:
                raise locate(lists.growth_error(self.names[self.growing[0]]))
            return (i + 1 if data is None else data.advance(), *out)

        start = iterables.number(0) if data is None else data.advance()

        def attempt() -> None:
            names = ("the number of iterations", *[self.names[k] for k in self.carried])
            first = (start, *[self.first[k] for k in self.carried])
            entries = [] if steps is None else steps.arrays
            _, *values = loops.repeat(goes_on, iterate, first, limit, names, entries)
            self._finish(values, {})

        self._until_settled(attempt)

    def _until_settled(self, attempt: Block) -> None:
        try:
            while True:
                try:
                    return attempt()
                except _Again:
                    continue
        except BaseException:
            self._put(self._entry)
            raise

    def _enter(self, values: Sequence[Any]) -> None:
        """Set the variables to those at the start of an iteration."""
        state: list[Any] = [None] * len(self.names)
        for k, x in zip(self.carried, values, strict=True):
            state[k] = lists.watched(self.names[k], x)
        for k in self.growing:
            state[k] = Growing(self.names[k], None)
        self._put(state)

    def _iteration(self, values: Sequence[Any], run: Block) -> tuple[list[Any], list[Any]]:
        """The carried variables behind an iteration, and what it appends to lists."""
        self._enter(values)
        try:
            with native.inside():
                run()
            state = list(self._get())
        except Diverged:
            state = list(self._get())
        again = False
        for k in self.carried:
            again |= self._settle(k, state)
        if again:
            raise _Again
        added = []
        for k in self.growing:
            if not isinstance(state[k], Growing) or state[k].readable:
                raise locate(
                    TypeError(f"{self.names[k]}: the loop appends to this list and replaces it")
                )
            added.append(list(state[k].added))
        return [lists.plain(state[k]) for k in self.carried], added

    def _settle(self, k: int, state: list[Any]) -> bool:
        """Look at variable k behind an iteration; whether it is to be treated in another way."""
        first, after, name = self.first[k], state[k], self.names[k]
        if isinstance(after, Growing) and after.added:
            self.growing.append(k)
            return True
        if isinstance(first, Growing) and isinstance(after, Growing):  # of a loop around this one
            state[k] = first
        elif isinstance(first, Undefined):
            if isinstance(after, Undefined):
                if after is not first:
                    self.behind[k] = after
            elif self._certain or name.startswith("retval_"):
                self.first[k] = tree.map(_zeros_outside, after)
                return True
            else:
                self.behind[k] = Undefined(
                    name,
                    "it is assigned only within the loop, which may have no iteration; assign it "
                    "before the loop as well",
                )
            state[k] = first
        elif isinstance(after, Undefined):
            raise after.error()
        elif tree.flatten(first)[1] != tree.flatten(lists.plain(after))[1]:
            raise locate(
                ShapeError(
                    f"{name} is {brief(first)} before the loop and {brief(after)} after an "
                    "iteration; start from a value of the structure that it has in the loop"
                )
            )
        return False

    def _finish(self, values: Sequence[Any], rows: dict[int, list[Any]]) -> None:
        state: list[Any] = [None] * len(self.names)
        for k, x in zip(self.carried, values, strict=True):
            state[k] = self.behind.get(k, x)
        for k, x in rows.items():
            state[k] = x
        self._put(state)


def _zeros_outside(leaf: Any) -> Any:
    """A placeholder for `leaf`, a value of a body, outside of its trace."""
    from .. import op

    if not isinstance(leaf, Tensor):
        return type(leaf)(0) if isinstance(leaf, bool | int | float | complex) else leaf
    with op.eagerly():
        return placeholder(leaf)
