"""Sizes of traced tensors used as numbers: no way to read one makes a derived graph differ."""

from __future__ import annotations

import decimal
import functools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode import tree

pytestmark = pytest.mark.filterwarnings(
    "ignore::dualmode.errors.SideEffectWarning", "ignore::dualmode.errors.RetracingWarning"
)

TABLE = [float(k * k % 7) for k in range(100)]
NAMES = {f"w{k}": float(k) for k in range(0, 100, 3)}
ARRAY = np.arange(100.0, dtype=np.float32)
POSITIONS = dm.Variable(np.linspace(-1, 1, 300, dtype=np.float32).reshape(100, 3))
ORDERS = ((6, 10, 14, 4, 5, 9, 11, 12, 20, 33, 3, 2, 1), (9, 10, 11, 30, 5, 12, 16, 64))


@functools.cache
def remembered(n: int) -> float:
    return float(n % 4)


def matched(x: Any) -> Any:
    match x.shape:
        case (9, _):
            return 2
        case (int(n), 3) if n > 11:
            return 3
    return 4


def handled(x: Any) -> float:
    try:
        return {6: 2.0, 10: 2.0, 14: 2.0}[x.shape[0]]
    except KeyError:
        return 7.0


# numbers that Python or C code makes of a tensor's first size
NUMBERS = {
    "a float on the left": lambda x: 2 if 10.5 < x.shape[0] else 1,
    "an item of a list": lambda x: TABLE[x.shape[0]],
    "an item by the logarithm": lambda x: TABLE[int(math.log2(x.shape[0]))],
    "a power of two": lambda x: 2 ** math.ceil(math.log2(x.shape[0])),
    "a key in text": lambda x: NAMES.get(f"w{x.shape[0]}", -1.0),
    "the length of text": lambda x: len(str(x.shape[0])) + len("%d" % x.shape[0]),  # noqa: UP031
    "a hash": lambda x: hash(x.shape) % 3 + hash(x.shape[0]) % 5,
    "a NumPy scalar on the left": lambda x: 2.0 if np.float64(11) < x.shape[0] else 1.0,
    "a NumPy scalar": lambda x: float(np.float32(0.5) * x.shape[0]),
    "a NumPy function": lambda x: float(np.ceil(np.log2(x.shape[0]))),
    "an item of an array": lambda x: float(ARRAY[x.shape[0]] % 7 + ARRAY[: x.shape[0]].sum() % 5),
    "an array of that shape": lambda x: np.ones(x.shape, np.float32),
    "an array of sizes": lambda x: int(np.array(x.shape)[0] % 5),
    "least of size and float": lambda x: min(11.5, x.shape[0]) + max(11.5, x.shape[0]),
    "in a range": lambda x: 2 if x.shape[0] in range(5, 12) else 3,
    "in a set": lambda x: 2 if x.shape[0] in {6, 10, 14} else 3,
    "in a list of shapes": lambda x: 2 if x.shape in [(9, 3), (30, 3)] else 3,
    "functions of integers": lambda x: math.gcd(x.shape[0], 12) + math.isqrt(x.shape[0]),
    "a loop": lambda x: sum(range(x.shape[0])),
    "repeated": lambda x: len([0] * x.shape[0]) + len("a" * x.shape[0]),
    "a slice of a list": lambda x: sum(TABLE[: x.shape[0]]),
    "remembered": lambda x: remembered(x.shape[0]),
    "a fraction": lambda x: float(Fraction(x.shape[0], 7)),
    "complex": lambda x: abs(complex(x.shape[0], 1)),
    "a number of bits": lambda x: (x.shape[0] - 1).bit_length() + bin(x.shape[0]).count("1"),
    "a whole quotient": lambda x: 2 if (x.shape[0] / 2).is_integer() else 3,
    "an item by a quotient": lambda x: TABLE[int(x.shape[0] / 3)],
    "a quotient on the right": lambda x: 2 if 1.5 < x.shape[0] / 7 else 3,
    "a quotient in text": lambda x: len(f"{x.shape[0] / 7:.0f}"),
    "rounded": lambda x: round(x.shape[0] / 7, 1) + round(x.shape[0] / 7),
    "polynomials": lambda x: x.shape[0] ** 2 - 3 * x.shape[0] + 1,
    "less than linear": lambda x: 200 - x.shape[0] + 48 / x.shape[0],
    "exponential": lambda x: 0.9 ** x.shape[0],
    "a truth value": lambda x: True * x.shape[0] if x.shape[0] - 9 else 5,
    "matched": matched,
    "handled": handled,
    "steps of a range": lambda x: len(dm.range(1, x.shape[0], 3)),
}

# tensors that engine functions make
TENSORS = {
    "range in steps": lambda x: dm.arange(0, x.shape[0], 3),
    "range of halves": lambda x: dm.arange(1, x.shape[0] * 0.5, 0.25),
    "first and last": lambda x: (x[:8], x[-8:], x[8:], x[:-8], x[1:-1:2], x[::-3]),
    "a second of steps": lambda x: x[:: max(x.shape[0] // 4, 1)],
    "triangular": lambda x: dm.zeros((x.shape[0] * (x.shape[0] - 1) // 2,)),
    "joined": lambda x: dm.concat([x, x[: x.shape[0] // 3], x[x.shape[0] // 2 :]]),
    "padded": lambda x: dm.pad(x, ((0, -x.shape[0] % 8), (0, 0))),
    "linspace": lambda x: (dm.linspace(0, x.shape[0] - 1, 5), dm.linspace(-1, 1, x.shape[0])),
    "positions": lambda x: POSITIONS[: x.shape[0]] + x,
    "one-hot": lambda x: dm.one_hot(dm.arange(x.shape[0]) % 3, x.shape[0]),
    "a causal mask": lambda x: dm.softmax(dm.tri(x.shape[0]) * (x @ x.T) / x.shape[1] ** 0.5) @ x,
}

PROGRAMS = {k: lambda x, f=f: x * f(x) for k, f in NUMBERS.items()} | TENSORS


@pytest.mark.parametrize("options", [{}, {"reduce_retracing": True}], ids=["three", "two"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_size_gives_what_eager_mode_gives(name: str, options: dict[str, Any]) -> None:
    program = PROGRAMS[name]
    for order in ORDERS:
        fn = dm.function(autograph=False, **options)(program)
        for n in order:
            x = dm.asarray(np.linspace(-1, 2, 3 * n, dtype=np.float32).reshape(n, 3))
            with dm.config.override(backend="interpret"):
                found, wanted = tree.leaves(fn(x)), tree.leaves(program(x))
            for a, b in zip(found, wanted, strict=True):
                assert a.shape == b.shape, n
                np.testing.assert_allclose(
                    np.asarray(a), np.asarray(b), rtol=2e-5, atol=1e-5, err_msg=str(n)
                )


@pytest.mark.parametrize("name", ["padded", "linspace", "positions", "a causal mask"])
def test_what_only_computes_with_sizes_is_traced_twice(name: str) -> None:
    fn = dm.function(autograph=False, reduce_retracing=True)(TENSORS[name])
    with dm.config.override(backend="interpret"):
        for n in ORDERS[1]:
            fn(np.ones((n, 3), np.float32))
    assert fn.trace_count == 2, fn.retraces


def test_a_size_passes_for_an_int() -> None:
    def body(x: Any) -> Any:
        n, half = x.shape[0], x.shape[0] / 2
        assert isinstance(n, int) and isinstance(half, float) and not isinstance(n, str)
        assert f"{n:03d} {half:.2f} {n!r}" == "006 3.00 6"
        assert (n.real, n.numerator, half.is_integer(), (-n).conjugate()) == (6, 6, True, -6)
        assert not hasattr(n, "ndim") and not hasattr(half, "numerator")
        assert n + True == 7 and n * 2j == 12j and 2j + n == 6 + 2j and 1 - n == -5
        assert [1, 2] * n == n * [1, 2] and (n == "6", n != "6") == (False, True)
        assert type(n * np.float32(2)) is np.float32 and type(np.int8(2) + n) is np.int8
        assert np.float64(2) ** n == 64 and (np.ones(2) * n).tolist() == [6, 6]
        assert divmod(n, 4) == (1, 2) and divmod(20, n) == (3, 2) and n**2 == 36 and 2**n == 64
        assert ~n == -7 and n << 1 == 12 and 1 << n == 64 and n ^ 1 == 7 and round(half, 1) == 3.0
        assert sum([n, 1]) == 7 and max(n, 2) == 6 and sorted([n, 9, 2]) == [2, 6, 9]
        with pytest.raises(TypeError):
            decimal.Decimal(n)  # C code that takes subclasses of int only
        with pytest.raises(ZeroDivisionError):
            n // 0
        return x * n

    found = dm.function(autograph=False)(body)(np.ones((6, 3), np.float32))
    assert found.tolist() == [[6] * 3] * 6


def test_one_function_may_convert_what_another_does_not() -> None:
    def branch(x: Any) -> Any:
        if dm.sum(x) > 0:
            return x * 2
        return x

    with pytest.raises(dm.errors.TracedValueError, match="autograph=False"):
        dm.function(autograph=False)(branch)(dm.ones(2))
    assert dm.function(branch)(dm.ones(2)).tolist() == [2, 2]


def attention(q: Any, k: Any, v: Any) -> Any:
    scores = q @ dm.matrix_transpose(k) / math.sqrt(q.shape[-1])
    return dm.softmax(scores) @ v


def heads(x: Any) -> Any:
    batch, time, width = x.shape
    h = dm.permute_dims(dm.reshape(x, (batch, time, 2, width // 2)), (0, 2, 1, 3))
    scores = dm.where(dm.tri(time) > 0, h @ dm.matrix_transpose(h), -1e9)
    out = dm.permute_dims(dm.softmax(scores) @ h, (0, 2, 1, 3))
    return dm.reshape(out, (batch, time, -1))


def until(x: Any) -> Any:
    total = dm.zeros(3)
    for row in x:
        if dm.sum(row) < 0:
            continue
        total = total + row
        if dm.sum(total) > 50:
            break
    return total


def tables(n: int, m: int) -> dict[Any, tuple[Any, ...]]:
    def of(*shape: int) -> Any:
        return dm.asarray(np.linspace(-1, 2, math.prod(shape), dtype=np.float32).reshape(shape))

    return {
        attention: (of(2, n, 4), of(2, m, 4), of(2, m, 4)),
        heads: (of(n, m, 4),),
        until: (of(n, 3),),
    }


@pytest.mark.parametrize(("program", "traces"), [(attention, 3), (heads, 3), (until, 3)])
def test_two_axes_and_loops_over_one(program: Any, traces: int) -> None:
    fn = dm.function(program)
    with dm.config.override(backend="interpret"):
        for n, m in ((4, 5), (6, 9), (8, 10), (9, 9), (5, 4), (12, 3), (3, 12), (20, 11)):
            args = tables(n, m)[program]
            np.testing.assert_allclose(
                np.asarray(fn(*args)), np.asarray(program(*args)), rtol=1e-5, atol=1e-5
            )
    assert fn.trace_count == traces, fn.retraces
