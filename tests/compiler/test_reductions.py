"""Reductions: every axis and kind, in parts, in blocks of columns, in wide and narrow vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode_compiler import driver, staging
from dualmode_compiler.emit import columns, rows
from dualmode_compiler.graph import Graph
from dualmode_compiler.runtime import pool
from dualmode_compiler.runtime.jit import Host
from graphs import Array, check, hosts, on_every_host, same, trace, values

ANY: dict[str, Any] = {"suppress_health_check": list(HealthCheck)}
SIZES = (1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 256, 257)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into parts, chunks and blocks what is too small for that to pay."""
    for module in (staging, rows):
        monkeypatch.setattr(module, "PARALLEL", 1 << 9)
        monkeypatch.setattr(module, "CHUNK", 1 << 7)
    monkeypatch.setattr(rows, "CACHE", 1 << 10)
    monkeypatch.setattr(columns, "BLOCK", 1 << 9)
    monkeypatch.setattr(staging, "UNIT", 16)


def _every(axes: tuple[int, ...] | None, one: bool) -> Callable[[Any], list[Any]]:
    def fn(x: Any) -> list[Any]:
        out = [f(x, axes) for f in (dm.sum, dm.max, dm.min)]
        out += [dm.any(x > 1, axes), dm.all(x > -3, axes), dm.sum(dm.cast(x, "int8"), axes)]
        if one:
            k = None if axes is None else axes[0]
            out += [dm.argmax(x, k), dm.argmin(x, k), dm.argmax(dm.cast(x, "int16"), k)]
        return out

    return fn


def _axes(rank: int) -> list[tuple[int, ...] | None]:
    return [None, *(c for n in range(1, rank + 1) for c in combinations(range(rank), n))]


@settings(max_examples=40, **ANY)
@given(data=st.data())
def test_any_axes_of_any_sizes(data: st.DataObject):
    shape = data.draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3))
    while math.prod(shape) > 60_000:
        shape.pop()
    axes = data.draw(st.sampled_from(_axes(len(shape))))
    name = data.draw(st.sampled_from(["float32", "float64", "int32"]))
    one = axes is None or len(axes) == 1
    graph = trace(_every(axes, one), f"{name}[{','.join(map(str, shape))}]")
    check(graph, host=data.draw(st.sampled_from(hosts())))


SHAPES = [(700,), (1031,), (3, 900), (900, 3), (7, 40, 33), (40, 7, 33), (130, 70), (9, 1040)]


@on_every_host
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_parts_and_blocks(small: None, shape: tuple[int, ...], host: Host):
    for axes in _axes(len(shape)):
        one = axes is None or len(axes) == 1
        graph = trace(_every(axes, one), f"float32[{','.join(map(str, shape))}]")
        check(graph, host=host)


@on_every_host
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 15, 16, 17])
def test_blocks_of_columns(small: None, n: int, host: Host):
    """Rows that are added several at a time, and what is left of them; columns likewise."""
    for m in (1040, 1041, 2050):
        graph = trace(lambda x: [dm.sum(x, 0), dm.max(x, 0) * 2], f"float32[{n},{m}]")
        check(graph, host=host)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_bits_for_any_number_of_threads(small: None, shape: tuple[int, ...]):
    x = np.random.default_rng(3).standard_normal(shape).astype(np.float32)

    def fn(x: Any) -> list[Any]:
        out: list[Any] = []
        for axes in _axes(len(shape)):
            out += [dm.sum(x, axes), dm.var(x, axes), dm.logsumexp(x, axes), dm.softmax(x, axes)]
        return out

    executable = driver.compile(trace(fn, x))
    found: set[bytes] = set()
    for n in (1, 2, 5):
        pool.set_threads(n)
        found.add(b"".join(a.tobytes() for a in executable.run([x])[0]))
    assert len(found) == 1


@pytest.mark.parametrize("n", [5, 16, 100, 256, 257, 700, 1031])
@pytest.mark.parametrize("fn", [np.argmax, np.argmin], ids=["argmax", "argmin"])
def test_the_first_extreme_or_nan_wherever_it_is(small: None, n: int, fn: Callable[..., Any]):
    """Ties, NaNs and infinities in every part, block and tail."""
    ours = getattr(dm, fn.__name__)
    rng = np.random.default_rng(n)
    executable = driver.compile(trace(lambda x: [ours(x), ours(x[None, :], 1)], f"float32[{n}]"))
    for k in sorted({0, 1, n // 3, n // 2, n - 2, n - 1}):
        plain = rng.integers(-3, 4, n).astype(np.float32)
        for value in (np.nan, np.inf, -np.inf, 9, -9):
            for second in (k, n - 1):
                x = plain.copy()
                x[[k, second]] = value
                for a in executable.run([x])[0]:
                    assert a.item() == fn(x), (k, value, second)
    for same_everywhere in (-np.inf, np.inf, np.nan, 0.0):
        x = np.full(n, same_everywhere, np.float32)
        assert executable.run([x])[0][0] == 0


@pytest.mark.parametrize("name", ["sum", "max", "min"])
@pytest.mark.parametrize("shape", [(700,), (40, 70), (70, 40)], ids=str)
def test_nan_and_infinities_anywhere(small: None, name: str, shape: tuple[int, ...]):
    ours, oracle = getattr(dm, name), getattr(np, name)
    graph = trace(lambda x: [ours(x, a) for a in _axes(len(shape))], f"float32[{shape[0]}]"
                  if len(shape) == 1 else f"float32[{shape[0]},{shape[1]}]")  # fmt: skip
    executable = driver.compile(graph)
    rng = np.random.default_rng(1)
    for value in (np.nan, np.inf, -np.inf):
        for _ in range(5):
            x = rng.integers(-3, 4, shape).astype(np.float32)
            x[tuple(rng.integers(0, n) for n in shape)] = value
            for a, axes in zip(executable.run([x])[0], _axes(len(shape)), strict=True):
                same(a, np.asarray(oracle(x, axis=axes)))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 4)], ids=str)
def test_no_elements(shape: tuple[int, ...]):
    spec = f"float32[{','.join(map(str, shape))}]"
    check(trace(lambda x: [f(x, a) for f in (dm.sum, dm.prod) for a in _axes(len(shape))], spec))


# --- what the schedule is -------------------------------------------------------------------------


def _work(fn: Callable[..., Any], *specs: str) -> float:
    return driver.compile(trace(fn, *specs)).native().program.work


@pytest.mark.parametrize("axis", [0, 1, (0, 1), None])
def test_a_reduction_is_not_computed_for_each_element(axis: Any):
    """Softmax over axes that are not the last: the work grows with the elements."""
    few = _work(lambda x: dm.softmax(x, axis), "float32[20,20,20]")
    many = _work(lambda x: dm.softmax(x, axis), "float32[40,40,40]")
    assert many < 12 * few


def test_a_sum_of_all_is_computed_in_parts():
    x = np.arange(1 << 20, dtype=np.int32) % 1000
    executable = driver.compile(trace(lambda x: [dm.sum(x), dm.argmax(x)], x))
    assert executable.native().program.chunked
    total, position = executable.run([x])[0]
    assert total == x.sum() and position == 999


def test_a_reduction_after_one_of_other_sizes_after_one_of_its_own(small: None):
    """The third has the sizes of the first, but needs the second, which needs the first."""

    def fn(x: Any, y: Any) -> list[Any]:
        total = dm.sum(x)
        largest = dm.max(y - total)
        return [total, largest, dm.sum(x * largest)]

    check(trace(fn, "float64[4096]", "float64[1500]"), ulp=64)


def test_the_squares_of_a_variance_are_not_stored():
    for axis in (0, 1, None):
        graph = trace(lambda x: dm.var(x, axis), "float32[500,600]")  # noqa: B023
        assert driver.compile(graph).arena < 10_000


def test_equal_reductions_are_computed_once():
    """Softmax and log-softmax have the same largest element and the same sum."""

    def loops(fn: Callable[..., Any]) -> int:
        text = driver.compile(trace(fn, "float32[8,4096]")).native().program.text
        return text.count("phi i64")

    both = loops(lambda x: [dm.softmax(x), dm.log_softmax(x)])
    assert both == loops(lambda x: [dm.softmax(x)])


@pytest.mark.parametrize("n", [3, 5, 6, 9, 12, 20, 24])
def test_short_vectors_are_not_masked(n: int):
    """Stores under a mask are slow to load from again, so two whole vectors do it."""
    graph = trace(lambda x: [dm.exp(x), dm.sum(dm.exp(x)), dm.max(x)], f"float32[{n}]")
    assert "masked" not in driver.compile(graph).native().program.text
    check(graph, ulp=16)


def _graph() -> Graph:
    return trace(lambda x: [dm.exp(x) * 2.0, dm.sum(x, 0)], "float32[300,500]")


def test_explain_says_what_kernels_cost():
    text = driver.explain(driver.compile(_graph()), costs=True)
    assert "reads 600 kB, writes 600 kB" in text
    assert "by memory" in text and "GB/s in memory" in text


def test_explain_says_why_kernels_are_apart():
    graph = trace(lambda x: [dm.sum(dm.exp(x)), dm.exp(x)], "float32[300,500]")
    text = driver.explain(driver.compile(graph), costs=True)
    assert "apart from exp: one thread would run both" in text


def test_values_are_what_the_oracle_says() -> None:
    x: Array = values("float32[300,500]")
    check(_graph(), [x], ulp=8)
