"""Products whose sums are cut into parts: exact results, the same bits, and where that is done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dualmode as dm
from dualmode_compiler import driver, splitk
from dualmode_compiler.contract import Gemm
from dualmode_compiler.graph import Graph
from dualmode_compiler.loops import Kernel
from dualmode_compiler.runtime import pool
from dualmode_compiler.spec import float32
from graphs import Array, trace


def _plain(x: Any, y: Any) -> list[Any]:
    return [dm.matmul(x, y, True)]


def _halves(x: Any, y: Any) -> list[Any]:
    return [dm.matmul(x, y, transpose_b=True)]


def _followed(x: Any, y: Any, b: Any) -> list[Any]:
    z = dm.matmul(x, y, transpose_b=True) + b
    return [dm.maximum(z, 0), dm.sum(z, 0)]


GRAPHS: dict[str, tuple[Graph, int]] = {
    "weight gradient": (trace(_plain, "float32[9000,10]", "float32[9000,33]"), 10),
    "no common divisor": (trace(_plain, "float32[8191,40]", "float32[8191,24]"), 15),
    "float64": (trace(_plain, "float64[4096,20]", "float64[4096,20]"), 5),
    "batch": (trace(_plain, "float32[3,4096,16]", "float32[3,4096,16]"), 8),
    "pairs": (trace(_halves, "bfloat16[12,8191]", "bfloat16[40,8191]"), 13),
    "a row": (trace(_plain, "float32[70001,1]", "float32[70001,20]"), 5),
    "epilogue": (trace(_followed, "float32[24,5003]", "float32[40,5003]", "float32[40]"), 8),
}


def _integers(graph: Graph, seed: int) -> list[Array]:
    """Numbers whose products and sums are exact in any order."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, n.spec.shape).astype(n.spec.dtype.numpy) for n in graph.params]


def _kernels(executable: driver.Executable) -> list[Kernel]:
    return [s for s in executable.native().plan.steps if isinstance(s, Kernel)]


@pytest.mark.parametrize("name", GRAPHS)
def test_every_term_counts_once(name: str):
    graph, count = GRAPHS[name]
    executable = driver.compile(graph)
    first, *_ = _kernels(executable)
    assert first.contraction is not None
    assert first.contraction.gemm.batch[0][0] == count
    for seed in (0, 1):
        arrays = _integers(graph, seed)
        x, y = (a.astype(np.float64) for a in arrays[:2])
        if name == "epilogue":
            z = x @ y.T + arrays[2]
            want = [np.maximum(z, 0), z.sum(0)]
        elif name == "pairs":
            want = [(x @ y.T).astype(arrays[0].dtype)]
        else:
            want = [x.swapaxes(-1, -2) @ y]
        for got, exact in zip(executable.run(arrays)[0], want, strict=True):
            np.testing.assert_array_equal(got, exact)


@pytest.mark.parametrize("name", ["weight gradient", "epilogue"])
def test_bits_do_not_depend_on_the_number_of_threads(name: str):
    graph, _ = GRAPHS[name]
    executable = driver.compile(graph)
    assert executable.native().program.chunked
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(n.spec.shape).astype(np.float32) for n in graph.params]
    found: set[tuple[bytes, ...]] = set()
    for n in (1, 2, 5):
        pool.set_threads(n)
        found |= {tuple(a.tobytes() for a in executable.run(arrays)[0]) for _ in range(3)}
    assert len(found) == 1


def test_short_sums_and_large_results_are_left_whole():
    for results, terms in [(64, 500), (1 << 16, 1 << 16), (16, 4096), (1, 1 << 17)]:
        assert splitk.parts(results, terms) == (1, terms), (results, terms)
    (kernel,) = _kernels(driver.compile(trace(_plain, "float32[300,40]", "float32[300,40]")))
    assert kernel.contraction is not None


def test_inner_products_of_many_columns_are_left_whole():
    """Where B runs along K they share out by columns; where it runs along N, by parts of K."""
    for b, expected in (((1, 1024), True), ((1024, 1), False)):
        product = Gemm(1, 1024, 1024, float32, (1024, 1), b, 1024)
        assert splitk.shares_out(product) == expected


@pytest.mark.parametrize("results", [1, 10, 256, 2560, 4096, 20_000])
@pytest.mark.parametrize("terms", [5000, 65536, 100_003, 1 << 20])
@pytest.mark.parametrize("unit", [1, 2])
def test_parts_are_large_and_few(results: int, terms: int, unit: int):
    count, size = splitk.parts(results, terms, unit)
    if count > 1:
        assert count <= splitk.PARTS
        assert terms // count >= splitk.TERMS
        assert results * (terms // count) >= splitk.WORK
        assert results * count <= splitk.ELEMENTS
        assert size % unit == 0
        assert 0 <= terms - count * size < count * unit
