"""Layers and models, in both modes."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm
from dualmode import nn

both = pytest.mark.parametrize("mode", [lambda f: f, dm.function], ids=["eager", "compiled"])
X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Net(nn.Model):
    def __init__(self):
        self.hidden = nn.Dense(4, activation="relu")
        self.blocks = [nn.Dense(4), {"last": nn.Dense(2)}]

    def __call__(self, x, training=False):
        x = self.hidden(x)
        return self.blocks[1]["last"](self.blocks[0](x))


@both
def test_dense_computes_activation_of_x_kernel_plus_bias(mode):
    dense = nn.Dense(5, activation="tanh", bias_initializer="ones")
    y = mode(lambda x: dense(x))(X)
    expected = np.tanh(X @ dense.kernel.numpy() + dense.bias.numpy())
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5)
    assert (dense.kernel.shape, dense.bias.shape) == ((3, 5), (5,))


@both
def test_weights_are_created_at_the_first_call_and_the_same_in_both_modes(mode):
    dm.random.set_seed(3)
    model = Net()
    assert model.trainable_variables == []
    forward = mode(lambda x: model(x))
    first, second = forward(X), forward(X)
    names = [v.name.split("/")[1] for v in model.trainable_variables]
    assert names == ["kernel", "bias"] * 3
    assert [v.shape for v in model.variables] == [(3, 4), (4,), (4, 4), (4,), (4, 2), (2,)]
    np.testing.assert_array_equal(first.numpy(), second.numpy())
    dm.random.set_seed(3)
    again = Net()
    again(X)
    for a, b in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_variables_come_in_order_of_definition_each_once():
    class Shared(nn.Layer):
        def __init__(self):
            self.b = dm.Variable(1.0)
            self.a = (dm.Variable(2.0, trainable=False), self.b)

    shared = Shared()
    assert [float(v) for v in shared.variables] == [1.0, 2.0]
    assert [float(v) for v in shared.trainable_variables] == [1.0]
    assert [float(v) for v in shared.non_trainable_variables] == [2.0]


def test_a_frozen_layer_has_no_trainable_variables():
    model = Net()
    model(X)
    model.hidden.trainable = False
    assert len(model.trainable_variables) == 4
    assert len(model.variables) == 6


@both
def test_a_subclass_may_build_its_own_weights(mode):
    class Scale(nn.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight("factor", (input_shape[-1],), "ones")

        def __call__(self, x, training=False):
            return x * self.factor

    scale = Scale()
    np.testing.assert_array_equal(mode(lambda x: scale(x))(X).numpy(), X)
    assert scale.factor.shape == (3,)


@both
def test_dropout_scales_what_it_keeps_and_is_off_by_default(mode):
    dm.random.set_seed(0)
    dropout = nn.Dropout(0.25)
    x = np.ones((100, 100), np.float32)
    y = mode(lambda x: dropout(x, training=True))(x).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(mode(lambda x: dropout(x))(x).numpy(), x)


def test_dropout_draws_the_same_in_both_modes():
    dropout = nn.Dropout(0.5)
    drawn = []
    for mode in (lambda f: f, dm.function):
        dm.random.set_seed(7)
        step = mode(lambda x: dropout(x, training=True))
        drawn.append([step(np.ones((4, 5), np.float32)).numpy() for _ in range(3)])
    np.testing.assert_array_equal(*drawn)
    assert (drawn[0][0] != drawn[0][1]).any()


def test_dropout_at_the_ends_of_its_range():
    np.testing.assert_array_equal(nn.Dropout(0.0)(X, training=True), X)
    np.testing.assert_array_equal(nn.Dropout(1.0)(dm.asarray(X), training=True), np.zeros((2, 3)))


@both
def test_sequential_passes_training_where_it_is_taken(mode):
    model = nn.Sequential(
        [nn.Flatten(), nn.Dense(4), nn.Activation("relu"), lambda x: x + 1, nn.Dropout(1.0)]
    )
    forward = mode(lambda x, training: model(x, training=training))
    x = np.ones((2, 3, 4), np.float32)
    assert forward(x, False).shape == (2, 4)
    np.testing.assert_array_equal(forward(x, True).numpy(), np.zeros((2, 4)))
    assert model.variables[0].shape == (12, 4)


@both
def test_float64_inputs_are_cast_to_the_layers_dtype(mode):
    dense = nn.Dense(2)
    assert mode(lambda x: dense(x))(X.astype(np.float64)).dtype is dm.float32
    wide = nn.Dense(2, dtype="float64")
    assert mode(lambda x: wide(x))(X).dtype is dm.float64


@both
def test_a_batch_of_no_rows(mode):
    model = Net()
    assert mode(lambda x: model(x))(np.zeros((0, 3), np.float32)).shape == (0, 2)


@both
def test_nan_flows_through(mode):
    model = nn.Sequential([nn.Dense(4, activation="relu"), nn.Dense(1)])
    x = X.copy()
    x[0, 0] = np.nan
    y = mode(lambda x: model(x))(x).numpy()
    assert np.isnan(y[0]).all() and not np.isnan(y[1]).any()


@both
def test_a_wrong_number_of_features_is_named(mode):
    dense = nn.Dense(2)
    forward = mode(lambda x: dense(x))
    forward(X)
    with pytest.raises(dm.errors.ShapeError, match=r"must be 3.*float32\[2,4\]"):
        forward(np.ones((2, 4), np.float32))


def test_bad_arguments():
    with pytest.raises(ValueError, match="units must be a positive integer, got 0"):
        nn.Dense(0)
    with pytest.raises(ValueError, match="activation 'rilu' is not one of linear, relu"):
        nn.Dense(3, activation="rilu")
    with pytest.raises(ValueError, match="initializer 'one' is not one of zeros, ones"):
        nn.Dense(3, kernel_initializer="one")
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\], got 1.5"):
        nn.Dropout(1.5)
    with pytest.raises(TypeError, match="expected a layer or a function, got int"):
        nn.Sequential([3])
    with pytest.raises(TypeError, match="Layer defines no __call__"):
        nn.Layer()(X)


def test_summary_lists_layers_shapes_and_parameters():
    model = Net()
    lines: list[str] = []
    model.summary(lines.append)
    assert "not called yet" in "\n".join(lines)
    model(X)
    lines.clear()
    model.summary(lines.append)
    text = "\n".join(lines)
    assert "hidden (Dense)" in text and "blocks/1/last (Dense)" in text
    assert "(None, 4)" in text
    assert "Total params: 46 (trainable 46, frozen 0)" in text


@pytest.mark.parametrize("name", sorted(nn.activations.NAMES))
@both
def test_activations_keep_shape_and_dtype(name, mode):
    y = mode(nn.activations.get(name))(dm.asarray(X - 3))
    assert (y.shape, y.dtype) == ((2, 3), dm.float32)
    assert np.isfinite(y.numpy()).all()


def test_initializers():
    dm.random.set_seed(0)
    draw = {name: nn.initializers.get(name)((200, 300)) for name in nn.initializers.NAMES}
    assert (draw["zeros"] == 0).all() and (draw["ones"] == 1).all()
    limit = np.sqrt(6 / 500)
    assert 0.98 * limit < np.abs(draw["glorot_uniform"]).max() <= limit
    assert np.isclose(draw["he_normal"].std(), np.sqrt(2 / 200), rtol=0.02)
    assert np.isclose(draw["glorot_normal"].std(), np.sqrt(2 / 500), rtol=0.02)
    dense = nn.Dense(2, kernel_initializer=lambda shape: np.full(shape, 2.0))
    dense(X)
    np.testing.assert_array_equal(dense.kernel.numpy(), np.full((3, 2), 2.0))
