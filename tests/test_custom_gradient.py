"""custom_gradient and stop_gradient, in both modes, to second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm

Fn = Callable[..., Any]


def gradient(f: Fn, x: Any, order: int = 1) -> Any:
    """The derivative of a sum of f, `order` times."""
    if order == 0:
        return f(x)
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = gradient(f, x, order - 1)
    return tape.gradient(y, x)


def everywhere(f: Fn, x: Any, order: int) -> list[Any]:
    """The derivative eagerly, across a compiled call, inside of one, and both."""
    compiled = dm.function(f)
    return [
        gradient(f, x, order),
        gradient(compiled, x, order),
        dm.function(lambda x: gradient(f, x, order))(x),
        dm.function(lambda x: gradient(compiled, x, order))(x),
    ]


@dm.custom_gradient
def log1pexp(x: Any) -> Any:
    e = dm.exp(x)
    return dm.log(1 + e), lambda upstream: upstream * (1 - 1 / (1 + e))


def test_log1pexp() -> None:
    x = dm.asarray(100.0)
    for slope in everywhere(log1pexp, x, 1):
        assert slope.item() == 1
    assert np.isnan(gradient(lambda x: dm.log(1 + dm.exp(x)), x).item())


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_orders_differentiate_the_rule(order: int) -> None:
    x = dm.asarray(np.array([-1.0, 0.5, 2.0]))
    expected = gradient(dm.nn.activations.softplus, x, order)
    for got in everywhere(log1pexp, x, order):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_the_rule_is_what_counts_not_the_function() -> None:
    @dm.custom_gradient
    def tripled(x: Any) -> Any:
        return x, lambda u: 3.0 * u

    x = dm.asarray(2.0)
    for got in everywhere(lambda x: tripled(x) * x, x, 1):
        assert got.item() == 8  # 3x + x
    for got in everywhere(lambda x: dm.sin(tripled(x)), x, 2):
        np.testing.assert_allclose(got, -9 * np.sin(2.0), rtol=1e-6)


def test_several_nested_results_and_unused_ones() -> None:
    @dm.custom_gradient
    def f(x: Any, y: Any) -> Any:
        def rule(*upstream: Any) -> Any:
            product, total = upstream
            return product * y + 2.0 * total, product * x

        return {"product": x * y, "total": (x + y,)}, rule

    def loss(x: Any, which: str) -> Any:
        found = f(x, x * 2.0)
        return found["product"] if which == "product" else found["total"][0]

    x = dm.asarray(3.0)
    for which, expected in (("product", 12), ("total", 2)):
        for got in everywhere(lambda x, which=which: loss(x, which), x, 1):
            assert got.item() == expected


def test_variables_inside() -> None:
    w, frozen = dm.Variable([2.0, 3.0], name="w"), dm.Variable(5.0, trainable=False)

    @dm.custom_gradient
    def scaled(x: Any) -> Any:
        def rule(upstream: Any, variables: Any = None) -> Any:
            (v,) = variables
            return upstream * v * frozen, [10.0 * upstream * x]

        return x * w, rule

    def gradients(f: Fn, x: Any) -> Any:
        with dm.GradientTape(persistent=True) as outer:
            outer.watch(x)
            with dm.GradientTape() as tape:
                tape.watch(x)
                y = dm.sum(dm.square(f(x)))
            dx, dw = tape.gradient(y, [x, w])
            total = dm.sum(dx) + dm.sum(dw)
        return dx, dw, *outer.gradient(total, [x, w])

    x = dm.asarray([1.0, -1.0])
    expected = gradients(scaled, x)
    assert expected[0].tolist() == [40, -90]  # 2xw * w * 5
    assert expected[1].tolist() == [40, 60]  # 2xw * 10 x
    compiled = dm.function(scaled)
    for got in (
        gradients(compiled, x),
        dm.function(lambda x: gradients(scaled, x))(x),
        dm.function(lambda x: gradients(compiled, x))(x),
    ):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_variable_that_only_the_rule_reads() -> None:
    strength = dm.Variable(0.5, trainable=False)

    @dm.custom_gradient
    def reversal(x: Any) -> Any:
        return x, lambda u: -strength * u

    x = dm.asarray(2.0)
    fn = dm.function(reversal)
    for s in (0.5, 2.0):
        strength.assign(s)
        assert gradient(reversal, x).item() == -s
        assert gradient(fn, x).item() == -s


def test_keyword_arguments() -> None:
    @dm.custom_gradient
    def power(x: Any, *, exponent: int = 2, scale: Any = 1.0) -> Any:
        def rule(u: Any) -> Any:
            return u * scale * 100.0, None, u * 7.0

        return scale * x**exponent, rule

    @dm.custom_gradient
    def plain(x: Any, factor: float = 1.0) -> Any:
        return x * factor, lambda u: u * factor * 10.0  # none for the number

    def loss(x: Any) -> Any:
        return power(x, exponent=3, scale=x * 2.0) + plain(x, factor=2.0)

    x = dm.asarray(2.0)
    for got in everywhere(loss, x, 1):
        assert got.item() == 4 * 100 + 7 * 2 + 20
    for got in everywhere(lambda x: plain(factor=3.0, x=x), x, 1):
        assert got.item() == 30


def test_a_method() -> None:
    class Layer:
        factor = 4.0

        @dm.custom_gradient
        def __call__(self, x: Any) -> Any:
            return x * self.factor, lambda u: u * -self.factor

    layer = Layer()
    for got in everywhere(lambda x: layer(x), dm.asarray(1.0), 1):
        assert got.item() == -4


def test_nested_rules() -> None:
    """As in TensorFlow's documentation: a rule with a rule of its own for the second order."""

    @dm.custom_gradient
    def cube(x: Any) -> Any:
        def first(upstream: Any) -> Any:
            slope = 3.0 * x * x

            @dm.custom_gradient
            def derivative(unused: Any) -> Any:
                return slope, lambda u: u * 1000.0 * x

            return upstream * derivative(x)

        return x * x * x, first

    x = dm.asarray(2.0)
    for order, expected in ((1, 12), (2, 2000), (3, 1000)):
        for got in everywhere(cube, x, order):
            assert got.item() == expected


@dm.custom_gradient
def sine(x: Any) -> Any:
    return dm.sin(x), lambda u: u * cosine(x)


@dm.custom_gradient
def cosine(x: Any) -> Any:
    return dm.cos(x), lambda u: -u * sine(x)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_rules_that_call_each_other(order: int) -> None:
    x = dm.asarray(np.array([0.3, 2.0]))
    expected = {1: np.cos, 2: lambda x: -np.sin(x), 4: np.sin}[order](np.asarray(x))
    for got in everywhere(sine, x, order):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_in_control_flow() -> None:
    @dm.custom_gradient
    def clipped(x: Any) -> Any:
        return x, lambda u: dm.clip(u, -1.0, 1.0)

    def f(x: Any) -> Any:
        y = dm.cond(dm.sum(x) > 0, lambda: clipped(x) * 5.0, lambda: x)
        _, y = dm.while_loop(lambda k, _: k < 3, lambda k, y: (k + 1, clipped(y) * y), (0, y))
        total, rows = dm.scan(lambda c, row: (c + clipped(row) * row, clipped(c)), y[0], y)
        return total + dm.sum(rows)

    x = dm.asarray(np.array([0.1, 0.2]))
    for order in (1, 2):
        first, *rest = everywhere(f, x, order)
        for got in rest:
            np.testing.assert_allclose(got, first, rtol=1e-9)


def test_forward_mode_uses_the_rule() -> None:
    x = dm.asarray(np.array([100.0, 1.0]))
    t = dm.ones(2, dtype="float64")
    for f in (log1pexp, dm.function(log1pexp)):
        with dm.ForwardAccumulator(x, t) as acc:
            y = f(x)
        np.testing.assert_allclose(acc.jvp(y), 1 / (1 + np.exp([-100.0, -1.0])), rtol=1e-9)


def test_a_rule_that_fails_matters_to_those_who_differentiate() -> None:
    @dm.custom_gradient
    def f(x: Any) -> Any:
        def rule(u: Any) -> Any:
            raise RuntimeError("no gradient here")

        return x * 2.0, rule

    x = dm.asarray(1.0)
    compiled = dm.function(f)
    assert f(x).item() == compiled(x).item() == 2
    for fn in (f, compiled):
        with pytest.raises(RuntimeError, match="no gradient here"):
            gradient(fn, x)


def test_bad_rules() -> None:
    x, w = dm.asarray([1.0, 2.0]), dm.Variable(1.0, name="w")

    def fails(f: Fn, error: type[Exception], match: str) -> None:
        for fn in (dm.custom_gradient(f), dm.function(dm.custom_gradient(f))):
            with pytest.raises(error, match=match):
                gradient(fn, x)

    fails(lambda x: x, dm.errors.GradientError, r"has to return \(result, grad_fn\)")
    fails(lambda x: (x * w, lambda u: u), dm.errors.GradientError, r"variables \('w'\)")
    fails(lambda x: (x, lambda u: (u, u)), dm.errors.GradientError, "2 gradients for 1 argument;")
    fails(
        lambda x: (x, lambda u: dm.sum(u)),
        dm.errors.ShapeError,
        r"gradient float32\[\] is not of the shape of its argument, float32\[2\]",
    )
    fails(
        lambda x: (x * w, lambda u, variables=None: (u, [])),
        dm.errors.GradientError,
        "0 gradients for 1 variable",
    )
    fails(
        lambda x: (x * w, lambda u, variables=None: u),
        dm.errors.GradientError,
        "returns a pair",
    )
    two = dm.custom_gradient(lambda x, y: (x * y, lambda u: u))
    with pytest.raises(dm.errors.GradientError, match="1 gradient for 2 arguments"):
        gradient(lambda x: two(x, x), x)


@pytest.mark.parametrize("order", [1, 2])
def test_stop_gradient(order: int) -> None:
    x = dm.asarray(np.array([0.3, 1.5]))

    def f(x: Any) -> Any:
        return x**3 * dm.stop_gradient(dm.exp(x)) + dm.stop_gradient(x * x)

    v = np.asarray(x)
    expected = {1: 3 * v**2 * np.exp(v), 2: 6 * v * np.exp(v)}[order]
    for got in everywhere(f, x, order):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("where", ["plain", "branch", "loop", "branch in a loop", "remat"])
def test_effects_of_rules_take_place_once(where: str, capsys: Any) -> None:
    @dm.custom_gradient
    def noisy(x: Any) -> Any:
        def rule(u: Any) -> Any:
            dm.print("rule", u)
            return u * 2.0

        dm.print("forward")
        return x * 1.0, rule

    def branch(x: Any) -> Any:
        return dm.cond(x > 0, lambda: noisy(x), lambda: x)

    def repeat(f: Fn, x: Any) -> Any:
        return dm.fori_loop(0, 2, lambda _, y: f(y), x)

    once = where in ("plain", "branch")
    f = {
        "plain": noisy,
        "branch": branch,
        "loop": lambda x: repeat(noisy, x),
        "branch in a loop": lambda x: repeat(branch, x),
        "remat": dm.remat(lambda x: noisy(noisy(x))),
    }[where]
    expected = ["forward", "rule 1.0"] if once else ["forward", "forward", "rule 1.0", "rule 2.0"]
    x = dm.asarray(1.0)
    for slope in everywhere(f, x, 1):
        assert slope.item() == (2 if once else 4)
    assert capsys.readouterr().out.splitlines() == expected * 4


@dm.custom_gradient
def _clipped(x: Any) -> Any:
    return x * 1.0, lambda u: dm.clip(u, -1.0, 1.0)


@dm.custom_gradient
def _flipped(x: Any) -> Any:
    return x * 1.0, lambda u: u if dm.sum(u).item() > 0 else -u


@dm.custom_gradient
def _by_a_loop(x: Any) -> Any:
    return x**3, lambda u: dm.fori_loop(0, 2, lambda _, c: c * x, u * 3.0)


AROUND: dict[str, Fn] = {
    "plain": lambda f: f,
    "compiled": dm.function,
    "loop": lambda f: dm.function(lambda x: dm.fori_loop(0, 2, lambda _, y: f(y), x)),
    "branch": lambda f: dm.function(lambda x: dm.cond(x[0] > 0, lambda: f(x), lambda: x)),
    "remat": dm.remat,
    "compiled remat": lambda f: dm.function(dm.remat(f)),
    "vmap": dm.vmap,
}


@pytest.mark.parametrize("around", AROUND)
def test_forward_mode_needs_a_linear_rule(around: str) -> None:
    x, t = dm.asarray([0.3, 0.5]), dm.ones(2)

    def pushed(f: Fn, x: Any) -> Any:
        return dm.jvp(AROUND[around](f), (x,), (t,))[1]

    modes: list[Fn] = [pushed, lambda f, x: dm.function(lambda x: pushed(f, x))(x)]
    for push in modes:
        with pytest.raises(dm.errors.GradientError, match="is not linear .* use reverse mode"):
            push(_clipped, x)
        for f in (log1pexp, _by_a_loop):
            expected = dm.vjp(AROUND[around](f), x)[1](t)[0]
            np.testing.assert_allclose(push(f, x), expected, rtol=1e-5)


def test_forward_mode_of_a_rule_that_asks_for_its_gradient() -> None:
    with pytest.raises(dm.errors.GradientError, match="_flipped.*is not linear"):
        dm.jvp(_flipped, (dm.ones(2),), (dm.ones(2),))
