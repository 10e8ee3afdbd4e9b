"""Sums over the rows of an operand of a product: computed by the kernel of the product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dualmode as dm
from dualmode_compiler import driver
from dualmode_compiler.graph import Graph
from dualmode_compiler.loops import Kernel
from dualmode_compiler.runtime import jit, pool
from graphs import check, hosts, trace


def _kernels(graph: Graph) -> list[Kernel]:
    steps = driver.compile(graph).native().plan.steps
    return [s for s in steps if isinstance(s, Kernel)]


def _gradients(x: Any, d: Any) -> list[Any]:
    return [dm.matmul(x, d, transpose_a=True), dm.sum(d, 0)]


def _updates(x: Any, d: Any, w: Any, b: Any) -> list[Any]:
    gradient, of_bias = _gradients(x, d)
    return [w - 0.5 * gradient, b - 0.5 * of_bias]


def _layer(m: int, n: int, k: int, dtype: str, updates: bool) -> Graph:
    specs = [f"{dtype}[{k},{m}]", f"{dtype}[{k},{n}]"]
    if not updates:
        return trace(_gradients, *specs)
    return trace(_updates, *specs, f"{dtype}[{m},{n}]", f"{dtype}[{n}]")


@pytest.mark.parametrize("updates", [False, True])
def test_gradients_of_a_layer_are_one_kernel(updates: bool):
    (kernel,) = _kernels(_layer(48, 40, 64, "float32", updates))
    assert kernel.contraction is not None
    assert kernel.contraction.sums is not None
    assert [n.op.name for n in kernel.nodes].count("sum") == 1


@pytest.mark.parametrize("host", hosts(), ids=lambda h: f"{8 * h.vector_bytes} bits")
@given(
    st.integers(2, 90),
    st.integers(2, 90),
    st.integers(2, 90),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
)
@example(100, 1500, 700, "float32", True)  # several blocks and stretches
@example(640, 512, 130, "float32", False)
@example(64, 10, 1100, "float64", True)
@settings(max_examples=25, deadline=None)
def test_every_row_counts_once(
    host: jit.Host, m: int, n: int, k: int, dtype: str, updates: bool
) -> None:
    check(_layer(m, n, k, dtype, updates), host=host)


@pytest.mark.parametrize("n", [1, 2, 8, 9])
def test_rows_of_a_product_that_is_turned_around(n: int):
    """A few columns and long sums: the product is computed as the transposed one."""

    def both(x: Any, w: Any) -> list[Any]:
        return [x @ w, dm.sum(w, 0)]

    check(trace(both, "float32[300,600]", f"float32[600,{n}]"))


def test_states_are_updated_once():
    """In place, by a product of several blocks."""

    def step(w: Any, b: Any, x: Any, d: Any) -> tuple[list[Any], list[Any]]:
        return _updates(x, d, w, b), []

    specs = ["float32[700,64]", "float32[64]", "float32[96,700]", "float32[96,64]"]
    graph = trace(step, *specs, states=2)
    executable = driver.compile(graph)
    assert len(_kernels(graph)) == 1
    assert executable.native().program.chunked
    check(graph)


def test_bits_do_not_depend_on_the_number_of_threads():
    graph = _layer(512, 512, 128, "float32", True)
    executable = driver.compile(graph)
    assert executable.native().program.chunked
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(p.spec.shape).astype(np.float32) for p in graph.params]
    found: set[tuple[bytes, ...]] = set()
    for n in (1, 2, 3):
        pool.set_threads(n)
        found.add(tuple(a.tobytes() for a in executable.run(arrays)[0]))
    assert len(found) == 1


def test_zeros_keep_their_sign():
    graph = _layer(48, 40, 64, "float32", False)
    zeros = [np.zeros(p.spec.shape, np.float32) for p in graph.params]
    zeros[1] = -zeros[1]
    sums = driver.compile(graph).run(zeros)[0][1]
    assert np.signbit(sums).all()


D = "float32[64,40]"
APART = {
    "the product needs the sum": (
        lambda x, d: (lambda s: [s + dm.matmul(x, d, transpose_a=True)])(dm.sum(d, 0)),
        ["float32[64,48]", D],
    ),
    "the sum needs the product": (
        lambda x, d: (lambda total: [total * dm.sum(d, 0)])(
            dm.sum(dm.matmul(x, d, transpose_a=True))
        ),
        ["float32[64,48]", D],
    ),
    "another sum": (
        lambda x, d: [dm.matmul(x, d, transpose_a=True), dm.sum(d[:63], 0)],
        ["float32[64,48]", D],
    ),
    "another array": (
        lambda x, d, e: [dm.matmul(x, d, transpose_a=True), dm.sum(e, 0)],
        ["float32[64,48]", D, D],
    ),
    "the largest": (
        lambda x, d: [dm.matmul(x, d, transpose_a=True), dm.max(d, 0)],
        ["float32[64,48]", D],
    ),
    "over columns": (
        lambda x, d: [dm.matmul(x, d, transpose_a=True), dm.sum(d, 1)],
        ["float32[64,48]", D],
    ),
    "a long sum": (
        lambda x, d: [dm.matmul(x, d, transpose_a=True), dm.sum(d, 0)],
        ["float32[5000,300]", "float32[5000,300]"],
    ),
}


@pytest.mark.parametrize("name", APART)
def test_what_stays_apart(name: str):
    fn, specs = APART[name]
    graph = trace(fn, *specs)
    assert all(k.contraction is None or k.contraction.sums is None for k in _kernels(graph))
    check(graph)
