"""Vector math against NumPy in wider formats, in units in the last place (ulp).

`pytest -m slow` goes through every 101st float32 argument, and through all 2**32 with
DUALMODE_TEST_STRIDE=1.
"""

from __future__ import annotations

import math
import os
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dualmode_compiler.expr import apply, const
from dualmode_compiler.runtime import jit
from dualmode_compiler.spec import DType, bfloat16, float16, float32, float64, int32, int64, uint8
from graphs import on_every_host
from scalar_harness import kernel

Array = np.ndarray[Any, Any]
EXTENDED = np.finfo(np.longdouble).nmant >= 63


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def erf(x: Array) -> Array:
    """2 / sqrt(pi) * exp(-x**2) * sum(2**k * x**(2k+1) / (2k+1)!!): no term cancels another."""
    a = np.minimum(np.abs(x), 7)
    term, total = a, a
    for k in range(1, 160):
        term = term * (2 * a * a / (2 * k + 1))
        total = total + term
    root = np.sqrt(4 * np.arctan(np.ones((), x.dtype)))
    return np.copysign(np.minimum(2 / root * np.exp(-a * a) * total, 1), x)


UNARY: dict[str, Callable[[Array], Array]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "log10": np.log10,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "erf": erf,
    "atan": np.arctan,
    "sigmoid": sigmoid,
    "softplus": softplus,
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {"pow": np.power, "atan2": np.arctan2}
# What the error may be at most. Tighter than promised, so that a wrong coefficient shows.
MOST = {
    "exp": 1.1,
    "expm1": 1.7,
    "log": 1.0,
    "log1p": 1.6,
    "log2": 1.1,
    "log10": 1.1,
    "sin": 1.6,
    "cos": 1.6,
    "tan": 2.0,
    "sinh": 1.9,
    "cosh": 1.9,
    "tanh": 1.8,
    "erf": 1.95,
    "atan": 1.5,
    "sigmoid": 2.0,
    "softplus": 1.9,
    "pow": 3.5,
    "atan2": 2.0,
}


def errors(got: Array, want: Array) -> Array:
    """Distance in ulp of `got`'s type; `want` is of a wider type. Infinite where a special value or
    the sign of a zero is wrong."""
    kind = got.dtype.type
    limits = np.finfo(kind)
    with np.errstate(all="ignore"):
        rounded = want.astype(kind)
        word = rounded.view(f"u{rounded.itemsize}")
        power = (word & np.array(np.inf, kind).view(word.dtype)).view(kind).astype(want.dtype)
        unit = np.maximum(power * want.dtype.type(limits.eps), limits.smallest_subnormal)
        out = np.abs(got.astype(want.dtype) - want) / unit
    odd = ~np.isfinite(out) | (got == 0) | (rounded == 0)
    g, r = got[odd], rounded[odd]
    overflow = np.isinf(g) & (np.abs(want[odd]) >= float(limits.max))
    same = ((g == r) | overflow) & (np.signbit(g) == np.signbit(r))
    right = same | (np.isnan(g) & np.isnan(r))
    small = np.isfinite(g) & np.isfinite(r) & (g != r)  # one of them underflowed
    out[odd] = np.where(right, 0, np.where(small, out[odd], np.inf))
    return out.astype(np.float64)


def worst(fn: str, oracle: Callable[..., Array], dtype: DType, lanes: int, *x: Array) -> float:
    """The largest error of `fn` on `x`."""
    wide = np.float64 if dtype is float32 else np.longdouble
    got = kernel(lambda *a: apply(fn, *a), [dtype] * len(x), lanes)(*x)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        e = errors(got, oracle(*(a.astype(wide) for a in x)))
    k = int(np.argmax(e))
    print(f"{fn} {dtype}: {e[k]:.3f} ulp at {[a[k] for a in x]}, got {got[k]!r}")
    return float(e[k])


def special(kind: np.dtype[Any]) -> Array:
    f = np.finfo(kind)
    tiny = f.smallest_subnormal
    v = [0.0, 1, 0.5, 2, 3, 2.5, 7, 88.7, 100, 709.7, 1000, 2.0**24 + 1, np.inf]
    v += [f.max, f.tiny, tiny, 3 * tiny, f.eps, np.pi / 2, np.pi / 4, 1e10]
    return np.array([*v, *(-x for x in v), np.nan], kind)


def samples(dtype: DType, count: int) -> Array:
    """Random bit patterns, ordinary sizes, and special values."""
    rng = np.random.default_rng(11)
    word = np.dtype(f"u{dtype.itemsize}")
    patterns = rng.integers(0, np.iinfo(word).max, count, word, endpoint=True).view(dtype.numpy)
    n = count // 4
    near = [rng.normal(size=n) * 3, rng.uniform(-110, 100, n), 1 + rng.normal(size=n) * 1e-2]
    parts = [patterns, *(p.astype(dtype.numpy) for p in near), special(dtype.numpy)]
    return np.concatenate(parts)


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("fn", UNARY)
def test_float32(fn: str, lanes: int) -> None:
    x = samples(float32, 1 << 19 if lanes > 1 else 1 << 12)
    assert worst(fn, UNARY[fn], float32, lanes, x) <= MOST[fn]


@pytest.mark.skipif(not EXTENDED, reason="needs a longdouble wider than float64")
@pytest.mark.parametrize("fn", UNARY)
def test_float64(fn: str) -> None:
    x = samples(float64, 1 << 15)
    assert worst(fn, UNARY[fn], float64, 8, x) <= 2


@pytest.mark.parametrize("dtype", [float32, float64], ids=repr)
@pytest.mark.parametrize("fn", ["sin", "cos", "tan"])
def test_near_multiples_of_half_pi(fn: str, dtype: DType) -> None:
    """The nearest one of all for each type is in J.-M. Muller, "Elementary Functions", ch. 11."""
    if dtype is float64 and not EXTENDED:
        pytest.skip("needs a longdouble wider than float64")
    rng = np.random.default_rng(2)
    turns = np.rint(np.exp(rng.uniform(0, 40, 1 << 15))) * (np.pi / 2)
    nearest = [16367173 * 2.0**72, 4.3865578967101227e33]
    nearest += [6381956970095103 * 2.0**797] if dtype is float64 else []
    x = np.concatenate([nearest, turns, -turns]).astype(dtype.numpy)
    assert worst(fn, UNARY[fn], dtype, 8, x) <= 2


def pairs(dtype: DType, count: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(5)
    kind = dtype.numpy
    a, b = samples(dtype, count), samples(dtype, count)
    x = [a, np.exp(rng.normal(size=count) * 3), 1 + rng.normal(size=count) * 1e-3]
    y = [rng.permutation(b), rng.normal(size=count) * 20, rng.normal(size=count) * 10000]
    x, y = [*x, rng.normal(size=count) * 5], [*y, rng.integers(-30, 30, count)]
    one, two = np.meshgrid(special(kind), special(kind))
    return (
        np.concatenate([*(v.astype(kind) for v in x), one.ravel()]),
        np.concatenate([*(v.astype(kind) for v in y), two.ravel()]),
    )


@pytest.mark.parametrize("dtype", [float32, float64], ids=repr)
@pytest.mark.parametrize("fn", BINARY)
def test_two_arguments(fn: str, dtype: DType) -> None:
    if dtype is float64 and not EXTENDED:
        pytest.skip("needs a longdouble wider than float64")
    x, y = pairs(dtype, 1 << 16)
    assert worst(fn, BINARY[fn], dtype, 8, x, y) <= MOST[fn]


@pytest.mark.parametrize("spread", [1.0, 0.2, 0.01])
def test_powers_up_to_the_limits_of_float32(spread: float) -> None:
    """There the error of the logarithm counts most, above all of bases near sqrt(1/2)."""
    rng = np.random.default_rng(3)
    x = np.exp(rng.normal(size=1 << 18) * spread).astype(np.float32)
    size = rng.uniform(90, 125, x.size) * rng.choice([-1, 1], x.size)
    with np.errstate(all="ignore"):
        y = (size / np.log2(x)).astype(np.float32)
    assert worst("pow", np.power, float32, 16, x, y) <= MOST["pow"]


def test_powers_of_denormal_numbers_and_the_largest_powers() -> None:
    """They are computed in float64, so little is lost but by the last rounding."""
    rng = np.random.default_rng(4)
    n = 1 << 16
    x = np.concatenate([rng.uniform(0, 2.0**-126, n), rng.uniform(0.7, 1.42, n)])
    x = x.astype(np.float32)
    size = np.concatenate([rng.uniform(-125, 125, n), rng.uniform(126.5, 127.9, n)])
    with np.errstate(all="ignore"):
        y = (size / np.log2(x)).astype(np.float32)
    assert worst("pow", np.power, float32, 16, x, y) <= 0.6


@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=repr)
@pytest.mark.parametrize("fn", UNARY)
def test_half_types_round_the_float32_result(fn: str, dtype: DType) -> None:
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy)
    got = kernel(lambda a: apply(fn, a), [dtype])(x).astype(np.float32)
    wide = kernel(lambda a: apply(fn, a), [float32])(x.astype(np.float32))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = wide.astype(dtype.numpy).astype(np.float32)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", [uint8, int32, int64], ids=repr)
def test_integer_power(dtype: DType) -> None:
    x, y = (g.ravel().astype(dtype.numpy) for g in np.meshgrid(np.arange(-9, 10), np.arange(40)))
    got = kernel(lambda a, b: apply("pow", a, b), [dtype] * 2, 4)(x, y)
    np.testing.assert_array_equal(got, np.power(x, y))


def test_negative_integer_power() -> None:
    got = kernel(lambda a: apply("pow", a, const(-3, int32)), [int32], 1)
    np.testing.assert_array_equal(got(np.array([1, -1, 2, -2, 0])), [1, -1, 0, 0, 0])


def test_undefined_types_are_refused() -> None:
    with pytest.raises(TypeError, match=r"exp\(int64\)"):
        kernel(lambda a: apply("exp", a), [int64])


def test_the_same_digits_on_every_width() -> None:
    x = samples(float32, 1 << 12)
    for fn in UNARY:
        runs = [kernel(lambda a, f=fn: apply(f, a), [float32], n)(x) for n in (1, 4, 16)]
        np.testing.assert_array_equal(runs[0], runs[1], err_msg=fn)
        np.testing.assert_array_equal(runs[0], runs[2], err_msg=fn)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
@on_every_host
def test_the_same_digits_with_instructions_of_the_host(host: jit.Host, lanes: int) -> None:
    for dtype in (float32, float64):
        x = samples(dtype, 1 << 12)
        with_them = kernel(lambda a: apply("exp", a), [dtype], lanes, host)(x)
        without = kernel(lambda a: apply("exp", a), [dtype], lanes)(x)
        np.testing.assert_array_equal(with_them, without)


def grid(dtype: DType) -> Array:
    """Bit patterns of every size, multiples of 2**-11 in -32 .. 32, and neighbours of k * pi/2."""
    word, count = np.dtype(f"u{dtype.itemsize}"), 1 << 14
    patterns = np.arange(count, dtype=word) << np.array(8 * dtype.itemsize - 14, word)
    near = [np.arange(-65536, 65536) / 2048.0, np.arange(1, 60000, 3) * (np.pi / 2)]
    return np.concatenate([patterns.view(dtype.numpy), *(x.astype(dtype.numpy) for x in near)])


def digest(fn: str, dtype: DType) -> str:
    x = grid(dtype)
    arguments = [x] if fn in UNARY else [x, np.roll(x[::-1], 12345)]
    out = kernel(lambda *a: apply(fn, *a), [dtype] * len(arguments), 8)(*arguments)
    out = np.where(np.isnan(out), np.array(np.nan, dtype.numpy), out).astype(dtype.numpy)
    return f"{zlib.crc32(out.tobytes()):08x}"


DIGESTS = {
    "exp": ("8773bddf", "1a36fa5d"),
    "expm1": ("5f5a1ac2", "8fa096b0"),
    "log": ("2235e457", "52ef3f51"),
    "log1p": ("1332691e", "dd2b63ba"),
    "log2": ("fa46315f", "dedc4ecc"),
    "log10": ("8d73dc7a", "869907eb"),
    "sin": ("dc24ccff", "f92eb67d"),
    "cos": ("6e74ece6", "dee9ca09"),
    "tan": ("dd8e3484", "90bf8f36"),
    "sinh": ("860e1871", "1095030b"),
    "cosh": ("359ac075", "6a57d9a8"),
    "tanh": ("af863ffb", "75fabb71"),
    "erf": ("62c5f7dd", "0930158b"),
    "atan": ("2a8b0dd5", "1b09d9ed"),
    "sigmoid": ("61bedee4", "d892fddc"),
    "softplus": ("8cea076f", "248b8fe3"),
    "pow": ("a72791b3", "1e7665ec"),
    "atan2": ("c3c2a9f7", "0a417e02"),
}


@pytest.mark.parametrize("fn", DIGESTS)
def test_the_same_digits_on_every_machine(fn: str) -> None:
    """No rounding is left to the machine. After a wanted change of a polynomial, measure its errors
    over all float32 arguments (`pytest -m slow`), and write the new digests here."""
    assert (digest(fn, float32), digest(fn, float64)) == DIGESTS[fn]


ODD, EVEN = {"sin", "tan", "sinh", "tanh", "erf", "atan"}, {"cos", "cosh"}
STRIDE = int(os.environ.get("DUALMODE_TEST_STRIDE", "101"))


@pytest.mark.slow
@pytest.mark.parametrize("fn", UNARY)
def test_every_float32(fn: str) -> None:
    """Odd and even functions: the positive half against the oracle, the other half against it."""
    oracle = UNARY[fn]
    if fn == "erf":
        oracle = pytest.importorskip("scipy.special").erf
    run = kernel(lambda a: apply(fn, a), [float32])
    symmetric = fn in ODD | EVEN
    end, chunk = 1 << (31 if symmetric else 32), STRIDE << 14
    most, at = 0.0, math.nan
    for start in range(int(np.random.default_rng().integers(STRIDE)), end, chunk):
        x = np.arange(start, min(start + chunk, end), STRIDE, dtype=np.uint32).view(np.float32)
        got = run(x)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            e = errors(got, oracle(x.astype(np.float64)))
        k = int(np.argmax(e))
        if e[k] > most:
            most, at = float(e[k]), float(x[k])
        if symmetric:
            np.testing.assert_array_equal(run(-x), -got if fn in ODD else got)
    print(f"{fn}: {most:.3f} ulp at {at!r}")
    assert most <= MOST[fn]
