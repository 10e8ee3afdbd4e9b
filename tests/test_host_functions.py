"""`py_function` and `numpy_function`: Python that runs with the code, in both modes."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import dualmode as dm

MODES = pytest.mark.parametrize("wrap", [lambda f: f, dm.function], ids=["eager", "compiled"])
BACKENDS = pytest.mark.parametrize("backend", ["compile", "interpret"])


def scalar(dtype="float32"):
    return dm.TensorSpec((), dtype)


@MODES
def test_it_runs_once_per_execution_and_in_order(wrap):
    seen = []

    @wrap
    def step(x):
        y = dm.numpy_function(lambda a: seen.append(("first", a.tolist())) or a + 1, [x], dm.int32)
        dm.py_function(lambda: seen.append("second"), [], [])
        z = dm.numpy_function(lambda a: seen.append(("third", a.tolist())) or a * 2, [y], dm.int32)
        return z - x

    for k in (1, 2):
        seen.clear()
        assert step(dm.asarray([k])) == k + 2
        assert seen == [("first", [k]), "second", ("third", [k + 1])]


@MODES
@pytest.mark.parametrize("declared", [np.dtype("float64"), np.float64, "float64", dm.float64])
def test_a_dtype_may_be_given_in_any_form(wrap, declared):
    found = wrap(lambda x: dm.py_function(lambda a: a * 2, [x], declared))(np.arange(3.0))
    assert found.dtype is dm.float64 and found.numpy().tolist() == [0, 2, 4]


@MODES
def test_large_python_integers_are_as_declared(wrap):
    found = wrap(lambda: dm.py_function(lambda: [2**40, -1], [], dm.TensorSpec([2], "int64")))()
    assert found.numpy().tolist() == [2**40, -1]


def test_its_value_cannot_decide_while_tracing():
    """It would be that of the trace on all calls."""
    counted = []

    @dm.function
    def ones():
        return dm.ones(int(dm.py_function(lambda: len(counted) + 2, [], dm.int32)))

    with pytest.raises(dm.errors.TracedValueError, match="host_call"):
        ones()


@MODES
def test_it_keeps_its_place_among_other_effects(wrap, capfd):
    @wrap
    def step(x):
        dm.print("a", x)
        dm.numpy_function(lambda a: print("b", a, flush=True), [x], [])
        dm.print("c", x)
        dm.debugging.assert_less(x, 2)
        dm.numpy_function(lambda a: print("d", a, flush=True), [x], [])

    step(dm.asarray(1))
    with pytest.raises(AssertionError):
        step(dm.asarray(2))
    assert capfd.readouterr().out == "a 1\nb 1\nc 1\nd 1\na 2\nb 2\nc 2\n"


@MODES
def test_several_results_of_many_types(wrap):
    dtypes = ["bool", "int8", "bfloat16", "float64", "complex64"]
    specs = [dm.TensorSpec((k, 2), t) for k, t in enumerate(dtypes)]

    @wrap
    def step(x):
        make = lambda a: [np.full(s.shape, a, s.dtype.numpy) for s in specs]  # noqa: E731
        return dm.numpy_function(make, [x], specs)

    found = step(dm.asarray(1))
    assert type(found) is list
    for x, spec in zip(found, specs, strict=True):
        assert (x.shape, x.dtype) == (spec.shape, spec.dtype)
        np.testing.assert_array_equal(x.numpy().astype(complex), np.ones(spec.shape))
    assert type(wrap(lambda x: dm.py_function(lambda y: (y, y), [x], (dm.int32,) * 2))(1)) is tuple


@MODES
def test_python_results_take_the_declared_dtype(wrap):
    give = lambda out, spec: wrap(lambda: dm.py_function(lambda: out, [], spec))()  # noqa: E731
    assert give(3, scalar()).numpy() == np.float32(3)
    assert give([1, 2.5], dm.TensorSpec((2,), "float64")).numpy().tolist() == [1, 2.5]
    assert give(dm.Variable(2), scalar("int32")).numpy() == 2
    with pytest.raises(TypeError, match=r"py_function: <lambda> is of float32, but int32\[\] was"):
        give(2.5, scalar("int32"))


@MODES
def test_gradients_to_second_order(wrap):
    def cube(x):
        return dm.py_function(lambda t: t * t * t, [x], dm.float32)

    def first(x):
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = cube(x)
        return tape.gradient(y, x)

    def second(x):
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = first(x)
        return tape.gradient(y, x)

    x = dm.asarray([1.0, -2.0])
    np.testing.assert_allclose(wrap(first)(x), [3, 12])
    np.testing.assert_allclose(wrap(second)(x), [6, -12])
    with dm.GradientTape() as tape:  # through a compiled call
        tape.watch(x)
        y = wrap(first)(x)
    np.testing.assert_allclose(tape.gradient(y, x), [6, -12])


@MODES
def test_gradients_of_several_results(wrap):
    def parts(x, n):
        return [x * x * dm.cast(n, "float32"), n, dm.sum(dm.exp(x))]

    @wrap
    def gradient(x, n):
        with dm.GradientTape() as tape:
            tape.watch(x)
            a, m, b = dm.py_function(
                parts, [x, n], [dm.float32, dm.TensorSpec((), "int32"), scalar()]
            )
            loss = dm.sum(a) + 2 * b + dm.cast(m, "float32")
        return tape.gradient(loss, x)

    x = np.array([0.5, 1.0], np.float32)
    expected = 2 * x * 3 + 2 * np.exp(x)
    np.testing.assert_allclose(gradient(dm.asarray(x), dm.asarray(3)), expected, rtol=1e-6)


@MODES
def test_numpy_functions_have_no_gradient(wrap):
    @wrap
    def gradient(x):
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = dm.numpy_function(np.sin, [x], dm.float32)
        return tape.gradient(y, x)

    assert gradient(dm.asarray([1.0])) is None


@MODES
def test_the_arrays_belong_to_the_function(wrap):
    kept = []

    def spoil(a):
        kept.append(a)
        a[:] = 7
        return a

    x = dm.asarray([1.0, 2.0])
    step = wrap(lambda x: dm.numpy_function(spoil, [x], dm.float32) + x)
    for _ in range(2):
        np.testing.assert_array_equal(step(x), [8, 9])
    np.testing.assert_array_equal(kept[0], [7, 7])
    kept[0][:] = 0
    np.testing.assert_array_equal(step(x), [8, 9])


@MODES
def test_an_exception_passes_and_nothing_is_assigned(wrap):
    v = dm.Variable(1.0)

    class Unlucky(Exception):
        pass

    def check(a):
        if a > 2:
            raise Unlucky("no luck", 13)
        return a

    @wrap
    def step(x):
        y = dm.numpy_function(check, [x], dm.float32)
        v.assign_add(y)

    step(dm.asarray(1.0))
    with pytest.raises(Unlucky) as caught:
        step(dm.asarray(3.0))
    assert caught.value.args == ("no luck", 13)
    assert "numpy_function: check, called at " in caught.value.__notes__[0]
    assert "y = dm.numpy_function(check, [x], dm.float32)" in caught.value.__notes__[0]
    assert caught.traceback[-1].name == "check"
    assert v.numpy() == 2
    step(dm.asarray(1.0))
    assert v.numpy() == 3


def test_a_failure_after_an_assignment_undoes_it_when_compiled():
    v = dm.Variable(1.0)

    @dm.function
    def step(x):
        v.assign_add(x)
        dm.numpy_function(lambda a: 1 / 0 if a > 2 else None, [x], [])

    with pytest.raises(ZeroDivisionError):
        step(dm.asarray(3.0))
    assert v.numpy() == 1


@MODES
def test_an_error_inside_names_the_line_inside(wrap):
    def inner(t):
        return t + dm.zeros(5)  # the line

    step = wrap(lambda x: dm.py_function(inner, [x], dm.float32))
    with pytest.raises(dm.errors.ShapeError, match=r"return t \+ dm.zeros\(5\)  # the line"):
        step(dm.zeros(3))


@MODES
@pytest.mark.parametrize(
    ("out", "message"),
    [
        (lambda a: a[:1], r"<lambda> is of shape \[1\], but float32\[2\] was declared; declare"),
        (lambda a: a.astype("int8"), r"<lambda> is of int8, but float32\[2\] was declared"),
        (lambda a: None, r"<lambda>: result 0 is None, but float32\[2\] was declared"),
    ],
)
def test_another_result_than_declared(wrap, out, message):
    step = wrap(lambda x: dm.numpy_function(out, [x], dm.float32))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        step(dm.zeros(2))
    assert "test_host_functions.py" in str(caught.value)


@MODES
def test_another_number_of_results_than_declared(wrap):
    step = wrap(lambda x, out: dm.py_function(lambda y: out, [x], [dm.float32, dm.float32]))
    for out, came in ((None, "a NoneType"), ((1.0,), "1")):
        with pytest.raises(ValueError, match=f"returned {came}; 2 results were declared"):
            step(dm.zeros(()), out)


def test_arguments_that_do_not_fit():
    with pytest.raises(TypeError, match=r"inp is a list of tensors, not a Tensor; write \[x\]"):
        dm.py_function(abs, dm.zeros(2), dm.float32)
    with pytest.raises(TypeError, match="numpy_function: func is not callable: 3"):
        dm.numpy_function(3, [], dm.float32)


@BACKENDS
def test_it_may_call_compiled_functions_and_itself(backend):
    inner = dm.function(lambda x: dm.numpy_function(lambda a: a + 1, [x], dm.float32) * 2)

    @dm.function
    def fall(x):
        def again(t):
            return fall(t - 1) + inner(t) if t > 0 else t

        return dm.py_function(again, [x], dm.float32)

    with dm.config.override(backend=backend):
        assert fall(dm.asarray(3.0)) == 8 + 6 + 4


def test_threads_do_not_meet():
    step = dm.function(lambda x: dm.numpy_function(lambda a: [a, a + 1], [x], [dm.int32] * 2))
    step(dm.asarray(0))
    wrong = []

    def work(k):
        for _ in range(50):
            a, b = step(dm.asarray(k))
            if (a.numpy(), b.numpy()) != (k, k + 1):
                wrong.append((k, a, b))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_it_may_change_variables_of_the_running_call():
    v = dm.Variable(np.zeros(100_000, np.float32))

    @dm.function
    def step(x):
        y = v + x
        dm.py_function(lambda: v.assign(np.full(100_000, 5, np.float32)), [], [])
        return dm.sum(y + v)

    assert step(dm.asarray(1.0)) in (
        100_000,
        600_000,
    )
    assert v.numpy()[0] == 5


@MODES
def test_variables_and_python_numbers_as_inputs(wrap):
    v = dm.Variable(2.0)

    @wrap
    def gradient(k):
        with dm.GradientTape() as tape:
            y = dm.py_function(lambda t, n: t * t * n, [v, k], scalar())
        return tape.gradient(y, v)

    assert gradient(3.0) == 12
    seen = []
    wrap(lambda n: dm.numpy_function(lambda a: seen.append(a.dtype), [n], []))(4)
    assert seen == [np.int32]


@MODES
def test_gradients_through_loops(wrap):
    def products(x):
        def body(c, e):
            y = dm.py_function(lambda c, e: c * e, [c, e], dm.float32)
            return y, y

        return dm.sum(dm.scan(body, dm.asarray(1.0), x)[1])  # a + ab + abc

    @wrap
    def gradient(x):
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = products(x)
        return tape.gradient(y, x)

    x = dm.asarray([2.0, 3.0, 4.0])
    np.testing.assert_allclose(gradient(x), [1 + 3 + 12, 2 + 8, 6])


@MODES
def test_a_branch_that_is_not_taken_does_not_run(wrap):
    seen = []

    def taken(name, x):
        return dm.numpy_function(lambda a: seen.append(name) or a, [x], dm.float32)

    step = wrap(lambda x: dm.cond(x > 0, lambda: taken("yes", x), lambda: taken("no", x)))
    step(dm.asarray(1.0))
    step(dm.asarray(-1.0))
    assert seen == ["yes", "no"]


@MODES
def test_the_users_floating_point_settings_hold(wrap):
    step = wrap(lambda x: dm.numpy_function(lambda a: a / 0, [x], dm.float32) / 0)
    with np.errstate(divide="ignore"):
        assert step(dm.asarray(1.0)) == np.inf
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        step(dm.asarray(1.0))
