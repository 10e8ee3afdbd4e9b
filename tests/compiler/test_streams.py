"""Stores past the caches: the same results at every alignment, and no byte too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver
from dualmode_compiler.emit import ahead, pipeline, rows, steps
from dualmode_compiler.runtime import jit
from graphs import check, trace
from guarded import run

pytestmark = pytest.mark.skipif(
    not jit.host().triple.startswith("x86_64"), reason="only x86 has such stores"
)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stream results of any size, in chunks."""
    monkeypatch.setattr(steps, "LARGE", 1 << 10)
    monkeypatch.setattr(rows, "PARALLEL", 1 << 9)
    monkeypatch.setattr(rows, "CHUNK", 1 << 7)
    monkeypatch.setattr(rows, "LONG", 8)


def _past(executable: driver.Executable) -> bool:
    return "!nontemporal" in executable.native().program.text


def _chain(x: Any) -> Any:
    return x * 2.0 + 1.0


def _two(x: Any) -> list[Any]:
    return [x * 2.0, x + 1.0]


def _row(x: Any) -> Any:
    return x - dm.max(x, -1, keepdims=True)


CASES = {"chain": _chain, "two results": _two, "rows": _row}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [250, 256, 257, 271, 1000])
def test_between_guard_pages(name: str, n: int):
    graph = trace(CASES[name], f"float32[7,{n}]")
    executable = driver.compile(graph)
    assert _past(executable)
    for at_end in (False, True):
        for shifted in (False, True):
            run(executable, graph, at_end, shifted)


@pytest.mark.parametrize("name", ["float64", "int32", "int8"])
def test_other_dtypes(name: str):
    check(trace(lambda x: [x + x, x * x], f"{name}[3001]"))


def test_what_is_updated_in_place_stays_in_the_cache():
    graph = trace(lambda x, g: ([x - g], []), "float32[5000]", "float32[5000]", states=1)
    assert not _past(driver.compile(graph))


def test_small_results_stay_in_the_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    assert not _past(driver.compile(trace(_chain, "float32[100000]")))
    assert _past(driver.compile(trace(_chain, "float32[3000000]")))


def test_results_can_be_read_by_other_threads():
    """What the pool's threads have stored is there when the run returns."""
    x = np.arange(40_000, dtype=np.float32)
    executable = driver.compile(trace(_chain, x))
    assert executable.native().program.chunked
    for _ in range(50):
        (y,) = executable.run([x])[0]
        np.testing.assert_array_equal(y, x * 2 + 1)


def _normalised(x: Any) -> Any:
    d = x - dm.mean(x, -1, keepdims=True)
    return d / dm.sqrt(dm.mean(d * d, -1, keepdims=True))


PREFETCHED = {
    "softmax": (dm.softmax, True),
    "log_softmax": (dm.log_softmax, True),
    "normalised": (_normalised, False),  # loops over its rows wait for memory anyway
}


@pytest.mark.parametrize("name", PREFETCHED)
def test_the_next_row_is_prefetched_while_one_is_computed(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    """Past the last row there may be no memory: a prefetch of it does nothing."""
    function, expected = PREFETCHED[name]
    graph = trace(function, "float32[7,1003]")
    assert "call void @llvm.prefetch" not in driver.compile(graph).native().program.text
    monkeypatch.setattr(ahead, "CACHE", 1 << 10)
    executable = driver.compile(graph)
    text = executable.native().program.text
    assert ("call void @llvm.prefetch" in text) == expected
    for at_end in (False, True):
        run(executable, graph, at_end, shifted=False)


def _softmax(x: Any) -> Any:
    return dm.softmax(x)


def _norm(x: Any) -> Any:
    centred = x - dm.mean(x, -1, keepdims=True)
    return centred * dm.rsqrt(dm.mean(centred * centred, -1, keepdims=True) + 1.0)


def _with_totals(x: Any) -> list[Any]:
    most = dm.max(x, -1, keepdims=True)
    total = dm.sum(dm.exp(x - most), -1, keepdims=True)
    return [dm.exp(x - most) / total, dm.sum(x, -1)]


def _gradient(x: Any) -> Any:
    labels = (dm.arange(x.shape[0], dtype="int64") * 37 - 5) % 256  # some of them none of a class
    loss = dm.losses.SparseCategoricalCrossentropy(from_logits=True)
    return dm.grad(lambda x: loss(labels, x))(x)


IN_FLIGHT = {"softmax": _softmax, "norm": _norm, "one pass before": _row, "totals": _with_totals}
IN_FLIGHT["gradient"] = _gradient


@pytest.mark.parametrize(
    ("name", "expected"), [("softmax", True), ("norm", True), ("one pass before", False)]
)
def test_rows_are_in_flight_where_there_are_many_passes(name: str, expected: bool):
    text = driver.compile(trace(IN_FLIGHT[name], "float32[5000,200]")).native().program.text
    assert _past(driver.compile(trace(IN_FLIGHT[name], "float32[5000,200]")))
    assert ("@llvm.prefetch" in text) == expected


@pytest.fixture
def in_flight(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have rows in flight where that is possible; the list grows by one for each such kernel."""
    made: list[int] = []
    emit = pipeline.Pipeline.emit

    def counted(self: pipeline.Pipeline, start: str, stop: str) -> None:
        made.append(self.last)
        emit(self, start, stop)

    monkeypatch.setattr(pipeline, "LEAST", 1)
    monkeypatch.setattr(pipeline, "HEAVY", 0)
    monkeypatch.setattr(pipeline.Pipeline, "emit", counted)
    return made


@pytest.mark.parametrize("name", IN_FLIGHT)
@pytest.mark.parametrize("n", [128, 131, 200, 256, 600])
def test_rows_in_flight_between_guard_pages(name: str, n: int, in_flight: list[int]):
    graph = trace(IN_FLIGHT[name], f"float32[9,{n}]")
    executable = driver.compile(graph)
    for at_end in (False, True):
        for shifted in (False, True):
            run(executable, graph, at_end, shifted)
    assert in_flight


@pytest.mark.parametrize(("rows", "n"), [(1, 200), (2, 200), (3, 600), (16, 200), (50, 600)])
@pytest.mark.parametrize("name", IN_FLIGHT)
def test_rows_in_flight_give_the_same_bits(
    name: str, rows: int, n: int, in_flight: list[int], monkeypatch: pytest.MonkeyPatch
):
    x = np.random.default_rng(rows).normal(size=(rows, n)).astype(np.float32)
    x[rows // 2, 3], x[rows // 3, 199], x[0, 0] = np.nan, np.inf, -np.inf
    graph = trace(IN_FLIGHT[name], f"float32[{rows},{n}]")
    together = driver.compile(graph)
    together.native()
    monkeypatch.setattr(pipeline, "LEAST", 1 << 20)
    one_by_one = driver.compile(graph)
    results = zip(together.run([x])[0], one_by_one.run([x])[0], strict=True)
    for a, b in results:
        np.testing.assert_array_equal(a, b)
    assert in_flight == ([] if rows == 1 else in_flight[:1])


def test_long_sums_ask_for_memory_ahead():
    def text(n: int) -> str:
        return driver.compile(trace(dm.sum, f"float32[{n}]")).native().program.text

    assert "@llvm.prefetch" in text(10_000_000)
    assert "@llvm.prefetch" not in text(1_000_000)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: dm.sum(x, -1), True),
        (lambda x: dm.max(x * 2 + 1, -1), True),
        (lambda x: dm.sum(x[:, :-1], -1), False),  # there are gaps between the rows
        (lambda x: dm.sum(dm.square(x - dm.mean(x, -1, keepdims=True)), -1), False),
    ],
)
def test_rows_that_lie_side_by_side_are_a_long_run_if_they_are_read_once(
    function: Callable[[Any], Any], expected: bool
):
    text = driver.compile(trace(function, "float32[50000,200]")).native().program.text
    assert ("@llvm.prefetch" in text) == expected
