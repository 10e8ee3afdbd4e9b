"""Indexing against NumPy, updates of selected elements, and indices out of range."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
T = dm.asarray(X)
ROWS, COLUMNS = np.array([1, 0, -1]), np.array([2, -1, 0])

BASIC = {
    "integer": 1,
    "negative integer": -1,
    "every axis": (1, -2, 3),
    "slice": slice(1, None),
    "empty slice": (slice(None), slice(2, 1)),
    "steps": (slice(None), slice(None, None, 2), slice(None, None, -2)),
    "backward": (slice(None), slice(None, None, -1)),
    "beyond the end": (slice(None), slice(-10, 10)),
    "new axes": (None, 0, None, slice(None)),
    "ellipsis": (..., 1),
    "ellipsis between": (0, ..., slice(1, 3)),
    "nothing": (),
    "NumPy integer": np.int64(1),
}
ADVANCED = {
    "array": ROWS % 2,
    "array behind": (slice(None), ROWS),
    "two arrays": (ROWS % 2, ROWS),
    "arrays that broadcast": (np.array([[0], [1]]), ROWS),
    "neighbours behind": (slice(None), ROWS, COLUMNS),
    "parted by a slice": (ROWS % 2, slice(None), COLUMNS),
    "parted from an integer": (0, slice(None), COLUMNS),
    "beside an integer": (slice(None), 0, COLUMNS),
    "with a new axis": (ROWS % 2, None, COLUMNS),
    "mask": X > 10,
    "mask of an axis": (slice(None), np.array([True, False, True])),
    "empty array": np.zeros((0,), np.int32),
}


@pytest.mark.parametrize("key", [*BASIC.values(), *ADVANCED.values()], ids=[*BASIC, *ADVANCED])
def test_getitem_is_that_of_numpy(key):
    np.testing.assert_array_equal(T[key], X[key])


@pytest.mark.parametrize("key", ADVANCED.values(), ids=ADVANCED)
def test_tensors_as_indices(key):
    keys = key if isinstance(key, tuple) else (key,)
    as_tensors = tuple(dm.asarray(k) if isinstance(k, np.ndarray) else k for k in keys)
    np.testing.assert_array_equal(T[as_tensors], X[key])


@pytest.mark.parametrize("key", [*BASIC.values(), *ADVANCED.values()], ids=[*BASIC, *ADVANCED])
def test_updates(key):
    v = np.arange(X[key].size, dtype=np.float32).reshape(X[key].shape)
    expected = X.copy()
    expected[key] = v
    np.testing.assert_array_equal(T.at[key].set(v), expected)
    expected = X.copy()
    np.add.at(expected, key, v)
    np.testing.assert_array_equal(T.at[key].add(v), expected)
    np.testing.assert_array_equal(T, X)


@pytest.mark.parametrize("key", [*BASIC.values(), *ADVANCED.values()], ids=[*BASIC, *ADVANCED])
def test_in_a_function(key):
    """Reading, updates and their gradients are those of eager mode."""

    def compute(x, v):
        with dm.GradientTape() as tape:
            tape.watch((x, v))
            read, put, added = x[key], x.at[key].set(v), x.at[key].add(2 * v)
            loss = dm.sum(read * read) + dm.sum(put * put) + dm.sum(added * added)
        return read, put, added, *tape.gradient(loss, (x, v))

    v = dm.asarray(np.arange(X[key].size, dtype=np.float32).reshape(X[key].shape))
    for eager, traced in zip(compute(T, v), dm.function(compute)(T, v), strict=True):
        np.testing.assert_array_equal(traced, eager)


def test_a_read_does_not_change_with_the_variable():
    v = dm.Variable(X)
    rows = v[0], v[1:], v[0, 0, 0], v[:]
    step = dm.function(lambda: v.assign_add(dm.ones_like(v)))
    step()
    v.assign(v.at[0].set(9.0))
    for row, key in zip(rows, (0, slice(1, None), (0, 0, 0), slice(None)), strict=True):
        assert type(row) is dm.Tensor
        np.testing.assert_array_equal(row, X[key])
        with pytest.raises(ValueError, match="read-only"):
            row.numpy()[...] = 0
    np.testing.assert_array_equal(v.numpy()[1], X[1] + 1)


@pytest.mark.parametrize("key", [*BASIC.values(), *ADVANCED.values()], ids=[*BASIC, *ADVANCED])
def test_gradient_goes_to_what_was_read(key):
    with dm.GradientTape() as tape:
        tape.watch(T)
        y = T[key]
        loss = dm.sum(y * y)
    expected = np.zeros_like(X)
    np.add.at(expected, key, 2 * X[key])
    np.testing.assert_array_equal(tape.gradient(loss, T), expected)


def test_gradient_of_set_with_equal_indices():
    v = dm.asarray([1.0, 2.0, 3.0])
    x = dm.asarray([10.0, 20.0])
    with dm.GradientTape(persistent=True) as tape:
        tape.watch(x)
        tape.watch(v)
        y = x.at[np.array([0, 0, 0])].set(v)
        loss = dm.sum(y * y)
    np.testing.assert_array_equal(y, [3.0, 20.0])
    np.testing.assert_array_equal(tape.gradient(loss, v), [0.0, 0.0, 6.0])
    np.testing.assert_array_equal(tape.gradient(loss, x), [0.0, 40.0])


def test_take_along_axis():
    order = np.argsort(-X, axis=1)
    np.testing.assert_array_equal(dm.take_along_axis(T, order, 1), np.take_along_axis(X, order, 1))


def test_one_hot():
    y = dm.one_hot([[0, 2], [3, -1]], 3)
    np.testing.assert_array_equal(y, [[[1, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]])
    assert y.dtype is dm.float32
    np.testing.assert_array_equal(dm.one_hot([0, 1], 3, dtype=dm.int32, axis=0), np.eye(3, 2))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: T[2], r"getitem: index 2 is out of range for axis 0 of float32\[2,3,4\]"),
        (lambda: T[0, 0, 0, 0], "getitem: 4 indices"),
        (lambda: T[..., ...], "more than one ellipsis"),
        (lambda: T[np.array([0, 2])], "getitem: index 2 is out of range for an axis of size 2"),
        (lambda: dm.take(T, [-4], 1), "take: index -4 is out of range"),
    ],
)
def test_out_of_range_is_an_index_error(read, message):
    with pytest.raises(IndexError, match=message):
        read()


def test_what_is_no_index():
    with pytest.raises(TypeError, match="indices are integers"):
        T[dm.asarray([0.5])]
    with pytest.raises(ValueError, match="mask"):
        T[np.array([True, False, True])]


def test_indices_out_of_range_in_a_function():
    @dm.function
    def pick(x, i):
        return dm.take(x, i, axis=0)

    i = np.array([1, -1], np.int32)
    np.testing.assert_array_equal(pick(T, dm.asarray(i)), X[i])
    with pytest.raises(IndexError, match="take: index 2 is out of range"):
        pick(T, dm.asarray(np.array([1, 2], np.int32)))


def test_a_mask_needs_its_value():
    @dm.function
    def select(x):
        return x[x > 1]

    with pytest.raises(dm.errors.TracedValueError):
        select(T)
