"""Core primitives against NumPy: every dtype, special values, scalars and vectors."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.expr import apply
from dualmode_compiler.spec import (
    DTYPES,
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int64,
    uint16,
    uint32,
    uint64,
)
from scalar_harness import kernel

Array = np.ndarray[Any, Any]
REAL = [d for d in DTYPES.values() if not d.is_complex]
FLOATING = [d for d in REAL if d.is_floating]
INTEGER = [d for d in REAL if d.is_integer]
LANES = [1, 16]


def values(dtype: DType) -> Array:
    """Special values of `dtype`, and some random ones."""
    rng = np.random.default_rng(7)
    if dtype is bool_:
        return np.array([False, True])
    if dtype.is_integer:
        info = np.iinfo(dtype.numpy)
        edges = [0, 1, 2, 3, 7, info.max, info.max - 1, info.min, info.min + 1, info.max // 2]
        random = rng.integers(info.min, info.max, 20, dtype.numpy, endpoint=True)
        signed = np.array([-1, -2, -7]).astype(dtype.numpy)
        return np.concatenate([np.array(edges, dtype.numpy), random, signed])
    edges = [0.0, -0.0, 1, -1, 0.5, 2.5, -2.5, 3.7, 1e-5, 300, -7, np.inf, -np.inf, np.nan]
    tiny, most = (5e-324, 1.7e308) if dtype is float64 else (1e-45, 3e38)
    edges += [tiny, -tiny, most, -most, 2.0**31, 2.0**63, -(2.0**31), -(2.0**63), 255.5, 65504]
    edges += [*(rng.normal(size=10) * 100), *rng.normal(size=10)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.array(edges).astype(dtype.numpy)


def grid(dtype: DType, count: int) -> list[Array]:
    """All combinations of `count` special values."""
    v = values(dtype)
    if count == 3:
        v = v[:16]
    return [np.array(c, dtype.numpy) for c in zip(*itertools.product(v, repeat=count), strict=True)]


def same(got: Array, want: Array) -> None:
    """Equal bits, but for the sign of zero and the payload of NaN."""
    assert got.dtype == want.dtype
    if want.dtype.kind == "V" or want.dtype.name == "bfloat16":
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_array_equal(got, want)


def check(fn: str, oracle: Callable[..., Any], dtype: DType, lanes: int, count: int) -> None:
    arrays = grid(dtype, count)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = oracle(*arrays)
    result = bool_ if want.dtype == np.bool_ and dtype is not bool_ else dtype
    same(
        kernel(lambda *x: apply(fn, *x), [dtype] * count, lanes)(*arrays), want.astype(result.numpy)
    )


def half(oracle: Callable[..., Any]) -> Callable[..., Any]:
    """`oracle` in float32 for half types, rounded."""

    def run(*x: Array) -> Array:
        if x[0].dtype.itemsize > 2 or x[0].dtype.kind in "biu":
            return oracle(*x)
        out = oracle(*(a.astype(np.float32) for a in x))
        return out if out.dtype == np.bool_ else out.astype(x[0].dtype)

    return run


COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal} | {
    "gt": np.greater,
    "ge": np.greater_equal,
}
ARITHMETIC = {"add": np.add, "sub": np.subtract, "mul": np.multiply} | {
    "minimum": np.minimum,
    "maximum": np.maximum,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "fmod": np.fmod,
}


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", REAL, ids=repr)
@pytest.mark.parametrize("fn", COMPARE)
def test_comparisons(fn: str, dtype: DType, lanes: int) -> None:
    check(fn, half(COMPARE[fn]), dtype, lanes, 2)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", [d for d in REAL if d is not bool_], ids=repr)
@pytest.mark.parametrize("fn", ARITHMETIC)
def test_arithmetic(fn: str, dtype: DType, lanes: int) -> None:
    check(fn, half(ARITHMETIC[fn]), dtype, lanes, 2)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", [d for d in REAL if d is not bool_], ids=repr)
def test_negative_and_absolute(dtype: DType, lanes: int) -> None:
    check("neg", np.negative, dtype, lanes, 1)
    check("abs", np.abs, dtype, lanes, 1)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", FLOATING, ids=repr)
def test_floating(dtype: DType, lanes: int) -> None:
    unary = {"sqrt": np.sqrt, "rint": np.rint, "floor": np.floor, "ceil": np.ceil}
    for fn, oracle in (unary | {"trunc": np.trunc}).items():
        check(fn, half(oracle), dtype, lanes, 1)
    check("div", half(np.divide), dtype, lanes, 2)
    check("copysign", half(np.copysign), dtype, lanes, 2)


@pytest.mark.parametrize("lanes", LANES)
def test_zero_keeps_its_sign(lanes: int) -> None:
    x = np.array([-0.0, 0.0, -0.0, 0.0], np.float32)
    y = np.array([1.0, -1.0, -1.0, 1.0], np.float32)
    pairs = {"copysign": np.copysign, "mod": np.remainder, "floordiv": np.floor_divide}
    for fn, oracle in pairs.items():
        got = kernel(lambda a, b, fn=fn: apply(fn, a, b), [float32] * 2, lanes)(x, y)
        np.testing.assert_array_equal(np.signbit(got), np.signbit(oracle(x, y)), err_msg=fn)
    got = kernel(lambda a: apply("neg", a), [float32], lanes)(x)
    np.testing.assert_array_equal(np.signbit(got), ~np.signbit(x))


@pytest.mark.parametrize("lanes", LANES)
def test_fma_rounds_once(lanes: int) -> None:
    rng = np.random.default_rng(3)
    a, b, c = (rng.normal(size=1000).astype(np.float32) for _ in range(3))
    got = kernel(lambda *x: apply("fma", *x), [float32] * 3, lanes)(a, b, c)
    exact = a.astype(np.longdouble) * b + c
    np.testing.assert_array_equal(got, exact.astype(np.float32))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", [bool_, *INTEGER], ids=repr)
def test_bitwise(dtype: DType, lanes: int) -> None:
    for fn in ("and", "or", "xor"):
        check(fn, getattr(np, f"bitwise_{fn}"), dtype, lanes, 2)
    check("not", np.invert, dtype, lanes, 1)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", INTEGER, ids=repr)
def test_shifts(dtype: DType, lanes: int) -> None:
    unsigned = np.dtype(f"u{dtype.itemsize}")
    signed = np.dtype(f"i{dtype.itemsize}")
    width = 8 * dtype.itemsize

    def shifter(kind: np.dtype[Any], op: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Array, y: Array) -> Array:
            amount = np.minimum(y.view(unsigned), width).astype(kind)
            return op(x.view(kind), amount).view(dtype.numpy)

        return run

    check("shl", shifter(unsigned, np.left_shift), dtype, lanes, 2)
    check("lshr", shifter(unsigned, np.right_shift), dtype, lanes, 2)
    check("ashr", shifter(signed, np.right_shift), dtype, lanes, 2)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", [uint32, uint64], ids=repr)
def test_mulhi(dtype: DType, lanes: int) -> None:
    def oracle(x: Array, y: Array) -> Array:
        bits = 8 * dtype.itemsize
        product = [int(a) * int(b) >> bits for a, b in zip(x, y, strict=True)]
        return np.array(product, dtype.numpy)

    check("mulhi", oracle, dtype, lanes, 2)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("divisor", [1, 2, 7, 64, -1, -3, 0])
@pytest.mark.parametrize("fn", ["floordiv", "mod", "fmod"])
def test_division_by_a_literal(fn: str, divisor: int, lanes: int) -> None:
    from dualmode_compiler.expr import const

    for dtype in (d for d in INTEGER if divisor >= 0 or d.kind == "i"):
        x = values(dtype)
        with np.errstate(all="ignore"):
            want = ARITHMETIC[fn](x, dtype.numpy.type(divisor))
        run = kernel(lambda a, d=dtype: apply(fn, a, const(divisor, d)), [dtype], lanes)
        same(run(x), want)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", REAL, ids=repr)
def test_select(dtype: DType, lanes: int) -> None:
    x = values(dtype)
    cond = np.arange(x.size) % 3 == 0
    run = kernel(
        lambda c, a, b: apply("select", c, a, b, dtype=dtype), [bool_, dtype, dtype], lanes
    )
    same(run(cond, x, x[::-1]), np.where(cond, x, x[::-1]))


def saturating(x: Array, target: DType) -> Array:
    info = np.iinfo(target.numpy)
    exact = [0 if v != v else info.max if v > info.max else info.min if v < info.min else int(v)
             for v in x.astype(np.float64).tolist()]  # fmt: skip
    return np.array(exact, target.numpy)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("source", REAL, ids=repr)
def test_cast(source: DType, lanes: int) -> None:
    x = values(source)
    for target in REAL:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if source.is_floating and target.is_integer:
                want = saturating(x, target)
            elif target is bool_:
                want = x != 0
            else:
                want = x.astype(target.numpy)
        same(kernel(lambda a, t=target: apply("cast", a, dtype=t), [source], lanes)(x), want)


@pytest.mark.parametrize("lanes", LANES)
def test_every_half_value_rounds_trips(lanes: int) -> None:
    for dtype in (float16, bfloat16):
        x = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
        there = kernel(lambda a: apply("cast", a, dtype=float32), [dtype], lanes)(x)
        same(there, x.astype(np.float32))
        same(kernel(lambda a, d=dtype: apply("cast", a, dtype=d), [float32], lanes)(there), x)


@pytest.mark.parametrize("lanes", LANES)
def test_float64_to_half_rounds_once(lanes: int) -> None:
    near = np.nextafter(1 + 2.0**-11, [0, 2])  # a tie of float16, nudged by less than float32 sees
    got = kernel(lambda a: apply("cast", a, dtype=float16), [float64], lanes)(near)
    same(got, np.array([1, 1 + 2.0**-10], np.float16))


@pytest.mark.parametrize("lanes", LANES)
def test_bitcast(lanes: int) -> None:
    for dtype, bits in (
        (float32, uint32),
        (float64, uint64),
        (float16, uint16),
        (bfloat16, uint16),
    ):
        x = values(dtype)
        run = kernel(lambda a, b=bits: apply("bitcast", a, dtype=b), [dtype], lanes)
        same(run(x), x.view(bits.numpy))


def test_what_has_no_instructions_says_so() -> None:
    with pytest.raises(TypeError, match=r"div\(int64, int64\)"):
        kernel(lambda a: apply("div", a, a), [int64])
