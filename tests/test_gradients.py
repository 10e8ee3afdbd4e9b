"""Gradients of every op against central differences, to second order; special points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dualmode as dm
from op_table import Array, rows

ROWS = rows()
DIFFERENTIABLE = sorted(name for name, row in ROWS.items() if row.gradients)
STEP = 1e-5

Arrays = list[Array]
Function = Callable[[list[Any]], Any]


def directional(f: Function, xs: Arrays, directions: Arrays) -> float:
    """The derivative of scalar `f` at `xs` along `directions` by central differences."""
    up, down = (
        f([dm.asarray(x + s * STEP * d) for x, d in zip(xs, directions, strict=True)])
        for s in (1, -1)
    )
    return (float(up) - float(down)) / (2 * STEP)


def dot(xs: list[Any], ys: Arrays) -> Any:
    """The inner product of two lists of arrays."""
    total = dm.asarray(0.0, dtype=dm.float64)
    for x, y in zip(xs, ys, strict=True):
        total = total + dm.sum(x * y)
    return total


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_gradient_and_its_gradient(name: str, data: st.DataObject):
    row = ROWS[name]
    arrays, attrs = row.smooth_examples(data.draw)
    rng = np.random.default_rng(7)
    which = row.gradients
    primal = [np.asarray(arrays[k]) for k in which]
    along = [rng.uniform(-1, 1, x.shape) for x in primal]
    sideways = [rng.uniform(-1, 1, x.shape) for x in primal]
    weights: list[Array] = []

    def value(xs: list[Any]) -> Any:
        args: list[Any] = [dm.asarray(a) for a in arrays]
        for k, x in zip(which, xs, strict=True):
            args[k] = x
        out = row.call(*args, **attrs)
        if not weights:
            weights.append(rng.uniform(-1, 1, out.shape))
        return dm.sum(out * weights[0])

    def first(xs: list[Any]) -> Any:
        inputs = [dm.asarray(x) for x in xs]
        with dm.GradientTape() as tape:
            tape.watch(inputs)
            y = value(inputs)
        return dot(tape.gradient(y, inputs, unconnected_gradients="zero"), along)

    def second(xs: list[Any]) -> Any:
        inputs = [dm.asarray(x) for x in xs]
        with dm.GradientTape() as outer:
            outer.watch(inputs)
            with dm.GradientTape() as tape:
                tape.watch(inputs)
                y = value(inputs)
            slope = dot(tape.gradient(y, inputs, unconnected_gradients="zero"), along)
        return dot(outer.gradient(slope, inputs, unconnected_gradients="zero"), sideways)

    n = sum(x.size for x in primal) + 1
    np.testing.assert_allclose(
        float(first(primal)), directional(value, primal, along), rtol=1e-5, atol=1e-7 * n
    )
    np.testing.assert_allclose(
        float(second(primal)), directional(first, primal, sideways), rtol=1e-4, atol=1e-6 * n
    )


# --- special points -----------------------------------------------------------------------------


def gradient(fn: Callable[..., Any], *xs: Any) -> list[Any]:
    """Gradients of the sum of `fn(*xs)`, as lists."""
    inputs = [dm.asarray(x, dtype=dm.float64) for x in xs]
    with dm.GradientTape() as tape:
        tape.watch(inputs)
        y = fn(*inputs)
    return [None if g is None else g.tolist() for g in tape.gradient(y, inputs)]


def second_derivative(fn: Callable[[Any], Any], x: Any) -> list[float]:
    x = dm.asarray(x, dtype=dm.float64)
    with dm.GradientTape() as outer:
        outer.watch(x)
        with dm.GradientTape() as inner:
            inner.watch(x)
            y = fn(x)
        slope = inner.gradient(y, x)
    return outer.gradient(slope, x).tolist()


def test_pow_at_zero():
    assert gradient(dm.pow, [0.0, 0.0, 0.0], [0.0, 1.0, 2.0]) == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert second_derivative(lambda x: x**2.0, [0.0, 3.0]) == [2.0, 2.0]
    assert second_derivative(lambda x: dm.pow(x, 3.0), [0.0, 2.0]) == [0.0, 12.0]


def test_square_root_at_zero_is_infinitely_steep():
    assert gradient(dm.sqrt, [0.0, 4.0]) == [[np.inf, 0.25]]


def test_kinks_and_ties():
    assert gradient(dm.abs, [0.0, -2.0]) == [[0.0, -1.0]]
    assert gradient(dm.relu, [0.0, 1.0, -1.0]) == [[0.0, 1.0, 0.0]]
    assert gradient(dm.maximum, [1.0, 2.0], [1.0, 3.0]) == [[0.5, 0.0], [0.5, 1.0]]
    assert gradient(dm.minimum, [1.0, 2.0], [1.0, 3.0]) == [[0.5, 1.0], [0.5, 0.0]]
    assert gradient(dm.max, [2.0, 1.0, 2.0]) == [[0.5, 0.0, 0.5]]
    assert gradient(dm.min, [2.0, 1.0, 1.0, 1.0]) == [[0.0, 1 / 3, 1 / 3, 1 / 3]]
    assert gradient(lambda x: dm.clip(x, -1.0, 1.0), [-1.0, 0.0, 1.0, 2.0]) == [[1, 1, 1, 0]]


def test_products_with_zeros():
    assert gradient(dm.prod, [2.0, 0.0, 3.0]) == [[0.0, 6.0, 0.0]]
    assert gradient(dm.prod, [2.0, 0.0, 0.0]) == [[0.0, 0.0, 0.0]]
    assert gradient(dm.prod, [5.0]) == [[1.0]]
    # d2 (x0 x1 x2) / dx_i dx_j at (2, 0, 3), summed over j
    assert second_derivative(dm.prod, [2.0, 0.0, 3.0]) == [3.0, 5.0, 2.0]


def test_what_is_not_chosen_has_no_gradient():
    safe = gradient(lambda x: dm.where(x > 0, dm.sqrt(dm.where(x > 0, x, 1.0)), 0.0), [-1.0, 4.0])
    assert safe == [[0.0, 0.25]]
    assert gradient(dm.std, [2.0, 2.0]) == [[0.0, 0.0]]


def test_cast_hands_the_gradient_back_in_the_type_of_its_input():
    x = dm.asarray([1.0, 2.0], dtype=dm.float16)
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = dm.sum(dm.square(dm.astype(x, dm.float64)))
    g = tape.gradient(y, x)
    assert g.dtype is dm.float16
    assert g.tolist() == [2.0, 4.0]
    assert gradient(lambda x: dm.astype(dm.astype(x, dm.int32), dm.float64), [0.5]) == [None]


def test_complex_gradients():
    z = dm.asarray([1.0 + 2.0j])
    with dm.GradientTape() as tape:
        tape.watch(z)
        y = dm.sum(dm.square(dm.abs(z)))
    assert tape.gradient(y, z).tolist() == pytest.approx([2.0 + 4.0j], rel=1e-6)


def test_reductions_of_nothing():
    empty = dm.zeros((0, 2), dtype=dm.float64)
    assert dm.sum(empty, axis=0).tolist() == [0.0, 0.0]
    assert dm.prod(empty, axis=0).tolist() == [1.0, 1.0]
    assert np.isnan(dm.mean(empty, axis=0).numpy()).all()
    assert dm.logsumexp(empty, axis=0).tolist() == [-np.inf, -np.inf]
    assert dm.softmax(empty, axis=0).shape == (0, 2)
    with pytest.raises(ValueError, match=r"max: no elements to choose from in float64\[0,2\]"):
        dm.max(empty, axis=0)


def test_softmax_family_at_infinity():
    inf = np.inf
    assert dm.logsumexp(dm.asarray([-inf, -inf])).tolist() == -inf
    assert dm.logsumexp(dm.asarray([inf, 1.0])).tolist() == inf
    assert gradient(dm.logsumexp, [-inf, -inf]) == [[0.0, 0.0]]
    assert gradient(dm.logsumexp, [-inf, 0.0]) == [[0.0, 1.0]]
    assert dm.log_softmax(dm.asarray([-inf, 0.0])).tolist() == [-inf, 0.0]
    assert dm.softmax(dm.asarray([1000.0, 0.0])).tolist() == [1.0, 0.0]


def test_stable_far_from_zero():
    assert gradient(dm.softplus, [-1000.0, 1000.0]) == [[0.0, 1.0]]
    assert gradient(dm.sigmoid, [-1000.0, 1000.0]) == [[0.0, 0.0]]


def test_piecewise_constant_functions_have_none():
    for fn in (dm.floor, dm.ceil, dm.trunc, dm.round, dm.sign, dm.stop_gradient):
        assert gradient(fn, [0.5]) == [None]


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu(approximate: bool):
    x = np.linspace(-3, 3, 13)
    exact = x * 0.5 * (1 + np.array([dm.erf(float(v) / np.sqrt(2)).item() for v in x]))
    y = dm.gelu(dm.asarray(x), approximate=approximate)
    np.testing.assert_allclose(np.asarray(y), exact, atol=6e-4 if approximate else 1e-6)


def test_composites_against_numpy():
    x = np.random.default_rng(0).normal(size=(3, 4))
    t = dm.asarray(x)
    np.testing.assert_allclose(dm.var(t, axis=0, correction=1.0).numpy(), x.var(axis=0, ddof=1))
    np.testing.assert_allclose(dm.std(t, axis=1, keepdims=True).numpy(), x.std(1, keepdims=True))
    np.testing.assert_allclose(dm.silu(t).numpy(), x / (1 + np.exp(-x)))
    np.testing.assert_allclose(dm.leaky_relu(t, 0.1).numpy(), np.where(x > 0, x, 0.1 * x))
