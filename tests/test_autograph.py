"""Converted control flow, as it is called: the same eagerly and compiled."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode import tree
from dualmode.autograph import conversion


def both(fn: Any, *args: Any) -> None:
    """`fn` gives the same eagerly and compiled."""
    expected, found = fn(*args), dm.function(fn)(*args)
    xs, form = tree.flatten(expected)
    ys, other = tree.flatten(found)
    assert form == other
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_allclose(np.asarray(y), np.asarray(x), rtol=1e-5)


ONE, MINUS = dm.constant(1.5), dm.constant(-2.0)


# --- what is called -------------------------------------------------------------------------------


def relu(x):
    return x if x > 0 else x * 0.0


def twice(fn):
    @functools.wraps(fn)
    def wrapper(x):
        y = fn(x)
        if y > 1:
            y = fn(y)
        return y

    return wrapper


@twice
def decorated(x):
    return x - 1 if x > 0 else x + 1


class Counter:
    factor = 2.0

    def __init__(self, x):
        self.__hidden = x if x > 0 else -x
        self.total = 0.0

    def __call__(self, x):
        if x > self.__hidden:
            self.total = self.total + x
        return self.total * self.factor

    @staticmethod
    def fixed(x):
        return -x if x < 0 else x

    @classmethod
    def scaled(cls, x):
        return cls.factor * x if x > 0 else x


class Child(Counter):
    def __call__(self, x):
        y = super().__call__(x)
        return y - 1.0 if x < 0 else y


gradient = dm.grad(relu)


@dm.custom_gradient
def clipped(x):
    y = x if x < 1 else x * 0 + 1.0

    def grad(g):
        return g if g < 3 else g * 0 + 3.0

    return y, grad


class Gate(dm.nn.Layer):
    def __call__(self, x, training=False):
        return x * 2 if dm.sum(x) > 0 else x


gates = dm.nn.Sequential([Gate(), lambda x: x if dm.sum(x) > 1 else x * 3.0])

CALLED = {
    "function": lambda x: relu(x),
    "decorator": lambda x: decorated(x),
    "partial": lambda x: functools.partial(relu, x)(),
    "object": lambda x: Counter(x)(x * 2),
    "subclass": lambda x: Child(x)(x * 2),
    "static method": lambda x: Counter.fixed(x),
    "class method": lambda x: Counter.scaled(x),
    "map": lambda x: list(map(relu, [x, -x])),
    "sorted by key": lambda x: sorted([1, 2], key=lambda k: -k),
    "reduce": lambda x: functools.reduce(lambda a, b: a if a > b else b, [x, -x, x * 2]),
    "max": lambda x: (max(x, -x), min([x, -x, x * 2])),
    "gradient": lambda x: gradient(x),
    "gradient made inside": lambda x: dm.grad(relu)(x),
    "custom gradient": lambda x: dm.grad(lambda t: clipped(t) * 5.0)(x),
    "cond": lambda x: dm.cond(x > 0, functools.partial(relu, x), lambda: x),
    "layers": lambda x: gates(dm.stack([x])),
    "function of its own": lambda x: dm.function(relu)(x),
}


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.parametrize("x", [ONE, MINUS], ids=["positive", "negative"])
def test_what_is_called_is_converted(name: str, x: Any) -> None:
    fn = CALLED[name]
    both(lambda t: fn(t), x)


def test_a_method() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = dm.Variable(2.0)

        @dm.function
        def step(self, x):
            if x > 0:
                self.w.assign(self.w * x)
            return self.w + 0

    model = Model()
    assert float(model.step(ONE)) == 3.0
    assert float(model.step(MINUS)) == 3.0


def test_closures_share_conversions(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(k):
        return lambda x: x * k if x > 0 else x

    converted: list[str] = []
    convert = conversion._convert
    monkeypatch.setattr(
        conversion, "_convert", lambda fn: converted.append(fn.__name__) or convert(fn)
    )
    assert [float(dm.function(make(k))(ONE)) for k in (1.0, 2.0, 4.0)] == [1.5, 3.0, 6.0]
    assert converted == ["<lambda>"]


def test_two_lambdas_in_a_line() -> None:
    f, g = (lambda x: x + 1 if x > 0 else x), (lambda x: x + 2 if x > 0 else x)
    assert (float(dm.function(f)(ONE)), float(dm.function(g)(ONE))) == (2.5, 3.5)


def test_nonlocal_state() -> None:
    def fn(x):
        n = 0

        def add(t):
            nonlocal n
            if t > 0:
                n = n + 1
            return n

        add(x)
        add(-x)
        return add(x)

    both(fn, ONE)
    both(fn, MINUS)


def test_recursion_bounded_in_python() -> None:
    def power(x, n):
        if n == 0:
            return x * 0 + 1.0
        return power(x, n - 1) * (x if x > 0 else -x)

    both(lambda x: power(x, 5), MINUS)


# --- statements -----------------------------------------------------------------------------------


def early_return(x):
    for i in dm.range(6):
        for j in dm.range(3):
            x = x + j
            if x > 4:
                return x * i
    return -x


def loop_else(x):
    for i in dm.range(4):
        if x * i > 3:
            break
    else:
        x = x + 100
    return x


def last_value(x):
    for i in dm.range(1, 9, 3):
        y = x * i
    return y, i


def chained(x):
    seen = []

    def middle():
        seen.append(1)
        return x

    inside = -1.0 < middle() < 2.0
    return inside, len(seen)


def walrus(x):
    n = 0
    while (x := x * 2) < 50 and n < 9:
        n += 1
    if (y := x + 1) > 0:
        return y
    return x


def zipped(x):
    out = x * 0
    for k, (a, b) in enumerate(zip(dm.ones(3) * x, dm.range(3), strict=True), 1):
        out = out + a * b * k
    return out


def appended(x):
    first, second = [x], []
    for i in dm.range(3):
        first.append(x * i)
        second.append((x, i))
    return dm.stack(first), len(second), second


def appends_after_a_branch(x):
    found = []
    for i in dm.range(4):
        y = x * i
        if y > 2:
            y = -y
        found.append(y)
    return found


def appends_in_both_branches(x):
    found = []
    for i in dm.range(4):
        y = x * i
        if y > 2:
            found.append(y)
            found.append(y + 1)
        else:
            found.append(-y)
            found.append(y * 0)
    return found


def appends_in_nested_loops(x):
    found = [x]
    for i in dm.range(3):
        found.append(x + i)
        for j in dm.range(2):
            found.append(x * j - i)
        for _ in dm.range(2):
            x = x + 1
    return found


def matched(x, kind):
    match kind:
        case {"scale": k}:
            x = x * k if x > 0 else x
        case ["shift", k] if k > 0:
            x = x + k
        case _:
            x = -x
    return x


def generator_inside(x):
    def numbers():
        yield 1.0
        yield x

    for n in numbers():
        if n > 1:
            x = x + n
    return x


def known_before_unknown(x):
    n = 0
    while True:
        n += 1
        x = x * 2
        if x > 20 or n > 12:
            break
    return x


def peeled_python_range(x):
    for i in range(5):
        x = x + 1
        if x > i + 3:
            break
    return x


STATEMENTS = [
    early_return,
    loop_else,
    last_value,
    chained,
    walrus,
    zipped,
    appended,
    appends_in_nested_loops,
    appends_in_both_branches,
    appends_after_a_branch,
    generator_inside,
    known_before_unknown,
    peeled_python_range,
]


@pytest.mark.parametrize("fn", STATEMENTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("x", [ONE, MINUS], ids=["positive", "negative"])
def test_statements(fn: Any, x: Any) -> None:
    both(fn, x)


@pytest.mark.parametrize("kind", [{"scale": 3.0}, ["shift", 2.0], ["shift", -1.0], None])
def test_match(kind: Any) -> None:
    both(lambda x: matched(x, kind), ONE)


def test_python_numbers_stay_python() -> None:
    def fn(x, n):
        return x if n > 3 else (x, x)  # structures differ: no native branch

    compiled = dm.function(fn)
    assert isinstance(compiled(ONE, 5), dm.Tensor)
    assert isinstance(compiled(ONE, 2), tuple)


def test_raise_waits_for_its_branch() -> None:
    @dm.function
    def fn(x):
        if x < 0:
            raise KeyError("negative")
        return x * 2

    assert float(fn(ONE)) == 3.0
    for _ in range(2):
        with pytest.raises(KeyError, match="negative"):
            fn(MINUS)


def test_exceptions_restore_attributes() -> None:
    counter = Counter(ONE)

    @dm.function
    def fn(x):
        if x > 0:
            counter.total = x
            counter.missing.method()
        return x

    with pytest.raises(AttributeError):
        fn(ONE)
    assert counter.total == 0.0


def test_shape_invariants_unroll() -> None:
    def fn(x):
        for _ in dm.range(3):
            dm.autograph.set_loop_options(shape_invariants=[(x, [None])])
            x = dm.concat([x, x * 2])
        return x

    both(fn, dm.ones(2))


def test_maximum_iterations() -> None:
    @dm.function
    def fn(x):
        while x < 100:
            dm.autograph.set_loop_options(maximum_iterations=3)
            x = x + 1
        return x

    assert float(fn(ONE)) == 4.5


# --- ranges and datasets --------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(5,), (2, 7), (7, 2, -2), (0, 7, 3), (3, 3), (1, -4, -1)])
def test_ranges(bounds: tuple[int, ...]) -> None:
    def fn(*numbers):
        out = dm.constant(0)
        count = dm.constant(0)
        for i in dm.range(*numbers):
            out = out * 3 + i
            count += 1
        return out, count

    both(fn, *map(dm.constant, bounds))
    both(lambda: fn(*bounds))
    assert [int(i) for i in dm.range(*bounds)] == list(range(*bounds))
    assert len(dm.range(*bounds)) == len(range(*bounds))


def test_range_of_traced_bounds_as_python_range() -> None:
    def fn(n):
        total = n * 0
        for i in range(n):
            total = total + i
        return total

    both(fn, dm.constant(7))


@pytest.mark.parametrize("limit", [1e9, 70.0], ids=["all", "break"])
@pytest.mark.parametrize("drop", [False, True], ids=["partial", "full"])
def test_dataset_in_a_native_loop(limit: float, drop: bool) -> None:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)

    def train(data, w):
        rows = 0
        for _ in dm.range(3):
            for batch, target in data:
                w.assign_add(dm.sum(batch * 0.1, axis=0))
                rows += batch.shape[0]
                if dm.sum(target) > limit:
                    break
        return rows

    outcomes = []
    for run in (train, dm.function(train)):
        dm.random.set_seed(0)
        data = dm.data.Dataset.from_tensor_slices((x, x.sum(1))).shuffle(10)
        data, w = data.batch(3, drop_remainder=drop), dm.Variable([0.0, 0.0])
        counts = [int(run(data, w)), int(run(data, w))]
        outcomes.append((counts, w.numpy().tolist()))
    assert outcomes[0][0] == outcomes[1][0]
    np.testing.assert_allclose(outcomes[1][1], outcomes[0][1], rtol=1e-6)


def test_dataset_of_unknown_length() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    data = dm.data.Dataset.from_generator(lambda: iter(rows))

    @dm.function
    def fn(s):
        for row in data:
            s = s + row
        return s

    for _ in range(2):
        assert fn(dm.zeros(2)).numpy().tolist() == [6.0, 9.0]


def test_dataset_whose_elements_change_shape() -> None:
    rows = [np.ones(2, np.float32), np.ones(3, np.float32)]
    data = dm.data.Dataset.from_generator(lambda: iter(rows))

    @dm.function
    def fn(s):
        for row in data:
            s = s + dm.sum(row)
        return s

    with pytest.raises(dm.errors.ShapeError, match=r"float32\[3\].*traced for.*drop_remainder"):
        fn(ONE)
