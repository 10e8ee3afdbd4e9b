"""Stores past the caches: the same results at every alignment, and no byte too many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver
from dualmode_compiler.emit import rows, steps
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
    monkeypatch.setattr(rows, "CACHE", 1 << 10)
    executable = driver.compile(graph)
    text = executable.native().program.text
    assert ("call void @llvm.prefetch" in text) == expected
    for at_end in (False, True):
        run(executable, graph, at_end, shifted=False)
