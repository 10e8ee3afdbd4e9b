"""Checkpoints: what is saved comes back, and nothing is lost by what goes wrong."""

from __future__ import annotations

import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dualmode as dm
from dualmode import nn, optim, train
from dualmode.train import Checkpoint, CheckpointError, CheckpointManager

both = pytest.mark.parametrize("mode", [lambda f: f, dm.function], ids=["eager", "compiled"])
X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
Y = X.sum(-1, keepdims=True)


class Net(nn.Model):
    def __init__(self, hidden=4):
        self.layers_by_name = {"hidden": nn.Dense(hidden, activation="tanh")}
        self.out = nn.Dense(1)

    def __call__(self, x, training=False):
        return self.out(self.layers_by_name["hidden"](x))


def training(mode, hidden=4):
    """A model, its optimizer and its train step."""
    model, optimizer = Net(hidden), optim.Adam(0.1)
    loss_function = dm.losses.MeanSquaredError()

    def step():
        with dm.GradientTape() as tape:
            loss = loss_function(Y, model(X))
        grads = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(grads, model.trainable_variables, strict=True))
        return loss

    return model, optimizer, mode(step)


@both
def test_training_goes_on_as_if_never_stopped(mode, tmp_path):
    model, optimizer, step = training(mode)
    for _ in range(3):
        step()
    path = Checkpoint(model=model, optimizer=optimizer).save(tmp_path / "run" / "ckpt")
    expected = [float(step()) for _ in range(3)]

    model, optimizer, step = training(mode)
    status = Checkpoint(model=model, optimizer=optimizer).restore(path)
    with pytest.raises(CheckpointError, match="no variable took: model/"):
        status.assert_consumed()  # nothing has been called yet
    assert [float(step()) for _ in range(3)] == expected
    status.assert_consumed()

    model, optimizer, step = training(mode)
    step()  # now all variables exist before the restore
    Checkpoint(model=model, optimizer=optimizer).restore(path).assert_consumed()
    assert [float(step()) for _ in range(3)] == expected


def test_keys_are_paths_and_files_are_plain_safetensors(tmp_path):
    model, optimizer, step = training(lambda f: f)
    step()
    path = Checkpoint(model=model, optimizer=optimizer).write(tmp_path / "w.safetensors")
    arrays = load_file(path)
    assert sorted(arrays)[:4] == [
        "model/layers_by_name/hidden/bias",
        "model/layers_by_name/hidden/kernel",
        "model/out/bias",
        "model/out/kernel",
    ]
    assert {"optimizer/iterations", "optimizer/learning_rate", "optimizer/slots/0/m"} < set(arrays)
    np.testing.assert_array_equal(arrays["model/out/kernel"], model.out.kernel.numpy())


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint64", "float16", "bfloat16", "float32", "float64", "complex64"]
)
def test_every_dtype_and_empty_and_scalar_shapes_come_back(dtype, tmp_path):
    values = [np.ones((2, 3)), np.ones(()), np.ones((0, 3))]
    saved = [dm.Variable(v, dtype=dtype) for v in values]
    path = Checkpoint(all=saved).save(tmp_path / "v")
    restored = [dm.Variable(np.zeros_like(v), dtype=dtype) for v in values]
    Checkpoint(all=restored).restore(path).assert_consumed()
    for a, b in zip(saved, restored, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_numbering_and_latest_checkpoint(tmp_path):
    assert train.latest_checkpoint(tmp_path) is None
    assert train.latest_checkpoint(tmp_path / "nowhere") is None
    checkpoint = Checkpoint(step=dm.Variable(0))
    paths = [checkpoint.save(tmp_path / "ckpt") for _ in range(11)]
    assert os.path.basename(paths[-1]) == "ckpt-11.safetensors"
    assert train.latest_checkpoint(tmp_path) == paths[-1]
    again = Checkpoint(step=dm.Variable(0)).save(tmp_path / "ckpt")  # as a new process would
    assert os.path.basename(again) == "ckpt-12.safetensors"


def test_save_into_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Checkpoint(v=dm.Variable(1.0)).save("v") == "v-1.safetensors"
    assert train.latest_checkpoint(".") == os.path.join(".", "v-1.safetensors")


def test_a_manager_keeps_the_newest(tmp_path):
    v = dm.Variable(0)
    manager = CheckpointManager(Checkpoint(v=v), tmp_path, max_to_keep=2)
    assert manager.latest_checkpoint is None and manager.restore_or_initialize() is None
    for i in range(12):
        v.assign(i)
        manager.save()
    assert [os.path.basename(p) for p in manager.checkpoints] == [
        "ckpt-11.safetensors",
        "ckpt-12.safetensors",
    ]
    assert sorted(os.listdir(tmp_path)) == sorted(map(os.path.basename, manager.checkpoints))
    v.assign(-1)
    assert manager.restore_or_initialize() == manager.latest_checkpoint
    assert int(v) == 11
    with pytest.raises(ValueError, match="max_to_keep must be 1 or more"):
        CheckpointManager(Checkpoint(v=v), tmp_path, max_to_keep=0)


def damaged(path, how):
    data = path.read_bytes()
    changed = {
        "truncated": data[:-5],
        "cut in the header": data[:20],
        "empty": b"",
        "not safetensors": b"\x93NUMPY" + bytes(100),
        "a bit flipped": data[:-1] + bytes([data[-1] ^ 1]),
    }[how]
    path.write_bytes(changed)


@pytest.mark.parametrize(
    "how", ["truncated", "cut in the header", "empty", "not safetensors", "a bit flipped"]
)
def test_a_damaged_file_changes_nothing(how, tmp_path):
    a, b = dm.Variable([1.0, 2.0]), dm.Variable(3)
    checkpoint = Checkpoint(a=a, b=b)
    path = tmp_path / "v.safetensors"
    checkpoint.write(path)
    damaged(path, how)
    a.assign([5.0, 6.0])
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.restore(path)
    assert a.numpy().tolist() == [5, 6] and int(b) == 3


def test_a_missing_file_names_the_newest_one(tmp_path):
    checkpoint = Checkpoint(v=dm.Variable(1))
    with pytest.raises(CheckpointError, match=r"v-1.safetensors does not exist\n"):
        checkpoint.restore(tmp_path / "v-1.safetensors")
    checkpoint.save(tmp_path / "v")
    with pytest.raises(CheckpointError, match=r"v-7.* does not exist; the newest .*v-1\.safe"):
        checkpoint.restore(tmp_path / "v-7.safetensors")
    with pytest.raises(CheckpointError, match=r"is a directory; use dm\.train.latest_checkpoint"):
        checkpoint.restore(tmp_path)


def test_other_shapes_and_dtypes_change_nothing(tmp_path):
    path = Checkpoint(a=dm.Variable(1.0), b=dm.Variable([1.0, 2.0])).save(tmp_path / "v")
    a = dm.Variable(7.0)
    wrong_shape = Checkpoint(a=a, b=dm.Variable([1.0, 2.0, 3.0]))
    with pytest.raises(CheckpointError, match=r"b is float32\[3\], the file has float32\[2\]"):
        wrong_shape.restore(path)
    wrong_dtype = Checkpoint(a=a, b=dm.Variable([1, 2]))
    with pytest.raises(CheckpointError, match=r"b is int32\[2\], the file has float32\[2\]"):
        wrong_dtype.restore(path)
    assert float(a) == 7


@both
def test_a_later_variable_of_another_shape_is_an_error_when_it_is_created(mode, tmp_path):
    model, _, step = training(lambda f: f)
    step()
    path = Checkpoint(model=model).save(tmp_path / "m")
    other, _, other_step = training(mode, hidden=5)
    Checkpoint(model=other).restore(path)
    with pytest.raises(
        CheckpointError,
        match=r"model/layers_by_name/hidden/kernel is float32\[3,5\], the file has float32\[3,4\]",
    ):
        other_step()


def test_missing_values_are_an_error_unless_partial(tmp_path):
    path = Checkpoint(a=dm.Variable(1.0)).save(tmp_path / "v")
    a, b = dm.Variable(5.0), dm.Variable(6.0)
    with pytest.raises(CheckpointError, match=r"no value for b; it has a\. Give partial=True"):
        Checkpoint(a=a, b=b).restore(path)
    assert float(a) == 5
    Checkpoint(a=a, b=b).restore(path, partial=True).assert_consumed()
    assert (float(a), float(b)) == (1, 6)


def test_values_without_a_variable_are_seen_by_assert_consumed(tmp_path):
    path = Checkpoint(a=dm.Variable(1.0), b=dm.Variable(2.0)).save(tmp_path / "v")
    status = Checkpoint(a=dm.Variable(0.0)).restore(path)
    with pytest.raises(CheckpointError, match="no variable took: b"):
        status.assert_consumed()


def test_restoring_none_does_nothing():
    a = dm.Variable(1.0)
    Checkpoint(a=a).restore(train.latest_checkpoint("nowhere")).assert_consumed()
    assert float(a) == 1


def test_a_second_restore_replaces_what_still_waits(tmp_path):
    first, second = nn.Dense(2, kernel_initializer="ones"), nn.Dense(2, kernel_initializer="zeros")
    paths = []
    for dense in (first, second):
        dense(X)
        paths.append(Checkpoint(dense=dense).save(tmp_path / "d"))
    dense = nn.Dense(2)
    checkpoint = Checkpoint(dense=dense)
    for path in paths:
        checkpoint.restore(path)
    dense(X)
    np.testing.assert_array_equal(dense.kernel.numpy(), second.kernel.numpy())


def test_a_layer_added_to_a_list_after_the_restore_gets_its_values(tmp_path):
    def model(*layers):
        return nn.Sequential(layers)

    saved = model(nn.Dense(3), nn.Dense(2))
    saved(X)
    path = Checkpoint(m=saved).save(tmp_path / "m")
    grown = model(nn.Dense(3))
    status = Checkpoint(m=grown).restore(path)
    grown.add(nn.Dense(2))
    np.testing.assert_array_equal(grown(X).numpy(), saved(X).numpy())
    status.assert_consumed()


def test_a_failed_write_keeps_the_file_before_and_leaves_no_other(tmp_path, monkeypatch):
    v = dm.Variable(1.0)
    path = tmp_path / "v.safetensors"
    Checkpoint(v=v).write(path)
    v.assign(2.0)

    def fail(*_):
        raise OSError("no space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="no space"):
                Checkpoint(v=v).write(path)
    assert os.listdir(tmp_path) == ["v.safetensors"]
    Checkpoint(v=v).restore(path)
    assert float(v) == 1


def test_metrics_generators_and_shared_variables(tmp_path):
    mean, generator = dm.metrics.Mean(), dm.random.Generator(1)
    mean.update_state([1.0, 2.0])
    shared = dm.Variable(3.0)
    path = Checkpoint(mean=mean, state=generator.state, a=[shared], b=shared).save(tmp_path / "x")
    assert sorted(load_file(path)) == ["a/0", "mean/count", "mean/total", "state"]
    expected = generator.uniform((3,)).numpy()
    restored, other = dm.metrics.Mean(), dm.random.Generator(2)
    Checkpoint(mean=restored, state=other.state).restore(path)
    assert float(restored.result()) == 1.5
    np.testing.assert_array_equal(other.uniform((3,)).numpy(), expected)


def test_files_of_other_programs_can_be_restored(tmp_path):
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    w = dm.Variable(np.zeros(3, np.float32))
    Checkpoint(w=w).restore(tmp_path / "w.safetensors").assert_consumed()
    assert w.numpy().tolist() == [1, 1, 1]


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match="Checkpoint: lr is a float; expected a Variable"):
        Checkpoint(lr=0.1)
    with pytest.raises(ValueError, match="has no file name"):
        Checkpoint(v=dm.Variable(1)).save(f"{tmp_path}/")
    with pytest.raises(CheckpointError, match="v is complex128, which safetensors"):
        Checkpoint(v=dm.Variable(1j, dtype="complex128")).save(tmp_path / "v")

    class Twice(nn.Layer):
        def __init__(self):
            self.w, self._w = dm.Variable(1), dm.Variable(2)

    with pytest.raises(ValueError, match="two variables have the path 'layer/w'"):
        Checkpoint(layer=Twice()).save(tmp_path / "t")
