"""Compiled graphs against the interpreter, for every vector width: drawn ones, and hard ones."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from drawing import graphs
from dualmode.ops.slicing import PAD
from dualmode_compiler import driver
from dualmode_compiler.runtime.jit import QUICK, Host
from dualmode_compiler.spec import DTYPES
from graphs import REAL, check, on_every_host, trace, values

ANY = {"suppress_health_check": list(HealthCheck)}


@on_every_host
@settings(max_examples=60, **ANY)
@given(data=st.data())
def test_drawn_graphs(host: Host, data: st.DataObject):
    check(graphs(data.draw, data.draw(st.integers(1, 16))), host=host)


@on_every_host
@settings(max_examples=25, **ANY)
@given(data=st.data())
def test_drawn_graphs_of_long_rows(host: Host, data: st.DataObject):
    check(graphs(data.draw, 6, ("float32", "int8"), (1, 3, 70, 129, 200)), host=host)


@pytest.mark.slow
@on_every_host
@settings(max_examples=3000, **ANY)
@given(data=st.data())
def test_many_drawn_graphs(host: Host, data: st.DataObject):
    check(graphs(data.draw, data.draw(st.integers(1, 24))), host=host)


# --- elements -------------------------------------------------------------------------------------


@on_every_host
@pytest.mark.parametrize("name", REAL)
def test_every_dtype_at_every_length(name: str, host: Host):
    """Stores of that dtype beside stores of others, in one kernel, with every tail."""

    def several(x: Any, y: Any) -> list[Any]:
        out = [dm.maximum(x, y), dm.cast(x, "float64"), dm.equal(x, y), dm.cast(y, "int8")]
        return [*out, dm.cast(x, "bfloat16"), dm.flip(x), dm.max(x, 0), dm.argmin(y, 0)]

    for n in (1, 2, 3, 5, 8, 15, 16, 17, 31, 63, 64, 65):
        check(trace(several, f"{name}[{n}]", f"{name}[{n}]"), host=host)


SPECIAL = [
    0.0,
    -0.0,
    np.nan,
    np.inf,
    -np.inf,
    1,
    -1,
    1e-40,
    -1e-40,
    6e4,
    np.nan,
    2,
    -0.0,
    5,
    7,
    np.nan,
]


@on_every_host
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_special_values(name: str, host: Host):
    """NaN is the largest for argmax and the smallest for argmin; the first of equals wins."""

    def several(x: Any) -> list[Any]:
        out = [f(x, axis) for f in (dm.argmax, dm.argmin, dm.max, dm.min) for axis in (0, 1, None)]
        out += [f(x, dm.flip(x)) for f in (dm.maximum, dm.minimum, dm.equal, dm.less)]
        return [
            *out,
            dm.sign(x),
            dm.negative(x),
            *(dm.cast(x, d) for d in ("uint8", "int64", "bool")),
        ]

    for n in (1, 2, 3, 16, 17):
        x = np.stack([np.roll(SPECIAL, k)[:n] for k in range(16)]).astype(DTYPES[name].numpy)
        check(trace(several, x), [x], host=host)


@on_every_host
@pytest.mark.parametrize("name", [d for d in REAL if DTYPES[d].is_integer])
def test_integers_wrap(name: str, host: Host):
    info = np.iinfo(name)
    top = [info.max, info.max - 1, info.max // 2, info.max // 2 + 1]
    x = np.array([info.min, *top, 0, 1, 2, 7], name)

    def several(x: Any) -> list[Any]:
        y = dm.flip(x)
        out = [x + x, x * y, x - y, dm.floor_divide(x, y), dm.remainder(x, y), dm.less(x, y)]
        out += [dm.sum(x), dm.prod(x), dm.max(x), dm.argmax(x), dm.negative(x), dm.abs(x)]
        return [*out, *(dm.cast(x, d) for d in REAL)]

    check(trace(several, x), [x], host=host)


@on_every_host
@pytest.mark.parametrize("name", REAL)
def test_extremes_of_one_sign(name: str, host: Host):
    """What a reduction starts from must not win, whatever the length."""
    kind = DTYPES[name].kind

    def several(x: Any) -> list[Any]:
        over = [f(x, axis) for f in (dm.max, dm.min, dm.argmax, dm.argmin) for axis in (0, 1)]
        return [*over, dm.max(x), dm.min(x)] if kind != "b" else [dm.any(x, 1), dm.all(x, 1)]

    for n in (1, 3, 17, 40):
        for sign in (1, -1) if kind in "if" else (1,):
            x = (sign * np.arange(2, 2 + 3 * n).reshape(3, n)).astype(DTYPES[name].numpy)
            check(trace(several, x), [x], host=host)


def test_int64_arithmetic_wraps_and_is_not_index_algebra():
    x = np.array([2**62, -(2**62), 2**63 - 1, -(2**63), 3])
    big = np.int64(2**63 - 1)

    def several(x: Any) -> list[Any]:
        out = [dm.floor_divide(x * 2, 2), (x + big) + big, dm.remainder(x * 4, 4), x * 3 - x]
        y = x
        for _ in range(3):
            y = y * np.int64(2**40)
        return [*out, y]

    check(trace(several, x), [x])


def test_positions_as_data_wrap():
    """`arange` lowers to an index, whose known range must not be trusted once it overflows."""

    def several(x: Any) -> list[Any]:
        y = dm.arange(5, dtype="int64") * np.int64(2**62)
        out = [dm.floor_divide(y, 2), dm.remainder(y, 7), dm.less(y, 5), dm.minimum(y, 3)]
        return [*out, dm.floor_divide(y + np.int64(2**62), np.int64(2**61)), x]

    check(trace(several, "int64[5]"))


def test_constants():
    """Casts of constants saturate as those of data do; 0.0 and -0.0 are two constants."""

    def several(x: Any) -> list[Any]:
        zeros = dm.concat([dm.zeros(3), dm.negative(dm.zeros(3))])
        pairs = [(1e10, "int32"), (-1.5, "uint8"), (np.nan, "int16"), (np.inf, "int64")]
        pairs += [(7e4, "float16"), (2**24 + 1, "float32")]
        casts = [dm.cast(dm.full((300,), v), d) for v, d in pairs]
        wide = [dm.cast(dm.full((300,), v, "float64"), "float32") for v in (1e300, 0.1, 1e-320)]
        return [
            dm.divide(x, zeros),
            *casts,
            *wide,
            dm.cast(dm.full((300,), 2**53 + 1, "int64"), "float32"),
        ]

    check(trace(several, "float32[6]"), [np.ones(6, np.float32)])


def test_unsigned_constants_past_the_signed_range():
    x = np.array([2**64 - 1, 2**63, 2**63 + 5, 0, 1], np.uint64)

    def several(x: Any) -> list[Any]:
        a, b = np.uint64(2**64 - 1), np.uint64(2**63 + 5)
        return [
            x + a,
            dm.maximum(x, b),
            dm.less(x, b),
            dm.floor_divide(x, b),
            dm.max(x),
            dm.argmax(x),
        ]

    check(trace(several, x), [x])


@on_every_host
@pytest.mark.parametrize("name", ["complex64", "complex128"])
def test_complex_goes_through_the_host(name: str, host: Host):
    def several(x: Any) -> list[Any]:
        out = [x + x, dm.transpose(x), dm.reshape(x, (7, 3)), dm.flip(x), dm.sum(x, 0), dm.abs(x)]
        return [*out, dm.concat([x, x]), dm.broadcast_to(x[0], (5, 7)), dm.zeros((4,), name)]

    check(trace(several, f"{name}[3,7]"), host=host, ulp=8)


# --- reductions -----------------------------------------------------------------------------------


@on_every_host
@pytest.mark.parametrize(
    "axes", [(0, 2), (0, 3), (1, 3), (0, 1, 3), (2,), (3,), (0, 2, 3), (0, 1, 2, 3), (2, 0), ()]
)
def test_reductions_over_any_axes(axes: tuple[int, ...], host: Host):
    def several(x: Any) -> list[Any]:
        turned = dm.permute_dims(x, (2, 0, 3, 1))
        return [dm.sum(x, axes), dm.max(turned, axes), dm.sum(dm.exp(x * 0.0), axes, True)]

    check(trace(several, "float32[5,6,7,19]"), host=host)


@on_every_host
def test_reductions_in_reductions(host: Host):
    """The inner one depends on the outer one's axis, or on none of the loops around it."""

    def several(a: Any, b: Any, c: Any) -> list[Any]:
        inner = dm.sum(b, 1)
        out = [dm.sum(a[:, :, None] * inner[None, :, None] * c[None], 1), dm.matmul(a * inner, c)]
        return [
            *out,
            dm.sum(a * dm.max(b)),
            dm.argmax(a * inner, 1),
            dm.max(a - dm.sum(a, 1, True), 0),
        ]

    check(trace(several, "float32[9,5]", "float32[5,37]", "float32[5,19]"), host=host)


@on_every_host
def test_a_reduction_in_its_own_index(host: Host):
    """take(x, f(x)) puts a reduction inside of itself: the inner one needs axes of its own."""

    def several(x: Any) -> list[Any]:
        at = dm.argmax(x, 0)
        return [dm.take(at, dm.remainder(at, 2), 0), dm.take(dm.sum(x, 0), dm.remainder(at, 2), 0)]

    check(trace(several, "float32[3,2,2]"), host=host)
    check(trace(lambda x: several(x)[1], "float32[70,2,2]"), host=host)


def test_a_value_that_is_read_at_an_index_made_in_the_same_kernel():
    def fn(x: Any) -> Any:
        at = dm.remainder(x, 2)
        return dm.take(x * 3, at, 0) + dm.take(at, dm.take(at, at, 0), 0)

    check(trace(fn, "int64[2,2]"))


@on_every_host
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17])
def test_softmax_of_a_row_inside_of_a_square(n: int, host: Host):
    """The row's total does not depend on the outer loop, which is written out for small n."""
    fns = [
        lambda x, v: x + dm.softmax(v),
        lambda x, v: x * dm.softmax(v) + dm.softmax(x),
        lambda x, v: dm.softmax(x, 0) + dm.softmax(x, 1) + dm.log_softmax(v)[:, None],
    ]
    for fn in fns:
        check(trace(fn, f"float32[{n},{n}]", f"float32[{n}]"), host=host, ulp=8)


@on_every_host
@pytest.mark.parametrize("shape", ["1,1", "1,9", "9,1", "3,16", "5,17", "2,33", "4,1000"])
def test_transcendentals_of_rows(shape: str, host: Host):
    """exp of masked lanes must not reach any sum."""

    def several(x: Any) -> list[Any]:
        y = x * 30.0
        out = [
            dm.softmax(y),
            dm.log_softmax(y, 0),
            dm.logsumexp(y, 1),
            dm.sum(dm.exp(dm.sin(x)), 1),
        ]
        return [*out, dm.max(dm.exp(dm.negative(dm.abs(x))), 1), dm.prod(dm.cos(x), 1)]

    check(trace(several, f"float32[{shape}]"), host=host, ulp=64)


# --- shapes ---------------------------------------------------------------------------------------


@on_every_host
@pytest.mark.parametrize("name", ["float32", "float64", "bool", "int8", "float16"])
def test_index_maps(name: str, host: Host):
    def several(x: Any) -> list[Any]:
        padded = PAD(x, low=(1, 2), high=(0, 3), interior=(1, 2), value=1)
        out = [x[::-1, ::2], x[::2, ::-3], dm.transpose(x)[::-1], padded, dm.roll(x, 3, 1)]
        out += [dm.concat([x, x[:, ::-1], x[:1]], 0), dm.stack([x, x], 2), dm.tile(x, (2, 3))]
        return [*out, dm.reshape(dm.transpose(x), (35, 4)), x[:0], dm.reshape(x[:, :0], (0, 9))]

    check(trace(several, f"{name}[7,20]"), host=host)


def test_chains_of_reshapes_and_transposes():
    """Their index maps nest, with each part used twice: nothing may grow exponentially."""

    def fn(x: Any) -> Any:
        for _ in range(20):
            for shape in ((6, 35), (5, 42), (14, 15), (7, 30)):
                x = dm.transpose(dm.reshape(x, shape))
        return x

    check(trace(fn, "float32[210]"))


def test_chains_of_int64_extremes():
    def fn(x: Any) -> Any:
        y = dm.arange(5, dtype="int64")
        for _ in range(40):
            x = dm.maximum(x + 1, dm.minimum(x, 3))
            y = dm.maximum(y + 1, dm.minimum(y, 3))
        return x + y

    check(trace(fn, "int64[5]"))


def test_deep_chains():
    def fn(x: Any, y: Any) -> Any:
        for k in range(3000):
            x = dm.add(x, y) if k % 2 else dm.subtract(x, dm.maximum(x, y))
        return x

    check(trace(fn, "float32[5]", "float32[5]"))


def test_deep_chains_of_reductions():
    def fn(x: Any) -> list[Any]:
        y = x
        for _ in range(200):
            x, y = dm.subtract(x, dm.max(x)), dm.subtract(y, dm.min(y, axis=1, keepdims=True))
        return [x, y]

    check(trace(fn, "float32[5,7]"))


def test_deep_selects():
    check(trace(lambda x: dm.concat([x + k for k in range(500)]), "int64[3]"))


def test_rows_that_do_not_all_fit_the_caches():
    """A balanced sum of softmaxes is one kernel; each would like a row of 32 KB to stay in."""

    def fn(x: Any) -> Any:
        terms = [dm.softmax(x * float(k)) for k in range(64)]
        while len(terms) > 1:
            terms = [dm.add(a, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
        return terms[0]

    graph = trace(fn, "float32[2,8192]")
    check(graph, ulp=64)
    text = driver.compile(graph).native().program.text
    rows = [int(size) for size in re.findall(r"@dm_workspace\(i64 (\d+)\)", text)]
    assert rows and max(rows) <= 1 << 17


@pytest.mark.slow
def test_a_sum_of_500_softmaxes():
    check(
        trace(lambda x: sum((dm.softmax(x * float(k)) for k in range(500)), x), "float32[5,7]"),
        ulp=999,
    )


def test_wide_fan_out():
    check(trace(lambda x: [dm.exp(x * 0.0) + float(k) for k in range(200)], "float32[19]"))


# --- matrix products ------------------------------------------------------------------------------


@on_every_host
@pytest.mark.parametrize(
    "sizes", [(64, 500, 70), (65, 901, 33), (1, 1000, 50), (200, 450, 1), (3, 4100, 7)]
)
def test_products_with_epilogues(sizes: tuple[int, int, int], host: Host):
    m, k, n = sizes

    def several(x: Any, w: Any, b: Any, s: Any) -> list[Any]:
        y = x @ w
        return [dm.relu(y + b), dm.tanh(y) * s, dm.cast(y, "int32"), dm.greater(y, s)]

    for name in ("float32", "float64"):
        specs = f"{name}[{m},{k}]", f"{name}[{k},{n}]", f"{name}[{n}]", f"{name}[{m},{n}]"
        check(trace(several, *specs), host=host, ulp=8)


@on_every_host
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
def test_products_of_transposes(flags: tuple[bool, bool], host: Host):
    for m, k, n in [(64, 500, 70), (33, 71, 17), (5, 2000, 130), (13, 60, 33)]:
        a = f"float32[{k},{m}]" if flags[0] else f"float32[{m},{k}]"
        b = f"float32[{n},{k}]" if flags[1] else f"float32[{k},{n}]"

        def several(x: Any, w: Any) -> list[Any]:
            y = dm.matmul(x, w, *flags)
            return [y, dm.transpose(y) + 1.0, dm.transpose(dm.matmul(x, w, *flags)) * 2.0]

        check(trace(several, a, b), host=host)


@on_every_host
@pytest.mark.parametrize(
    "shapes",
    [
        ("3,20,30", "3,30,40"),
        ("2,1,20,30", "1,3,30,40"),
        ("1,20,30", "3,30,40"),
        ("4,2,9,17", "17,65"),
        ("4,2,9,17", "2,17,65"),
        ("2,0,30", "30,4"),
        ("3,9,0", "0,4"),
    ],
)
def test_products_of_batches(shapes: tuple[str, str], host: Host):
    def several(x: Any, w: Any) -> list[Any]:
        y = x @ w
        return [y, dm.relu(dm.negative(y)), dm.sum(y, -1), dm.sum(y, 0)]

    check(trace(several, *(f"float32[{s}]" for s in shapes)), host=host)


@on_every_host
def test_products_of_views(host: Host):
    """Negative and long strides, offsets, repeated rows, operands that are computed first."""

    def several(x: Any, w: Any) -> list[Any]:
        out = [
            dm.flip(x, 1) @ w,
            x @ dm.flip(w, 0),
            dm.flip(x, 0) @ dm.flip(w, 1),
            x[:, ::2] @ w[::2],
        ]
        out += [x[1::2] @ w[:, 3:], x[:, 5:] @ w[5:], dm.pad(x, ((1, 1), (0, 0))) @ w]
        out += [
            dm.concat([x, x]) @ w,
            dm.broadcast_to(x[:1], (40, 50)) @ w,
            (x + 1.0) @ dm.square(w),
        ]
        out += [
            dm.take(x, np.array([3, 1, -2] * 9), 0) @ w,
            dm.transpose(x) @ x,
            x @ dm.transpose(x),
        ]
        out += [dm.exp(x * 0.0)[:, 5:] @ w[5:], dm.transpose(x @ dm.exp(w * 0.0)[:, 7:])]
        return [*out, dm.reshape(dm.reshape(x, (20, 100)) @ dm.reshape(w, (100, 30)), (60, 10))]

    check(trace(several, "float32[40,50]", "float32[50,60]"), host=host)


@on_every_host
def test_products_that_feed_rows(host: Host):
    def several(x: Any, w: Any) -> list[Any]:
        y = x @ w
        spread = dm.mean(dm.square(y - dm.mean(y, 1, True)), 1)
        return [
            dm.softmax(y),
            dm.sum(y, 0),
            dm.sum(y),
            dm.argmax(y, 1),
            spread,
            y * y,
            y @ dm.transpose(y),
        ]

    check(trace(several, "float32[65,50]", "float32[50,33]"), host=host, ulp=64)


@on_every_host
@pytest.mark.parametrize("name", ["int32", "float16", "bfloat16", "uint8"])
def test_products_of_other_dtypes(name: str, host: Host):
    check(
        trace(lambda x, w: [x @ w, dm.transpose(x @ w)], f"{name}[9,30]", f"{name}[30,17]"),
        host=host,
    )


# --- chunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1 << 17, (1 << 17) + 1, 300001, (1 << 18) - 1, (1 << 19) + 17])
def test_chunks_of_a_long_vector(n: int):
    """The cut falls on whole vectors, and the last chunk may have a tail or be short."""

    def several(x: Any) -> list[Any]:
        out = [dm.tanh(x) * 0.0 + x, dm.cast(x * x, "float64"), dm.greater(x, 0.0)]
        return [*out, dm.flip(x) + 1.0, dm.cast(x, "int8")]

    check(trace(several, f"float32[{n}]"))


@on_every_host
def test_a_last_chunk_that_is_only_a_tail(host: Host):
    """In place, where computing an element twice shows."""
    n = 31 * 1984 + 3

    def fn(v: Any) -> Any:
        y = v
        for _ in range(6):
            y = dm.sin(y)
        return [v * 2.0 + y * 0.0], []

    graph = trace(fn, f"float32[{n}]", states=1)
    assert driver.compile(graph, host=host).native().program.chunked
    check(graph, host=host)


@on_every_host
def test_chunks_of_rows(host: Host):
    def several(x: Any, y: Any) -> list[Any]:
        out = [dm.sin(x) * y, dm.sum(x * y, 0), dm.sum(x * y, 1), dm.max(x, 0), dm.argmax(x, 0)]
        out += [dm.argmax(x, 1), dm.sum(x), dm.transpose(x) + 1.0, dm.flip(x) * 2.0]
        return [*out, dm.softmax(x), dm.softmax(x, 0), dm.cast(x, "int8")]

    specs = "float32[401,503]", "float32[401,503]"
    check(trace(several, *specs), [values(s, 1) for s in specs], host=host, ulp=64)


def test_equal_kernels_with_different_buffers_are_compiled_once():
    def several(*xs: Any) -> list[Any]:
        return [dm.tanh(dm.cumulative_sum(x)) for x in xs]

    graph = trace(several, *["float32[9]"] * 6)
    check(graph, ulp=8)
    assert driver.compile(graph).native().program.text.count("define internal void") == 1


def _quick(*shapes: tuple[int, int]) -> list[str]:
    """The modules of products, one after the other, that are compiled without optimization."""

    def product(x: Any, *weights: Any) -> Any:
        for w in weights:
            x = dm.relu(x @ w)
        return x

    specs = [f"float32[{m},{n}]" for m, n in shapes]
    graph = trace(product, *specs)
    check(graph, [values(s, 1) for s in specs], ulp=1 << 14)
    return [m for m in driver.compile(graph).native().program.modules if m.startswith(QUICK)]


def test_what_only_calls_long_micro_kernels_is_compiled_quickly():
    assert not _quick((96, 160), (160, 160))  # alone
    assert not _quick((96, 64), (64, 64), (64, 64))  # these do not run long
    (module,) = _quick((96, 160), (160, 160), (160, 64))
    assert module.count("\ndefine void @k") == 2
    assert " x float>" not in "\n".join(x for x in module.split("\n") if x.startswith("  "))
