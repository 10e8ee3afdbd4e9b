"""ForwardAccumulator: the semantics of TensorFlow 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm


def along(f: Callable[..., Any], x: Any, t: Any) -> Any:
    """The derivative of f at x along t."""
    with dm.ForwardAccumulator(x, t) as acc:
        y = f(x)
    return acc.jvp(y)


def gradient(f: Callable[..., Any], x: Any) -> Any:
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x)


def energy(x: Any) -> Any:
    return dm.sum(dm.sin(x) * dm.exp(x)) / dm.max(x) + dm.prod(x[:2])


X = dm.asarray(np.array([0.5, 2.0, 3.0]))
T = dm.asarray(np.array([1.0, -2.0, 0.5]))


def test_the_product_with_the_jacobian() -> None:
    w = dm.asarray(np.arange(6.0).reshape(3, 2) / 10)  # so small that tanh does not saturate
    for f in (lambda x: dm.tanh(x @ w), dm.function(lambda x: dm.tanh(x @ w))):
        y = np.tanh(np.asarray(X @ w))
        expected = (1 - y * y) * np.asarray(T @ w)
        np.testing.assert_allclose(along(f, X, T), expected, rtol=1e-12)


def test_variables_and_structures() -> None:
    v, x = dm.Variable([1.0, 2.0]), dm.asarray(3.0)
    with dm.ForwardAccumulator({"v": v, "x": x}, {"v": [1.0, 0.0], "x": 2.0}) as acc:
        y = {"product": v * x, "rest": (dm.sum(v), dm.square(x)), "constant": dm.ones(2)}
    found = acc.jvp(y)
    assert found["product"].tolist() == [5, 4]
    assert [z.item() for z in found["rest"]] == [1, 12]
    assert found["constant"] is None
    zeros = acc.jvp(y, unconnected_gradients="zero")["constant"]
    assert zeros.tolist() == [0, 0] and zeros.dtype is dm.float32
    assert acc.jvp(x).item() == 2


def test_outside_of_the_block_nothing_is_followed() -> None:
    acc = dm.ForwardAccumulator(X, T)
    with acc:
        inside = X * 2.0
    assert acc.jvp(inside * 3.0) is None
    with acc:
        assert acc.jvp(inside * 3.0).tolist() == [6, -12, 3]


def test_integers_and_stopped_values_have_no_tangents() -> None:
    with dm.ForwardAccumulator(X, T) as acc:
        place, stopped = dm.argmax(X), dm.stop_gradient(X) * X
        y = stopped * dm.cast(place, "float64")
    np.testing.assert_allclose(acc.jvp(y), np.asarray(X) * np.asarray(T) * 2)


@pytest.mark.parametrize("compiled", [False, True])
def test_second_order_by_all_nestings(compiled: bool) -> None:
    f = dm.function(energy) if compiled else energy
    with dm.ForwardAccumulator(X, T) as acc:
        slope = gradient(f, X)
    forward_over_reverse = acc.jvp(slope)
    reverse_over_forward = gradient(lambda x: along(f, x, T), X)
    twice = along(lambda x: along(f, x, T), X, T)
    reverse_over_reverse = gradient(lambda x: dm.sum(gradient(f, x) * T), X)
    for got in (forward_over_reverse, reverse_over_forward):
        np.testing.assert_allclose(got, reverse_over_reverse, rtol=1e-9)
    np.testing.assert_allclose(twice, dm.sum(reverse_over_reverse * T), rtol=1e-9)
    step = 1e-5
    a, b = (np.asarray(gradient(energy, X + s * T)) for s in (step, -step))
    np.testing.assert_allclose(reverse_over_reverse, (a - b) / (2 * step), rtol=1e-6)


def test_nested_accumulators_keep_their_directions_apart() -> None:
    x, y = dm.asarray(3.0), dm.asarray(5.0)
    with dm.ForwardAccumulator(x, 1.0) as outer:
        with dm.ForwardAccumulator(y, 1.0) as inner:
            z = x * x * y
        by_y = inner.jvp(z)
    assert (by_y.item(), outer.jvp(z).item(), outer.jvp(by_y).item()) == (9, 30, 6)
    with dm.ForwardAccumulator(x, 1.0) as acc:
        product = x * along(lambda u: x + u, y, dm.asarray(1.0))
    assert acc.jvp(product).item() == 1


def test_a_tape_inside_or_outside_sees_what_it_did_without_an_accumulator() -> None:
    with dm.GradientTape() as outer:
        outer.watch(X)
        with dm.ForwardAccumulator(X, T), dm.GradientTape() as inner:
            inner.watch(X)
            y = energy(X)
        slope = inner.gradient(y, X)
    np.testing.assert_allclose(slope, gradient(energy, X))
    np.testing.assert_allclose(outer.gradient(y, X), gradient(energy, X))


def test_inside_a_compiled_function() -> None:
    fn = dm.function(lambda x, t: along(energy, x, t))
    np.testing.assert_allclose(fn(X, T), dm.sum(gradient(energy, X) * T), rtol=1e-12)
    fn = dm.function(lambda x, t: along(lambda z: gradient(energy, z), x, t))
    np.testing.assert_allclose(fn(X, T), along(lambda z: gradient(energy, z), X, T), rtol=1e-9)


def test_through_control_flow() -> None:
    def f(x: Any) -> Any:
        x = dm.cond(dm.sum(x) > 0, lambda: dm.sin(x), lambda: dm.cos(x))
        _, x = dm.while_loop(lambda k, z: k < 3, lambda k, z: (k + 1, z * z + x), (0, x))
        return dm.scan(lambda c, row: (c * dm.sum(row), c + row), dm.sum(x), dm.stack([x, x * 2.0]))

    def last(x: Any) -> Any:
        carry, rows = f(x)
        return carry + dm.sum(rows)

    expected = along(last, X * 0.1, T)
    np.testing.assert_allclose(dm.sum(gradient(last, X * 0.1) * T), expected, rtol=1e-10)
    compiled = dm.function(last)
    np.testing.assert_allclose(along(compiled, X * 0.1, T), expected, rtol=1e-10)
    inside = dm.function(lambda x: along(last, x, T))
    np.testing.assert_allclose(inside(X * 0.1), expected, rtol=1e-10)


def test_bad_input() -> None:
    with pytest.raises(dm.errors.ShapeError, match=r"tangent is .*\[2\] for a primal .*\[3\]"):
        dm.ForwardAccumulator(X, [1.0, 2.0])
    with pytest.raises(dm.errors.GradientError, match="not nested like the primals"):
        dm.ForwardAccumulator([X, X], T)
    with pytest.raises(dm.errors.GradientError, match="given twice; add up"):
        dm.ForwardAccumulator([X, X], [T, T])
    with pytest.raises(dm.errors.GradientError, match=r"int32\[\].*floating dtype"):
        dm.ForwardAccumulator(dm.asarray(3), 1)
    acc = dm.ForwardAccumulator(X, T)
    with acc, pytest.raises(dm.errors.GradientError, match="recording already"), acc:
        pass
    with pytest.raises(dm.errors.GradientError, match="a str; only tensors"):
        acc.jvp("y")
    with pytest.raises(ValueError, match="'none' or 'zero'"):
        acc.jvp(X, unconnected_gradients="nil")  # type: ignore[arg-type]
