"""Tensor: operators, NumPy on either side, conversion, printing, and traced ones."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest

import dualmode as dm
from dualmode import op
from dualmode.tracer import Tracer
from dualmode_compiler.spec import Spec

X = np.array([[1.0, -2.0, 3.5], [0.5, 2.0, -1.0]], np.float32)
BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
]


@pytest.fixture
def traced():
    """A traced float32[2,3] inside a trace."""
    tracer = Tracer()
    with op.mode(tracer):
        yield tracer.param(Spec((2, 3), dm.float32))


@pytest.mark.parametrize("fn", BINARY, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "other", [2.0, 2, X[1], np.float32(2)], ids=["float", "int", "array", "np"]
)
def test_operators_take_numpy_and_numbers_on_both_sides(fn, other):
    t = dm.asarray(X)
    for got, want in ((fn(t, other), fn(X, other)), (fn(other, t), fn(other, X))):
        assert type(got) is dm.Tensor
        np.testing.assert_array_equal(got.numpy(), want)
        assert got.numpy().dtype == want.dtype


def test_remaining_operators():
    t = dm.asarray(X)
    np.testing.assert_array_equal((t // 2).numpy(), X // 2)
    np.testing.assert_array_equal((t % 2).numpy(), X % 2)
    np.testing.assert_array_equal((t**2).numpy(), X**2)
    np.testing.assert_allclose((2.0**t).numpy(), 2.0**X, rtol=1e-6)
    np.testing.assert_allclose((t @ t.T).numpy(), X @ X.T, rtol=1e-6)
    np.testing.assert_allclose((X @ t.mT).numpy(), X @ X.T, rtol=1e-6)
    np.testing.assert_array_equal((-t).numpy(), -X)
    np.testing.assert_array_equal(abs(t).numpy(), abs(X))
    assert +t is t


def test_bitwise_operators():
    b, i = dm.asarray([True, False]), dm.asarray([6, 3])
    np.testing.assert_array_equal((b & True).numpy(), [True, False])
    np.testing.assert_array_equal((~b | b).numpy(), [True, True])
    np.testing.assert_array_equal((b ^ b).numpy(), [False, False])
    np.testing.assert_array_equal((i & 2).numpy(), [2, 2])
    np.testing.assert_array_equal((1 | i).numpy(), [7, 3])
    np.testing.assert_array_equal((~i).numpy(), [-7, -4])
    np.testing.assert_array_equal((i << 1).numpy(), [12, 6])
    np.testing.assert_array_equal((i >> 1).numpy(), [3, 1])


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1, "int32"),
        (True, "bool"),
        (1.5, "float32"),
        (2j, "complex64"),
        ([1, 2], "int32"),
        ([[1.0], [2]], "float32"),
        (np.float64(1), "float64"),
        ([np.float64(1)], "float64"),
        (np.arange(3), "int64"),
        (np.arange(3, dtype=">i2"), "int16"),
        ([], "float32"),
        (range(3), "int32"),
    ],
)
def test_dtype_of_converted_values(value, dtype):
    assert str(dm.asarray(value).dtype) == dtype


@pytest.mark.parametrize("mode", [lambda f: f, dm.function], ids=["eager", "compiled"])
def test_float64_scalars_of_numpy_count_as_python_floats(mode):
    @mode
    def scale(x, factor):
        return x * factor, factor - x, x / np.sqrt(2), x * np.ones(())

    for factor in (2.0, np.float64(2.0)):
        y, z, root, array = scale(dm.asarray([1.0, 2.0]), factor)
        assert (y.tolist(), z.tolist()) == ([2, 4], [1, 0])
        assert y.dtype is z.dtype is root.dtype is dm.float32
        assert array.dtype is dm.float64
    assert getattr(scale, "trace_count", 1) == 1


def test_dtypes_are_dtypes_to_numpy():
    d = dm.zeros(2).dtype
    assert np.zeros(2, d).dtype == np.dtype(d) == np.float32
    assert np.issubdtype(d, np.floating)
    for same in (dm.float32, "float32", np.float32, np.dtype("float32")):
        assert d == same
        assert hash(d) == hash(dm.float32)
    for other in (dm.float64, "float64", np.int32, "no dtype", None, 3):
        assert d != other


def test_no_dtype_is_the_default_dtype():
    """As in the array API, where None is the default of the parameter."""
    for made in (dm.zeros(2, dtype=None), dm.ones(2, None), dm.eye(2, dtype=None)):
        assert made.dtype is dm.float32
    assert dm.full(2, 1, dtype=None).dtype is dm.int32


def test_transpose_takes_an_order():
    t = dm.ones((2, 3, 4))
    assert (t.T.shape, dm.transpose(t, (2, 0, 1)).shape) == ((4, 3, 2), (4, 2, 3))


def test_conversion_copies():
    a = X.copy()
    t = dm.asarray(a)
    a[0] = 99
    np.testing.assert_array_equal(t.numpy(), X)


def test_nested_tensors_stack():
    t = dm.asarray([dm.asarray(1.0), [2.0][0], dm.asarray(3.0)])
    np.testing.assert_array_equal(t.numpy(), np.array([1, 2, 3], np.float32))


@pytest.mark.parametrize("value", ["text", object(), [[1], [2, 3]], {1: 2}, [None]])
def test_what_is_no_tensor_is_refused(value):
    with pytest.raises((dm.errors.DTypeError, dm.errors.ShapeError), match="asarray"):
        dm.asarray(value)


@pytest.mark.parametrize("value", [3_000_000_000, [1, 3_000_000_000]])
def test_numbers_do_not_wrap_around(value):
    with pytest.raises(dm.errors.DTypeError, match="wider dtype"):
        dm.asarray(value)
    assert str(dm.asarray(value, dtype=dm.int64).dtype) == "int64"


def test_numpy_results_cannot_change_a_tensor():
    t = dm.asarray(X)
    for view in (t.numpy(), np.asarray(t)):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 0
    mine = np.array(t)
    mine[0] = 0
    np.testing.assert_array_equal(t.numpy(), X)
    assert np.asarray(t, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="copy"):
        np.asarray(t, np.float64, copy=False)
    np.testing.assert_array_equal(np.from_dlpack(t), X)


def test_python_values():
    assert float(dm.asarray(2.5)) == 2.5
    assert int(dm.asarray([3])) == 3
    assert bool(dm.asarray(0)) is False
    assert [10, 20, 30][dm.asarray(1)] == 20
    assert dm.asarray(2.5).item() == 2.5
    assert dm.asarray([[1, 2]]).tolist() == [[1, 2]]
    assert len(dm.asarray(X)) == 2
    assert [row.shape for row in dm.asarray(X)] == [(3,), (3,)]
    with pytest.raises(ValueError, match="ambiguous"):
        bool(dm.asarray([1, 2]))
    with pytest.raises(TypeError, match="is an integer, not float32"):
        operator.index(dm.asarray(1.0))
    with pytest.raises(TypeError, match="without axes"):
        len(dm.asarray(1.0))
    with pytest.raises(TypeError, match="without axes"):
        iter(dm.asarray(1.0))


def test_equality_is_elementwise_and_hashing_by_identity():
    a, b = dm.asarray([1.0]), dm.asarray([1.0])
    assert (a == b).tolist() == [True]
    assert {a: 1, b: 2}[b] == 2
    assert (a == None) is False  # noqa: E711
    assert (a != "text") is True


@pytest.mark.parametrize(
    "key",
    [0, -1, slice(1), (0, 1), (..., 1), (None, 0), (slice(None, None, -1), 2), np.array([1, 0])],
    ids=repr,
)
def test_indexing(key):
    np.testing.assert_array_equal(dm.asarray(X)[key].numpy(), X[key])


def test_indexing_with_tensors():
    t = dm.asarray(X)
    np.testing.assert_array_equal(t[dm.asarray([1, 1])].numpy(), X[[1, 1]])
    np.testing.assert_array_equal(t[t > 0].numpy(), X[X > 0])
    np.testing.assert_array_equal(t[dm.asarray(1)].numpy(), X[1])


def test_methods_and_properties():
    t = dm.asarray(X)
    assert (t.shape, t.ndim, t.size, t.dtype) == ((2, 3), 2, 6, dm.float32)
    assert t.reshape(3, -1).shape == t.reshape((3, 2)).shape == (3, 2)
    assert t.astype("int32").dtype is dm.int32
    for name in ("sum", "mean", "prod", "max", "min"):
        np.testing.assert_allclose(
            getattr(t, name)(axis=1, keepdims=True).numpy(),
            getattr(X, name)(axis=1, keepdims=True),
            rtol=1e-6,
        )
    assert t.argmax(axis=1).tolist() == X.argmax(axis=1).tolist()
    assert (t > 0).any().item() is True
    assert (t > 0).all().item() is False
    assert t.__array_namespace__() is dm


def test_repr():
    assert repr(dm.asarray(1.5)) == "Tensor(float32[], 1.5)"
    assert repr(dm.asarray([[1.0, 2], [3, 4]])) == (
        "Tensor(float32[2,2], [[1. 2.]\n                      [3. 4.]])"
    )
    assert f"{dm.asarray(1.25):.1f} {dm.asarray([1])}" == "1.2 Tensor(int32[1], [1])"


def test_copies():
    t = dm.asarray(X)
    assert copy.copy(t) is copy.deepcopy(t) is t
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(t)).numpy(), X)


def test_no_warnings_and_the_users_numpy_settings_stay():
    with np.errstate(all="raise"):
        t = dm.asarray([1.0, 0.0]) / 0.0
        assert np.isinf(t.numpy()[0])
        assert np.isnan(t.numpy()[1])
        assert np.geterr()["divide"] == "raise"
    assert dm.asarray(1e300).item() == np.inf


def test_traced_tensors_print_as_what_they_are(traced):
    assert repr(traced) == f"{traced}" == "TracedTensor(float32[2,3])"
    assert repr(traced + 1) == "TracedTensor(float32[2,3])"
    assert repr(X + traced) == "TracedTensor(float32[2,3])"
    assert len(traced) == 2
    assert [repr(row) for row in traced] == ["TracedTensor(float32[3])"] * 2


@pytest.mark.parametrize("use", [bool, int, float, np.asarray, np.sin, lambda t: t.numpy()])
def test_a_traced_value_is_refused_with_its_origin(traced, use):
    y = dm.sum(traced)  # made here
    with pytest.raises(dm.errors.TracedValueError) as info:
        use(y)
    text = str(info.value)
    assert "TracedTensor(float32[])" in text
    assert "made by sum at" in text
    assert "y = dm.sum(traced)  # made here" in text
    assert "run_functions_eagerly" in text


def test_a_traced_tensor_that_leaks_is_explained():
    tracer = Tracer()
    with op.mode(tracer):
        leaked = tracer.param(Spec((2,), dm.float32)) * 2
    for use in (bool, lambda t: t + 1, lambda t: t == 1, dm.identity, dm.floor):
        with pytest.raises(dm.errors.TracedValueError, match="outside of the function"):
            use(leaked)
