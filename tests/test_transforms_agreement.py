"""Derivatives of one function by every way there is: they all agree, in both modes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest

import dualmode as dm

Fn = Callable[..., Any]
RNG = np.random.default_rng(11)
X = dm.asarray(RNG.uniform(0.2, 1.4, 4))
T = dm.asarray(RNG.normal(size=4))
W = dm.Variable(RNG.normal(size=(4, 3)), name="w")
A = dm.asarray(RNG.normal(size=(4, 4)))


@dm.custom_gradient
def _softened(x: Any) -> Any:
    e = dm.exp(-x * x)
    return dm.sin(x) * e, lambda u: u * (dm.cos(x) * e - 2.0 * x * dm.sin(x) * e)


@dm.function
def _inner(x: Any) -> Any:
    return dm.sin(x) * dm.exp(x)


def _newton(x: Any) -> Any:
    """Square roots, by a loop that stops by itself."""
    return dm.while_loop(
        lambda y: dm.max(dm.abs(y * y - x)) > 1e-12, lambda y: ((y + x / y) / 2.0,), (x,)
    )[0]


def _scan(x: Any) -> Any:
    total, rows = dm.scan(lambda c, row: (c * row + 1.0, c * c), dm.asarray(x[0]), x)
    return total + dm.sum(rows)


# scalar functions of four numbers
FUNCTIONS: dict[str, Fn] = {
    "polynomial": lambda x: dm.sum(x * x * x - 2.0 * x),
    "transcendental": lambda x: dm.sum(dm.sin(x) * dm.exp(-x * x) + dm.tanh(x)),
    "logarithms": lambda x: dm.sum(dm.log(x) * dm.log1p(x) / dm.sqrt(x)),
    "power": lambda x: dm.sum(x**x + x**3),
    "quadratic form": lambda x: x @ A @ x * dm.sum(x),
    "softmax": lambda x: dm.sum(dm.softmax(x) * dm.sin(x)),
    "logsumexp": lambda x: dm.logsumexp(x * x),
    "product": lambda x: dm.prod(x) * dm.mean(x),
    "variance": lambda x: dm.var(x * x) + dm.std(x),
    "maximum": lambda x: dm.max(x) ** 3 + dm.sum(dm.maximum(x, 0.7) ** 2),
    "where": lambda x: dm.sum(dm.where(x > 0.7, x * x, dm.exp(x))),
    "clip": lambda x: dm.sum(dm.clip(x, 0.5, 1.0) * x * x),
    "indexing": lambda x: dm.sum(x[1:] * x[:-1] * x[dm.asarray([0, 2, 2])]),
    "shapes": lambda x: dm.sum(dm.reshape(x, (2, 2)).T @ dm.stack([x, x * x])[:, :2]),
    "joining": lambda x: dm.sum(dm.concat([x, x * x]) ** 2 * dm.flip(dm.tile(x, 2))),
    "cumulative sum": lambda x: dm.sum(dm.cumulative_sum(x) ** 3),
    "broadcasting": lambda x: dm.sum(dm.sin(x[:, None] * x[None, :] ** 2)),
    "activations": lambda x: dm.sum(dm.sigmoid(x) * dm.softplus(x) + dm.gelu(x) * dm.erf(x)),
    "stopped": lambda x: dm.sum(dm.stop_gradient(x) * 0.0 + x**3 * dm.sin(x)),
    "custom": lambda x: dm.sum(_softened(x) * x),
    "variable": lambda x: dm.sum(dm.tanh(x @ W) ** 2),
    "function": lambda x: dm.sum(_inner(x) * x),
    "remat": lambda x: dm.sum(dm.remat(lambda x: dm.tanh(dm.exp(x) @ W))(x) ** 2),
    "cond": lambda x: dm.sum(dm.cond(x[0] > 0, lambda: dm.sin(x) * x, lambda: x)),
    "while": lambda x: dm.sum(_newton(x) * x),
    "scan": _scan,
    "gradient": lambda x: dm.sum(dm.grad(lambda y: dm.sum(dm.sin(y) * y * x))(x) * x),
}


def tape_gradient(f: Fn, x: Any) -> Any:
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = f(x)
    return tape.gradient(y, x, unconnected_gradients="zero")


def tape_product(f: Fn, x: Any, t: Any) -> Any:
    """The Hessian times t, reverse over reverse."""
    with dm.GradientTape() as tape:
        tape.watch(x)
        slope = dm.sum(tape_gradient(f, x) * t)
    return tape.gradient(slope, x, unconnected_gradients="zero")


def accumulated(f: Fn, x: Any, t: Any) -> Any:
    with dm.ForwardAccumulator(x, t) as acc:
        y = f(x)
    return acc.jvp(y, unconnected_gradients="zero")


Way = Callable[[Fn, Any, Any], Any]  # of a function, its argument and a direction

FIRST: dict[str, Way] = {
    "tape": lambda f, x, t: tape_gradient(f, x),
    "grad": lambda f, x, t: dm.grad(f)(x),
    "vjp": lambda f, x, t: dm.vjp(f, x)[1](1.0)[0],
    "jacfwd": lambda f, x, t: dm.jacfwd(f)(x),
}
SECOND: dict[str, Way] = {
    "tapes": lambda f, x, t: tape_product(f, x, t),
    "hvp": lambda f, x, t: dm.hvp(f, (x,), (t,))[0],
    "hessian": lambda f, x, t: dm.hessian(f)(x) @ t,
    "forward over reverse": lambda f, x, t: accumulated(dm.grad(f), x, t),
    "reverse over forward": lambda f, x, t: tape_gradient(lambda y: dm.jvp(f, (y,), (t,))[1], x),
}


def interpreted() -> AbstractContextManager[Any]:
    """Graphs are run by NumPy, which is quicker than to compile each; these tests are of graphs."""
    return dm.config.override(backend="interpret")


def check(way: Way, f: Fn, expected: np.ndarray[Any, Any], rtol: float) -> None:
    compiled = dm.function(f)

    @dm.function
    def inside(x: Any, t: Any) -> Any:
        return way(f, x, t)

    for name, got in (
        ("eager", way(f, X, T)),
        ("across a compiled call", way(compiled, X, T)),
        ("inside a compiled function", inside(X, T)),
    ):
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-9, err_msg=name)


def differences(f: Fn, step: float) -> np.ndarray[Any, Any]:
    units = np.eye(4) * step
    return np.stack([(np.asarray(f(X + u)) - np.asarray(f(X - u))) / (2 * step) for u in units])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_order(name: str) -> None:
    f = FUNCTIONS[name]
    expected = np.asarray(tape_gradient(f, X))
    if name != "stopped":
        np.testing.assert_allclose(expected, differences(f, 1e-6), rtol=1e-6, atol=1e-7)
    check(FIRST["tape"], f, expected, rtol=1e-9)
    with interpreted():
        for way in FIRST.values():
            check(way, f, expected, rtol=1e-9)
    along = np.asarray(dm.jvp(f, (X,), (T,))[1])
    np.testing.assert_allclose(along, expected @ np.asarray(T), rtol=1e-9)


@pytest.mark.parametrize("way", SECOND)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_order(name: str, way: str) -> None:
    f = FUNCTIONS[name]
    expected = np.asarray(tape_product(f, X, T))
    if way == "tapes" and name != "stopped":
        hessian = differences(lambda x: tape_gradient(f, x), 1e-6)
        np.testing.assert_allclose(expected, hessian @ np.asarray(T), rtol=1e-5, atol=1e-6)
    with nullcontext() if way == "tapes" else interpreted():
        check(SECOND[way], f, expected, rtol=1e-8)


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_captured_variables(order: int) -> None:
    def loss(x: Any) -> Any:
        h = dm.remat(lambda x: dm.tanh(x @ W))(x)
        return dm.sum(dm.cond(h[0] > 10.0, lambda: h, lambda: h * h * dm.sum(W)))

    def gradient(f: Fn) -> Any:
        with dm.GradientTape() as outer:
            with dm.GradientTape() as tape:
                y = f(X)
            first = tape.gradient(y, W)
            total = dm.sum(first * first)
        return first if order == 1 else outer.gradient(total, W)

    expected, compiled = gradient(loss), dm.function(loss)
    for got in (
        gradient(compiled),
        dm.function(lambda: gradient(loss))(),
        dm.function(lambda: gradient(compiled))(),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-9)
