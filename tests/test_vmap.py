"""`vmap`: axes, structures, nesting, gradients, and what it refuses."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import (
    DTypeError,
    OutOfRangeError,
    ShapeError,
    TracedValueError,
)
from modes import Mode, array, both_modes, close

Pair = namedtuple("Pair", ["a", "b"])


# --- axes and structures ------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@pytest.mark.parametrize("out", [0, 1, -1])
def test_axes_of_arguments_and_results(mode: Mode, axis: int, out: int):
    x = array(2, 3, 4)
    found = mode(dm.vmap(lambda a: a[0] * dm.sum(a), in_axes=axis, out_axes=out))(dm.asarray(x))
    expected = [a[0] * a.sum() for a in np.moveaxis(x, axis, 0)]
    close(found, np.stack(expected, out))


@both_modes
def test_arguments_that_are_the_same_for_all(mode: Mode):
    x, w = array(5, 3), array(3, 2, seed=1)
    found = mode(dm.vmap(lambda a, b: a @ b, in_axes=(0, None)))(dm.asarray(x), dm.asarray(w))
    close(found, x @ w)
    found = mode(dm.vmap(lambda a, b: b @ a, in_axes=[0, None]))(dm.asarray(x), dm.asarray(w.T))
    close(found, x @ w)


@both_modes
def test_nested_arguments_and_results(mode: Mode):
    def f(params: Any, pair: Any) -> Any:
        w, scale = params["w"], params["scale"]
        return Pair({"y": w * pair.a}, (dm.sum(pair.b) * scale, None))

    params = {"w": dm.asarray(array(4, 2)), "scale": dm.asarray(3.0)}
    pair = Pair(dm.asarray(array(2, 4, seed=1)), dm.asarray(array(4, 3, seed=2)))
    in_axes = ({"w": 0, "scale": None}, Pair(1, 0))
    found = mode(dm.vmap(f, in_axes, out_axes=Pair({"y": 1}, 0)))(params, pair)
    close(found.a["y"], (params["w"].numpy() * pair.a.numpy().T).T)
    close(found.b[0], 3 * pair.b.numpy().sum(1))
    assert found.b[1] is None


@both_modes
def test_an_axis_holds_for_all_parts_of_an_argument(mode: Mode):
    def f(xs: Any, y: Any) -> Any:
        return xs[0] + xs[1]["k"] * y

    x, y = array(4, 3), array(3, 4)
    xs = [dm.asarray(x), {"k": dm.asarray(x)}]
    close(mode(dm.vmap(f, in_axes=(0, 1)))(xs, dm.asarray(y)), x + x * y.T)


@both_modes
def test_keyword_arguments(mode: Mode):
    def f(x: Any, *, y: Any, negate: bool, factor: float) -> Any:
        return (x - y if negate else x + y) * factor

    x, y = array(4, 2), array(4, 2, seed=1)
    many = dm.vmap(f)
    found = mode(lambda x, y: many(x, y=y, negate=True, factor=2.0))(dm.asarray(x), dm.asarray(y))
    close(found, (x - y) * 2)
    close(many(x, y=y, negate=False, factor=dm.asarray(3.0)), (x + y) * 3)


@both_modes
def test_results_that_do_not_differ(mode: Mode):
    x, w = array(3, 2), array(2)

    def f(a: Any) -> Any:
        return a + 1, dm.asarray(w) * 2, 5.0, dm.sum(dm.asarray(w))

    y, same, number, total = mode(dm.vmap(f, out_axes=(0, 1, 0, None)))(dm.asarray(x))
    close(y, x + 1)
    close(same, np.stack([w * 2] * 3, 1))
    close(number, np.full(3, 5.0))
    close(total, w.sum())


def test_arrays_and_variables_are_mapped():
    v = dm.Variable(array(3))
    close(dm.vmap(lambda a, b: a + b * 2)(array(3), v), array(3) * 3)


@both_modes
def test_no_examples(mode: Mode):
    found = mode(dm.vmap(lambda a: (dm.sum(a), a @ dm.ones((3, 2)))))(dm.zeros((0, 3)))
    assert [x.shape for x in found] == [(0,), (0, 2)]


@both_modes
def test_dtypes_are_those_of_one_example(mode: Mode):
    def f(a: Any, b: Any) -> Any:
        return a + 1, a / 2, a > b, dm.argmax(dm.stack([a, b])), a * b

    one = f(dm.asarray(3), dm.asarray(4))
    many = mode(dm.vmap(f))(dm.asarray([3, 5]), dm.asarray([4, 2]))
    assert [y.dtype for y in many] == [y.dtype for y in one]
    assert [y.shape for y in many] == [(2,)] * 5


@both_modes
def test_nested_vmap(mode: Mode):
    x, y = array(3), array(4)
    outer = dm.vmap(dm.vmap(lambda a, b: a * b + a, in_axes=(None, 0)), in_axes=(0, None))
    close(mode(outer)(dm.asarray(x), dm.asarray(y)), np.multiply.outer(x, y) + x[:, None])
    pairwise = dm.vmap(lambda a: dm.vmap(lambda b: dm.sum(a * b))(dm.asarray(array(4, 2))))
    close(mode(pairwise)(dm.asarray(array(3, 2))), array(3, 2) @ array(4, 2).T)


@both_modes
def test_a_compiled_function_inside(mode: Mode):
    @dm.function
    def f(a: Any, scale: float) -> Any:
        return dm.tanh(a) * scale

    x = array(3, 2)
    close(mode(dm.vmap(f, in_axes=(0, None)))(dm.asarray(x), 2.0), np.tanh(x) * 2)


@both_modes
def test_python_control_flow_inside(mode: Mode):
    def collatz(n: Any) -> Any:
        steps = dm.asarray(0)
        while n > 1:
            if n % 2 == 0:
                n = n // 2
            else:
                n = 3 * n + 1
            steps = steps + 1
        return steps

    assert mode(dm.vmap(collatz))(dm.asarray([1, 2, 3, 27])).numpy().tolist() == [0, 1, 7, 111]


def test_vectorized_map():
    elems = {"a": dm.asarray(array(3, 2)), "b": dm.asarray(array(3))}
    found = dm.vectorized_map(lambda e: dm.sum(e["a"]) * e["b"], elems)
    close(found, array(3, 2).sum(1) * array(3))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
def test_a_shared_matrix_becomes_one_product(transposed: bool, mapped: Any):
    """The rule for matrices takes short cuts; they agree with one product for each example."""
    rng = np.random.default_rng(0)
    for m, k, n in [(1, 3, 4), (2, 3, 1), (2, 3, 4)]:
        shapes = [(k, m) if transposed else (m, k), (n, k) if transposed else (k, n)]
        a, b = (
            rng.uniform(-1, 1, s if axis is None else (5, *s)).astype(np.float32)
            for s, axis in zip(shapes, mapped, strict=True)
        )

        def f(a: Any, b: Any) -> Any:
            return dm.matmul(a, b, transpose_a=transposed, transpose_b=transposed)

        left, right = (np.swapaxes(x, -1, -2) if transposed else x for x in (a, b))
        close(dm.vmap(f, in_axes=mapped)(a, b), left @ right)


# --- gradients ----------------------------------------------------------------------------------


@both_modes
def test_gradients_of_each_example(mode: Mode):
    w, x = array(3), array(5, 3, seed=1)

    def loss(w: Any, x: Any) -> Any:
        return dm.tanh(dm.sum(w * x)) ** 2

    def gradient(w: Any, x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(w)
            y = loss(w, x)
        return tape.gradient(y, w)

    found = mode(dm.vmap(gradient, in_axes=(None, 0)))(dm.asarray(w), dm.asarray(x))
    close(found, np.stack([gradient(dm.asarray(w), dm.asarray(a)).numpy() for a in x]))


@both_modes
def test_gradients_through_vmap(mode: Mode):
    """By the mapped argument, one that is shared, a captured tensor, a number and a Variable."""
    v = dm.Variable(array(2))
    c, s = dm.asarray(array(2, seed=1)), dm.asarray(0.7)

    def run(x: Any, w: Any, over: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch([x, w, c, s])
            y = over(lambda a, b: dm.sin(a * b) * v + c * a * s, x, w)
            loss = dm.sum(y * y)
        return tape.gradient(loss, [x, w, c, s, v])

    def together(x: Any, w: Any) -> Any:
        return run(x, w, lambda f, x, w: dm.vmap(f, in_axes=(0, None))(x, w))

    x, w = dm.asarray(array(4, 2)), dm.asarray(array(2, seed=2))
    separately = run(x, w, lambda f, x, w: dm.stack([f(x[k], w) for k in range(4)]))
    for a, b in zip(mode(together)(x, w), separately, strict=True):
        close(a, b.numpy())


@both_modes
def test_second_order_through_vmap(mode: Mode):
    def second(x: Any, over: Any) -> Any:
        with dm.GradientTape() as outer:
            outer.watch(x)
            with dm.GradientTape() as inner:
                inner.watch(x)
                y = dm.sum(over(x))
            g = inner.gradient(y, x)
        return outer.gradient(g, x)

    x = dm.asarray(array(4))
    found = mode(lambda x: second(x, dm.vmap(lambda a: a**3 * dm.sin(a))))(x)
    close(found, second(x, lambda x: x**3 * dm.sin(x)).numpy())


@both_modes
def test_custom_gradients_hold(mode: Mode):
    @dm.custom_gradient
    def f(x: Any, w: Any) -> Any:
        def gradient(g: Any, h: Any) -> Any:
            return g * 10, dm.sum(g * x) * 100 + h * 7

        return (x * w, w * 2), gradient

    x, w = array(4, 2), dm.asarray(2.0)

    def run(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch([x, w])
            y, z = dm.vmap(f, in_axes=(0, None))(x, w)
        return (y, z, *tape.gradient([y, z], [x, w]))

    y, z, of_x, of_w = mode(run)(dm.asarray(x))
    close(y, x * 2)
    close(z, np.full(4, 4.0))
    close(of_x, np.full((4, 2), 10.0))
    close(of_w, 100 * x.sum() + 4 * 7)


@both_modes
def test_custom_gradients_differentiated_inside(mode: Mode):
    @dm.custom_gradient
    def log1pexp(x: Any) -> Any:
        e = dm.exp(x)
        return dm.log(1 + e), lambda g: g * (1 - 1 / (1 + e))

    def slope(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = log1pexp(x)
        return tape.gradient(y, x)

    close(mode(dm.vmap(slope))(dm.asarray([0.0, 100.0])), [0.5, 1.0])


@both_modes
def test_a_custom_gradient_that_branches(mode: Mode):
    """Each example has its own gradient; what is the same for all is computed once, and gets the
    sum of the gradients of all."""

    @dm.custom_gradient
    def clipped(x: Any) -> Any:
        return x * 1.0, lambda g: dm.cond(g > 1, lambda: g * 0 + 1, lambda: g)

    def run(x: Any, y: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch([x, y])
            z = dm.vmap(lambda a, b: clipped(a) * a + clipped(b) * 4, in_axes=(0, None))(x, y)
            loss = z[0] + z[1] * 0.5
        return tape.gradient(loss, [x, y])

    of_x, of_y = mode(run)(dm.asarray([3.0, 1.0]), dm.asarray(2.0))
    close(of_x, [3.0 + 1.0, 0.5 + 0.5])
    close(of_y, 1.0)


@both_modes
def test_remat_inside(mode: Mode):
    w = dm.asarray(array(3))
    f = dm.remat(lambda a: dm.sin(a * w) * a)

    def run(x: Any, f: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch([x, w])
            y = dm.vmap(f)(x)
        return (y, *tape.gradient(y, [x, w]))

    x = dm.asarray(array(2, 3))
    for a, b in zip(mode(lambda x: run(x, f))(x), run(x, lambda a: dm.sin(a * w) * a), strict=True):
        close(a, b.numpy())


@both_modes
def test_with_the_other_transforms(mode: Mode):
    def f(a: Any) -> Any:
        return dm.sum(dm.sin(a) * a[0])

    x, t = dm.asarray(array(3, 2)), dm.asarray(array(3, 2, seed=1))
    slopes, hessians = dm.vmap(dm.grad(f)), dm.vmap(dm.hessian(f))
    one = [dm.hessian(f)(x[k]).numpy() for k in range(3)]
    close(mode(hessians)(x), one)
    expected = np.stack([h @ u for h, u in zip(one, t.numpy(), strict=True)])
    close(mode(lambda x, t: dm.jvp(slopes, (x,), (t,))[1])(x, t), expected)
    inside = dm.vmap(lambda a, u: dm.jvp(dm.grad(f), (a,), (u,))[1])
    close(mode(inside)(x, t), expected)
    whole = mode(dm.hessian(lambda x: dm.sum(dm.vmap(f)(x) ** 1)))(x).numpy()
    close(np.stack([whole[k, :, k] for k in range(3)]), one)


# --- what is refused ----------------------------------------------------------------------------

A, B = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)

REFUSED = [
    (lambda: dm.vmap(lambda a: a, in_axes=None)(A), ShapeError, "no argument is mapped"),
    (lambda: dm.vmap(lambda: 1)(), ShapeError, "no argument is mapped"),
    (lambda: dm.vmap(lambda a, b: a)(A, {"k": [B]}), ShapeError,
     r"2 in argument 0, 4 in argument 1\['k'\]\[0\]"),
    (lambda: dm.vmap(lambda a, k: a)(A, k=B), ShapeError, "2 in argument 0, 4 in argument k"),
    (lambda: dm.vmap(lambda a: a, in_axes=2)(A), ShapeError,
     r"axis 2 in in_axes is out of range for argument 0, float32\[2,3\]"),
    (lambda: dm.vmap(lambda a, b: a, in_axes=(0,))(A, B), ShapeError,
     "has 1 entries for 2 positional arguments"),
    (lambda: dm.vmap(lambda a: a, in_axes=({"x": 0},))({"y": A}), ShapeError,
     "not of the structure of the arguments"),
    (lambda: dm.vmap(lambda a: a, in_axes=("x",))(A), DTypeError, "an integer or None, not 'x'"),
    (lambda: dm.vmap(lambda a, b: a)(A, 2.0), ShapeError,
     "argument 1 is a scalar, float32.*the axis None"),
    (lambda: dm.vmap(lambda a, b: a)(A, "name"), DTypeError, "argument 1 is 'name'"),
    (lambda: dm.vmap(lambda a: a, out_axes=None)(A), ShapeError,
     "out_axes is None for result, but that differs"),
    (lambda: dm.vmap(lambda a: a, out_axes=2)(A), ShapeError, "axis 2 in out_axes is out of range"),
    (lambda: dm.vmap(lambda a: (a, a), out_axes=(0, 0, 0))(A), ShapeError,
     "not of the structure of the results"),
    (lambda: dm.vmap(lambda a: "text")(A), DTypeError, "text"),
    (lambda: dm.vmap(lambda a: a @ dm.ones((4, 4)))(A), ShapeError, r"matmul: .*float32\[4,4\]"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused(call: Callable[[], Any], kind: type[Exception], message: str):
    with pytest.raises(kind, match=message):
        call()


@both_modes
def test_the_value_of_an_example_is_not_known(mode: Mode):
    with pytest.raises(TracedValueError, match="float"):
        mode(dm.vmap(lambda a: a * float(a)))(dm.asarray([1.0, 2.0]))


def test_errors_name_the_line_in_the_function():
    def f(a: Any) -> Any:
        return dm.take(dm.asarray([1.0]), a)  # here

    with pytest.raises(OutOfRangeError, match="# here"):
        dm.vmap(f)(dm.asarray([0, 5]))


@both_modes
def test_entries_of_what_is_captured_have_gradients(mode: Mode):
    x = dm.asarray(array(3))

    @mode
    def gradient(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = dm.sum(dm.vmap(lambda a: a * x[0])(x))
        return tape.gradient(y, x)

    v = np.asarray(x)
    close(gradient(x), [v.sum() + v[0], v[0], v[0]])


def test_a_loop_and_its_gradient_are_one_loop():
    def f(a: Any) -> Any:
        return dm.while_loop(lambda y: y > 0.1, lambda y: (dm.sin(y) * 0.5,), (a,))[0]

    steps = dm.function(dm.vmap(dm.grad(f))).get_concrete_function(dm.ones(3)).explain()
    assert steps.count(": loop\n") == 2
