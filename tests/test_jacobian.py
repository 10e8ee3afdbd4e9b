"""`GradientTape.jacobian` and `batch_jacobian`: values, orders, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode.errors import GradientError, ShapeError
from modes import Mode, both_modes


def array(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).uniform(0.2, 1, shape)


def differences(f: Callable[[Any], Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The Jacobian of `f` by central differences."""
    step = 1e-6
    columns = []
    for unit in np.eye(x.size).reshape(-1, *x.shape):
        ends = [np.asarray(f(dm.asarray(x + s * step * unit))) for s in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(columns, -1).reshape(*columns[0].shape, *x.shape)


def close(actual: Any, expected: Any, tolerance: float = 1e-7) -> None:
    actual = np.asarray(actual)
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def jacobian(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.jacobian(y, x)

    return run


M = array(3, 4, seed=1)
FUNCTIONS = {
    "product": lambda x: dm.tanh(x @ dm.asarray(M)),
    "scalar": lambda x: dm.sum(x**3),
    "softmax": lambda x: dm.softmax(x, axis=0) * x,
    "indices": lambda x: dm.take(x, dm.asarray([2, 0, 2]), axis=1) ** 2,
    "sorted halves": lambda x: dm.concat([x[1:] * x[:1], dm.maximum(x, 0.5)]),
    "branch": lambda x: dm.cond(dm.sum(x) > 0, lambda: dm.sin(x), lambda: x),
    "loop": lambda x: dm.while_loop(lambda y: dm.sum(y) < 50, lambda y: (y * x + y + 1,), (x,))[0],
    "scan": lambda x: dm.scan(lambda c, row: (c * row, c + row), x[0], x)[1],
}


@both_modes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobian_against_differences(mode: Mode, name: str):
    f, x = FUNCTIONS[name], array(2, 3)
    close(mode(jacobian(f))(dm.asarray(x)), differences(f, x))


@both_modes
def test_several_sources_and_variables(mode: Mode):
    w, x = dm.Variable(array(2, 3)), dm.asarray(array(3, seed=1))

    def run(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = dm.sin(w @ x)
        return tape.jacobian(y, {"w": w, "x": [x]})

    found = mode(run)(x)
    slope = np.cos(w.numpy() @ x.numpy())
    close(found["x"][0], slope[:, None] * w.numpy())
    close(found["w"], np.einsum("i,ij,k->ijk", slope, np.eye(2), x.numpy()))


@both_modes
def test_unconnected_sources(mode: Mode):
    def run(x: Any, z: Any, unconnected: Any) -> Any:
        with dm.GradientTape(persistent=True) as tape:
            tape.watch([x, z])
            y = x * x
        first = tape.jacobian(y, [x, z], unconnected_gradients=unconnected)[1]
        return first, tape.batch_jacobian(y, z, unconnected_gradients=unconnected)

    x, z = dm.asarray(array(2)), dm.asarray(array(2, 3))
    assert mode(lambda x, z: run(x, z, "none"))(x, z) == (None, None)
    whole, batch = mode(lambda x, z: run(x, z, "zero"))(x, z)
    close(whole, np.zeros((2, 2, 3)))
    close(batch, np.zeros((2, 3)))


@both_modes
def test_hessian(mode: Mode):
    def hessian(x: Any) -> Any:
        with dm.GradientTape() as outer:
            outer.watch(x)
            with dm.GradientTape() as inner:
                inner.watch(x)
                y = dm.sum(dm.sin(x @ dm.asarray(M)) * x[0, 1])
            g = inner.gradient(y, x)
        return outer.jacobian(g, x)

    def gradient(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = dm.sum(dm.sin(x @ dm.asarray(M)) * x[0, 1])
        return tape.gradient(y, x)

    x = array(2, 3)
    close(mode(hessian)(dm.asarray(x)), differences(gradient, x))


@both_modes
def test_jacobian_of_a_jacobian(mode: Mode):
    def f(x: Any) -> Any:
        return x**3 * dm.sum(x)

    x = array(3)
    close(mode(jacobian(jacobian(f)))(dm.asarray(x)), differences(jacobian(f), x))


@both_modes
def test_a_gradient_of_a_jacobian(mode: Mode):
    def frobenius(x: Any) -> Any:
        return dm.sum(jacobian(lambda x: dm.exp(x) * dm.sum(x * x))(x) ** 2)

    def gradient(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = frobenius(x)
        return tape.gradient(y, x)

    x = array(3)
    close(mode(gradient)(dm.asarray(x)), differences(frobenius, x), 1e-6)


@both_modes
def test_jacobians_of_examples(mode: Mode):
    x = array(4, 3)
    many = mode(dm.vmap(jacobian(lambda a: dm.tanh(a * dm.sum(a)))))(dm.asarray(x))
    one = jacobian(lambda a: dm.tanh(a * dm.sum(a)))
    close(many, np.stack([one(dm.asarray(a)).numpy() for a in x]))


@both_modes
def test_batch_jacobian(mode: Mode):
    def f(x: Any) -> Any:
        return dm.tanh(x @ dm.asarray(M)) * dm.sum(x, axis=(1, 2), keepdims=True)

    def run(x: Any) -> Any:
        with dm.GradientTape(persistent=True) as tape:
            tape.watch(x)
            y = f(x)
            with tape.stop_recording():
                return tape.batch_jacobian(y, x), tape.jacobian(y, x)

    batch, whole = mode(run)(dm.asarray(array(5, 2, 3)))
    assert batch.shape == (5, 2, 4, 2, 3)
    close(batch, np.stack([whole.numpy()[k, :, :, k] for k in range(5)]))
    assert np.abs(whole.numpy()[0, :, :, 1]).max() == 0


@both_modes
def test_batch_jacobian_by_a_vector(mode: Mode):
    def run(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = x**3
        return tape.batch_jacobian(y, x)

    close(mode(run)(dm.asarray([1.0, 2.0, 3.0])), [3.0, 12.0, 27.0], 1e-5)


def test_across_a_compiled_call():
    w = dm.Variable(array(3, 3))
    f = dm.function(lambda x: dm.sin(w @ x))
    x = dm.asarray(array(3))
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        with tape.stop_recording():
            expected = differences(lambda x: dm.sin(w @ x), x.numpy())
        y = f(x)
    close(tape.jacobian(y, x), expected)
    assert tape.jacobian(y, w).shape == (3, 3, 3)


def test_across_a_compiled_loop():
    """The backward loop of compiled code is computed for all rows at once."""
    f, x = FUNCTIONS["loop"], array(2, 3)
    close(jacobian(dm.function(f))(dm.asarray(x)), differences(f, x))


def test_empty_targets_and_sources():
    x = dm.zeros((0, 3))
    assert jacobian(lambda x: x * 2)(x).shape == (0, 3, 0, 3)


def test_a_tape_gives_one_jacobian_unless_persistent():
    x = dm.asarray([1.0, 2.0])
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = x * x
    tape.jacobian(y, x)
    with pytest.raises(GradientError, match="used up"):
        tape.jacobian(y, x)


def test_a_tape_records_no_jacobian_of_its_own_unless_persistent():
    x = dm.asarray([1.0, 2.0])
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = x * x
        tape.jacobian(y, x)
        assert not tape.follows(y * 2)


def errors(tape: Any, x: Any, y: Any) -> list[tuple[Callable[[], Any], type[Exception], str]]:
    n = dm.asarray([1, 2])
    return [
        (lambda: tape.jacobian([y, y], x), GradientError, "target is one tensor, not a list"),
        (lambda: tape.jacobian(n, x), GradientError, "non-differentiable"),
        (lambda: tape.jacobian(y, n), GradientError, "non-differentiable"),
        (lambda: tape.jacobian(y, x, "one"), ValueError, "unconnected_gradients"),
        (lambda: tape.batch_jacobian(y, [x]), GradientError, "source is one tensor"),
        (lambda: tape.batch_jacobian(dm.sum(y), x), ShapeError, r"target is float32\[\]"),
        (lambda: tape.batch_jacobian(y[:1], x), ShapeError, r"float32\[1\].*float32\[2\]"),
    ]


@pytest.mark.parametrize("case", range(7))
def test_refused(case: int):
    x = dm.asarray([1.0, 2.0])
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
    call, kind, message = errors(tape, x, y)[case]
    with pytest.raises(kind, match=message):
        call()
