"""Eager ops that only move elements, by native code: the same as NumPy's kernels, for any dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dualmode as dm
from dualmode import config, native
from dualmode.ops.cumulative import CUMULATIVE_SUM
from dualmode.ops.gather import SCATTER_ADD, SCATTER_SET, TAKE
from dualmode.ops.joining import CONCAT
from dualmode.ops.shape import PERMUTE_DIMS
from dualmode.variable import LAYOUT
from dualmode_compiler.runtime import pool
from dualmode_compiler.runtime.layout import MISS, supported

pytestmark = pytest.mark.skipif(not supported(LAYOUT), reason="no native code on this interpreter")

RANDOM = np.random.default_rng(0)
DTYPES = ["float32", "float64", "float16", "int8", "int32", "int64", "bool", "complex64"]


def _values(shape, dtype):
    return np.asarray(RANDOM.normal(size=shape) * 4).astype(dtype)


def _native(op, *args):
    """What native code makes; the first call of an op makes that code."""
    tensors = [dm.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
    return native.attempt(op, tuple(tensors[:-1]), {"axis": tensors[-1]})


def _same(a, b):
    a = np.asarray(a)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(a, b)


@st.composite
def _moves(draw):
    """An array, an axis of it, and indices of that."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 7, 16, 65]), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    x = _values(shape, draw(st.sampled_from(DTYPES)))
    many = draw(st.lists(st.sampled_from([1, 2, 5, 30]), max_size=2))
    n = shape[axis]
    kind = draw(st.sampled_from(["int32", "int64"]))
    return x, axis, RANDOM.integers(-n, n, many).astype(kind)


@given(_moves())
def test_take(case):
    x, axis, indices = case
    _same(_native(TAKE, x, indices, axis), TAKE.kernel(x, indices, axis))


@given(_moves())
def test_scatter(case):
    x, axis, indices = case
    updates = _values(TAKE.kernel(x, indices, axis).shape, x.dtype)
    wanted = SCATTER_SET.kernel(x, indices, updates, axis)
    _same(_native(SCATTER_SET, x, indices, updates, axis), wanted)
    wanted = SCATTER_ADD.kernel(x, indices, updates, axis)
    out = _native(SCATTER_ADD, x, indices, updates, axis)
    if x.dtype.kind == "c":  # complex numbers have no elementwise kernel
        assert out is MISS
    else:
        _same(out, wanted)


@given(_moves(), st.lists(st.integers(0, 5), min_size=0, max_size=4))
def test_join(case, sizes):
    x, axis, _ = case
    shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in sizes]
    xs = [x, *[_values(shape, x.dtype) for shape in shapes]]
    for k in (axis, axis - x.ndim):
        _same(_native(CONCAT, *xs, k), np.concatenate(xs, axis))


@given(_moves(), st.booleans())
def test_scan(case, reverse):
    x, axis, _ = case
    out = native.attempt(CUMULATIVE_SUM, (dm.asarray(x),), {"axis": axis, "reverse": reverse})
    if x.dtype.kind in "bc" or x.dtype.itemsize == 2:  # sums of half types are wider ones
        assert out is MISS
        return
    wanted = CUMULATIVE_SUM.kernel(x, axis, reverse)
    assert out.numpy().dtype == x.dtype
    if x.dtype.kind == "f":
        np.testing.assert_allclose(out, wanted, 1e-4, 1e-4)
    else:
        _same(out, wanted)


@pytest.mark.parametrize("shape", [(1,), (15,), (16,), (33,), (100_001,), (300, 700), (3, 1, 900)])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_by_several_threads(shape, reverse):
    x = dm.asarray(_values(shape, "float32"))
    for axis in range(len(shape)):
        wanted = np.asarray(CUMULATIVE_SUM.kernel(x.numpy().astype("float64"), axis, reverse))
        found = []
        for threads in (1, 2, 5):
            pool.set_threads(threads)
            try:
                found.append(CUMULATIVE_SUM(x, axis=axis, reverse=reverse).numpy())
            finally:
                pool.set_threads(pool.cores())
        np.testing.assert_allclose(found[0], wanted, 1e-3, 1e-2)
        _same(found[1], found[0])
        _same(found[2], found[0])


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_special_values_spread_as_in_numpy(special, axis):
    x = np.ones((40, 41), np.float32)
    x[3, 30], x[20, 5] = special, -special
    _same(dm.cumulative_sum(dm.asarray(x), axis=axis), np.cumsum(x, axis))


@pytest.mark.parametrize("axis", [0, 1])
def test_large_arrays_by_several_threads(axis):
    """Columns and slices are shared out; equal indices add up in the order that is written."""
    x, n = _values((500, 1300), "float32"), (500, 1300)[axis]
    indices = RANDOM.integers(-n, n, 900)
    updates = _values(TAKE.kernel(x, indices, axis).shape, "float32")
    for threads in (1, 2, 5):
        pool.set_threads(threads)
        try:
            _same(_native(TAKE, x, indices, axis), TAKE.kernel(x, indices, axis))
            wanted = SCATTER_ADD.kernel(x, indices, updates, axis)
            _same(_native(SCATTER_ADD, x, indices, updates, axis), wanted)
            _same(_native(CONCAT, x, updates, x, axis), np.concatenate([x, updates, x], axis))
        finally:
            pool.set_threads(pool.cores())


def test_many_rows_of_one_element_by_several_threads():
    x, indices = _values(70_000, "float32"), RANDOM.integers(-70_000, 70_000, 300_000)
    _same(_native(TAKE, x, indices, 0), TAKE.kernel(x, indices, 0))
    x, at = _values((3, 70_000), "float64"), indices[:100_000]
    _same(_native(TAKE, x, at, 1), TAKE.kernel(x, at, 1))


def test_what_does_not_fit_is_left_to_python():
    x, at = dm.asarray(_values((5, 6), "float32")), dm.asarray([1, 2])
    assert TAKE.native(x, at, 0) is not MISS or native.attempt(TAKE, (x, at), {"axis": 0})
    assert TAKE.native(x, at, -1) is not MISS
    for bad in ([5], [-6], [0, 9], [0.5], [True]):
        assert TAKE.native(x, dm.asarray(bad), 0) is MISS
    assert TAKE.native(x, dm.asarray(np.asarray([1], np.int8)), 0) is MISS
    assert TAKE.native(x, dm.zeros(0, "int32"), 0) is MISS
    assert TAKE.native(x[:0], at, 1) is MISS
    for axis in (2, -3, None, True, 1.0, 1 << 70):
        assert TAKE.native(x, at, axis) is MISS
    for others in ((x.numpy(), at), (x, [1, 2]), (dm.Variable(x), at), (x.T, at), (x,)):
        assert TAKE.native(*others, 0) is MISS
    for updates in (dm.ones((2, 5)), dm.ones((6,)), dm.ones((2, 6), "float64"), 1.0):
        assert native.attempt(SCATTER_SET, (x, at, dm.ones((2, 6))), {"axis": 0}) is not MISS
        assert SCATTER_SET.native(x, at, updates, 0) is MISS
    assert native.attempt(CONCAT, (x, x), {"axis": 0}) is not MISS
    for other in (dm.ones((5, 5)), dm.ones(6), dm.ones((5, 6), "float64"), dm.ones((1, 5, 6))):
        assert CONCAT.native(x, other, 0) is MISS
    assert CONCAT.native(*[x] * 17, 0) is MISS


def test_operands_of_any_layout():
    x = dm.asarray(_values((6, 8), "float32"))
    at = dm.asarray([3, 1, 1])
    _same(dm.take(x.T, at, axis=0), x.numpy().T[[3, 1, 1]])
    _same(dm.take(x[::2], at[:2] - 1, axis=0), x.numpy()[::2][[2, 0]])
    _same(dm.concat([x.T, x.T], axis=1), np.concatenate([x.numpy().T] * 2, 1))
    wanted = x.numpy().T.copy()
    np.add.at(wanted, [3, 1, 1], 1)
    _same(x.T.at[at].add(dm.ones((3, 6))), wanted)


def test_public_functions():
    x = dm.asarray(_values((4, 3), "float32"))
    at = dm.asarray([[0, -1], [2, 2]])
    _same(x[at], x.numpy()[at.numpy()])
    _same(x[dm.asarray(-1)], x.numpy()[-1])
    _same(dm.take(x, at, axis=-1), np.take(x.numpy(), at.numpy(), -1))
    wanted = x.numpy().copy()
    wanted[[1, 1]] = [[1] * 3, [2] * 3]
    _same(x.at[dm.asarray([1, 1])].set(dm.asarray([[1.0] * 3, [2.0] * 3])), wanted)
    np.testing.assert_allclose(dm.cumulative_sum(x, axis=1), np.cumsum(x.numpy(), 1), 1e-5, 1e-5)
    assert dm.cumulative_sum(dm.asarray([1, 2])).dtype == "int64"
    with pytest.raises(IndexError, match="index 4 is out of range for an axis of size 4"):
        dm.take(x, dm.asarray([0, 4]), axis=0)
    with pytest.raises(IndexError, match="out of range"):
        x.at[dm.asarray([-5])].add(dm.ones((1, 3)))


def test_tapes_hear_of_moves():
    x = dm.asarray(_values((4, 3), "float32"))
    u = dm.ones((3, 3))
    at = dm.asarray([0, 2, 2])
    with dm.GradientTape() as tape:
        tape.watch([x, u])
        y = dm.concat([dm.take(x, at, axis=-2), x.at[at].add(u), x[at]], axis=-2)
        y = dm.sum(y * dm.asarray(np.arange(30, dtype=np.float32).reshape(10, 3)))
    by_x, by_u = tape.gradient(y, [x, u])
    with dm.GradientTape() as tape:
        tape.watch(x)
        z = dm.sum(dm.cumulative_sum(x, axis=-2))
    _same(tape.gradient(z, x), np.repeat(np.asarray([[4], [3], [2], [1]], np.float32), 3, 1))
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    wanted = rows[3:7].copy()
    np.add.at(wanted, [0, 2, 2], rows[:3] + rows[7:])
    _same(by_x, wanted)
    _same(by_u, rows[3:7][[0, 2, 2]])


@pytest.mark.parametrize("axes", [(1, 0, 2), [-1, 0, 1], (2, 1, 0)])
def test_permutations_are_views(axes):
    x = dm.asarray(_values((2, 3, 4), "float32"))
    y = dm.permute_dims(x, axes)
    _same(y, x.numpy().transpose(axes))
    assert np.shares_memory(y.numpy(), x.numpy())
    assert PERMUTE_DIMS.native(x, axes) is not MISS


@pytest.mark.parametrize("axes", [(0, 0, 1), (0, 1), (0, 1, 3), (0.0, 1, 2)])
def test_what_is_no_permutation_is_explained(axes):
    with pytest.raises((dm.errors.ShapeError, TypeError)):
        dm.permute_dims(dm.zeros((2, 3, 4)), axes)


def test_moves_of_nothing():
    x = dm.zeros((0, 3))
    assert dm.concat([x, x], axis=0).shape == (0, 3)
    assert dm.take(x, dm.zeros((2,), "int32"), axis=1).shape == (0, 2)
    assert math.prod(dm.take(dm.ones((2, 3)), dm.zeros((0,), "int32"), axis=0).shape) == 0


def test_one_index_of_an_array_of_any_strides():
    """What is not contiguous is copied; an index without axes stays one."""
    x, index = dm.asarray(_values((4, 5), "float32")).T, dm.asarray(3)
    wanted, row = x.numpy()[3], x[0]
    _same(dm.take(x, index, axis=0), wanted)
    wanted = SCATTER_SET.kernel(x.numpy(), np.asarray(3), row.numpy(), 0)
    _same(SCATTER_SET(x, index, row, axis=0), wanted)


@pytest.mark.parametrize("kind", ["int32", "int8"])
@pytest.mark.parametrize("kernels", ["native", "numpy"])
def test_of_equal_indices_the_last_one_stays_whatever_the_layout(kind, kernels):
    x, updates = dm.zeros(3), np.arange(12, dtype=np.float32).reshape(3, 4)
    indices = dm.asarray((np.arange(12).reshape(3, 4) % 3).T.astype(kind)).T
    with config.override(kernels=kernels):
        for laid_out in (dm.asarray(updates), dm.asarray(updates.T).T):
            out = SCATTER_SET(x, indices, laid_out, axis=0)
            _same(out, np.asarray([9, 10, 11], np.float32))
