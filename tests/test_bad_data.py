"""NaN, division by zero, nothing at all, and damaged files, in both modes: the right result, or an
error that loses nothing."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm

both = pytest.mark.parametrize("mode", [lambda f: f, dm.function], ids=["eager", "compiled"])
mse = dm.losses.MeanSquaredError()
cross_entropy = dm.losses.SparseCategoricalCrossentropy(from_logits=True)
NAN, INF = np.nan, np.inf
X = np.array([1, NAN, -2, INF, 0, -INF], np.float32)
Y = np.array([0, 1, NAN, INF, -0.0, 3], np.float32)
NAMES = {
    1: "exp log sqrt relu sigmoid tanh sign softplus gelu abs erf square floor softmax std "
    "log_softmax logsumexp sum mean max min prod argmax argmin cumulative_sum isnan isfinite",
    2: "add maximum minimum multiply pow divide floor_divide remainder equal less",
}
LOSSES = {
    "mean_squared_error": dm.losses.mean_squared_error,
    "mean_absolute_error": dm.losses.mean_absolute_error,
    "sparse": lambda x, y: cross_entropy(np.zeros(1, np.int32), dm.expand_dims(x, 0)),
}


@pytest.mark.parametrize("op", LOSSES.values(), ids=LOSSES)
def test_losses_of_nan_are_nan_in_both_modes(op):
    assert np.isnan(op(X, Y).numpy())
    assert np.isnan(dm.function(op)(X, Y).numpy())


@pytest.mark.parametrize(
    ("name", "args"),
    [(name, (X, Y)[:n]) for n, names in NAMES.items() for name in names.split()],
)
def test_nan_in_the_data_goes_the_same_way_in_both_modes(name, args):
    op = getattr(dm, name)
    eager, traced = op(*args).numpy(), dm.function(op)(*args).numpy()
    np.testing.assert_array_equal(np.isnan(eager), np.isnan(traced))
    np.testing.assert_allclose(traced, eager, rtol=1e-5)


@both
def test_nan_is_kept(mode):
    @mode
    def compute(x):
        return {
            "relu": dm.relu(x),
            "max": dm.max(x),
            "argmax": dm.argmax(x),
            "softmax": dm.softmax(x),
            "clip": dm.clip(x, -1, 1),
            "maximum": dm.maximum(x, 0),
            "loss": mse(x, dm.zeros_like(x)),
        }

    y = compute(np.array([1, NAN, -2], np.float32))
    np.testing.assert_array_equal(y["relu"], [1, NAN, 0])
    np.testing.assert_array_equal(y["clip"], [1, NAN, -1])
    np.testing.assert_array_equal(y["maximum"], [1, NAN, 0])
    assert y["argmax"].item() == 1
    for name in ("max", "softmax", "loss"):
        assert np.isnan(y[name]).all()


@both
def test_division_by_zero(mode):
    @mode
    def divide(x, y):
        return x / y, x // y, x % y

    a, b, c = divide(dm.asarray([1.0, 0.0, -1.0]), dm.zeros(3))
    np.testing.assert_array_equal(a, [INF, NAN, -INF])
    np.testing.assert_array_equal(b, [INF, NAN, -INF])
    np.testing.assert_array_equal(c, [NAN, NAN, NAN])
    a, b, c = divide(dm.asarray([1, 0, -1]), dm.zeros(3, "int32"))
    np.testing.assert_array_equal(a, [INF, NAN, -INF])
    assert b.tolist() == c.tolist() == [0, 0, 0]


@both
def test_a_batch_of_0(mode):
    """Loss 0 and gradients of zeros: a step changes nothing but the optimizer's counter."""
    model = dm.nn.Sequential(
        [dm.nn.Dense(4, activation="relu"), dm.nn.Dropout(0.5), dm.nn.Dense(2)]
    )
    optimizer = dm.optim.Adam(0.1)
    model(dm.zeros((1, 3)))
    before = [v.numpy() for v in model.variables]

    @mode
    def step(x, y):
        with dm.GradientTape() as tape:
            logits = model(x, training=True)
            loss = cross_entropy(y, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return logits, loss, gradients

    logits, loss, gradients = step(dm.zeros((0, 3)), dm.zeros((0,), "int32"))
    assert (logits.shape, loss.item()) == ((0, 2), 0)
    for v, g, old in zip(model.variables, gradients, before, strict=True):
        assert g.shape == v.shape
        assert not g.numpy().any()
        np.testing.assert_array_equal(v.numpy(), old)
    assert np.isfinite(step(dm.ones((2, 3)), dm.asarray([0, 1]))[1].item())


@both
def test_an_empty_dataset(mode):
    data = dm.data.Dataset.from_tensor_slices((np.zeros((0, 3), "f"), np.zeros(0, "i"))).batch(4)
    mean = dm.metrics.Mean()

    @mode
    def step(x, y):
        mean.update_state(dm.sum(x))

    for x, y in data.repeat():  # not for ever
        step(x, y)
    assert (len(data), mean.result().item()) == (0, 0)


# --- checkpoints --------------------------------------------------------------------------------


def damaged(data: bytes, how: str) -> bytes:
    flipped = bytearray(data)
    flipped[-3] ^= 0x10
    return {"truncated": data[: len(data) // 2], "empty": b"", "flipped": bytes(flipped)}[how]


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped"])
def test_a_damaged_checkpoint_changes_nothing(tmp_path, how):
    w = dm.Variable(np.arange(100, dtype=np.float32), name="w")
    checkpoint = dm.train.Checkpoint(w=w)
    first = checkpoint.save(tmp_path / "model")
    w.assign_add(1)
    second = checkpoint.save(tmp_path / "model")
    with open(second, "rb") as file:
        data = file.read()
    with open(second, "wb") as file:
        file.write(damaged(data, how))
    now = w.numpy().tolist()
    with pytest.raises(dm.train.CheckpointError, match="is damaged") as info:
        checkpoint.restore(second)
    assert "model-2.safetensors" in str(info.value)
    assert info.value.site[0] == __file__
    assert w.numpy().tolist() == now
    checkpoint.restore(first)
    assert w.numpy()[1] == 1


def test_a_checkpoint_that_is_missing_or_does_not_fit(tmp_path):
    path = dm.train.Checkpoint(w=dm.Variable([1.0, 2.0])).save(tmp_path / "model")
    other = dm.Variable([1.0, 2.0, 3.0])
    checkpoint = dm.train.Checkpoint(w=other)
    for file, message in (
        (tmp_path / "none.safetensors", r"does not exist; the newest one there is .*model-1"),
        (tmp_path, r"is a directory; use dm\.train\.latest_checkpoint"),
        (path, r"w is float32\[3\], the file has float32\[2\]"),
    ):
        with pytest.raises(dm.train.CheckpointError, match=message) as info:
            checkpoint.restore(file)
        assert info.value.site[0] == __file__
    assert other.numpy().tolist() == [1, 2, 3]
