"""Derivatives as functions: grad, vjp, jvp, Jacobians and Hessians; their arguments and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm

Fn = Callable[..., Any]
X = dm.asarray(np.array([-1.2, 1.0]))


def rosenbrock(x: Any) -> Any:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.fixture(params=["eager", "compiled"])
def mode(request: Any) -> Callable[[Fn], Fn]:
    return dm.function if request.param == "compiled" else lambda f: f


def test_numbers_arrays_and_structures(mode: Callable[[Fn], Fn]) -> None:
    f = mode(dm.grad(lambda p, k: dm.sum(p["w"] * p["b"][0]) * k))
    w = np.array([1.0, 2.0], np.float32)
    found = f({"w": w, "b": (dm.Variable(3.0), None)}, 2.0)
    assert found["w"].tolist() == [6, 6] and found["w"].dtype is dm.float32
    assert found["b"][0].item() == 6 and found["b"][1] is None
    slope = mode(dm.grad(lambda x: x * x))(3.0)
    assert slope.item() == 6 and slope.dtype is dm.float32


def test_argnums(mode: Callable[[Fn], Fn]) -> None:
    def f(a: Any, b: Any, *, scale: Any = 1.0) -> Any:
        return a * b * b * scale

    assert mode(dm.grad(f, 1))(2.0, 3.0).item() == 12
    assert mode(dm.grad(f, -1))(2.0, 3.0, scale=2.0).item() == 24
    db, da = mode(dm.grad(f, (1, 0)))(2.0, 3.0)
    assert (da.item(), db.item()) == (9, 12)
    assert [type(g) for g in (dm.grad(f, 0)(2.0, 3.0), dm.grad(f, (0,))(2.0, 3.0))] == [
        dm.Tensor,
        tuple,
    ]


def test_value_and_auxiliary_values(mode: Callable[[Fn], Fn]) -> None:
    def f(x: Any) -> Any:
        return dm.sum(x * x), {"twice": x * 2.0, "name": "f"}

    x = dm.asarray([1.0, 2.0])
    (value, aux), slope = mode(dm.value_and_grad(f, has_aux=True))(x)
    assert value.item() == 5 and slope.tolist() == [2, 4]
    assert aux["twice"].tolist() == [2, 4] and aux["name"] == "f"
    slope, aux = mode(dm.grad(f, has_aux=True))(x)
    assert slope.tolist() == [2, 4] and aux["name"] == "f"
    value, slope = mode(dm.value_and_grad(dm.sum))(x)
    assert value.item() == 3 and slope.tolist() == [1, 1]
    out, pullback, aux = dm.vjp(f, x, has_aux=True)
    assert out.item() == 5 and pullback(2.0)[0].tolist() == [4, 8] and aux["name"] == "f"


def test_what_is_not_connected_has_zeros(mode: Callable[[Fn], Fn]) -> None:
    x, y = dm.asarray([1.0, 2.0]), dm.asarray(3.0)
    both = mode(dm.grad(lambda a, b: b * 2.0, (0, 1)))(x, y)
    assert both[0].tolist() == [0, 0] and both[1].item() == 2
    assert mode(dm.grad(lambda a: 7.0))(x).tolist() == [0, 0]
    assert mode(lambda x: dm.jvp(lambda a: dm.ones(3), (x,), (x,)))(x)[1].tolist() == [0, 0, 0]
    assert mode(dm.jacobian(lambda a: dm.ones(3)))(x).tolist() == [[0, 0]] * 3
    assert mode(dm.hessian(lambda a: dm.sum(a)))(x).tolist() == [[0, 0]] * 2


def test_variables_and_captured_tensors_are_constants() -> None:
    v, x = dm.Variable(3.0), dm.asarray(2.0)
    assert dm.grad(lambda a: a * v * x)(x).item() == 6  # the argument alone, not x
    with dm.GradientTape() as tape:
        tape.watch(x)
        slope = dm.grad(lambda a: a * a * v * x)(x)
    assert [g.item() for g in tape.gradient(slope, [x, v])] == [24, 8]


def test_arguments_that_are_one_tensor(mode: Callable[[Fn], Fn]) -> None:
    def f(a: Any, b: Any) -> Any:
        return dm.cond(a > 0, lambda: a * a * b, lambda: a)

    x = dm.asarray(3.0)
    both = mode(lambda x: dm.grad(f, (0, 1))(x, x))(x)
    assert [g.item() for g in both] == [18, 9]
    assert mode(lambda x: dm.grad(f)(x, x))(x).item() == 18


def test_vjp_of_structures_many_times(mode: Callable[[Fn], Fn]) -> None:
    def f(x: Any, y: Any) -> Any:
        return {"sum": x + y, "rest": (x * y,)}

    def run(x: Any, y: Any) -> Any:
        out, pullback = dm.vjp(f, x, y)
        units = [{"sum": 1.0, "rest": (0.0,)}, {"sum": 0.0, "rest": (1.0,)}]
        return out["rest"][0], [pullback(u) for u in units]

    product, rows = mode(run)(dm.asarray(2.0), dm.asarray(5.0))
    assert product.item() == 10
    assert [[g.item() for g in row] for row in rows] == [[1, 1], [5, 2]]


def test_jacobians_of_structures(mode: Callable[[Fn], Fn]) -> None:
    w = dm.asarray(np.arange(6.0).reshape(2, 3))

    def f(p: Any, k: Any) -> Any:
        return {"linear": p["x"] @ w, "scaled": (p["x"][0] * p["m"] * k,)}

    p = {"x": dm.asarray(np.array([1.0, 2.0])), "m": dm.asarray(np.ones((2, 1)))}
    for jacobian in (dm.jacobian, dm.jacrev, dm.jacfwd):
        found = mode(jacobian(f))(p, 3.0)
        np.testing.assert_allclose(found["linear"]["x"], np.asarray(w).T)
        assert found["linear"]["m"].shape == (3, 2, 1)
        scaled = found["scaled"][0]
        np.testing.assert_allclose(scaled["x"], [[[3, 0]], [[3, 0]]])
        np.testing.assert_allclose(np.reshape(scaled["m"], (2, 2)), 3 * np.eye(2))
    both = mode(dm.jacfwd(f, (1, 0)))(p, 3.0)["scaled"][0]
    assert both[0].tolist() == [[1], [1]] and sorted(both[1]) == ["m", "x"]


def test_jacobians_without_elements() -> None:
    x = dm.zeros((0, 2))
    for jacobian in (dm.jacobian, dm.jacfwd):
        assert jacobian(lambda x: x * 2.0)(x).shape == (0, 2, 0, 2)
        assert jacobian(lambda x: dm.sum(x, axis=0))(x).shape == (2, 0, 2)


def test_hessians(mode: Callable[[Fn], Fn]) -> None:
    expected = [[1330, 480], [480, 200]]
    np.testing.assert_allclose(mode(dm.hessian(rosenbrock))(X), expected, rtol=1e-12)
    found = mode(dm.hessian(lambda a, b: dm.sum(a * a * b), (0, 1)))(dm.asarray([1.0, 2.0]), 3.0)
    assert found[0][0].tolist() == [[6, 0], [0, 6]]
    assert found[0][1].tolist() == found[1][0].tolist() == [2, 4]
    assert found[1][1].item() == 0
    t = dm.asarray(np.array([0.5, -1.0]))
    product = mode(lambda x: dm.hvp(rosenbrock, (x,), (t,))[0])(X)
    np.testing.assert_allclose(product, np.array(expected) @ [0.5, -1.0], rtol=1e-12)
    a, b = dm.hvp(lambda a, b: a * a * b, [1.0, 2.0], [1.0, 0.5])
    assert (a.item(), b.item()) == (5, 2)


def test_third_derivatives(mode: Callable[[Fn], Fn]) -> None:
    third = mode(dm.grad(dm.grad(dm.grad(lambda x: x**5))))
    assert third(2.0).item() == pytest.approx(240)
    np.testing.assert_allclose(
        mode(dm.jacfwd(dm.hessian(lambda x: dm.prod(x))))(dm.asarray([2.0, 3.0, 5.0]))[0],
        [[0, 0, 0], [0, 0, 1], [0, 1, 0]],
    )


def test_newtons_method_on_the_rosenbrock_function(mode: Callable[[Fn], Fn]) -> None:
    hessian, gradient = mode(dm.hessian(rosenbrock)), mode(dm.grad(rosenbrock))
    x = X
    for _ in range(7):
        x = x - np.linalg.solve(hessian(x).numpy(), gradient(x).numpy())
    np.testing.assert_allclose(x, [1, 1], rtol=1e-9)


def test_a_gradient_through_steps_of_an_inner_loop() -> None:
    """MAML's outer gradient (Finn, Abbeel and Levine, 2017), against finite differences."""

    def inner(w: Any, x: Any, y: Any) -> Any:
        return dm.mean(dm.square(dm.tanh(x @ w) - y))

    def outer(w: Any, x: Any, y: Any) -> Any:
        step = dm.grad(inner)
        adapted = dm.fori_loop(0, 3, lambda _, v: v - 0.5 * step(v, x, y), w)
        return inner(adapted, x[::-1], y)

    rng = np.random.default_rng(2)
    w, x, y = (dm.asarray(rng.normal(size=s)) for s in ((3,), (5, 3), (5,)))
    expected = [
        (outer(w + u, x, y).item() - outer(w - u, x, y).item()) / 2e-6 for u in np.eye(3) * 1e-6
    ]
    compiled = dm.function(outer)
    for got in (
        dm.grad(outer)(w, x, y),
        dm.grad(compiled)(w, x, y),
        dm.function(dm.grad(outer))(w, x, y),
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_a_tensor_captured_by_a_compiled_function() -> None:
    for x in (dm.asarray([1.0, 2.0]), dm.asarray(3.0)):
        fn = dm.function(lambda y, x=x: dm.sum(y * x * x))
        fn(2.0)  # traced where nothing listens
        for f in (fn, lambda y, fn=fn: dm.function(fn)(y)):
            with dm.GradientTape() as tape:
                tape.watch(x)
                y = f(2.0)
            np.testing.assert_allclose(tape.gradient(y, x), 4 * np.asarray(x))


def test_control_flow_of_python() -> None:
    @dm.custom_gradient
    def clipped(x: Any) -> Any:
        def rule(u: Any) -> Any:
            if u > 1.0:
                u = dm.ones_like(u)
            return u

        return x, rule

    def f(x: Any) -> Any:
        if x > 0:
            return clipped(x) * x
        return -x

    for g in (dm.grad(f), dm.grad(dm.remat(f))):
        for fn in (g, dm.function(g)):
            assert [fn(dm.asarray(x)).item() for x in (3.0, 0.5, -1.0)] == [4, 1, -1]


def test_names_and_docstrings_are_kept() -> None:
    for transform in (dm.grad, dm.value_and_grad, dm.jacobian, dm.jacfwd, dm.hessian, dm.remat):
        assert transform(rosenbrock).__name__ == "rosenbrock"
    assert dm.grad(dm.function(rosenbrock))(X).shape == (2,)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: dm.grad(dm.sin)(X),
        dm.errors.ShapeError,
        r"grad of sin: the function returns float64\[2\], not a scalar; sum it \(dm.sum\), or use",
    ),
    (
        lambda: dm.grad(rosenbrock)(3),
        dm.errors.GradientError,
        r"argument 0 is int32\[\], which has no derivatives; make it floating",
    ),
    (lambda: dm.grad(rosenbrock)("x"), dm.errors.GradientError, "argument 0: asarray: 'x'"),
    (
        lambda: dm.grad(rosenbrock, 2)(X),
        dm.errors.GradientError,
        "argnums=2 for a call with 1 positional argument; count from 0",
    ),
    (lambda: dm.grad(rosenbrock, (0, -1))(X), dm.errors.GradientError, "names an argument twice"),
    (
        lambda: dm.grad(rosenbrock, "x")(X),  # type: ignore[arg-type]
        dm.errors.GradientError,
        "argnums is an integer or a tuple",
    ),
    (lambda: dm.grad(lambda x: (x, x))(1.0), dm.errors.GradientError, "has_aux=True"),
    (
        lambda: dm.grad(lambda x: x, has_aux=True)(1.0),
        dm.errors.GradientError,
        r"returns a pair \(result, auxiliary values\), not a Tensor",
    ),
    (
        lambda: dm.grad(lambda x: dm.argmax(x))(X),
        dm.errors.GradientError,
        r"returns int\d+\[\], which has no gradient; it has to be floating",
    ),
    (
        lambda: dm.hessian(dm.sin)(X),
        dm.errors.ShapeError,
        r"hessian of sin: the function returns float64\[2\], not a scalar",
    ),
    (
        lambda: dm.jvp(rosenbrock, X, X),
        dm.errors.GradientError,
        r"one entry for each argument of the function, as in dm.jvp\(f, \(x,\), \(t,\)\); got a T",
    ),
    (lambda: dm.hvp(rosenbrock, (), ()), dm.errors.GradientError, "got a tuple without entries"),
    (
        lambda: dm.jvp(rosenbrock, (X,), (X, X)),
        dm.errors.GradientError,
        "jvp of rosenbrock: the tangents are not nested like the primals",
    ),
    (
        lambda: dm.hvp(rosenbrock, (X,), (1.0,)),
        dm.errors.ShapeError,
        r"the tangent\[0\] is float64\[\] for a primal float64\[2\]",
    ),
    (
        lambda: dm.vjp(dm.sin, X)[1](1.0),
        dm.errors.ShapeError,
        r"vjp of sin: the cotangent is float64\[\] for a result float64\[2\]",
    ),
    (
        lambda: dm.jacfwd(lambda x: dm.argmax(x))(X),
        dm.errors.GradientError,
        "non-differentiable; use a floating dtype",
    ),
    (
        lambda: dm.vjp(dm.argmax, X),
        dm.errors.GradientError,
        r"vjp of argmax: the result is int\d+\[\]: int\d+ is non-differentiable",
    ),
    (
        lambda: dm.jacobian(dm.argmax)(X),
        dm.errors.GradientError,
        r"jacobian of argmax: the result is int\d+\[\]: int\d+ is non-differentiable",
    ),
    *(
        (lambda t=t: t(3.0), TypeError, f"{name}: takes a function.*; got float 3.0")
        for name, t in {
            "grad": dm.grad,
            "vjp": lambda f: dm.vjp(f, X),
            "jvp": lambda f: dm.jvp(f, (X,), (X,)),
            "jacobian": dm.jacobian,
            "jacfwd": dm.jacfwd,
            "hvp": lambda f: dm.hvp(f, (X,), (X,)),
            "custom_gradient": dm.custom_gradient,
            "remat": dm.remat,
            "vmap": dm.vmap,
        }.items()
    ),
]


@pytest.mark.parametrize(("call", "error", "match"), BAD)
def test_bad_input(call: Callable[[], Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        call()
    assert "test_transforms.py" in str(caught.value)
