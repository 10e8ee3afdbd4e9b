"""Loops: `while` and `for`. Those that depend on traced tensors become native."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import loops, op, tree
from ..errors import ShapeError, locate
from ..ops import logic
from ..tensor import Operators, Tensor
from ..tracer import current_tracer
from . import elements, iterables, lists, native, places
from .lists import Growing
from .places import Place
from .statements import (
    Block,
    Diverged,
    Get,
    Set,
    Variables,
    brief,
    if_stmt,
    is_negation,
    placeholder,
)
from .undefined import Undefined
from .unrolling import Rounds, unrolled

Options = dict[str, Any]


def while_stmt(
    test: Callable[[], Any], body: Block, get: Get, put: Set, names: Sequence[str], options: Options
) -> None:
    """`while test(): body()`.

    As long as the condition's truth is known, the loop is Python's: so iterations may come before
    the native loop, as with `while True` and a break.
    """
    rounds = Rounds()
    while True:
        truth, acts = _watched_test(test)
        if native.condition(truth, "the condition of `while`") is not None:
            break
        if not truth:
            return
        rounds.another()
        with native.unrolled():
            body()
    if "shape_invariants" in options:
        raise locate(
            ShapeError(
                "set_loop_options: loop variables change their shape only in a loop with a known "
                "number of iterations; use for with a Python int in dm.range"
            )
        )
    limit = options.get("maximum_iterations")
    if acts:
        _rotated(truth, test, body, Variables(get, put, names), limit)
    else:
        _Loop(Variables(get, put, names)).run_while(test, lambda _: body(), None, limit)


def _watched_test(test: Callable[[], Any]) -> tuple[Any, bool]:
    """The truth of a loop's condition, and whether finding it does something else as well."""
    tracer = current_tracer()
    if tracer is None:
        return test(), False
    before = tracer.done()
    with places.Written() as written:
        truth = test()
    return truth, bool(written.places) or tracer.done() != before


def _rotated(
    truth: Any, test: Callable[[], Any], body: Block, variables: Variables, limit: int | None
) -> None:
    """A loop whose condition does something, which has been evaluated once: the body evaluates it
    again at its end."""

    def run(_: Any) -> None:
        nonlocal truth
        body()
        truth = test()

    def put_truth(value: Any) -> None:
        nonlocal truth
        truth = value

    name = "the condition of `while`"
    truth = native.condition(truth, name)
    loop = _Loop(variables.and_one(name, lambda: truth, put_truth))
    loop.run_while(lambda: truth, run, None, limit)


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
    variables = Variables(get, put, names)
    if isinstance(iterated, iterables.Enumerated) and elements.is_dataset(iterated.inner):
        _over_enumerated(iterated, extra_test, body, variables)
        return
    if current_tracer() is not None and elements.is_dataset(iterated):
        _over_dataset(elements.Elements(iterated), extra_test, body, variables)
        return
    if current_tracer() is None or not iterables.is_native(iterated):
        unrolled(iterated, extra_test, body, variables)
        return
    steps = iterables.steps(iterated)
    limit = options.get("maximum_iterations")
    if limit is not None and isinstance(steps.length, int):
        steps.length = min(steps.length, int(limit))
    if "shape_invariants" in options:
        unrolled(steps.unrolled(), extra_test, body, variables)
        return
    if isinstance(steps.length, int) and not steps.length:
        return
    loop = _Loop(variables, certain=isinstance(steps.length, int))
    if isinstance(steps.length, int) and extra_test is None:
        loop.run_fixed(body, steps)
    else:
        loop.run_while(extra_test, body, steps, limit)


def _over_dataset(
    data: elements.Elements,
    extra_test: Callable[[], Any] | None,
    body: Callable[[Any], Any],
    variables: Variables,
) -> None:
    if not data.kinds:
        return
    data.start()
    loop = _Loop(variables, certain=bool(data.count))

    def branch(test: Any, if_true: Block, if_false: Block) -> None:
        if_stmt(test, if_true, if_false, *variables, outputs=len(variables.names))

    def run(kind: Any) -> None:
        elements.choose(data, kind, body, branch)

    if data.count is not None and extra_test is None:
        loop.run_fixed(run, iterables.Steps(data.count, [], lambda i, _: data.advance()))
    else:
        loop.run_while(extra_test, run, data)


# what a variable that only a loop's body assigns may be behind it
_CARRIED = (Operators, bool, int, float, complex, str, bytes, type(None), type, np.ndarray)


def _over_enumerated(
    data: iterables.Enumerated,
    extra_test: Callable[[], Any] | None,
    body: Callable[[Any], Any],
    variables: Variables,
) -> None:
    number = data.start

    def count(element: Any) -> None:
        nonlocal number
        body((number, element))
        number = number + 1

    def put_number(value: Any) -> None:
        nonlocal number
        number = value

    variables = variables.and_one("the number of the element", lambda: number, put_number)
    _over_dataset(elements.Elements(data.inner), extra_test, count, variables)


class _Again(Exception):
    """A trace of a body showed that some loop variables are to be treated in another way."""


class _Loop:
    """One native loop: its variables before, within and behind it.

    Attributes:
        first: their values before the loop.
        growing: those that are lists to which iterations append.
        behind: what variables without a value are behind the loop.
        ends: values that are known behind it.
    """

    def __init__(self, variables: Variables, certain: bool = False) -> None:
        """`certain` says that there is an iteration."""
        self._own, self.names = variables, list(variables.names)
        self._places: list[Place] = []  # written by called functions
        self._entry = variables.get()
        self._owned = len(self._entry)
        self._certain = certain
        self.first = list(self._entry)
        self.growing: list[int] = []
        self.behind: dict[int, Undefined] = {}
        self.ends: dict[int, bool] = {}

    def _get(self) -> tuple[Any, ...]:
        return (*self._own.get(), *[p.get() for p in self._places])

    def _put(self, values: Sequence[Any]) -> None:
        self._own.put(values[: self._owned])
        for place, x in zip(self._places, values[self._owned :], strict=True):
            place.put(x)

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
            form = tree.flatten(steps.arrays)[1]
            (_, *values), added = loops.scan(
                step, carry, steps.arrays, form, steps.length, False, names, weak=True
            )
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
            if steps is None and data is None and limit is None:
                self._note_end(truth, values)
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
            _, *values = loops.repeat(goes_on, iterate, first, limit, names, entries, weak=True)
            self._finish(values, {})

        self._until_settled(attempt)

    def _note_end(self, truth: Any, values: Sequence[Any]) -> None:
        """Where the loop goes on while `not x`, x is known behind it."""
        for k, x in zip(self.carried, values, strict=True):
            if native.is_traced(x) and native.is_traced(truth) and is_negation(truth, x):
                self.ends[k] = True

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
        with places.Written() as written:
            try:
                with native.inside():
                    run()
            except Diverged:
                pass
            state = list(self._get())
            again = self._include(written.found(self._get, self._entry))
        if not again:
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

    def _include(self, found: Sequence[Place]) -> bool:
        """Make loop variables of places that an iteration wrote; whether there are any."""
        for place in found:
            place.put(place.before)
            self._places.append(place)
            self.names.append(place.name)
            self.first.append(place.before)
            self._entry = (*self._entry, place.before)
        return bool(found)

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
            elif not all(isinstance(x, _CARRIED) for x in tree.leaves(after)):
                self.behind[k] = Undefined(
                    name, "each iteration of a native loop makes a new one, which is no tensor"
                )
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
            state[k] = self.behind.get(k, self.ends.get(k, x))
        for k, x in rows.items():
            state[k] = x
        self._put(state)


def _zeros_outside(leaf: Any) -> Any:
    """A placeholder for `leaf`, a value of a body, outside of its trace."""
    if not isinstance(leaf, Tensor):
        return type(leaf)(0) if isinstance(leaf, bool | int | float | complex) else leaf
    with op.eagerly():
        return placeholder(leaf)
