"""`vmap` over branches, loops and custom derivatives, against one example after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm

W = dm.asarray(np.array([0.5, -0.75, 1.25], np.float32))
X = dm.asarray(
    np.array([[0.3, 1.2, -0.4], [2.0, 0.1, 0.6], [-1.1, 0.2, 0.9], [0.7, 0.8, 0.2]], np.float32)
)


def branch(x: Any) -> Any:
    return dm.cond(dm.sum(x) > 1, lambda: dm.sin(x) * W, lambda: x - W)


def branch_of_all(x: Any) -> Any:
    """The condition is the same for all examples; one branch does not depend on them."""
    return dm.cond(dm.sum(W) > 0, lambda: W * 2, lambda: x * W)


def three_branches(x: Any) -> Any:
    index = dm.cast(dm.round(dm.sum(x)), "int32")
    fns = [lambda: x * W, lambda: dm.exp(x), lambda: x * x * W]
    return dm.switch_case(index, fns)


def nested_branches(x: Any) -> Any:
    def inner() -> Any:
        return dm.cond(x[0] > 1, lambda: x * W, lambda: dm.cos(x))

    return dm.cond(dm.sum(x) > 0.5, inner, lambda: W + x)


def while_differs(x: Any) -> Any:
    """Each example has its own number of iterations, one of them none."""
    return dm.while_loop(lambda y: dm.sum(y) < 4, lambda y: (dm.abs(y) * 1.5 + W * W,), (x * 2,))[0]


def while_of_all(x: Any) -> Any:
    def body(k: Any, y: Any) -> Any:
        return k + 1, dm.sin(y) * W + x

    return dm.while_loop(lambda k, y: k < 3, body, (0, W))[1]


def carried_becomes_mapped(x: Any) -> Any:
    """After the first iteration `a` differs between examples, after the second `b` does."""
    return dm.fori_loop(0, 3, lambda k, c: (c[0] + x, c[1] * 0.5 + c[0]), (W, W))[1]


def scanned(x: Any) -> Any:
    carry, ys = dm.scan(lambda c, e: (c * e + W, dm.sin(c) * e), x, x)
    return dm.concat([carry, dm.flatten(ys)])


def scanned_backwards(x: Any) -> Any:
    carry, ys = dm.scan(lambda c, e: (c + e * x[0], c * e), 1.0, W, reverse=True)
    return ys * carry


def loop_in_branch(x: Any) -> Any:
    """Examples that take the other branch would never end the loop."""

    def loop() -> Any:
        return dm.while_loop(lambda y: y < 5, lambda y: (y * (1 + x[0]),), (dm.sum(x * x),))[0]

    return dm.cond(x[0] > 0, loop, lambda: dm.sum(x * W))


def loop_in_loop(x: Any) -> Any:
    def inner(y: Any) -> Any:
        return dm.while_loop(lambda z: dm.sum(z) < 3, lambda z: (z + dm.abs(y) * 0.3,), (y,))[0]

    return dm.while_loop(lambda y: dm.sum(y) < 6, lambda y: (dm.abs(inner(y)) * 1.2 + 0.1,), (x,))[
        0
    ]


def index_in_loop(x: Any) -> Any:
    """Indices of examples that are done are out of range."""
    steps = dm.cast(dm.round(dm.abs(x[0])), "int32") + 1

    def body(k: Any, s: Any) -> Any:
        return k + 1, s * x[0] + dm.take(x, k + 3 - steps)  # ends with the last entry

    return dm.while_loop(lambda k, s: k < steps, body, (0, 0.0))[1]


def gradient_of_while(x: Any) -> Any:
    """A loop over what was saved, of which examples need different numbers of entries."""
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = dm.sum(while_differs(x) ** 2)
    return tape.gradient(y, x)


def gradient_of_scan(x: Any) -> Any:
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = dm.sum(dm.sin(scanned(x)))
    return tape.gradient(y, x)


def gradient_of_branch(x: Any) -> Any:
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = dm.sum(nested_branches(x) ** 2)
    return tape.gradient(y, x)


@dm.function
def compiled(x: Any) -> Any:
    return while_differs(x) * dm.sum(x)


FUNCTIONS = [
    branch, branch_of_all, three_branches, nested_branches, while_differs, while_of_all,
    carried_becomes_mapped, scanned, scanned_backwards, loop_in_branch, loop_in_loop, index_in_loop,
    gradient_of_while, gradient_of_scan, gradient_of_branch, compiled,
]  # fmt: skip


def results(f: Callable[..., Any], over: Callable[..., Any]) -> Callable[..., Any]:
    """The results for all examples, their gradients by what is mapped and what is captured."""

    def run(x: Any) -> Any:
        with dm.GradientTape() as tape:
            tape.watch([x, W])
            y = over(f)(x)
            loss = dm.sum(dm.sin(y) * dm.arange(1.0, y.size + 1.0).reshape(y.shape))
        return (y, *tape.gradient(loss, [x, W], unconnected_gradients="zero"))

    return run


def one_after_another(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x: dm.stack([f(x[k]) for k in range(x.shape[0])])


@pytest.mark.parametrize("f", FUNCTIONS, ids=lambda f: getattr(f, "__name__", "compiled"))
@pytest.mark.parametrize("mode", ["eager", "traced"])
def test_vmap_over_control_flow(f: Callable[..., Any], mode: str):
    expected = results(f, one_after_another)(X)
    run = results(f, dm.vmap)
    found = (run if mode == "eager" else dm.function(run))(X)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mode", ["eager", "traced"])
@pytest.mark.parametrize("f", [while_differs, loop_in_loop, nested_branches])
def test_second_order(f: Callable[..., Any], mode: str):
    """Hessians of examples, and of all of them together."""

    def loss(x: Any) -> Any:
        return dm.sum(f(x) ** 2)

    hessians, whole = dm.vmap(dm.hessian(loss)), dm.hessian(lambda x: dm.sum(dm.vmap(loss)(x)))
    if mode == "traced":
        hessians, whole = dm.function(hessians), dm.function(whole)
    expected = np.stack([dm.hessian(loss)(x) for x in X.numpy()])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(hessians(X).numpy() / scale, expected / scale, atol=1e-5)
    blocks = np.stack([whole(X).numpy()[k, :, k] for k in range(len(X))])
    np.testing.assert_allclose(blocks / scale, expected / scale, atol=1e-5)
