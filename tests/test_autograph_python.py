"""Converted functions keep the meaning of Python's own numbers, names, objects and texts."""

# ruff: noqa: B023, E731 - closures over loop variables are what is tested
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest

import dualmode as dm
from control_flow import check

INPUTS = ([0.5, 1.0, 2.0], [-3.0, 0.25, 1.0], [2.0, 8.0, 0.0])
PROGRAMS: list[Callable[..., Any]] = []


def program(fn: Callable[..., Any]) -> Callable[..., Any]:
    PROGRAMS.append(fn)
    return fn


# --- numbers stay numbers -------------------------------------------------------------------------


@program
def counters(world, x):
    i, n, done = 0, 0.5, False
    while not done:
        print("step", i, (n, [i]), done)
        i += 1
        n = n * 2 + 0.1
        done = i > x[2]
    print("end", i, n)
    return x * n, i


@program
def flags(world, x):
    found, place = False, -1
    for i, value in enumerate(x):
        if value > 0.9:
            found, place = True, i
    print(found, place, place + 1 if found else 0)
    return found, place


@program
def half_precision(world, x):
    k = 0.5
    for _ in x:
        k = k * 2
    small = dm.cast(x, "float16") * k
    return small, dm.cast(x, "int8") * (2 if x[0] > 0 else 3)


@program
def mixed_increments(world, x):
    n = 0
    for value in x:
        if value > 0.3:
            n += 1
        else:
            n += 0.5
    return n


@program
def divided_and_indexed(world, x):
    n = 0
    while n < 2 and dm.sum(x) < 1000:
        n += 1
    return x[n], n / 4, n // 2, -n, n**2, dm.one_hot(n, 3)


@program
def ranges_of_tensors(world, x):
    for i in range(dm.cast(x[2], "int32")):
        print(i)
    return x


@program
def gradient_with_a_counter(world, x):
    with dm.GradientTape() as tape:
        tape.watch(x)
        y, k = x, 1.0
        while k < 4:
            y = y * k + x
            k = k * 1.5
    return tape.gradient(y, x)


# --- texts ----------------------------------------------------------------------------------------


@program
def formatted(world, x):
    n = 0
    for value in x:
        n = n + 1
        print(f"{n:03d} {value!r} {n!s:>4}|", "and", f"{n}")
    dm.print(f"{x[0]}!")
    return x


# --- what called functions write ------------------------------------------------------------------


class Box:
    def __init__(self, value: Any) -> None:
        self.value = value
        self.count = 0

    def add(self, x: Any) -> None:
        self.value = self.value + x
        self.count += 1

    def add_all(self, xs: Any) -> None:
        for x in xs:
            self.value = self.value + x
            if x > 0.5:
                self.count += 1


@program
def methods_in_branches(world, x):
    box = Box(x)
    if x[0] > 0:
        box.add(x)
        box.add(1.0)
    return box.value, box.count


@program
def methods_in_loops(world, x):
    box, items = Box(x[0]), {"n": 0}

    def count(d):
        d["n"] += 1

    for value in x:
        if value > 0:
            box.add(value)
        count(items)
    return box.value, box.count, items


@program
def loops_in_methods_in_branches(world, x):
    box = Box(x[0])
    if x[0] > 0:
        box.add_all(x)
    for _ in dm.range(2):
        box.add_all(x * 0.5)
    return box.value, box.count


@program
def items_of_what_is_made_in_a_branch(world, x):
    if x[0] > 0:
        rows = [x, x]
        for value in x:
            rows[0] = rows[0] * value
        x = rows[0]
    return x


@program
def two_boxes_alike(world, x):
    first, second = Box(x), Box(x)
    if x[0] > 0:
        first.value = first.value * 2
        second.add(1.0)
    return first.value, second.value


@program
def made_inside(world, x):
    total = x[0] * 0
    for value in x:
        box = Box(value)
        box.add(1.0)
        total = total + box.value
    return total


@program
def made_inside_by_others(world, x):
    def double(box):
        box.value = box.value * 2
        return box.value

    if x[0] > 0:
        x = double(SimpleNamespace(value=x + 1))
    return x


@program
def outer_variables(world, x):
    total, calls = x[0] * 0, 0

    def add(value):
        nonlocal total, calls
        calls += 1
        if value > 0:
            total = total + value

    for value in x:
        add(value)
    if x[0] > 0:
        add(x[0])
    return total, calls


@program
def conditions_that_count(world, x):
    calls = 0

    def below(value):
        nonlocal calls
        calls += 1
        print("asked", dm.floor(value))
        world.v.assign_add(1.0)
        return value < 9

    s = x[2] * 1
    while below(s) or below(s - 3):
        s = s + 2
    y = s if below(s) else -s
    return s, y, calls


@program
def layers_that_build_themselves(world, x):
    for _ in dm.range(2):
        x = LAYER(x)
    return x


class _Layer:
    def __init__(self) -> None:
        self.scale, self.built = None, False

    def __call__(self, x: Any) -> Any:
        if not self.built:
            self.scale = dm.Variable(2.0)
            self.built = True
        return x * self.scale if x[0] > 0 else x


LAYER = _Layer()


# --- closures -------------------------------------------------------------------------------------


@program
def closures_over_a_loop_variable(world, x):
    fns = []
    for k in range(3):
        fns.append(lambda t: t * k if t > 0 else t)
    return [fn(x[1]) for fn in fns]


@program
def closure_before_a_branch(world, x):
    k = 1.0
    scale = lambda t: t * k
    if x[0] > 0:
        k = 2.0
    return scale(x)


@program
def functions_made_in_loops(world, x):
    s = x[0] * 0
    for value in x:

        def up(t):
            return t * value if t > 0 else t

        twice = lambda t: up(up(t))
        s = s + twice(value)
    return s


@program
def classes_in_functions(world, x):
    class Relu:
        def __call__(self, t):
            if t > 0:
                return t
            return t * 0

    relu = Relu()
    return relu(x[0]) + dm.sum(dm.map_fn(relu, x))


# --- loops that end for sure ----------------------------------------------------------------------


@program
def returns_from_an_endless_loop(world, x):
    while True:
        x = x + 1
        if dm.sum(x) > 12:
            return x


@program
def grows_behind_a_return(world, x):
    if x.ndim > 3:
        return x
    rows = [x]
    for _ in dm.range(2):
        rows.append(x * 2)
    return dm.stack(rows)


@program
def match_with_a_conditional(world, x):
    for kind in ("a", 2):
        match kind:
            case "a":
                x = x + 1 if x[0] > 0 else x
            case int(n):
                x = x * n
    return x


@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda fn: fn.__name__)
def test_both_modes(fn: Any) -> None:
    check(fn, *INPUTS)


def printed(fn: Any, *args: Any) -> tuple[Any, str]:
    with redirect_stdout(StringIO()) as out:
        result = fn(*args)
    return result, out.getvalue()


@pytest.mark.parametrize("limit", [2.0, 100.0])
def test_enumerated_dataset(limit: float) -> None:
    data = dm.data.Dataset.from_tensor_slices(dm.arange(5, dtype="float32")).batch(2)

    def fn(s):
        for i, batch in enumerate(data, 3):
            s = s + dm.sum(batch) * i
            print("batch", i)
            if s > limit:
                break
        return s

    eager, compiled = (printed(f, dm.asarray(0.0)) for f in (fn, dm.function(fn)))
    assert compiled[1] == eager[1]
    assert float(compiled[0]) == float(eager[0])


def test_appended_rows_are_the_stacked_ones() -> None:
    @dm.function
    def fn(x):
        rows = []
        for _ in dm.range(300):
            x = x * 0.99
            rows.append((x, x[0]))
        return dm.stack([a for a, _ in rows]), dm.stack([b for _, b in rows])

    graph = fn.get_concrete_function(dm.ones((3,))).graph
    assert not [n for n in graph.nodes() if n.op.name in ("concat", "slice")]
    assert fn(dm.ones((3,)))[1][299] == fn.python_function(dm.ones((3,)))[1][299]


@pytest.mark.parametrize("change", [lambda s: s.pop(), lambda s: s.append(1.0)])
def test_lists_that_are_changed_in_place(change: Any) -> None:
    @dm.function
    def fn(x):
        items = [x]
        if x > 0:
            change(items)
        return items

    with pytest.raises(TypeError, match=r"items: a list is changed in place(.|\n)*if x > 0"):
        fn(dm.asarray(1.0))


def test_the_wrong_branch_leaves_no_trace() -> None:
    state = SimpleNamespace(kind="start", n=0)

    def write(kind):
        state.kind = kind
        if kind == "fails":
            raise ValueError(kind)

    @dm.function
    def fn(x, kind):
        if x > 0:
            write(kind)
        return x

    with pytest.raises(dm.errors.DTypeError, match=r"SimpleNamespace.kind is 'start' where False"):
        fn(dm.asarray(1.0), "other")
    with pytest.raises(ValueError, match="fails"):
        fn(dm.asarray(1.0), "fails")
    assert state.kind == "start"


# --- loops that are traced again and again --------------------------------------------------------


def endless() -> Iterator[int]:
    while True:
        yield 1


@pytest.mark.parametrize("items", [itertools.count, endless])
def test_endless_iterators(items: Any) -> None:
    @dm.function
    def fn(x):
        for k in items():
            x = x + k
            if x > 10:
                break
        return x

    with pytest.raises(dm.errors.ConversionError, match=r"500 items(.|\n)*for k in items"):
        fn(dm.asarray(1.0))


def test_long_python_loops_warn() -> None:
    @dm.function
    def fn(x):
        for _ in range(1001):
            x = x + 1
        return x

    with pytest.warns(dm.errors.UnrollingWarning, match=r"traced 1000 times.*dm.range"):
        fn(dm.asarray(1.0))


def test_texts_that_are_made_while_tracing_warn() -> None:
    @dm.function
    def fn(x):
        text = "x is " + str(x)
        print(text, x)
        return x

    with pytest.warns(dm.errors.SideEffectWarning, match="made of a tensor once"):
        fn(dm.asarray(1.0))
