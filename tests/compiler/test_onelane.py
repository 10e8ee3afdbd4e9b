"""Comparisons of an index with a value that all lanes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver
from dualmode_compiler.runtime import jit
from dualmode_compiler.runtime.jit import Host
from graphs import on_every_host, trace

LIMITS = np.iinfo(np.int64)
INDEX = np.array([0, 1, 15, 16, 17, 39, 40, 41, 299, -1, -16, 2**32 + 3, LIMITS.min, LIMITS.max])


@on_every_host
@pytest.mark.parametrize("n", [8, 16, 41, 300])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [0, 3])
def test_where_an_index_is_a_value(shift: int, dtype: str, n: int, host: Host) -> None:
    def chosen(index: Any, x: Any) -> list[Any]:
        same = dm.reshape(index, (-1, 1)) == dm.arange(n, dtype="int64") + shift
        return [
            dm.where(same, x, x + 1),
            dm.where(~same, x, x * 2),
            dm.sum(dm.where(same, x, 0), 1),
            dm.where(same, dm.exp(-x) * x - 1, x),
        ]

    x = np.random.default_rng(n).normal(size=(INDEX.size, n)).astype(dtype)
    executable = driver.compile(trace(chosen, INDEX, x), host=host)
    same = INDEX[:, None] == np.arange(n) + shift
    one, two, total, more = executable.run([INDEX, x])[0]
    np.testing.assert_array_equal(one, np.where(same, x, x + 1))
    np.testing.assert_array_equal(two, np.where(same, x * 2, x))
    np.testing.assert_array_equal(total, np.where(same, x, 0).sum(1))
    np.testing.assert_array_equal(more[~same], np.broadcast_to(x, same.shape)[~same])
    np.testing.assert_allclose(more[same], (np.exp(-x) * x - 1)[same], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not jit.host().has_masks, reason="elsewhere masks are vectors")
def test_it_is_a_bit_in_a_mask_register() -> None:
    def one_hot(index: Any) -> Any:
        return dm.where(dm.reshape(index, (-1, 1)) == dm.arange(64, dtype="int64"), 1.0, 0.0)

    text = driver.compile(trace(one_hot, INDEX)).native().program.text
    assert "bitcast i16" in text and "icmp eq <16 x i64>" not in text


@pytest.mark.skipif(not jit.host().has_masks, reason="elsewhere masks are vectors")
def test_along_many_vectors_what_one_lane_has_is_computed_in_a_branch() -> None:
    def marked(index: Any, x: Any) -> Any:
        return dm.where(dm.reshape(index, (-1, 1)) == dm.arange(1024, dtype="int64"), x - 1, x)

    x = np.zeros((INDEX.size, 1024), np.float32)
    lines = driver.compile(trace(marked, INDEX, x)).native().program.text.splitlines()
    begin, end = (
        next(k for k, line in enumerate(lines) if line.startswith(label))
        for label in ("one", "usual")
    )
    assert all(begin < k < end for k, line in enumerate(lines) if "fsub" in line)
    assert any("fsub" in line for line in lines)
