"""Losses and metrics against NumPy, in both modes."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm
from dualmode import losses, metrics

both = pytest.mark.parametrize("mode", [lambda f: f, dm.function], ids=["eager", "compiled"])
rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 2], np.int32)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
ENTROPY = -np.log(PROBABILITIES[np.arange(4), LABELS])
BITS = rng.integers(0, 2, (4, 3)).astype(np.float32)


@both
def test_squared_and_absolute_errors(mode):
    y, p = BITS, LOGITS
    values = mode(losses.mean_squared_error)(y, p).numpy()
    np.testing.assert_allclose(values, ((p - y) ** 2).mean(-1), rtol=1e-6)
    values = mode(losses.mean_absolute_error)(y, p).numpy()
    np.testing.assert_allclose(values, np.abs(p - y).mean(-1), rtol=1e-6)
    total = mode(losses.MeanSquaredError())(y, p)
    assert (total.shape, total.dtype) == ((), dm.float32)
    np.testing.assert_allclose(total.numpy(), ((p - y) ** 2).mean(), rtol=1e-6)


@both
def test_crossentropies_of_classes(mode):
    one_hot = np.eye(3, dtype=np.float32)[LABELS]
    for fn, y in (
        (losses.sparse_categorical_crossentropy, LABELS),
        (losses.categorical_crossentropy, one_hot),
    ):
        from_logits = mode(lambda t, p, fn=fn: fn(t, p, from_logits=True))
        np.testing.assert_allclose(from_logits(y, LOGITS).numpy(), ENTROPY, rtol=1e-5)
        np.testing.assert_allclose(mode(fn)(y, PROBABILITIES).numpy(), ENTROPY, rtol=1e-5)
    loss = mode(losses.SparseCategoricalCrossentropy(from_logits=True))(LABELS, LOGITS)
    np.testing.assert_allclose(loss.numpy(), ENTROPY.mean(), rtol=1e-5)


@both
def test_binary_crossentropy(mode):
    p = 1 / (1 + np.exp(-LOGITS))
    expected = -(BITS * np.log(p) + (1 - BITS) * np.log(1 - p)).mean(-1)
    values = mode(lambda t, x: losses.binary_crossentropy(t, x, from_logits=True))(BITS, LOGITS)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(mode(losses.binary_crossentropy)(BITS, p), expected, rtol=1e-5)


@both
def test_extreme_logits_stay_finite(mode):
    x = np.array([[1000.0, -1000.0]], np.float32)
    sparse = losses.SparseCategoricalCrossentropy(from_logits=True)
    assert float(mode(sparse)(np.array([0]), x)) == 0
    assert float(mode(sparse)(np.array([1]), x)) == 2000
    binary = losses.BinaryCrossentropy(from_logits=True)
    assert float(mode(binary)(np.array([[0.0, 1.0]]), x)) == 1000
    assert np.isfinite(float(mode(losses.BinaryCrossentropy())([[1.0]], [[0.0]])))


@both
def test_gradient_of_the_crossentropy_is_softmax_minus_one_hot(mode):
    loss_function = losses.SparseCategoricalCrossentropy(from_logits=True)

    def gradient(x):
        with dm.GradientTape() as tape:
            tape.watch(x)
            loss = loss_function(LABELS, x)
        return tape.gradient(loss, x)

    expected = (PROBABILITIES - np.eye(3)[LABELS]) / 4
    np.testing.assert_allclose(mode(gradient)(dm.asarray(LOGITS)), expected, atol=1e-6)


@both
def test_a_label_out_of_range_gives_nan_for_its_sample(mode):
    labels = np.array([0, 3, -1, 2])
    values = mode(lambda t, p: losses.sparse_categorical_crossentropy(t, p, True))(labels, LOGITS)
    assert np.isnan(values.numpy()).tolist() == [False, True, True, False]


@both
@pytest.mark.parametrize("dtype", ["int32", "int64", "uint64"])
def test_a_label_out_of_range_gives_nan_in_gradients_of_any_order(mode, dtype):
    labels = dm.asarray(np.array([0, 3, -1, 2]).astype(dtype))
    weights = dm.asarray(np.linspace(-1, 1, LOGITS.size, dtype=np.float32).reshape(LOGITS.shape))

    def loss(x):
        return dm.sum(losses.sparse_categorical_crossentropy(labels, x, True))

    def first(x):
        return dm.sum(dm.grad(loss)(x) * weights)

    def second(x):
        return dm.sum(dm.grad(first)(x) * weights)

    for function in (loss, first, second):
        slopes = np.isnan(mode(dm.grad(function))(dm.asarray(LOGITS)).numpy())
        assert slopes.all(1).tolist() == slopes.any(1).tolist() == [False, True, True, False]


@both
def test_targets_are_cast_to_the_dtype_of_predictions(mode):
    loss = mode(losses.MeanSquaredError())(np.ones((2, 1)), np.zeros((2, 1), np.float32))
    assert loss.dtype is dm.float32 and float(loss) == 1
    loss = mode(losses.MeanSquaredError())(np.ones((2, 1), int), np.zeros((2, 1)))
    assert loss.dtype is dm.float64


@both
def test_shapes_are_never_broadcast(mode):
    with pytest.raises(
        dm.errors.ShapeError, match=r"float32\[4\] vs float32\[4,1\]; give y_true a last axis"
    ):
        mode(losses.MeanSquaredError())(np.ones(4, np.float32), np.ones((4, 1), np.float32))
    sparse = mode(losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(dm.errors.ShapeError, match=r"remove the last axis of y_true"):
        sparse(LABELS[:, None], LOGITS)
    with pytest.raises(dm.errors.ShapeError, match=r"for one-hot labels use categorical_cross"):
        sparse(LOGITS, LOGITS)
    with pytest.raises(dm.errors.DTypeError, match=r"labels must be integers.*float32\[4\]"):
        sparse(LABELS.astype(np.float32), LOGITS)


@both
def test_a_batch_of_no_rows_has_loss_and_gradient_zero(mode):
    loss_function = losses.MeanSquaredError()
    w = dm.Variable([[1.0], [2.0]])

    def step(x, y):
        with dm.GradientTape() as tape:
            loss = loss_function(y, x @ w)
        return loss, tape.gradient(loss, w)

    loss, gradient = mode(step)(np.zeros((0, 2), np.float32), np.zeros((0, 1), np.float32))
    assert float(loss) == 0
    np.testing.assert_array_equal(gradient.numpy(), np.zeros((2, 1)))


@both
def test_nan_flows_through(mode):
    x = LOGITS.copy()
    x[1, 0] = np.nan
    assert np.isnan(float(mode(losses.MeanSquaredError())(BITS, x)))
    sparse = losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    assert np.isnan(mode(sparse)(LABELS, x).numpy()).tolist() == [False, True, False, False]


@both
def test_reductions_and_weights(mode):
    y, p = np.zeros((3, 2), np.float32), np.array([[1, 1], [2, 2], [3, 3]], np.float32)
    weight = np.array([1.0, 0.0, 2.0])
    expected = {"none": [1, 0, 18], "sum": 19, "sum_over_batch_size": 19 / 3}
    for reduction, value in expected.items():
        loss = losses.MeanSquaredError(reduction=reduction)
        np.testing.assert_allclose(mode(loss)(y, p, weight), value, rtol=1e-6)
    with pytest.raises(dm.errors.ShapeError, match=r"sample_weight \[2\]"):
        losses.MeanSquaredError()(y, p, np.ones(2))
    with pytest.raises(ValueError, match="reduction 'mean' is not"):
        losses.MeanSquaredError(reduction="mean")


@both
def test_mean_metric(mode):
    mean = metrics.Mean()
    assert float(mean.result()) == 0
    update = mode(lambda x: mean.update_state(x))
    update(np.array([1.0, 2.0], np.float32))
    update(np.array([6.0, 7.0], np.float32))
    assert float(mean.result()) == 4
    assert float(mode(lambda x: mean(x))(np.float32(9))) == 5
    mean.reset_state()
    assert float(mean.result()) == 0
    mean.update_state([1.0, 3.0], sample_weight=[3.0, 1.0])
    assert float(mean.result()) == 1.5
    mean.update_state(np.zeros((0,)))
    assert float(mean.result()) == 1.5


@both
def test_sparse_categorical_accuracy(mode):
    accuracy = metrics.SparseCategoricalAccuracy()
    update = mode(lambda t, p: accuracy.update_state(t, p))
    best = LOGITS.argmax(-1)
    update(best, LOGITS)
    update(np.where([True, True, False, False], best, (best + 1) % 3), LOGITS)
    assert float(accuracy.result()) == 0.75
    with pytest.raises(dm.errors.ShapeError, match="SparseCategoricalAccuracy: y_true must be"):
        update(best[:, None], LOGITS)


@both
def test_error_metrics_average_over_batches(mode):
    squared, absolute = metrics.MeanSquaredError(), metrics.MeanAbsoluteError()

    def update(y, p):
        squared.update_state(y, p)
        absolute.update_state(y, p)

    step = mode(update)
    step(np.zeros((2, 1), np.float32), np.full((2, 1), 2, np.float32))
    step(np.zeros((1, 1), np.float32), np.full((1, 1), -5, np.float32))
    assert float(squared.result()) == 11
    assert float(absolute.result()) == 3


def test_metrics_count_beyond_the_integers_of_float32():
    mean = metrics.Mean()
    mean.count.assign(2.0**24)
    mean.total.assign(2.0**24)
    mean.update_state(1.0)
    assert float(mean.count) == 2**24 + 1
