"""Random numbers: known answers, distributions, and streams."""

from __future__ import annotations

import numpy as np
import pytest

import dualmode as dm
from dualmode.ops import random as ops
from op_table_structure import philox_block

# from the Random123 distribution (kat_vectors): counter, key, result
KNOWN = [
    (
        (0, 0, 0, 0),
        (0, 0),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SIZE = 20_000


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    words = np.array(counter, np.uint64)[:, None]
    even, odd = ops.philox(words, np.array(key, np.uint64))
    assert (even[0, 0], odd[0, 0], even[1, 0], odd[1, 0]) == expected
    position = sum(w << 32 * k for k, w in enumerate(counter))
    assert tuple(philox_block(position, key[0] | key[1] << 32)) == expected


def kolmogorov_smirnov(x, cdf):
    """The largest distance between the empirical distribution of `x` and `cdf`, times sqrt(n)."""
    x = np.sort(np.asarray(x, np.float64).ravel())
    p, n = cdf(x), len(x)
    steps = np.arange(n + 1) / n
    return np.sqrt(n) * max(np.max(steps[1:] - p), np.max(p - steps[:-1]))


def normal_cdf(x):
    from math import erf

    return np.array([0.5 * (1 + erf(v / 2**0.5)) for v in x])


@pytest.mark.parametrize("dtype", [dm.float32, dm.float64])
def test_distributions(dtype):
    rng = dm.random.Generator(7)
    u = rng.uniform((SIZE,), dtype=dtype).numpy()
    z = rng.normal((SIZE,), dtype=dtype).numpy()
    assert u.dtype == z.dtype == dtype.numpy
    assert u.min() >= 0 and u.max() < 1
    # a distance above 1.95 has probability 0.001
    assert kolmogorov_smirnov(u, lambda x: x) < 1.95
    assert kolmogorov_smirnov(z, normal_cdf) < 1.95
    moments = [np.mean(z.astype(np.float64) ** k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.15)


@pytest.mark.parametrize("dtype", [dm.float16, dm.bfloat16])
def test_half_types(dtype):
    rng = dm.random.Generator(3)
    u = rng.uniform((SIZE,), dtype=dtype)
    assert u.dtype is dtype
    values = u.numpy().astype(np.float64)
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02
    assert rng.normal((5,), dtype=dtype).dtype is dtype


def test_parameters():
    rng = dm.random.Generator(1)
    z = rng.normal((SIZE,), mean=3.0, stddev=0.5).numpy()
    assert abs(z.mean() - 3) < 0.02 and abs(z.std() - 0.5) < 0.02
    u = rng.uniform((100, 3), low=-2.0, high=dm.asarray([1.0, 2.0, 3.0])).numpy()
    assert (u >= -2).all() and (u <= [1, 2, 3]).all()
    b = rng.bernoulli((SIZE,), 0.25)
    assert b.dtype is dm.bool_ and abs(b.numpy().mean() - 0.25) < 0.02
    k = rng.integers((SIZE,), -3, 4)
    assert k.dtype is dm.int32
    counts = np.bincount(k.numpy() + 3, minlength=7)
    assert len(counts) == 7 and abs(counts - SIZE / 7).max() < 5 * np.sqrt(SIZE / 7)


def test_permutations():
    rng = dm.random.Generator(5)
    order = rng.permutation(100).numpy()
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(100))
    assert not np.array_equal(order, rng.permutation(100).numpy())
    x = np.arange(12).reshape(4, 3)
    rows = rng.shuffle(x).numpy()
    np.testing.assert_array_equal(np.sort(rows, axis=0), x)
    assert rng.permutation(0).shape == (0,)


def test_streams():
    a, b = dm.random.Generator(11), dm.random.Generator(11)
    first, second = a.uniform((3, 4)).numpy(), a.uniform((3, 4)).numpy()
    np.testing.assert_array_equal(b.uniform((3, 4)), first)
    np.testing.assert_array_equal(b.uniform((3, 4)), second)
    assert not np.intersect1d(first, second).size
    b.reset(11)
    np.testing.assert_array_equal(b.uniform((3, 4)), first)
    assert not np.array_equal(dm.random.Generator(12).uniform((3, 4)), first)
    assert not np.array_equal(dm.random.Generator().uniform((9,)), dm.random.Generator().uniform(9))


def test_the_default_generator():
    dm.random.set_seed(4)
    a = dm.random.normal((5,)).numpy()
    dm.random.set_seed(4)
    np.testing.assert_array_equal(dm.random.normal((5,)), a)
    np.testing.assert_array_equal(dm.random.Generator(4).normal((5,)), a)


def test_a_compiled_function_continues_the_stream():
    rng = dm.random.Generator(8)

    @dm.function
    def draw():
        return rng.uniform((6,)), rng.normal((5,)), rng.integers((4,), 0, 10)

    first, second = draw(), draw()
    other = dm.random.Generator(8)
    for compiled in (first, second):
        u, z, k = compiled
        np.testing.assert_array_equal(u, other.uniform((6,)))
        np.testing.assert_allclose(z, other.normal((5,)), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(k, other.integers((4,), 0, 10))
    np.testing.assert_array_equal(rng.state, other.state)


def test_bad_arguments():
    rng = dm.random.Generator(0)
    with pytest.raises(TypeError, match="int32 is not a floating type"):
        rng.normal((3,), dtype=dm.int32)
    with pytest.raises(ValueError, match="low=5, high=5"):
        rng.integers((3,), 5, 5)
    with pytest.raises(ValueError, match="no range for int8"):
        rng.integers((3,), 0, 1000, dtype=dm.int8)
