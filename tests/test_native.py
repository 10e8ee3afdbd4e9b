"""Eager ops by native code: what takes that way, and that it means what NumPy's kernels mean."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dualmode as dm
from dualmode import config, native
from dualmode.ops import elementwise, linalg, logic, math, reduction
from dualmode.variable import LAYOUT
from dualmode_compiler.runtime.layout import MISS, supported

pytestmark = pytest.mark.skipif(not supported(LAYOUT), reason="no native code on this interpreter")

ADD, SUBTRACT = elementwise.ADD, elementwise.SUBTRACT
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _shapes_left(monkeypatch):
    """As in a new process: tests before this one may have met all shapes that are compiled."""
    monkeypatch.setattr(native, "_left", native.SHAPES)


def tensor(shape, dtype="float32"):
    return dm.asarray((RANDOM.normal(size=shape) * 10).astype(dtype))


def same(a, b):
    """The same dtype, shape and bits; any NaN equals any NaN."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(a, b)


# --- elementwise ----------------------------------------------------------------------------------

SIZES = st.integers(0, 3) | st.sampled_from([5, 16, 17, 64, 100])


@st.composite
def broadcasting(draw):
    """Two shapes that broadcast."""
    shape = draw(st.lists(SIZES, max_size=4))
    shapes = []
    for _ in range(2):
        kept = shape[draw(st.integers(0, len(shape))) :]
        shapes.append(tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in kept))
    return shapes


@given(
    broadcasting(), st.sampled_from(["float32", "float64", "int8", "uint16", "int64", "float16"])
)
def test_operands_broadcast(shapes, dtype):
    x, y = (tensor(s, dtype) for s in shapes)
    out = SUBTRACT.native(x, y)
    assert out is not MISS
    same(out, x.numpy() - y.numpy())


@given(broadcasting(), st.data())
def test_views(shapes, data):
    """Operands that are slices of others, also with steps and backwards."""
    arrays = []
    for shape in shapes:
        steps = [data.draw(st.sampled_from([1, 1, 2, -1, -3])) for _ in shape]
        sizes = [2 + n * abs(s) for n, s in zip(shape, steps, strict=True)]
        whole = np.asarray(RANDOM.normal(size=sizes))
        key = tuple(
            slice(1, 1 + n * s, s) if s > 0 else slice(-1, -1 - n * -s, s)
            for n, s in zip(shape, steps, strict=True)
        )
        arrays.append(whole[(..., *key)])
        assert arrays[-1].shape == shape
    x, y = (dm.Tensor._wrap(a) for a in arrays)
    same(x - y, np.asarray(arrays[0] - arrays[1]))
    same(dm.negative(x), np.asarray(-arrays[0]))


def test_three_operands():
    c = dm.asarray(RANDOM.normal(size=(40, 1)) > 0)
    x, y = tensor((40, 33)), tensor(33)
    same(logic.WHERE.native(c, x, y), np.where(c.numpy(), x.numpy(), y.numpy()))
    same(logic.WHERE.native(c, x, 0), np.where(c.numpy(), x.numpy(), np.float32(0)))


@pytest.mark.parametrize(
    ("x", "number"),
    [
        ("float32", 2.5),
        ("float32", 3),
        ("float32", -(1 << 24)),
        ("float64", 1e-300),
        ("int32", -7),
        ("int64", 1 << 40),
        ("float32", float("nan")),
        ("float32", 1e300),
    ],
)
def test_numbers_take_the_dtype_of_the_tensor(x, number):
    x = tensor((3, 5), x)
    with np.errstate(all="ignore"):
        wanted = x.numpy() + np.asarray(number).astype(x.dtype.numpy)
    same(ADD.native(x, number), wanted)
    same(ADD.native(number, x), wanted)


@pytest.mark.parametrize(
    "operands",
    [
        (1.0, 2.0),
        (tensor(3, "int32"), 1.5),
        (tensor(3, "int32"), 1 << 31),
        (tensor(3), (1 << 24) + 1),
        (tensor(3), True),
        (tensor(3), 1 << 70),
        (tensor(3), np.zeros(3, np.float32)),
        (tensor(3), tensor(3, "float64")),
        (tensor(3), tensor(4)),
        (tensor(3), dm.Variable(1.0)),
        (tensor(3),),
        (tensor(3), tensor(3), tensor(3)),
        (tensor((1,) * 9), tensor(3)),
        (tensor(3, "complex64"), tensor(3, "complex64")),
        (tensor(3), None),
    ],
    ids=str,
)
def test_other_operands_are_left_to_python(operands):
    assert ADD.native(*operands) is MISS


def test_large_operands_by_several_threads():
    x, y = tensor((700, 1000)), tensor(1000)
    results = []
    for threads in (1, 2, 5):
        with config.override(num_threads=threads):
            results.append((x - y, dm.tanh(x), dm.tanh(x[:, :999]), x * 2))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            same(a, b)
    same(results[0][0], x.numpy() - y.numpy())


def test_the_result_shares_nothing():
    x = tensor(5)
    assert not np.shares_memory((x + 0).numpy(), x.numpy())
    assert not np.shares_memory(dm.abs(x).numpy(), x.numpy())


def test_nothing_leaks():
    x, y = tensor((4, 4)), tensor(4)
    held = [x, y, x._value, y._value, x._value.dtype, MISS]

    def counts(calls):
        for _ in range(calls):
            x + y, x * 2.0, ADD.native(x, None), dm.sum(x, axis=0)
        return [sys.getrefcount(h) for h in held]

    assert counts(3) == counts(100)  # the first ones fill the pool of results


def test_names_documents_and_signatures_are_those_of_the_function():
    assert dm.add.__doc__ == "`x + y`; of bool, whether either is true."
    same(dm.add(x=tensor(2) * 0, y=dm.ones(2)), np.ones(2, np.float32))


# --- given shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [((5, 7), (7, 3)), ((64, 65), (65, 66)), ((2, 9, 4), (4, 5))])
def test_products(shapes):
    x, y = (tensor(s) for s in shapes)
    np.testing.assert_allclose(x @ y, x.numpy() @ y.numpy(), rtol=1e-5, atol=1e-3)


def test_reductions_of_any_layout():
    whole = tensor((30, 40))
    for x in (whole, whole[::2, 1:], whole.T):
        array = np.ascontiguousarray(x.numpy())
        same(dm.max(x, axis=1), array.max(1))
        same(dm.sum(x, axis=0), dm.sum(dm.asarray(array), axis=0))


def test_equal_calls_give_equal_bits():
    """Whether the call is the first, in another thread, or made while another thread traces."""
    x = tensor((300, 77))
    first = dm.softmax(x), dm.tanh(x), x @ x.T
    results = []

    def again():
        results.append((dm.softmax(x), dm.tanh(x), x @ x.T))

    def traced(y):
        thread = threading.Thread(target=again)
        thread.start()
        thread.join()
        return y

    with pytest.warns(dm.errors.SideEffectWarning):
        dm.function(traced)(x)
    again()
    assert len(results) == 2
    for other in results:
        for a, b in zip(first, other, strict=True):
            same(a, b)


def test_ops_that_move_elements_are_left_to_numpy():
    x = tensor((6, 4))
    assert np.shares_memory(dm.reshape(x, (4, 6)).numpy(), x.numpy())


def test_only_so_many_shapes_are_compiled(monkeypatch):
    monkeypatch.setattr(native, "_left", 2)
    monkeypatch.setattr(native, "_codes", {})
    monkeypatch.setattr(native, "_left_to_numpy", set())
    for n in (3, 4, 5, 3):
        x = tensor((n, 2))
        np.testing.assert_allclose(dm.logsumexp(x, axis=1), np.log(np.exp(x.numpy()).sum(1)), 1e-5)
    assert native._left == 0
    assert sum(len(code._entries) for code in native._codes.values()) == 2


# --- modes ----------------------------------------------------------------------------------------


def test_traced_operands_are_left_to_the_tracer():
    seen = []

    @dm.function
    def f(x):
        seen.append(ADD.native(x, x))
        seen.append(ADD.native(tensor(2), 1.0))
        return x + x

    with pytest.warns(dm.errors.SideEffectWarning):
        same(f(dm.ones(2)), np.full(2, 2, np.float32))
    assert all(out is MISS for out in seen)


def test_tapes_hear_of_native_ops():
    x = dm.asarray([1.0, 2.0])
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = 2 * dm.tanh(x) - x / 4 + 1
    slope = 2 / np.cosh([1.0, 2.0]) ** 2 - 0.25
    np.testing.assert_allclose(tape.gradient(y, x), slope, rtol=1e-5)
    assert config.interpreted == []


def test_variables_are_read_for_native_code(monkeypatch):
    v, x = dm.Variable([1.0, 2.0]), dm.asarray([3.0, 4.0])
    same(v * x + -v, np.asarray([2, 6], np.float32))  # the first calls make the kernels
    with monkeypatch.context() as patch:
        patch.setattr(dm.op.Op, "__call__", None)
        same(v * x, np.asarray([3, 8], np.float32))
        same(1 - v, np.asarray([0, -1], np.float32))
        same(-v, np.asarray([-1, -2], np.float32))
    with dm.GradientTape() as tape:
        y = v * v * x - v
    same(tape.gradient(y, v), np.asarray([5, 15], np.float32))


def test_numpy_computes_all_on_request():
    x = tensor((4, 4))
    with config.override(kernels="numpy"):
        assert ADD.native(x, x) is MISS
        assert native.attempt(reduction.SUM, (x,), {"axis": (0,), "keepdims": False}) is MISS
        assert native.attempt(math.TANH, (x,), {}) is MISS
        same(x + x, x.numpy() + x.numpy())
        same(dm.tanh(x), np.tanh(x.numpy()))
    assert ADD.native(x, x) is not MISS


def test_the_environment_chooses_numpy():
    code = (
        "import dualmode as dm, sys; x = dm.ones((8, 8)); print(dm.sum(dm.tanh(x @ x) + x)); "
        "assert not {'llvmlite', 'dualmode_compiler.generic'} & set(sys.modules)"
    )
    environment = {**os.environ, "DUALMODE_KERNELS": "numpy"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_what_the_kernels_refuse_is_explained():
    with pytest.raises(dm.errors.ShapeError, match="do not broadcast"):
        tensor(3) + tensor(4)
    with pytest.raises(dm.errors.ShapeError, match="inner sizes differ"):
        linalg.matmul(tensor((3, 4)), tensor((3, 4)))
