"""Traced tensors where a value is needed, or after their trace; and traces that fail half-way."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import TracedValueError
from dualmode.op import state

pytestmark = pytest.mark.filterwarnings("ignore::dualmode.errors.SideEffectWarning")

# --- values that have to be known -----------------------------------------------------------------

STATIC = {
    "range": (lambda x, n: [x for _ in range(n)], ""),
    "list": (lambda x, n: [1, 2, 3][n], ""),
    "slice": (lambda x, n: x[:n], ""),
    "reshape": (lambda x, n: dm.reshape(x, (n, 3)), "reshape: "),
    "zeros": (lambda x, n: dm.zeros((n, 3)), "zeros: "),
    "full": (lambda x, n: dm.full(n, 1.0), "full: "),
    "eye": (lambda x, n: dm.eye(n), "eye: "),
    "linspace": (lambda x, n: dm.linspace(0, 1, n), "linspace: "),
    "one_hot": (lambda x, n: dm.one_hot(dm.asarray([0, 1]), n), "one_hot: "),
    "tile": (lambda x, n: dm.tile(x, (n, 1)), "tile: "),
    "repeat": (lambda x, n: dm.repeat(x, n, axis=0), "repeat: "),
    "normal": (lambda x, n: dm.random.normal((n,)), "normal: "),
    "sum": (lambda x, n: dm.sum(x, axis=n - 1), "sum: "),
    "softmax": (lambda x, n: dm.softmax(x, axis=n - 1), "softmax: "),
    "concat": (lambda x, n: dm.concat([x, x], axis=n - 1), "concat: "),
    "stack": (lambda x, n: dm.stack([x, x], axis=n), "stack: "),
    "permute": (lambda x, n: dm.permute_dims(x, (n - 1, 0)), "permute_dims: "),
    "argmax": (lambda x, n: dm.argmax(x, axis=n - 1), "argmax: "),
}


@pytest.mark.parametrize(("body", "who"), STATIC.values(), ids=STATIC)
@pytest.mark.parametrize("autograph", [True, False])
def test_a_tensor_in_the_place_of_a_python_int(body, who, autograph):
    x, n = dm.ones((2, 3)), dm.asarray(2)
    body(x, n)  # fine eagerly
    step = dm.function(autograph=autograph)(body)
    with pytest.raises(TracedValueError) as info:
        step(x, n)
    first, origin, mend, line = str(info.value).splitlines()
    assert first.startswith(f"{who}an index or size needs the value of TracedTensor(int32[])")
    assert "argument n" in origin or "test_traced_values.py" in origin
    assert "a Python int, whose value is known" in mend
    assert "x.shape[0]" in mend
    assert "dm.range" in mend
    assert "test_traced_values.py" in line
    step(x, 2)  # what it says


@pytest.mark.parametrize("wrap", [lambda f: f, dm.function], ids=["eager", "compiled"])
def test_a_float_in_the_place_of_an_int(wrap):
    with pytest.raises(TypeError, match=r"is an integer, not float32\[\]; convert it by int\(\)"):
        wrap(lambda n: [0 for _ in range(n)])(dm.asarray(2.0))


# --- tensors that outlive their trace -------------------------------------------------------------


def leaked():
    kept = []
    dm.function(lambda x: kept.append(dm.sum(x * 2)))(dm.ones(3))
    return kept[0]


def in_a_trace(use):
    return lambda t: dm.function(lambda p: use(t))(True)


W = dm.Variable(1.0)
USES = {
    "argument": lambda t: dm.function(lambda x: x + 1)(t),
    "argument under a tape": lambda t: tape_of(dm.function(lambda x: x + 1), t),
    "numpy function": lambda t: np.sin(t),
    "numpy operator": lambda t: np.ones(2) + t,
    "dm.print": lambda t: dm.print(t),
    "bool": lambda t: bool(t),
    "float": lambda t: float(t),
    "comparison": lambda t: t == 1,
    "iteration": lambda t: list(t[None]),
    "assign": lambda t: W.assign(t),
    "assertion": lambda t: dm.debugging.assert_less(t, 1.0),
    "py_function": lambda t: dm.py_function(lambda x: x, [t], dm.float32),
    "cond": lambda t: dm.cond(dm.asarray(True), lambda: t + 1, lambda: t),
    "op in a trace": in_a_trace(lambda t: t + 1),
    "print in a trace": in_a_trace(lambda t: dm.print(t)),
    "assign in a trace": in_a_trace(lambda t: [W.assign(t), 0][1]),
    "cond in a trace": lambda t: dm.function(lambda p: dm.cond(p, lambda: t, lambda: t))(
        dm.asarray(True)
    ),
    "result of a trace": in_a_trace(lambda t: t),
    "optimizer": lambda t: dm.optim.SGD(0.1).apply_gradients([(t, W)]),
    "metric": lambda t: dm.metrics.Mean().update_state(t),
}


def tape_of(f, x):
    with dm.GradientTape() as tape:
        tape.watch(W)
        return f(x), tape


@pytest.mark.parametrize("backend", ["compile", "interpret"])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_leak_is_reported_with_the_line_that_made_it(use, backend):
    with dm.config.override(backend=backend):
        tensor = leaked()
        with pytest.raises(TracedValueError) as info:
            use(tensor)
    text = str(info.value)
    assert "is used outside of the function that it was traced in" in text
    assert "kept.append(dm.sum(x * 2))" in text
    assert W.numpy() == 1


def test_a_leak_has_no_value_to_print():
    assert repr(leaked()) == str(leaked()) == f"{leaked()}" == "TracedTensor(float32[])"


@pytest.mark.parametrize("operation", ["cond", "while_loop", "scan", "python if"])
def test_what_is_made_in_a_part_stays_there(operation):
    kept = []

    def keep(x):
        kept.append(x * 3)
        return x

    def step(x):
        if operation == "cond":
            dm.cond(x > 0, lambda: keep(x), lambda: x)
        elif operation == "while_loop":
            dm.while_loop(lambda i: i < 3, lambda i: keep(i) + 1, x)
        elif operation == "scan":
            dm.scan(lambda c, _: (keep(c) + 1, None), x, length=3)
        elif x > 0:
            keep(x)
        return kept[-1] + 1  # here

    with pytest.raises(TracedValueError, match="made by multiply") as info:
        dm.function(step)(dm.asarray(1.0))
    assert "kept.append(x * 3)" in str(info.value)
    assert str(info.value).endswith("return kept[-1] + 1  # here")


# --- traces that fail -----------------------------------------------------------------------------


class Unlucky(Exception):
    pass


def test_a_failed_trace_leaves_nothing_and_can_be_tried_again():
    w, made = dm.Variable(1.0), []
    attempts = []

    @dm.function
    def step(x):
        attempts.append(1)
        with dm.GradientTape() as tape:
            if not made:
                made.append(dm.Variable(2.0))
            w.assign_add(x)
            y = dm.cond(x > 0, lambda: w * made[0], lambda: fail(x))
        return tape.gradient(y, w)

    def fail(x):
        if len(attempts) == 1:
            raise Unlucky
        return x

    before = state.mode, state.tapes, sys.getprofile()
    with pytest.raises(Unlucky):
        step(dm.asarray(1.0))
    assert (state.mode, state.tapes, sys.getprofile()) == before
    assert (w.numpy(), step.trace_count) == (1, 0)
    assert step(dm.asarray(1.0)) == 2
    assert (w.numpy(), step.trace_count, len(made)) == (2, 1, 1)


@pytest.mark.parametrize("where", ["loop", "inner function", "tape", "init_scope", "print"])
def test_wherever_it_fails(where):
    def fail():
        raise Unlucky

    @dm.function
    def step(x):
        if where == "loop":
            return dm.while_loop(lambda i: i < 3, lambda i: fail(), x)
        if where == "inner function":
            return dm.function(lambda y: fail())(x)
        if where == "tape":
            with dm.GradientTape() as tape, tape.stop_recording():
                fail()
        if where == "init_scope":
            with dm.init_scope():
                fail()
        print("before")
        return fail()

    for _ in range(2):
        with pytest.raises(Unlucky):
            step(dm.asarray(1.0))
        assert dm.executing_eagerly()
        assert state.tapes == ()
        assert sys.getprofile() is None
    worked = []
    thread = threading.Thread(target=lambda: worked.append(dm.function(lambda x: x + 1)(1.0)))
    thread.start()  # no lock is held
    thread.join(10)
    assert worked == [2]
