"""Gradients inside, across and through compiled functions, and both modes side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm

RNG = np.random.default_rng(7)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return RNG.normal(size=shape).astype(dtype)


def close(a: Any, b: Any, rtol: float = 1e-5) -> None:
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6)


def grad(fn: Callable[..., Any], order: int = 1) -> Callable[..., Any]:
    """The derivative of a function of one tensor, `order` times."""
    if order == 0:
        return fn

    def derivative(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = grad(fn, order - 1)(x)
        return None if y is None else tape.gradient(y, x)

    return derivative


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "polynomial": lambda x: x * x * x - 2.0 * x,
    "transcendental": lambda x: dm.sin(x) * dm.exp(-x * x) + dm.tanh(x),
    "reduction": lambda x: dm.sum(dm.square(x)) * dm.mean(x),
    "softmax": lambda x: dm.sum(dm.exp(x) / dm.sum(dm.exp(x)) * dm.sin(x)),
    "identity": lambda x: x,
    "twice the same": lambda x: x + x,
    "constant factor": lambda x: x * 3.0,
    "indexing": lambda x: x[1:] * x[:-1],
    "select": lambda x: dm.where(x > 0, x * x, dm.exp(x)),
}


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("name", PROGRAMS)
def test_orders(name: str, order: int) -> None:
    fn = PROGRAMS[name]
    compiled = dm.function(fn)
    x = dm.asarray(normal(4))
    expected = grad(fn, order)(x)
    across = grad(compiled, order)(x)
    inside = dm.function(grad(fn, order))(x)
    nested = dm.function(grad(compiled, order))(x)
    if expected is None:
        assert across is None and inside is None and nested is None
        return
    for got in (across, inside, nested):
        close(got, expected, rtol=2e-4)
    close(grad(compiled, order)(x), expected, rtol=2e-4)
    assert compiled.trace_count == 1


def dense(x: Any, w: Any, b: Any) -> Any:
    return dm.tanh(x @ w + b)


def test_structures_of_arguments_under_a_tape() -> None:
    def fn(params: Any, x: Any) -> Any:
        h = dense(x, **params["hidden"])
        return {"loss": dm.mean(dm.square(h)), "hidden": h}

    compiled = dm.function(fn)
    params = {"hidden": {"w": dm.asarray(normal(3, 5)), "b": dm.asarray(normal(5))}}
    x = dm.asarray(normal(4, 3))

    def gradients(fn: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(params)
            out = fn(params, x)
            loss = out["loss"] + dm.sum(out["hidden"])
        return tape.gradient(loss, params)

    got, expected = gradients(compiled), gradients(fn)
    for name in ("w", "b"):
        close(got["hidden"][name], expected["hidden"][name])


def test_captured_variables_under_a_tape() -> None:
    w, frozen = dm.Variable(normal(3, 2)), dm.Variable(normal(2), trainable=False)
    fn = dm.function(lambda x: dm.sum(dense(x, w, frozen)))
    x = normal(4, 3)
    for _ in range(2):
        with dm.GradientTape() as tape:
            loss = fn(x)
        assert tape.watched_variables() == (w,)
        with dm.GradientTape() as expected:
            plain = fn.python_function(x)
        close(loss, plain)
        close(tape.gradient(loss, w), expected.gradient(plain, w))
        w.assign(w * 0.5)
    assert fn.trace_count == 1


def test_variables_updated_under_a_tape() -> None:
    def run(make: Callable[[Any], Any]) -> tuple[Any, ...]:
        count, w = dm.Variable(0.0, trainable=False), dm.Variable(2.0)

        def body(x: Any) -> Any:
            count.assign_add(1.0)
            return w * w * x * count

        fn = make(body)
        with dm.GradientTape(persistent=True) as tape:
            first = fn(dm.asarray(3.0))
            second = fn(dm.asarray(3.0))
        return first, second, tape.gradient(first, w), tape.gradient(second, w), count

    for got, expected in zip(run(dm.function), run(lambda fn: fn), strict=True):
        close(got, expected)


def test_unconnected_and_integer_results() -> None:
    fn = dm.function(lambda x, y: (x * 2.0, dm.argmax(x), y))
    x, y = dm.asarray(normal(3)), dm.asarray(normal(3))
    with dm.GradientTape(persistent=True) as tape:
        tape.watch([x, y])
        a, index, b = fn(x, y)
        total = dm.sum(a * dm.asarray(index, dtype=dm.float32))
    assert tape.gradient(a, y) is None
    close(tape.gradient(b, y), np.ones(3, np.float32))
    close(tape.gradient(total, x), np.full(3, 2 * int(index), np.float32))


def test_stop_gradient_across_a_call() -> None:
    fn = dm.function(lambda x: x * dm.stop_gradient(x))
    x = dm.asarray(3.0)
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = fn(x)
    close(tape.gradient(y, x), np.float32(3))


def test_output_gradients() -> None:
    fn = dm.function(lambda x: x * x)
    x = dm.asarray([1.0, 2.0, 3.0])
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = fn(x)
    close(tape.gradient(y, x, output_gradients=dm.asarray([1.0, 0.0, 2.0])), np.float32([2, 0, 12]))


def test_tape_inside_with_numbers_and_jacobian_like_loops() -> None:
    @dm.function
    def fn(x: Any, n: int) -> Any:
        with dm.GradientTape(persistent=True) as tape:
            tape.watch(x)
            ys = [x**k for k in range(1, n + 1)]
        return [tape.gradient(y, x) for y in ys]

    x = dm.asarray(2.0)
    for got, expected in zip(fn(x, 3), [1.0, 4.0, 12.0], strict=True):
        close(got, np.float32(expected))


def test_gradient_of_a_function_called_twice() -> None:
    inner = dm.function(lambda x: dm.sin(x) * x)
    fn = dm.function(lambda x: inner(inner(x)))
    x = dm.asarray(normal(5))
    expected = grad(lambda x: inner.python_function(inner.python_function(x)))(x)
    close(grad(fn)(x), expected)
    close(grad(lambda x: inner(inner(x)))(x), expected)
    close(dm.function(grad(fn))(x), expected)


def test_persistent_tape_still_recording() -> None:
    fn = dm.function(lambda x: x * x * x)
    x = dm.asarray(2.0)
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = fn(x)
        dy = tape.gradient(y, x)
        ddy = tape.gradient(dy, x)
    close(dy, np.float32(12))
    close(ddy, np.float32(12))


def test_second_gradient_of_a_used_tape_in_both_modes() -> None:
    def body(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = x * x
        tape.gradient(y, x)
        return tape.gradient(y, x)

    for fn in (body, dm.function(body)):
        with pytest.raises(dm.errors.GradientError, match="persistent"):
            fn(dm.asarray(1.0))


# --- training -------------------------------------------------------------------------------------


class Perceptron:
    """Two dense layers with SGD and momentum written by hand."""

    def __init__(self, sizes: tuple[int, int, int]) -> None:
        rng = np.random.default_rng(3)
        a, b, c = sizes
        values = [rng.normal(size=(a, b)) * 0.3, np.zeros(b), rng.normal(size=(b, c)), np.zeros(c)]
        self.weights = [dm.Variable(v.astype(np.float32)) for v in values]
        self.momenta = [dm.Variable(dm.zeros(w.shape), trainable=False) for w in self.weights]

    def loss(self, x: Any, y: Any) -> Any:
        w1, b1, w2, b2 = self.weights
        return dm.mean(dm.square(dense(x, w1, b1) @ w2 + b2 - y))

    def step(self, x: Any, y: Any, rate: float = 0.1) -> Any:
        with dm.GradientTape() as tape:
            loss = self.loss(x, y)
        grads = tape.gradient(loss, self.weights)
        for w, m, g in zip(self.weights, self.momenta, grads, strict=True):
            m.assign(0.9 * m + g)
            w.assign_sub(rate * m)
        return loss


def data(n: int = 16) -> tuple[Any, Any]:
    x = np.random.default_rng(11).normal(size=(n, 3)).astype(np.float32)
    return x, (x @ np.float32([[1], [-2], [0.5]])) ** 2


@pytest.mark.parametrize("way", ["whole step", "loss only", "nested"])
def test_training_step_matches_eager(way: str) -> None:
    x, y = data()
    plain, model = Perceptron((3, 8, 1)), Perceptron((3, 8, 1))
    if way == "loss only":
        model.loss = dm.function(model.loss)  # type: ignore[method-assign]
        step = model.step
    else:
        if way == "nested":
            model.loss = dm.function(model.loss)  # type: ignore[method-assign]
        step = dm.function(model.step)
    for k in range(20):
        rate = 0.05 / (1 + k)
        close(step(x, y, rate), plain.step(x, y, rate), rtol=1e-4)
    for a, b in zip(model.weights + model.momenta, plain.weights + plain.momenta, strict=True):
        close(a, b, rtol=1e-3)
    if way == "whole step":
        assert step.trace_count == 1


def test_training_lowers_the_loss() -> None:
    x, y = data(64)
    model = Perceptron((3, 16, 1))
    step = dm.function(model.step)
    first = float(step(x, y, 0.02))
    for _ in range(200):
        last = float(step(x, y, 0.02))
    assert last < 0.2 * first


def test_gradient_against_finite_differences() -> None:
    fn = dm.function(lambda x: dm.sum(dm.tanh(x @ dm.mT(x) if hasattr(dm, "mT") else x @ x.mT)))
    x = normal(3, 4, dtype=np.float64)
    got = np.asarray(grad(fn)(dm.asarray(x)))
    for i in np.ndindex(x.shape):
        h = np.zeros_like(x)
        h[i] = 1e-6
        numeric = (float(fn(x + h)) - float(fn(x - h))) / 2e-6
        assert abs(numeric - got[i]) < 1e-6
