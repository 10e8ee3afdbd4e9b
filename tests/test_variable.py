"""Variable: creation, use as a tensor, assignment."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm


def test_creation_copies_and_fixes_the_type():
    a = np.ones((2, 3))
    v = dm.Variable(a, name="w")
    a[:] = 5
    assert v.numpy().max() == 1
    assert (v.shape, v.dtype, v.ndim, v.name, v.trainable) == ((2, 3), dm.float64, 2, "w", True)
    assert dm.Variable([1, 2], dtype="float32").dtype is dm.float32
    assert dm.Variable(lambda: dm.zeros((2,))).shape == (2,)


def test_the_memory_of_a_tensor_is_shared_until_one_has_a_new_value():
    t = dm.asarray([1.0, 2.0, 3.0])
    v, w = dm.Variable(t), dm.Variable(t)
    assert np.shares_memory(np.asarray(t), v.numpy())

    @dm.function
    def step():
        v.assign_add(dm.ones(3))

    for _ in range(2):
        step()
    assert (v.numpy().tolist(), w.numpy().tolist()) == ([3, 4, 5], [1, 2, 3])
    assert t.numpy().tolist() == [1, 2, 3]
    del t, w  # v's own memory now: the next step is in place
    before = v.numpy().ctypes.data
    step()
    assert v.numpy().ctypes.data == before and v.numpy().tolist() == [4, 5, 6]


@pytest.mark.parametrize("view", [lambda t: t[1:], lambda t: dm.transpose(t), lambda t: t[0]])
def test_a_view_becomes_memory_of_its_own(view):
    t = dm.asarray(np.arange(12.0).reshape(4, 3))
    x = view(t)
    value = dm.Variable(x)._tensor._value
    assert value.flags.owndata and value.flags.c_contiguous and value.tolist() == x.numpy().tolist()


def test_used_like_a_tensor():
    v = dm.Variable([1.0, 2.0])
    t = dm.asarray([3.0, 4.0])
    for got in (v + t, t + v, v + np.array([3, 4], np.float32), np.array([3, 4], np.float32) + v):
        assert type(got) is dm.Tensor
        assert got.tolist() == [4, 6]
    assert (2 * v).tolist() == [2, 4]
    assert v[1].item() == 2
    assert dm.sum(v).item() == 3
    assert np.sum(v) == 3
    assert [x.item() for x in v] == [1, 2]
    assert dm.asarray(v).dtype is dm.float32


def test_assign_leaves_earlier_reads_alone():
    v = dm.Variable([1.0, 2.0])
    tensor, array = v.read_value(), v.numpy()
    assert v.assign_add([1.0, 1.0]) is v
    v.assign_sub(dm.asarray([0.0, 5.0]))
    assert v.numpy().tolist() == [2, -2]
    v.assign([7, 8])
    assert v.numpy().tolist() == [7, 8]
    assert tensor.tolist() == array.tolist() == [1, 2]


def test_assigned_values_must_fit():
    v = dm.Variable([1.0, 2.0], name="w")
    with pytest.raises(dm.errors.ShapeError, match=r"assign: w is float32\[2\] .*float32\[3\]"):
        v.assign([1.0, 2.0, 3.0])
    with pytest.raises(dm.errors.ShapeError, match="assign_add"):
        v.assign_add(dm.zeros((2, 2)))
    with pytest.raises(dm.errors.ShapeError, match="assign: "):
        v.assign(0.0)
    with pytest.raises(dm.errors.DTypeError, match=r"float32\[2\].*astype\('int32'\)"):
        dm.Variable([1, 2]).assign([1.5, 2.5])
    assert v.numpy().tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8", "bool"])
def test_values_of_no_wider_kind_are_converted_in_both_modes(dtype):
    v = dm.Variable([0.0, 0.0])
    assign = dm.function(v.assign)
    for value in (np.ones(2, dtype), dm.ones(2, dtype)):
        for write in (v.assign, assign):
            v.assign([5.0, 5.0])
            write(value)
            assert v.numpy().tolist() == [1, 1]
    assert v.dtype is dm.float32


def test_numbers_are_added_to_all_elements():
    v = dm.Variable([1.0, 2.0])
    v.assign_add(1)
    dm.function(lambda x: v.assign_sub(x))(3.0)
    assert v.numpy().tolist() == [-1, 0]


@pytest.mark.parametrize("operator", ["+=", "-=", "*=", "/="])
def test_augmented_assignment_would_lose_the_variable(operator):
    v = dm.Variable([1.0], name="w")
    with pytest.raises(dm.errors.VariableError, match="does not change w; use v.assign"):
        exec(f"v {operator} 2.0", {"v": v})
    assert v.numpy().tolist() == [1]


def test_repr():
    assert repr(dm.Variable([1.0], name="w")) == "<Variable w float32[1] trainable, [1.]>"
    v = dm.Variable(1, trainable=False)
    assert repr(v) == "<Variable variable int32[] not trainable, 1>"


def test_identity_hash():
    a, b = dm.Variable(1.0), dm.Variable(1.0)
    assert len({a, b}) == 2
    assert (a == b).item() is True
