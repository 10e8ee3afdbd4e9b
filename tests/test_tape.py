"""GradientTape: the semantics of TensorFlow 2."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm
from dualmode import op
from dualmode.tracer import Tracer
from dualmode_compiler.spec import Spec


def test_variables_are_watched_when_read():
    w, b = dm.Variable([2.0, 3.0]), dm.Variable(1.0)
    frozen = dm.Variable(5.0, trainable=False)
    x = dm.asarray([1.0, 4.0])
    with dm.GradientTape() as tape:
        loss = dm.sum(w * x + b * frozen)
    assert tape.watched_variables() == (w, b)
    dw, db, df = tape.gradient(loss, [w, b, frozen])
    assert dw.tolist() == [1, 4]
    assert db.item() == 10
    assert df is None
    assert tape.watched_variables() == (w, b)


def test_a_variable_read_twice_is_one_source():
    v = dm.Variable(3.0)
    with dm.GradientTape() as tape:
        y = v * v + v.read_value()
    assert tape.gradient(y, v).item() == 7


def test_a_value_read_before_the_tape_is_a_constant():
    v = dm.Variable(3.0)
    before = v.read_value()
    with dm.GradientTape() as tape:
        y = v * before
    assert tape.gradient(y, v).item() == 3


def test_reads_around_an_assignment():
    v = dm.Variable(3.0)
    with dm.GradientTape() as tape:
        y = v * v
        v.assign(10.0)
        z = y + v * 2.0
    assert tape.gradient(z, v).item() == 8


def test_only_what_is_watched():
    v, x, y = dm.Variable(3.0), dm.asarray(2.0), dm.asarray(5.0)
    with dm.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch({"x": x})
        z = v * x * y
    grads = tape.gradient(z, {"x": x, "rest": (v, [y])})
    assert grads["x"].item() == 15
    assert grads["rest"] == (None, [None])
    with dm.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(v)
        z = v * x
    assert tape.gradient(z, v).item() == 2


def test_unconnected_gradients():
    x, y = dm.asarray([1.0, 2.0]), dm.Variable([[1.0]])
    with dm.GradientTape() as tape:
        tape.watch(x)
        z = x * 2.0
    grads = tape.gradient(z, (x, y), unconnected_gradients="zero")
    assert grads[0].tolist() == [2, 2]
    assert grads[1].tolist() == [[0]]
    with dm.GradientTape() as tape, pytest.raises(ValueError, match="'none' or 'zero'"):
        tape.gradient(z, x, unconnected_gradients="nil")  # type: ignore[arg-type]


def test_target_that_is_the_source_and_intermediate_sources():
    x = dm.asarray(3.0)
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = x * x
        z = y * y
    dx, dy, dz = tape.gradient(z, [x, y, z])
    assert (dx.item(), dy.item(), dz.item()) == (108, 18, 1)


def test_output_gradients_and_several_targets():
    x = dm.asarray([1.0, 2.0])
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y, z = x * 3.0, x * x
    assert tape.gradient([y, z], x).tolist() == [5, 7]
    assert tape.gradient(y, x, output_gradients=[1.0, 10.0]).tolist() == [3, 30]
    assert tape.gradient([y, z], x, output_gradients=[y, z]).tolist() == [11, 34]
    with pytest.raises(dm.errors.ShapeError, match="output_gradients"):
        tape.gradient(y, x, output_gradients=[1.0])
    with pytest.raises(dm.errors.GradientError, match="2 targets and 1"):
        tape.gradient([y, z], x, output_gradients=[y])


def test_a_used_tape_is_refused():
    x = dm.asarray(1.0)
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = x * x
    tape.gradient(y, x)
    with pytest.raises(dm.errors.GradientError, match="persistent=True"):
        tape.gradient(y, x)


def test_what_has_no_gradients_is_refused():
    x, i = dm.asarray(1.0), dm.asarray([1, 2])
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x
        hit = y > 1.0
        with pytest.raises(dm.errors.GradientError, match=r"watch.*int32\[2\].*non-differentiable"):
            tape.watch(i)
    for target, source in ((hit, x), (i, x), (y, i), (y, "x"), (1.5, x)):
        with pytest.raises(dm.errors.GradientError, match="gradient"):
            tape.gradient(target, source)


def test_second_and_third_order():
    x = dm.Variable(2.0)
    with dm.GradientTape() as third, dm.GradientTape() as second:
        with dm.GradientTape() as first:
            y = x * x * x * x
        dy = first.gradient(y, x)
        d2y = second.gradient(dy, x)
    d3y = third.gradient(d2y, x)
    assert (dy.item(), d2y.item(), d3y.item()) == (32, 48, 48)


def test_gradient_inside_the_block_of_a_persistent_tape():
    x = dm.asarray(3.0)
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        y = x * x * x
        dy = tape.gradient(y, x)
    assert tape.gradient(dy, x).item() == 18


def test_stop_recording_and_reset():
    x = dm.asarray(3.0)
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        with tape.stop_recording():
            y = x * x
        z = x * 2.0 + y
        assert tape.gradient(z, x).item() == 2
        tape.reset()
        assert tape.gradient(z, x) is None
        tape.watch(x)
        z = x * x
    assert tape.gradient(z, x).item() == 6


def test_nothing_is_recorded_outside():
    x = dm.asarray(3.0)
    tape = dm.GradientTape()
    with tape:
        tape.watch(x)
        with pytest.raises(dm.errors.GradientError, match="recording already"):
            tape.__enter__()
    y = x * x
    assert tape.gradient(y, x) is None


def test_integer_steps_cut_the_gradient():
    x = dm.asarray([1.6, 2.2])
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = dm.astype(dm.astype(x, "int32"), "float32") + dm.floor(x)
    assert tape.gradient(y, x, unconnected_gradients="zero").tolist() == [0, 0]


def test_stop_gradient():
    x = dm.asarray(3.0)
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = x * dm.stop_gradient(x)
    assert tape.gradient(y, x).item() == 3


def test_costly_gradients_are_computed_only_where_needed():
    calls = []

    def expensive(g):
        calls.append(g)
        return g

    pair = op.Op(
        "pair",
        infer=lambda x, y: x,
        kernel=lambda x, y: x + y,
        vjp=lambda g, z, x, y: (lambda: expensive(g), g),
    )
    x, y = dm.asarray(1.0), dm.asarray(2.0)
    with dm.GradientTape(persistent=True) as tape:
        tape.watch((x, y))
        z = pair(x, y)
    tape.gradient(z, y)
    assert not calls
    assert tape.gradient(z, [x, y])[0].item() == 1
    assert len(calls) == 1


def test_calls_with_several_outputs():
    v, x = dm.Variable(2.0), dm.asarray(5.0)
    a, b = dm.asarray(10.0), dm.asarray(20.0)
    seen = []

    def vjp(grads):
        seen.append([None if g is None else g.item() for g in grads])
        return [grads[0] * 3.0, None]

    with dm.GradientTape() as tape:
        for t in op.state.tapes:
            t.record_call([v, x], [a, b], vjp)
        y = a * 2.0
    dv, dx = tape.gradient(y, [v, x])
    assert (dv.item(), dx, seen) == (6, None, [[2, None]])


def test_long_chains_do_not_recurse():
    x = dm.asarray(1.0)
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = x
        for _ in range(5000):
            y = y + 1.0
    assert tape.gradient(y, x).item() == 1


def test_inside_a_trace():
    tracer = Tracer()
    v = dm.Variable([1.0, 2.0])
    with op.mode(tracer):
        x = tracer.param(Spec((2,), dm.float32))
        with dm.GradientTape() as tape:
            y = dm.sum(v * v * x)
        grad = tape.gradient(y, v)
        assert repr(grad) == "TracedTensor(float32[2])"
    assert op.state.tapes == ()


def test_gradients_agree_with_differences():
    rng = np.random.default_rng(0)
    w = dm.Variable(rng.normal(size=(3, 2)))
    x = dm.asarray(rng.normal(size=(4, 3)))

    def loss():
        return dm.mean(dm.square(dm.tanh(x @ w)))

    with dm.GradientTape() as tape:
        y = loss()
    got = tape.gradient(y, w).numpy()
    start, step = w.numpy(), 1e-6

    def at(value):
        w.assign(value)
        return loss().item()

    for k in np.ndindex(3, 2):
        shift = np.zeros((3, 2))
        shift[k] = step
        high = at(start + shift)
        low = at(start - shift)
        assert got[k] == pytest.approx((high - low) / (2 * step), rel=1e-6)
