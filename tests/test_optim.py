"""Optimizers against their formulas in NumPy, in both modes."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm
from dualmode import optim

both = pytest.mark.parametrize("mode", [lambda f: f, dm.function], ids=["eager", "compiled"])
rng = np.random.default_rng(0)
START = rng.normal(size=(3, 2))
GRADS = rng.normal(size=(5, 3, 2))


def sgd_formula(w, lr=0.1, momentum=0.0, nesterov=False):
    velocity = np.zeros_like(w)
    for g in GRADS.astype(w.dtype):
        velocity = momentum * velocity - lr * g
        w = w + (momentum * velocity - lr * g if nesterov else velocity)
    return w


def adam_formula(w, lr=0.1, b1=0.9, b2=0.999, eps=1e-7):
    m = v = np.zeros_like(w)
    for t, g in enumerate(GRADS.astype(w.dtype), 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        w = w - lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
    return w


CASES = {
    "sgd": (lambda: optim.SGD(0.1), lambda w: sgd_formula(w)),
    "momentum": (lambda: optim.SGD(0.1, momentum=0.9), lambda w: sgd_formula(w, momentum=0.9)),
    "nesterov": (
        lambda: optim.SGD(0.1, momentum=0.9, nesterov=True),
        lambda w: sgd_formula(w, momentum=0.9, nesterov=True),
    ),
    "adam": (lambda: optim.Adam(0.1), adam_formula),
    "adam without memory": (
        lambda: optim.Adam(0.1, beta_1=0.0, beta_2=0.0),
        lambda w: adam_formula(w, b1=0.0, b2=0.0),
    ),
}


def train(mode, optimizer, w):
    step = mode(lambda g: optimizer.apply_gradients([(g, w)]))
    for g in GRADS:
        step(dm.asarray(g, dtype=w.dtype))
    return w.numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
@both
def test_updates_follow_the_formula(mode, case, dtype):
    make, formula = CASES[case]
    optimizer = make()
    w = train(mode, optimizer, dm.Variable(START, dtype=dtype))
    assert w.dtype == dtype
    expected = formula(START.astype(dtype))
    np.testing.assert_allclose(w, expected, rtol=1e-5 if dtype == "float32" else 1e-12)
    assert int(optimizer.iterations) == len(GRADS)


@pytest.mark.parametrize("case", CASES)
def test_both_modes_agree(case):
    results = [
        train(mode, CASES[case][0](), dm.Variable(START, dtype="float32"))
        for mode in (lambda f: f, dm.function)
    ]
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_the_plain_update_and_the_compiled_one_agree():
    compiled = train(lambda f: f, optim.Adam(0.1), dm.Variable(START, dtype="float32"))
    with dm.config.override(jit=False):
        plain = train(lambda f: f, optim.Adam(0.1), dm.Variable(START, dtype="float32"))
    np.testing.assert_allclose(plain, compiled, rtol=1e-6)


@both
def test_half_precision_is_updated_in_float32(mode):
    optimizer = optim.Adam(0.1)
    w = train(mode, optimizer, dm.Variable(START, dtype="float16"))
    assert w.dtype == np.float16
    assert optimizer.slots[0]["v"].dtype is dm.float32
    np.testing.assert_allclose(w, adam_formula(START.astype(np.float32)), rtol=5e-3, atol=1e-3)


@both
def test_the_learning_rate_may_change_between_steps(mode):
    optimizer = optim.SGD(1.0)
    w = dm.Variable(0.0)
    step = mode(lambda g: optimizer.apply_gradients([(g, w)]))
    step(dm.asarray(1.0))
    optimizer.learning_rate = 0.5
    step(dm.asarray(1.0))
    optimizer.learning_rate.assign(0.25)
    step(dm.asarray(1.0))
    assert float(w) == -1.75


@both
def test_a_schedule_counts_from_zero(mode):
    optimizer = optim.SGD(lambda step: 1.0 / (1.0 + dm.astype(step, "float32")))
    w = dm.Variable(0.0)
    step = mode(lambda g: optimizer.apply_gradients([(g, w)]))
    for _ in range(3):
        step(dm.asarray(1.0))
    assert float(w) == pytest.approx(-(1 + 1 / 2 + 1 / 3))
    with pytest.raises(TypeError, match="the learning rate is not a Variable but function"):
        optimizer.learning_rate = 0.1


@both
def test_slots_are_created_once_per_variable(mode):
    optimizer = optim.Adam()
    a, b = dm.Variable([1.0, 2.0], name="a"), dm.Variable(3.0, name="b")
    step = mode(lambda g, h: optimizer.apply_gradients([(g, a), (h, b)]))
    for _ in range(2):
        step(dm.ones((2,)), dm.asarray(1.0))
    assert [v.name for v in optimizer.variables] == [
        *("Adam/iterations", "Adam/learning_rate", "a/m", "a/v", "b/m", "b/v"),
    ]


def test_rules_compose():
    def clip(limit):
        return optim.Rule(
            lambda param: {},
            lambda delta, slots, param, step: (dm.clip(delta, -limit, limit), {}),
        )

    rule = optim.chain(clip(1.0), optim.scale_by_learning_rate(0.5), optim.trace(0.5))
    optimizer = optim.Optimizer(rule)
    w = dm.Variable(0.0)
    for _ in range(2):
        optimizer.apply_gradients([(dm.asarray(100.0), w)])
    assert float(w) == -0.5 - 0.75
    twice = optim.Optimizer(optim.chain(optim.trace(0.5), optim.trace(0.5)))
    with pytest.raises(ValueError, match="two rules keep a slot named 'velocity'"):
        twice.apply_gradients([(dm.asarray(1.0), w)])


def test_an_update_is_not_recorded_by_a_tape():
    w = dm.Variable(1.0)
    with dm.GradientTape() as tape:
        y = w * 3.0
        optim.SGD(0.1).apply_gradients([(dm.asarray(1.0), w)])
    assert float(tape.gradient(y, w)) == 3.0


def test_bad_gradients():
    w, u = dm.Variable([1.0, 2.0], name="w"), dm.Variable(1.0, name="u")
    sgd = optim.SGD()
    with pytest.raises(ValueError, match="no variables; were the layers called yet"):
        sgd.apply_gradients([])
    with pytest.raises(ValueError, match="no variable has a gradient: w, u"):
        sgd.apply_gradients([(None, w), (None, u)])
    with pytest.raises(dm.errors.ShapeError, match=r"gradient of w has shape \[3\].*\[2\]"):
        sgd.apply_gradients([(dm.ones((3,)), w)])
    with pytest.raises(TypeError, match="the second is a Tensor"):
        sgd.apply_gradients([(dm.ones((2,)), dm.ones((2,)))])
    with pytest.warns(UserWarning, match="no gradient for u"):
        sgd.apply_gradients([(dm.ones((2,)), w), (None, u)])
    assert float(u) == 1.0 and int(sgd.iterations) == 1


def test_bad_arguments():
    with pytest.raises(ValueError, match="learning_rate is a number of at least 0"):
        optim.SGD(-1.0)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\]"):
        optim.SGD(momentum=2.0)
    with pytest.raises(ValueError, match=r"beta_2 must be in \[0, 1\)"):
        optim.Adam(beta_2=1.0)


@both
def test_nan_in_a_gradient_reaches_its_own_element_only(mode):
    optimizer = optim.Adam(0.1)
    w = dm.Variable([1.0, 1.0])
    mode(lambda g: optimizer.apply_gradients([(g, w)]))(dm.asarray([np.nan, 1.0], dtype="float32"))
    assert np.isnan(w.numpy()).tolist() == [True, False]
