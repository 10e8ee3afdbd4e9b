"""Python functions under gradients: they run as often as eagerly, and forward mode goes through."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm


def _twice(x):
    return dm.py_function(_counted, [x], dm.TensorSpec(x.shape, x.dtype))


def _counted(x):
    CALLS.append(None)
    return x * 2.0


CALLS = []
WAYS = {
    "branch": lambda x: dm.cond(dm.sum(x) > 0, lambda: dm.sin(_twice(x)) * x, lambda: x),
    "loop": lambda x: dm.fori_loop(0, 3, lambda _, y: dm.sin(_twice(y)) * x, x),
    "while": lambda x: dm.while_loop(
        lambda y: dm.sum(y) > 0.05, lambda y: (dm.sin(_twice(y)) * x,), (x,)
    )[0],
    "branch in a loop": lambda x: dm.fori_loop(
        0, 3, lambda _, y: dm.cond(y[0] > -9.0, lambda: dm.sin(_twice(y)) * x, lambda: y), x
    ),
    "loop in a branch": lambda x: dm.cond(
        x[0] > 0, lambda: dm.fori_loop(0, 3, lambda _, y: dm.sin(_twice(y)) * x, x), lambda: x
    ),
    "remat": dm.remat(lambda x: dm.sin(_twice(x)) * x),
    "remat in a branch": lambda x: dm.cond(
        x[0] > 0, lambda: dm.remat(lambda x: dm.sin(_twice(x)) * x)(x), lambda: x
    ),
    "branch in remat": dm.remat(
        lambda x: dm.cond(x[0] > 0, lambda: dm.sin(_twice(x)) * x, lambda: x)
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_gradient_runs_it_as_often_as_eagerly(name):
    def gradient(f):
        return dm.grad(lambda x: dm.sum(f(x)))

    f, x = WAYS[name], dm.asarray([0.3, 0.5])
    expected = calls = None
    for g in (gradient(f), dm.function(gradient(f)), gradient(dm.function(f))):
        CALLS.clear()
        found = g(x)
        if expected is None:
            expected, calls = found, len(CALLS)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert len(CALLS) == calls
    second = gradient(lambda x: gradient(f)(x) ** 2)(x)
    for g in (dm.function(gradient(f)), gradient(dm.function(f))):
        np.testing.assert_allclose(gradient(lambda x, g=g: g(x) ** 2)(x), second, rtol=1e-4)


def test_forward_mode_through_forward_mode():
    def f(x):
        return dm.py_function(lambda a: dm.sin(a) * a**3, [x], dm.float32) * x

    def slope(g):
        return lambda x: dm.jvp(g, (x,), (1.0,))[1]

    reverse = dm.grad(dm.grad(dm.grad(f)))(0.7)
    np.testing.assert_allclose(slope(slope(dm.grad(f)))(0.7), reverse, rtol=1e-4)
    np.testing.assert_allclose(dm.jvp(dm.remat(f), (0.7,), (1.0,))[1], dm.grad(f)(0.7), rtol=1e-5)


def test_forward_mode_through_a_compiled_gradient_of_an_open_loop():
    softened = dm.custom_gradient(lambda x: (dm.tanh(x), lambda g: g / dm.cosh(x) ** 2))

    def f(x):
        return dm.sum(WAYS["while"](softened(x)))

    x = dm.asarray([0.2, 0.3])
    _, expected = dm.jvp(dm.grad(f), (x,), (dm.ones(2),))
    for g in (dm.function(dm.grad(f)), dm.grad(dm.function(f))):
        np.testing.assert_allclose(dm.jvp(g, (x,), (dm.ones(2),))[1], expected, rtol=1e-4)


def _elements():
    yield from (np.float32(k) for k in (1, 2, 3))


def _of_elements(data):
    total = dm.asarray(0.0)
    for x in data:
        total = total + dm.sin(x * SCALE) * dm.cos(total)
    return total


SCALE = dm.Variable(2.0)


def _slope(f, data):
    with dm.GradientTape() as tape:
        y = f(data)
    return tape.gradient(y, SCALE)


def test_a_gradient_does_not_ask_for_elements_again():
    data = dm.data.Dataset.from_generator(_elements)
    expected = _slope(_of_elements, data)
    np.testing.assert_allclose(_slope(dm.function(_of_elements), data), expected, rtol=1e-5)
    inside = dm.function(lambda data: _slope(_of_elements, data))
    np.testing.assert_allclose(inside(data), expected, rtol=1e-5)

    def branch(data):
        return dm.cond(SCALE > 0, lambda: _of_elements(data), lambda: dm.asarray(0.0))

    with pytest.raises(dm.errors.GradientError, match="run a loop again .* known number of"):
        _slope(dm.function(branch), data)


def test_a_gradient_taken_inside_is_differentiated_again():
    def f(x):
        y = dm.cond(x[0] > 0, lambda: dm.sin(_twice(x)) * x, lambda: x)
        return dm.sum(y * y)

    def slope(x):
        return dm.sum(dm.grad(f)(x) ** 2)

    def curvature(g):
        return dm.grad(lambda x: dm.sum(dm.grad(g)(x)))(dm.asarray([0.3, 0.5]))

    np.testing.assert_allclose(curvature(dm.function(slope)), curvature(slope), rtol=1e-4)
