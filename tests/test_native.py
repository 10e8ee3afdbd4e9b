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
from dualmode.ops import (
    crossentropy,
    elementwise,
    gather,
    linalg,
    logic,
    math,
    normalization,
    random,
    reduction,
    softmax,
)
from dualmode.variable import LAYOUT
from dualmode_compiler.runtime.layout import MISS, supported

pytestmark = pytest.mark.skipif(not supported(LAYOUT), reason="no native code on this interpreter")

ADD, SUBTRACT = elementwise.ADD, elementwise.SUBTRACT
RANDOM = np.random.default_rng(0)


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


# --- along an axis --------------------------------------------------------------------------------

REDUCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
}
SHAPES = st.lists(st.sampled_from([1, 2, 3, 5, 16, 17, 70, 130]), max_size=4).filter(
    lambda shape: np.prod(shape) < 50_000
)


@st.composite
def reductions(draw):
    """A shape, and axes as users name them."""
    shape = tuple(draw(SHAPES))
    axes = st.sampled_from(range(-len(shape), len(shape))) if shape else st.nothing()
    several = st.lists(axes, unique_by=lambda k: k % len(shape)).map(tuple)
    return shape, draw(st.none() | axes | several), draw(st.booleans())


@given(reductions(), st.sampled_from([*REDUCTIONS]), st.sampled_from(["float32", "float64"]))
def test_reductions(case, name, dtype):
    shape, axis, keepdims = case
    x = dm.asarray(RANDOM.uniform(0.9, 1.1, shape).astype(dtype))
    x = x > 1 if name in ("any", "all") else x
    out = getattr(dm, name)(x, axis=axis, keepdims=keepdims)
    wanted = np.asarray(REDUCTIONS[name](x.numpy(), axis=axis, keepdims=keepdims))
    assert out.shape == wanted.shape
    assert out.numpy().dtype == wanted.dtype
    np.testing.assert_allclose(out, wanted, 1e-4)


@given(reductions(), st.sampled_from(["float32", "float64", "int8", "uint16", "int64"]))
def test_positions(case, dtype):
    shape, axis, keepdims = case
    axis = axis if isinstance(axis, int) else None
    x = dm.asarray(RANDOM.integers(0, 5, shape).astype(dtype))
    for ours, numpys in ((dm.argmax, np.argmax), (dm.argmin, np.argmin)):
        same(ours(x, axis, keepdims), numpys(x.numpy(), axis=axis, keepdims=keepdims))


@given(reductions())
def test_softmax(case):
    shape, axis, _ = case
    x = dm.asarray(RANDOM.normal(size=shape))
    shifted = x.numpy() - np.max(x.numpy(), axis=axis, keepdims=True)
    total = np.sum(np.exp(shifted), axis=axis, keepdims=True)
    np.testing.assert_allclose(dm.softmax(x, axis), np.exp(shifted) / total, 1e-13)
    np.testing.assert_allclose(dm.log_softmax(x, axis), shifted - np.log(total), 1e-12, 1e-13)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 64, 65, 200])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_special_values(n, special):
    """In every place of a row, and of a column."""
    rows = RANDOM.normal(size=(n, n)).astype(np.float32)
    np.fill_diagonal(rows, special)
    x = dm.asarray(rows)
    for axis in (0, 1):
        same(dm.max(x, axis), np.max(rows, axis))
        same(dm.min(x, axis), np.min(rows, axis))
        same(dm.argmax(x, axis), np.argmax(rows, axis))
        same(np.isnan(dm.sum(x, axis)), np.isnan(np.sum(rows, axis)))
        with np.errstate(invalid="ignore"):
            wanted = np.isnan(softmax.SOFTMAX.kernel(rows, (axis,)))
        same(np.isnan(dm.softmax(x, axis)), wanted)


@pytest.mark.parametrize(
    ("axis", "keepdims"),
    [(2, False), ((0, 0), False), ((0, 1.0), False), (1.0, False), (True, False), ([0], False),
     (1 << 70, False), (0, 1), (0, None)],
)  # fmt: skip
def test_other_axes_are_left_to_python(axis, keepdims):
    x = tensor((3, 4))
    assert reduction.SUM.native(x, 0, False) is not MISS
    assert reduction.SUM.native(x, axis, keepdims) is MISS


def test_other_dtypes_are_left_to_python():
    for dtype in ("int32", "bool", "complex64"):
        assert reduction.SUM.native(dm.ones((3, 4), dtype), 0, False) is MISS
    same(dm.sum(dm.ones((3, 4), "bool"), 0), np.full(4, 3))
    same(dm.sum(dm.ones((3, 4), "complex64"), 0), np.full(4, 3, np.complex64))


def test_reductions_of_any_layout():
    whole = tensor((30, 40))
    for x in (whole, whole[::2, 1:], whole.T):
        array = np.ascontiguousarray(x.numpy())
        same(dm.max(x, axis=1), array.max(1))
        for axis in (0, 1, None):
            same(dm.sum(x, axis=axis), dm.sum(dm.asarray(array), axis=axis))


def test_axes_between_others():
    x = tensor((4, 5, 6, 7))
    array = x.numpy()
    same(dm.max(x, (0, 2)), array.max((0, 2)))
    same(dm.max(x, (1, 3), keepdims=True), array.max((1, 3), keepdims=True))
    flat = array.transpose(0, 2, 1, 3).reshape(24, 35)
    wanted = dm.softmax(dm.asarray(flat)).numpy().reshape(4, 6, 5, 7).transpose(0, 2, 1, 3)
    same(dm.softmax(x, (1, 3)), wanted)


def test_large_reductions_by_several_threads():
    """Rows, columns, slices, and one row that is cut into parts."""
    x, y, z = tensor((900, 800)), tensor((3, 300, 500)), tensor(200_001)
    results = []
    for threads in (1, 2, 5):
        with config.override(num_threads=threads):
            by_axis = (dm.sum(x, 0), dm.sum(x, 1), dm.softmax(x), dm.softmax(y, 1), dm.mean(y, 1))
            results.append((*by_axis, x @ x.T, dm.sum(x), dm.max(z), dm.sum(z), dm.any(z > 40)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            same(a, b)
    np.testing.assert_allclose(results[0][0], x.numpy().sum(0), 1e-3, 1e-2)
    np.testing.assert_allclose(results[0][6], x.numpy().sum(dtype=float), 1e-4, 1e-2)
    np.testing.assert_allclose(results[0][8], z.numpy().sum(dtype=float), 1e-4, 1e-2)
    same(results[0][7], z.numpy().max())
    same(results[0][9], (z.numpy() > 40).any())


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "bool"])
def test_long_rows_in_parts(dtype):
    """Parts have results of their own, of which the row's is made; positions are in the row."""
    x = np.zeros(200_001, dtype)
    x[150_000] = 1
    at = {"max": 1, "argmax": 150_000, "min": 0, "argmin": 0, "sum": 1, "any": 1, "all": 0}
    for name, wanted in at.items():
        if dtype != "bool" or name in ("any", "all"):
            assert getattr(dm, name)(dm.asarray(x), axis=0).item() == wanted, name


def test_which_code_computes_does_not_depend_on_what_came_before():
    """In one process after many other shapes, and in a new one."""
    code = (
        "import sys, dualmode as dm, numpy as np\n"
        "for n in range(2, int(sys.argv[1])):\n"
        "    dm.sum(dm.ones((n, 3)), axis=0), dm.softmax(dm.ones(n))\n"
        "    dm.ones((n, 2)) @ dm.ones((2, n))\n"
        "x = dm.asarray(np.random.default_rng(0).normal(size=(77, 33)).astype('float32'))\n"
        "for y in (dm.sum(x, 0), dm.sum(x, 1), dm.softmax(x, 0), x @ x.T):\n"
        "    print(y.numpy().tobytes().hex())"
    )
    few, many = (
        subprocess.run([sys.executable, "-c", code, n], check=True, capture_output=True).stdout
        for n in ("3", "400")
    )
    assert few == many


def test_tapes_hear_of_reductions():
    x = dm.asarray([[1.0, 2.0], [3.0, 5.0]])
    with dm.GradientTape() as tape:
        tape.watch(x)
        y = dm.sum(dm.max(x, axis=-1) * dm.mean(x, (1,))) + dm.sum(dm.softmax(x, -2), None)
    same(tape.gradient(y, x), np.asarray([[1, 2.5], [2.5, 6.5]], np.float32))


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["int8", "int32", "uint64"])
@pytest.mark.parametrize("shape", [(3,), (7, 1), (4, 17), (2, 5, 64)])
def test_losses(shape, labels):
    x = tensor(shape)
    at = dm.asarray(RANDOM.integers(0, shape[-1], shape[:-1]).astype(labels))
    for op, *operands in (
        (crossentropy.SPARSE_SOFTMAX_CROSS_ENTROPY, x, at),
        (crossentropy.SPARSE_SOFTMAX_CROSS_ENTROPY_GRADIENT, x, tensor(shape[:-1]), at),
    ):
        out = op.native(*operands)
        assert out is not MISS
        wanted = op.kernel(*[t.numpy() for t in operands])
        np.testing.assert_allclose(out, wanted, 1e-5, 1e-5)


def test_operands_that_do_not_fit_rows_are_left_to_python():
    native = crossentropy.SPARSE_SOFTMAX_CROSS_ENTROPY.native
    x, labels = tensor((4, 3)), dm.zeros(4, "int32")
    assert native(x, labels) is not MISS
    others = (dm.zeros(3, "int32"), dm.zeros((4, 1), "int32"), dm.zeros((), "int32"), dm.zeros(4))
    for other in (*others, 0, None):
        assert native(x, other) is MISS
    assert native(tensor(()), labels) is MISS
    assert native(x[:0], labels[:0]) is MISS


def test_normalization_shares_its_vectors():
    x, scale, offset = tensor((3, 4, 50)), tensor(50), tensor(50)
    op = normalization.LAYER_NORM
    out = native.attempt(op, (x, scale, offset), {"epsilon": 1e-3})
    wanted = op.kernel(*(t.numpy() for t in (x, scale, offset)), epsilon=1e-3)
    np.testing.assert_allclose(out, wanted, 1e-4, 1e-4)
    assert native.attempt(op, (x, scale[:49], offset), {"epsilon": 1e-3}) is MISS


# --- products -------------------------------------------------------------------------------------

EXTENTS = st.sampled_from([1, 2, 7, 8, 9, 16, 31, 33, 64, 100]) | st.integers(1, 300)


@given(EXTENTS, EXTENTS, EXTENTS, st.booleans(), st.booleans(), st.data())
def test_products(m, n, k, transpose_a, transpose_b, data):
    dtype = data.draw(st.sampled_from(["float32", "float64", "float16", "bfloat16"]))
    batch = data.draw(st.sampled_from([(), (), (2,), (2, 3)]))
    a, b = (
        dm.cast(dm.asarray(RANDOM.normal(size=(*batch, *s))), dtype)
        for s in ((k, m) if transpose_a else (m, k), (n, k) if transpose_b else (k, n))
    )
    out = linalg.matmul(a, b, transpose_a, transpose_b)
    wanted = linalg.MATMUL.kernel(
        *(x.numpy().astype(np.float64) for x in (a, b)), transpose_a, transpose_b
    )
    assert out.dtype == dtype
    tolerance = {"float32": 1e-4, "float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(out.numpy().astype("float64"), wanted, tolerance, tolerance)
    assert linalg.MATMUL.native(a, b, transpose_a, transpose_b) is not MISS


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_long_sums(dtype):
    """Small integers, so that sums are exact in any order; the bits are those of one thread."""
    for m, n, k, turned in ((16, 17, 5000, (False, True)), (40, 3, 20001, (True, False))):
        shapes = [s[::-1] if t else s for s, t in zip(((m, k), (k, n)), turned, strict=True)]
        a, b = (dm.cast(dm.asarray(RANDOM.integers(-2, 3, s)), dtype) for s in shapes)
        wanted = linalg.MATMUL.kernel(*(x.numpy() for x in (a, b)), *turned)
        np.testing.assert_array_equal(linalg.matmul(a, b, *turned), wanted)
        x, y = (dm.cast(dm.asarray(RANDOM.normal(size=s)), dtype) for s in shapes)
        many = linalg.matmul(x, y, *turned)
        with config.override(num_threads=1):
            np.testing.assert_array_equal(linalg.matmul(x, y, *turned), many)


def test_products_of_any_layout():
    whole = tensor((40, 70))
    for a in (whole, whole[1::2, :50], whole[:, ::3]):
        for b in (a.T, dm.asarray(np.ascontiguousarray(a.numpy().T))):
            same(a @ b, dm.asarray(np.ascontiguousarray(a.numpy())) @ dm.asarray(b.numpy()))


def test_other_products_are_left_to_python():
    x = tensor((3, 4))
    y = tensor((4, 3))
    assert linalg.MATMUL.native(x, y, False, False) is not MISS
    for a, b, *turned in (
        (x, x, False, False),
        (x, y, 0, False),
        (x, tensor(4), False, False),
        (tensor(()), y, False, False),
        (x, tensor((2, 4, 3)), False, False),
        (x, tensor((4, 3), "float64"), False, False),
        (x[:0], y, False, False),
        (tensor((3, 4), "int32"), tensor((4, 3), "int32"), False, False),
    ):
        assert linalg.MATMUL.native(a, b, *turned) is MISS


# --- pieces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [dm.uint32, dm.uint64])
def test_random_bits_are_drawn_in_pieces(dtype):
    """The same bits, also where the counter wraps around."""
    for first in (7, (1 << 64) - 70):
        state = dm.asarray(np.asarray([123456789 << 20, first], np.uint64))
        for shape in ((), (0, 3), (5,), (3, 7, 11), (2, 9001)):
            attrs = {"shape": shape, "dtype": dtype}
            out = native.attempt(random.RANDOM_BITS, (state,), attrs)
            same(out, random.RANDOM_BITS.kernel(state.numpy(), **attrs))


# --- any ------------------------------------------------------------------------------------------


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


def test_reshapes_are_views():
    x = tensor((6, 4))
    assert np.shares_memory(dm.reshape(x, (4, 6)).numpy(), x.numpy())


def test_a_new_process_loads_no_emitter():
    """Where the kernels are on disk."""
    code = (
        "import sys, dualmode as dm; x = dm.ones((5, 7)); x + x; dm.tanh(x); dm.sum(x, axis=0); "
        "dm.softmax(x); x @ x.T; "
        "print(*(m for m in sys.modules if m.startswith(('llvmlite', 'dualmode_compiler.emit'))))"
    )
    for _ in range(2):
        out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert out.stdout.split() == []


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


def test_variables_are_read_by_native_code():
    v, x = dm.Variable([1.0, 2.0]), dm.asarray([3.0, 4.0])
    same(elementwise.MULTIPLY.native(v, x), np.asarray([3, 8], np.float32))
    same(SUBTRACT.native(1, v), np.asarray([0, -1], np.float32))
    same(ADD.native(v, v), np.asarray([2, 4], np.float32))
    v.assign([5.0, 6.0])
    same(elementwise.NEGATIVE.native(v), np.asarray([-5, -6], np.float32))
    assert ADD.native(v, dm.Variable(1)) is MISS
    with dm.GradientTape():  # it has to hear of the reading
        assert ADD.native(v, x) is MISS


def test_tapes_hear_of_variables():
    v, x = dm.Variable([1.0, 2.0]), dm.asarray([3.0, 4.0])
    with dm.GradientTape() as tape:
        y = v * v * x - v + (dm.asarray([[1.0, 2.0]]) @ dm.reshape(v, (2, 1)))[0]
    same(tape.gradient(y, v), np.asarray([7, 19], np.float32))


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
        "assert not {'llvmlite', 'dualmode_compiler.emit'} & set(sys.modules)"
    )
    environment = {**os.environ, "DUALMODE_KERNELS": "numpy"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_what_the_kernels_refuse_is_explained():
    with pytest.raises(dm.errors.ShapeError, match="do not broadcast"):
        tensor(3) + tensor(4)
    with pytest.raises(dm.errors.ShapeError, match="inner sizes differ"):
        linalg.matmul(tensor((3, 4)), tensor((3, 4)))


@pytest.mark.parametrize("kind", ["elementwise", "variable", "along", "rows", "product", "take"])
def test_arrays_are_held_while_other_threads_may_run(kind):
    """Which may assign to the variable or donate the tensor that they are in."""
    x = dm.asarray(np.ones((1500, 1000), np.float32))
    v, few = dm.Variable(x), dm.asarray(np.arange(1000))
    loss, labels = crossentropy.SPARSE_SOFTMAX_CROSS_ENTROPY, dm.asarray(np.zeros(1500, np.int64))
    call = {
        "elementwise": lambda: math.EXP.native(x),
        "variable": lambda: math.EXP.native(v),
        "along": lambda: reduction.SUM.native(x, 1, False),
        "rows": lambda: loss.native(x, labels),
        "product": lambda: linalg.MATMUL.native(x, x, True, False),
        "take": lambda: gather.TAKE.native(x, few, 1),
    }[kind]
    call()  # which makes the kernel
    array = (v._tensor if kind == "variable" else x)._value
    before, stop, found = sys.getrefcount(array), threading.Event(), []

    def watch():
        while not stop.is_set() and not found:
            if sys.getrefcount(array) > before:
                found.append(True)

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(300):
        assert call() is not MISS
        if found:
            break
    stop.set()
    thread.join()
    assert found
    assert sys.getrefcount(array) == before
