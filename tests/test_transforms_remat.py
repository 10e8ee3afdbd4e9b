"""remat: the same numbers with less memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm

Fn = Callable[..., Any]
RNG = np.random.default_rng(5)
BLOCKS, BATCH, WIDTH = 8, 64, 32
WEIGHTS = [
    dm.Variable((RNG.normal(size=(3, WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32))
    for _ in range(BLOCKS)
]
X = dm.asarray(RNG.normal(size=(BATCH, WIDTH)).astype(np.float32))


def plain(f: Fn) -> Fn:
    return f


def block(w: Any, x: Any) -> Any:
    for k in range(3):
        x = dm.tanh(x @ w[k])
    return x


def mlp(wrap: Callable[[Fn], Fn]) -> Fn:
    def loss(x: Any) -> Any:
        for w in WEIGHTS:
            x = wrap(block)(w, x)
        return dm.mean(x * x)

    return loss


def gradients(loss: Fn, x: Any) -> Any:
    with dm.GradientTape() as tape:
        y = loss(x)
    return tape.gradient(y, WEIGHTS)


def test_the_planned_memory_of_a_deep_network() -> None:
    found, sizes = [], []
    for wrap in (plain, dm.remat):
        step = dm.function(lambda x, wrap=wrap: gradients(mlp(wrap), x))
        found.append(step(X))
        sizes.append(step.get_concrete_function(X).memory().scratch)
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    value = BATCH * WIDTH * 4
    kept = (BLOCKS + 3) * value + 4 * WEIGHTS[0].numpy().nbytes  # between blocks, and one inside
    assert sizes[0] > BLOCKS * 3 * value
    assert sizes[1] < min(0.6 * sizes[0], kept)


def test_what_a_compiled_call_keeps_for_a_tape_outside() -> None:
    kept = []
    for wrap in (plain, dm.remat):
        fn = dm.function(mlp(wrap))
        np.testing.assert_allclose(
            gradients(fn, X)[0], gradients(mlp(plain), X)[0], rtol=1e-4, atol=1e-6
        )
        kept.append(fn.get_concrete_function(X).memory().kept)
    assert kept[1] < kept[0] / 2


def test_eagerly_a_tape_keeps_one_entry() -> None:
    sizes = []
    for wrap in (plain, dm.remat):
        with dm.GradientTape() as tape:
            mlp(wrap)(X)
        sizes.append(sum(np.asarray(y).nbytes for entry in tape._entries for y in entry[1]))
    assert sizes[1] < sizes[0] / 2


@pytest.mark.parametrize("wrap", [plain, dm.remat])
def test_random_numbers_are_drawn_once(wrap: Callable[[Fn], Fn]) -> None:
    w = dm.Variable(np.ones((3, 3), np.float32))

    def dropout(x: Any) -> Any:
        keep = dm.random.bernoulli((3,), 0.5, dtype="float32")
        return x * keep * w

    def run(f: Fn) -> Any:
        dm.random.set_seed(3)
        x = dm.ones(3)
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = f(f(x))
        return y, *tape.gradient(y, [x, w]), dm.random.uniform(())

    f = wrap(dropout)
    expected = run(dropout)
    for got in (run(f), run(dm.function(f)), dm.function(lambda: run(f))()):
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_variables_change_once_and_effects_happen_once(capsys: Any) -> None:
    count, scale = dm.Variable(0.0, trainable=False), dm.Variable(3.0)

    @dm.remat
    def step(x: Any) -> Any:
        count.assign_add(1.0)
        dm.print("step", count)
        return x * scale * count

    @dm.remat
    def nested(x: Any) -> Any:
        return {"y": step(step(x)), "same": x, "number": 7}

    def run(f: Fn) -> Any:
        count.assign(0.0)
        x = dm.asarray(2.0)
        with dm.GradientTape() as tape:
            tape.watch(x)
            found = f(x)
            total = found["y"] + found["same"]
            scale.assign(100.0)  # after the reading
        assert found["number"] == 7 and found["same"].item() == 2
        grads = tape.gradient(total, [x, scale])
        scale.assign(3.0)
        return [found["y"].item(), *(g.item() for g in grads), count.numpy().item()]

    for f in (nested, dm.function(nested)):
        assert run(f) == [36, 19, 24, 2]  # y = x scale^2 1 2
        assert capsys.readouterr().out == "step 1.0\nstep 2.0\n"


def test_captured_tensors_have_gradients() -> None:
    b = dm.asarray([1.0, 2.0])

    def run(wrap: Callable[[Fn], Fn]) -> Any:
        x = dm.asarray([3.0, 4.0])
        with dm.GradientTape() as tape:
            tape.watch([b, x])
            scaled = b * 2.0
            y = dm.sum(wrap(lambda x: dm.sin(x * scaled) * b)(x))
        return tape.gradient(y, [b, x])

    for got in (run(dm.remat), dm.function(lambda: run(dm.remat))()):
        for a, e in zip(got, run(plain), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5)


def test_in_loops_branches_and_methods() -> None:
    class Cell:
        w = dm.Variable(0.5)

        @dm.remat
        def __call__(self, x: Any) -> Any:
            return dm.cond(x > 0.0, lambda: dm.sin(x) * self.w, lambda: x)

    cell = Cell()

    def f(x: Any) -> Any:
        return dm.fori_loop(0, 3, lambda _, y: cell(y) + x, x)

    def run(f: Fn) -> Any:
        x = dm.asarray(0.7)
        with dm.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        return tape.gradient(y, [x, cell.w])

    expected = run(f)
    for got in (run(dm.function(f)), dm.function(lambda: run(f))()):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_jacobian_runs_the_loops_again() -> None:
    f = dm.remat(lambda x: dm.fori_loop(0, 3, lambda _, y: dm.tanh(y) * x, x))
    x = dm.asarray([0.3, 0.8])
    np.testing.assert_allclose(
        dm.jacobian(f)(x), np.diag(dm.grad(lambda x: dm.sum(f(x)))(x)), rtol=1e-5
    )


def _scan(f: Fn) -> Fn:
    return lambda x: dm.sum(dm.scan(lambda c, w: (f(w, c), None), x, dm.stack(WEIGHTS))[0])


def _nested(f: Fn, wrap: Callable[[Fn], Fn]) -> Fn:
    two = wrap(lambda x: f(WEIGHTS[1], f(WEIGHTS[0], x)))
    return lambda x: dm.sum(two(two(two(two(x)))))


@pytest.mark.parametrize("kind", ["scan", "nested"])
def test_the_planned_memory_of_loops_and_of_one_in_another(kind: str) -> None:
    found, sizes, kept = [], [], []
    for wrap in (plain, dm.remat):
        loss = _scan(wrap(block)) if kind == "scan" else _nested(wrap(block), wrap)
        step = dm.function(dm.grad(loss))
        found.append(step(X))
        memory = step.get_concrete_function(X).memory()
        assert memory.peak >= memory.scratch + 2 * BATCH * WIDTH * 4
        sizes.append(memory.scratch)
        kept.append(dm.function(loss).get_concrete_function(X).memory().kept)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)
    assert sizes[1] < 0.7 * sizes[0] and kept[1] < kept[0] / 2
